"""``embedworks reproduce``: test a paper's claim, or list the claims there are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from embedworks.cli._output import JsonFlag, console, emit_json, show_table
from embedworks.errors import InputError

if TYPE_CHECKING:
    from embedworks.reproductions import ReproductionResult

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(reproduce)


def reproduce(
    slug: Annotated[str | None, typer.Argument(help="Entry, as `--list` shows it.")] = None,
    list_all: Annotated[bool, typer.Option("--list", help="List the entries and stop.")] = False,
    scale: Annotated[str, typer.Option(help="mini (minutes on two cores) or gpu.")] = "mini",
    seeds: Annotated[
        int | None, typer.Option(help="Number of seeds; by default the entry's own.")
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for the record, its page and its cells.")
    ] = Path("runs/reproductions"),
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Run everything again, finished cells too.")
    ] = False,
    json: JsonFlag = False,
) -> None:
    """Test a paper's claim: run its arms under several seeds, and give the verdict.

    A killed run goes on where it stopped when the command is given again.
    """
    from embedworks.reproductions import REPRODUCTIONS
    from embedworks.reproductions import reproduce as run

    if list_all:
        rows = [(name, REPRODUCTIONS[name]) for name in REPRODUCTIONS]
        if json:
            emit_json(
                [
                    {
                        "slug": name,
                        "paper": entry.paper,
                        "arxiv": entry.arxiv,
                        "claim": entry.claim,
                        "arms": [arm.name for arm in entry.arms],
                        "seeds": entry.seeds,
                        "scales": sorted(entry.scales),
                    }
                    for name, entry in rows
                ]
            )
            return
        cells = [(name, entry.claim, ", ".join(sorted(entry.scales))) for name, entry in rows]
        show_table("", ["entry", "claim", "scales"], cells)
        return
    if slug is None:
        raise InputError("Which reproduction? See them with: embedworks reproduce --list")
    result = run(slug, scale=scale, seeds=seeds, out=out, resume=not fresh)
    if json:
        emit_json(result.to_dict())
        return
    _show(result, out)


def _show(result: ReproductionResult, out: Path) -> None:
    metric = result.decisive.metric
    console.print(f"{result.paper}: {result.claim}", markup=False)
    show_table(
        f"{metric}, {len(result.seeds)} seeds",
        ["arm", "mean", "95 % interval", "seconds a cell"],
        [
            [
                arm.name,
                f"{found.mean:.3f}",
                f"[{found.low:.3f}, {found.high:.3f}]",
                f"{arm.seconds:.1f}",
            ]
            for arm in result.arms
            if (found := arm.metrics.get(metric))
        ],
    )
    kinds = ["decisive", *["condition"] * len(result.conditions)]
    kinds += ["secondary"] * len(result.secondary)
    show_table(
        "",
        ["kind", "comparison", "difference [95 % interval]", "finding"],
        [
            [kind, f"{one.name} ({one.metric})", one.describe(), one.finding]
            for kind, one in zip(kinds, result.comparisons, strict=True)
        ],
    )
    console.print(f"\n{result.verdict}: {result.reason}.", style="bold", markup=False)
    console.print(f"{result.seconds:.0f} s. Page: {out / f'{result.slug}.md'}", markup=False)
