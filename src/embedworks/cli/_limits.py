"""``embedworks limits``: which combinations of documents a model's vectors can express."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from embedworks.cli._output import JsonFlag, console, emit_json, show_table

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(limits)


def limits(
    model: Annotated[str, typer.Argument(help="static, minilm, a folder or a hub name.")],
    dims: Annotated[
        list[int] | None,
        typer.Option("--dim", help="Cut vectors to this dimension; may be repeated."),
    ] = None,
    documents: Annotated[int, typer.Option(help="Documents of the generated collection.")] = 46,
    questions: Annotated[int, typer.Option(help="Its questions, each about two of them.")] = 1000,
    free: Annotated[
        bool, typer.Option(help="Look for the best query of every pair; needs torch.")
    ] = True,
    qrels: Annotated[
        Path | None, typer.Option(help="Your own judgements, to be described beside it.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the collection.")] = 0,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write the figures to this .json file.")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Measure which pairs of documents a model's vectors can put on top, and which it does.

    People like things, and a question asks who likes one of them: every pair of documents is the
    answer to some question. The table has recall of the model's own queries, and the share of
    all pairs that some query puts on top, at full and at cut dimensions. Cutting is fair only to
    models trained for it.
    """
    import embedworks as ew
    from embedworks._core.files import write_json
    from embedworks.errors import InputError
    from embedworks.evaluation import EncoderSystem, load_qrels
    from embedworks.evaluation.limits import measure_limits

    if out is not None and out.suffix != ".json":
        raise InputError(f"--out must end in .json, got {out}.")
    judgements = None if qrels is None else load_qrels(qrels)
    report = measure_limits(
        EncoderSystem(ew.load(model), name=Path(model).name or model),
        dims=dims,
        n_docs=documents,
        n_queries=questions,
        free_queries=free,
        qrels=judgements,
        seed=seed,
    )
    if out is not None:
        write_json(out, report.to_dict())
    if json:
        emit_json(report.to_dict())
        return
    metrics = list(report.lexical)
    rows = [
        [
            f"{'all' if row is report.full else 'first'} {row.dimension}",
            *(f"{row.recall[metric].mean:.3f}" for metric in metrics),
            f"{row.centroid:.1%}",
            f"{row.centroid_half:.1%}",
            "-" if row.free is None else f"{row.free:.1%}",
            f"{row.smallest_gap:+.4f}",
            f"{'' if 4 <= row.dimension <= 45 else '~'}{row.capacity:,.0f}",
        ]
        for row in report.dimensions
    ]
    blank = ["-"] * 5
    rows.append(["BM25", *(f"{report.lexical[metric].mean:.3f}" for metric in metrics), *blank])
    rows.append(["chance", *(f"{report.chance[metric]:.3f}" for metric in metrics), *blank])
    show_table(
        f"{report.system}: {report.documents} documents, {report.queries:,} questions, "
        f"{report.sets:,} pairs; recall, pairs a query puts on top",
        [
            "",
            *("R" + metric[6:] for metric in metrics),
            "centroid",
            "float16",
            "best",
            "gap",
            "fit",
        ],
        rows,
    )
    console.print(
        "\ncentroid: the mean of the pair is the query; float16: the same in half precision; best: "
        "optimised queries; gap: smallest gap of the centroids; fit: critical n by the published "
        "fit; ~ extrapolates.",
        markup=False,
    )
    console.print(f"\n{report.sentence()}", markup=False)
    if report.truncated:
        console.print(f"{report.truncated:,} texts have an end that the model does not read.")
    if report.qrels is not None:
        own = report.qrels
        least = "-" if own.min_dimension is None else str(own.min_dimension)
        console.print(
            f"Your judgements: {own.queries:,} questions on {own.documents:,} documents, at most "
            f"{own.largest} for a question. {own.density:.4f} of the pairs of questions share a "
            f"document and the mean strength is {own.strength:.2f} (LIMIT: 0.0855 and 28.47). "
            f"All sets of {own.largest} at margin 0.1 need {least} dimensions or more.",
            markup=False,
        )
