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
        typer.Option(
            "--dim", help="Cut vectors to this dimension; may be repeated. Default 8, 16, 32, ..."
        ),
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

    The documents are people who like things, and a question asks who likes one of them: any two
    can be the answer. The table says what the model's own queries find, and which pairs some
    query could put on top at all, at full and at cut dimensions. Where much more is possible than
    is found, the vectors have room and the model does not use it. Cutting is fair only to models
    trained for it.
    """
    import embedworks as ew
    from embedworks._core.files import write_json
    from embedworks.errors import InputError
    from embedworks.evaluation import EncoderSystem, load_qrels
    from embedworks.evaluation.limits import measure_limits

    if documents < 3 or questions < 1:
        raise InputError(
            "--documents must be at least 3 and --questions at least 1, got "
            f"{documents} and {questions}."
        )
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
        f"{report.system}: {report.queries:,} questions, each with two of {report.documents} "
        f"documents ({report.sets:,} pairs) as its answer",
        [
            "dims",
            *("found"[: 5 * (not place)] + metric[6:] for place, metric in enumerate(metrics)),
            "centre",
            "float16",
            "best",
            "gap",
            "critical n",
        ],
        rows,
    )
    console.print(
        f"\nfound@{metrics[0][7:]}: share of the answers that the model's queries have among the "
        f"first {metrics[0][7:]} (recall)\n"
        "centre:  share of the pairs that come out on top for the mean of their two vectors\n"
        "float16: the same, scored in half precision\n"
        "best:    the same for the best query vector that could be found, for any model\n"
        "gap:     similarity that the worst pair is ahead (+) or behind (-) for its centre\n"
        "critical n: documents up to which all pairs are possible, by the published fit; "
        "~ is extrapolated",
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
