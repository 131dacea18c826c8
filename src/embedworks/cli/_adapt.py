"""``embedworks adapt`` and ``demo``."""

from __future__ import annotations

import sysconfig
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from embedworks.cli._output import JsonFlag, console, emit_json, show_table

if TYPE_CHECKING:
    from embedworks.index import Hit
    from embedworks.training import AdaptResult

__all__ = ["register"]

_DEMO_QUESTIONS = (
    "how do I open a zip archive and read one file from it",
    "run a function in another process and get its result",
    "parse a date from text",
)

#: Parts of the standard library that are data or copies of other projects, not documentation.
_DEMO_EXCLUDE = (
    "test", "tests", "idlelib", "lib2to3", "config-*", "encodings", "pydoc_data", "ensurepip",
    "turtledemo",
)  # fmt: skip

Out = Annotated[Path, typer.Option("--out", "-o", help="Folder for the run.")]
Seed = Annotated[int | None, typer.Option(help="Seed of every random choice; default 0.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a run that is there.")]
Exclude = Annotated[
    list[str] | None, typer.Option(help="Glob of relative paths to leave out; may be repeated.")
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(adapt)
    app.command()(demo)


def adapt(
    documents: Annotated[str, typer.Argument(help="Folder, file or table of documents.")],
    out: Out,
    base: Annotated[
        str | None,
        typer.Option(
            help="Model to start from: static, minilm, a folder or a hub name; by default the "
            "recipe's, static."
        ),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            help="Wall clock for the whole job, such as 90s, 1h; by default the recipe's, 10m."
        ),
    ] = None,
    seed: Seed = None,
    recipe: Annotated[
        str | None,
        typer.Option(help="Settings: a YAML file, or a name from `list recipes`; default adapt."),
    ] = None,
    exclude: Exclude = None,
    resume: Annotated[bool, typer.Option("--resume", help="Finish an interrupted run.")] = False,
    overwrite: Overwrite = False,
    json: JsonFlag = False,
) -> None:
    """Make a model that searches your documents better, and prove it.

    Reads the documents, makes training pairs without labels, trains the base model on them,
    keeps as much of the result as helps on held-out questions, measures it against the base and
    BM25, indexes everything, and writes a report.
    """
    import embedworks as ew

    result = ew.adapt(
        documents,
        out=out,
        base=base,
        budget=budget,
        seed=seed,
        recipe=recipe,
        exclude=exclude,
        resume=resume,
        overwrite=overwrite,
        on_plan=None if json else _show_plan,
    )
    if json:
        emit_json(result.to_dict())
        return
    _show_result(result)


def demo(
    out: Out = Path("runs/stdlib"),
    base: Annotated[str, typer.Option(help="Model to start from.")] = "static",
    budget: Annotated[str, typer.Option(help="Wall clock for the whole job.")] = "150s",
    json: JsonFlag = False,
) -> None:
    """Adapt a model to the Python standard library and ask it three questions."""
    import embedworks as ew

    folder = sysconfig.get_path("stdlib")
    if not json:
        console.print(f"Documents: the Python standard library in {folder}")
    started = time.perf_counter()
    result = ew.adapt(
        folder,
        out=out,
        base=base,
        budget=budget,
        exclude=list(_DEMO_EXCLUDE),
        overwrite=True,
        on_plan=None if json else _show_plan,
    )
    answers = {question: _distinct(ew.search(out, question, k=20)) for question in _DEMO_QUESTIONS}
    if json:
        shown = {q: [hit.to_dict() for hit in found] for q, found in answers.items()}
        emit_json({**result.to_dict(), "answers": shown})
        return
    _show_result(result)
    from embedworks.cli._search import show_hits

    for question, hits in answers.items():
        console.print(f"\n[bold]{question}?[/]")
        show_hits(hits, passages=False)
    console.print(f"\nAll in {time.perf_counter() - started:.0f} s. Ask your own question:")
    console.print(f'  embedworks search {out} "how to compare two files" -k 5', markup=False)


def _distinct(hits: list[Hit], count: int = 3) -> list[Hit]:
    """Return the first hits with different titles: a long function has several chunks."""
    first = {hit.title: hit for hit in reversed(hits)}
    return sorted(first.values(), key=lambda hit: hit.rank)[:count]


def _show_plan(plan: Any) -> None:
    from embedworks.training.budget import format_duration

    show_table(
        f"Plan (budget {format_duration(plan.budget_seconds)}, "
        f"{format_duration(plan.spent_seconds)} spent on reading and measuring)",
        ["step", "work", "estimate"],
        [[step.name, step.work, format_duration(step.seconds)] for step in plan.steps],
    )


def _show_result(result: AdaptResult) -> None:
    reading = result.reading
    console.print(
        f"\nRead {result.documents:,} documents as {result.chunks:,} chunks; "
        f"{reading['duplicates']} duplicates and {reading['skipped']} files left out."
    )
    console.print(f"Trained on {result.pairs:,} pairs made without labels. {result.merge}")
    console.print()
    console.print(result.table, markup=False)
    console.print(f"\n{result.verdict}", style="bold")
    console.print(f"Report: {result.report}")
    console.print(f'Search: embedworks search {result.path} "your question"', markup=False)
