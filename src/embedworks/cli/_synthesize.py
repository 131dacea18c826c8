"""``embedworks synthesize``: training rows written by a language model or by rules."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from embedworks.cli._output import JsonFlag, console, emit_json, show_table
from embedworks.errors import SettingsError

if TYPE_CHECKING:
    from embedworks.data import SynthesisResult, SynthesisSettings

__all__ = ["register"]

_SHOWN_ROWS = 5


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(synthesize)


def synthesize(
    source: Annotated[
        str,
        typer.Argument(
            help="YAML file of settings; or documents (folder, file, table), or a Parquet file "
            "of training rows, for the default steps."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for rows, ledger and report.")],
    base_url: Annotated[
        str | None,
        typer.Option(help="OpenAI-compatible endpoint, such as http://localhost:8000/v1."),
    ] = None,
    model: Annotated[str | None, typer.Option(help="Model to run there.")] = None,
    step: Annotated[
        list[str] | None,
        typer.Option(
            help="tasks, queries, paraphrase, augment, hard-negatives or relabel, in place of the "
            "steps of the settings; may be repeated, in order."
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of every random choice.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the answers that are there.")
    ] = False,
    json: JsonFlag = False,
) -> None:
    """Write training rows for documents, for given rows or from nothing.

    Without an endpoint, rules write them: offline and at once, but without understanding. The
    key of an endpoint is read from the environment variable OPENAI_API_KEY.
    """
    from embedworks.data import run_synthesis

    settings = _settings(source)
    if (base_url is None) != (model is None):
        raise SettingsError("--base-url and --model belong together: give both or none.")
    changes: dict[str, Any] = {}
    if base_url is not None:
        changes["generators"] = {
            "endpoint": {"kind": "openai", "base_url": base_url, "model": model}
        }
    if step:
        changes["steps"] = [{"step": name} for name in step]
    if seed is not None:
        changes["seed"] = seed
    result = run_synthesis(
        settings.replace(**changes),
        out,
        resume=resume,
        show_progress=False if json else None,
    )
    if json:
        emit_json(result.to_dict())
        return
    _show(result)


def _settings(source: str) -> SynthesisSettings:
    """Read settings, or make default ones for documents or rows."""
    from embedworks.data import SynthesisSettings

    suffix = Path(source).suffix.lower()
    if suffix in (".yaml", ".yml"):
        return SynthesisSettings.from_yaml(source)
    if suffix == ".parquet" and _holds_rows(source):
        steps = ("paraphrase", "hard-negatives", "relabel")
        return SynthesisSettings.from_dict({"rows": source, "steps": [{"step": s} for s in steps]})
    return SynthesisSettings.from_dict({"documents": source})


def _holds_rows(source: str) -> bool:
    """Whether a Parquet file has the columns of training rows, rather than of documents."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return {"anchor", "positive"} <= set(pq.read_schema(source).names)
    except (OSError, pa.ArrowException):
        return False  # the reader of documents tells what is wrong with it


def _show(result: SynthesisResult) -> None:
    value = result.to_dict()
    if result.reading:
        console.print(
            f"Read {result.reading['documents']:,} documents as "
            f"{result.reading['passages']:,} passages."
        )
    console.print(result.report.summary(), markup=False)
    console.print(
        f"\n{value['rows']:,} rows, {value['negatives']:,} negatives, in {result.seconds:.1f} s."
    )
    show_table(
        "The first rows",
        ["anchor", "positive", "negative"],
        [
            [_short(row.anchor), _short(row.positive), _short((*row.negatives, "")[0])]
            for row in result.rows[:_SHOWN_ROWS]
        ],
    )
    console.print(f"\nRows: {result.path / 'rows.parquet'}", markup=False)
    console.print(f"Report: {result.path / 'report.json'}", markup=False)


def _short(value: Any, width: int = 48) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= width else text[: width - 1] + "…"
