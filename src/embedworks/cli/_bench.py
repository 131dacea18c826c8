"""``embedworks bench filtered``: which index is fastest on your vectors under your filters."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from embedworks.cli._output import JsonFlag, console, emit_json, show_table
from embedworks.errors import InputError

if TYPE_CHECKING:
    from embedworks.evaluation import FilteredReport, FilteredWorkload

__all__ = ["register"]

group = typer.Typer(help="Measure speed and quality on your own data.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the group of commands."""
    app.add_typer(group, name="bench")


@group.callback()
def _group() -> None:
    """Measure speed and quality on your own data."""


@group.command()
def filtered(
    vectors: Annotated[
        Path | None,
        typer.Argument(help="Your vectors, .npy of shape (rows, dim); without, generated ones."),
    ] = None,
    attributes: Annotated[
        Path | None,
        typer.Option("--attributes", "-a", help="Their attributes: .parquet, .csv or .jsonl."),
    ] = None,
    queries: Annotated[
        str, typer.Option(help="A .npy file of queries, or how many rows to take out as such.")
    ] = "100",
    where: Annotated[
        list[str] | None,
        typer.Option(help="A filter of yours, measured by itself; repeatable."),
    ] = None,
    filters: Annotated[
        Path | None,
        typer.Option(help="A text file of your filters, one a line, measured as a mixture."),
    ] = None,
    kind: Annotated[
        list[str] | None,
        typer.Option(help="Kind of drawn filters: exact, range, set, combined; repeatable."),
    ] = None,
    share: Annotated[
        list[float] | None,
        typer.Option(help="Share of the rows that drawn filters pass; repeatable."),
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(help="Method, see `list filtered-methods`; repeatable. Default all."),
    ] = None,
    column: Annotated[
        list[str] | None, typer.Option(help="Attribute to use; repeatable. Default all.")
    ] = None,
    ordered: Annotated[
        list[str] | None,
        typer.Option(help="Column whose ranges an index may be built for; repeatable."),
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option(help="Column of labels that an index may be built for; repeatable."),
    ] = None,
    k: Annotated[int, typer.Option("-k", help="Results wanted.")] = 10,
    target_recall: Annotated[float, typer.Option(help="Recall at which to compare.")] = 0.95,
    rounds: Annotated[int, typer.Option(help="Timed passes, in turns.")] = 3,
    rows: Annotated[int, typer.Option(help="Rows of generated data.")] = 20_000,
    dim: Annotated[int, typer.Option(help="Dimensions of generated data.")] = 64,
    keep_filters: Annotated[
        bool, typer.Option("--keep-filters", help="Filters seen before may be kept: they recur.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of queries, filters and generated data.")] = 0,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for the record and two plots.")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Compare ways to search under filters: recall and speed, one query at a time, one thread.

    Filters are drawn from your columns so that they pass given shares of the rows, with rows
    anywhere, near the query, or far from it; or give your own with --where or --filters.
    The answers are checked against exact scores of every row. The table tells, for each sort of
    filter, the fastest single method that reaches the recall, and how fast our planner is
    beside it.
    """
    from embedworks.evaluation import compare_filtered

    workload = _workload(
        vectors, attributes, queries, where or [], filters, kind, share, column or [],
        ordered or [], label or [], rows, dim, seed,
    )  # fmt: skip
    report = compare_filtered(
        workload, method, k=k, target_recall=target_recall, rounds=rounds, seed=seed,
        enough=max(0.99, target_recall), keep_filters=keep_filters,
        on_cell=None if out is None else lambda found: _write(found, out),
    )  # fmt: skip
    if json:
        emit_json(report.to_dict())
    else:
        _show(report)
        if out is not None:
            console.print(f"\nRecord and plots: {out}", markup=False)


def _workload(
    vectors: Path | None,
    attributes: Path | None,
    queries: str,
    where: list[str],
    filters: Path | None,
    kind: list[str] | None,
    share: list[float] | None,
    column: list[str],
    ordered: list[str],
    labels: list[str],
    rows: int,
    dim: int,
    seed: int,
) -> FilteredWorkload:
    """Read or generate what is searched, and draw or take over the filters."""
    from embedworks.evaluation import (
        FILTER_KINDS,
        FilteredWorkload,
        filtered_workload,
        load_filtered_data,
        own_filters,
        synthetic_filtered_data,
    )

    asked = int(queries) if queries.isdigit() else Path(queries)
    if vectors is None:
        if attributes is not None or isinstance(asked, Path):
            raise InputError("--attributes and a file of --queries need the vectors they go with.")
        data = synthetic_filtered_data(rows, dim, asked, seed=seed)
    elif attributes is None:
        raise InputError("Which attributes? Give them with --attributes FILE, one row a vector.")
    else:
        data = load_filtered_data(
            vectors, attributes, queries=asked, columns=column, ordered=ordered, labels=labels,
            seed=seed,
        )  # fmt: skip
    own = [own_filters(data, [one], seed=seed) for one in where]
    if filters is not None:
        if not filters.is_file():
            raise InputError(f"There is no file {filters}.")
        lines = [line.strip() for line in filters.read_text(encoding="utf-8").splitlines()]
        own.append(own_filters(data, [line for line in lines if line], seed=seed))
    if own and not kind and not share:
        return FilteredWorkload(data, tuple(own))
    drawn = filtered_workload(
        data,
        kinds=kind or FILTER_KINDS,
        shares=share or (0.5, 0.1, 0.01, 0.001),
        correlated_shares=share or (0.1, 0.01),
        seed=seed,
    )
    return FilteredWorkload(data, (*own, *drawn.cells), drawn.skipped)


def _write(report: FilteredReport, out: Path) -> None:
    """Write the record and the plots; again after each cell, so that little is lost."""
    from embedworks._core.files import write_json, write_text
    from embedworks.evaluation import render_filtered_curves, render_filtered_speeds

    write_json(out / "filtered.json", report.to_dict())
    write_text(out / "filtered-speeds.svg", render_filtered_speeds(report))
    write_text(out / "filtered-curves.svg", render_filtered_curves(report))


def _show(report: FilteredReport) -> None:
    settings = report.settings
    rows = []
    for cell in report.cells:
        best = report.best(cell)
        line = [cell.name, f"{cell.passing:.2%}", f"{cell.measured_correlation:+.2f}"]
        line += ["nobody", "-"] if best is None else [best.method, f"{best.qps:,.0f}"]
        for name in report.planners[:1]:
            points = [point for point in cell.points if point.method == name]
            speed = max(points, key=lambda point: point.recall, default=None)
            standing = report.standing(cell, name)
            line += ["-", "-"] if speed is None else [f"{speed.qps:,.0f}", f"{speed.recall:.3f}"]
            line.append(f"{standing.share_of_best:.2f}" if standing.share_of_best else "-")
        rows.append(line)
    planner = ["planner", "recall", "of best"] if report.planners else []
    show_table(
        f"Fastest single method at recall@{settings['k']} of {report.target_recall:g} or more, "
        f"{settings['rows']:,} rows of {settings['dim']} dimensions, {settings['queries']} queries",
        ["filters", "passing", "near", "best", "QPS", *planner],
        rows,
    )
    show_table(
        "",
        ["method", "best in", "worst of best", "build s", "MB"],
        [
            [
                name,
                "-" if name in report.planners else f"{report.wins(name)}",
                f"{report.worst_share(name):.2f}",
                f"{report.builds[name].seconds:.1f}",
                f"{report.builds[name].nbytes / 1e6:.1f}",
            ]
            for name in report.methods
        ],
    )
    console.print(
        "\nnear: how much nearer to the query the rows that pass lie than rows at random, below 0 "
        "farther\nof best: the planner's speed over the best single method's, - where it misses "
        "the recall\nworst of best: a method's smallest share of the best one's speed; 0 where it "
        "misses the recall",
        markup=False,
    )
    for what, left in (("filters", report.skipped_cells), ("method", report.skipped_methods)):
        for name, reason in left.items():
            console.print(f"left out, {what} {name}: {reason}", markup=False)
    short = sorted({p.method for c in report.cells for p in c.points if p.missing})
    if short:
        console.print(
            f"came back with fewer rows than match, somewhere: {', '.join(short)}", markup=False
        )
