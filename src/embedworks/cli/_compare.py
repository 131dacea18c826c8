"""``embedworks compare``: which system is better, and how sure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from embedworks.cli._output import JsonFlag, console, emit_json, show_table
from embedworks.errors import DuplicateIdError, EmptyInputError, InputError, NotFoundError

if TYPE_CHECKING:
    from embedworks.evaluation import SystemResult
    from embedworks.evaluation.statistics.comparing import SystemComparison

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(compare)


def compare(
    systems: Annotated[
        list[str],
        typer.Argument(
            help="Result files or folders of an evaluation; with --results, names of systems in it."
        ),
    ],
    results: Annotated[
        Path | None, typer.Option(help="Folder of one evaluation that holds all the systems.")
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option(help="Compare all others with this system; by default all pairs."),
    ] = None,
    correction: Annotated[
        str, typer.Option(help="holm, benjamini-hochberg or none, for many comparisons.")
    ] = "holm",
    report: Annotated[
        Path | None, typer.Option(help="Write a page to this file, and Markdown beside it.")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Say which system is better and how sure that is, task by task and on the mean.

    Reads what `evaluate --out FOLDER` kept. Differences are paired, item by item, so they tell
    more than two intervals side by side.
    """
    from embedworks.evaluation.reports.evaluation_report import write_evaluation_report
    from embedworks.evaluation.statistics.comparing import compare_systems

    found = _named(systems, results) if results is not None else _read(systems)
    comparison = compare_systems(found, baseline=baseline, correction=correction)
    pages: tuple[Path, ...] = ()
    if report is not None:
        title = " and ".join(result.name for result in found[:3])
        pages = write_evaluation_report(
            found,
            report,
            title=f"Comparison of {title}{' and others' if len(found) > 3 else ''}",
            baseline=baseline,
            correction=correction,
        )
    if json:
        value = {"sentence": comparison.sentence(), "comparison": comparison.to_dict()}
        emit_json({**value, "report": [str(page) for page in pages]})
        return
    _show(comparison, found)
    if pages:
        console.print(f"\nReport: {pages[0]} and {pages[1].name}", markup=False)


def _read(paths: Sequence[str]) -> list[SystemResult]:
    """Read results from files and folders; names must differ."""
    from embedworks.evaluation import load_results
    from embedworks.evaluation.runner import read_result

    found: list[SystemResult] = []
    for text in paths:
        path = Path(text)
        if path.is_dir():
            found += load_results(path.parent if path.name == "results" else path)
        elif path.is_file():
            found.append(read_result(path))
        else:
            raise NotFoundError(
                f"{text} is no result file or folder. To name systems of one evaluation, say where "
                "it is with --results FOLDER."
            )
    names = [result.name for result in found]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise DuplicateIdError(
            f"Two of the results are of a system named {twice!r}: they could not be told apart. "
            "Evaluate one of them under another name."
        )
    return found


def _named(names: Sequence[str], folder: Path) -> list[SystemResult]:
    from embedworks._core.validation import check_choice
    from embedworks.evaluation import load_results

    if not folder.is_dir():
        raise NotFoundError(f"{folder} is no folder of results.")
    known = {result.name: result for result in load_results(folder)}
    if not names:
        raise EmptyInputError(f"Name systems to compare: {', '.join(known)}.")
    if len(set(names)) < len(names):
        raise InputError("A system is named twice: a system cannot be compared with itself.")
    return [known[check_choice(name, known, name="system")] for name in names]


def _show(comparison: SystemComparison, results: Sequence[SystemResult]) -> None:
    from embedworks.evaluation.reports.tables import p_text

    console.print(comparison.sentence(), style="bold", markup=False)
    for result in results:
        if not result.tasks:
            console.print(f"{result.name} gave no result and is left out.", markup=False)
    tasks = list(dict.fromkeys(task for result in results for task in result.tasks))
    rows = []
    for task in tasks:
        cells = []
        for result in results:
            leaders = comparison.leaders.get(task, ("",))
            if task not in result.tasks:
                cells.append("–")
                continue
            figure = result.tasks[task].main.interval.describe()
            sign = "★" if result.name == leaders[0] else "≈" if result.name in leaders else " "
            cells.append(f"{figure} {sign}")
        rows.append([task, *cells])
    several = len(comparison.tasks) > 1  # the mean over one task is that task
    if comparison.averages and several:
        known = comparison.averages
        means = [known[r.name].tasks.describe() if r.name in known else "–" for r in results]
        rows.append(["mean over tasks", *(f"{mean}  " for mean in means)])
    console.print()
    show_table("", ["task", *(result.name for result in results)], rows)
    console.print("★ best, ≈ not clearly worse than the best", style="dim", markup=False)
    console.print()
    show_table(
        f"Paired differences (+ is better); p-values corrected: {comparison.correction}",
        ["pair", "task", "difference", "corrected p", "finding"],
        [
            [
                f"{gap.system} - {gap.other}",
                gap.task,
                gap.difference.describe(),
                p_text(gap.corrected_p),
                gap.finding,
            ]
            for gap in (*(comparison.overall if several else ()), *comparison.gaps)
        ],
    )
    for task, why in comparison.left_out.items():
        console.print(f"{task}: {why}", style="dim", markup=False)
