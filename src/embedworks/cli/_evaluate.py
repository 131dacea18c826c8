"""``embedworks evaluate``: models on suites and own data, or a run on judged queries."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from embedworks.cli._output import JsonFlag, console, emit_json, show_table
from embedworks.errors import EmptyInputError, InputError

if TYPE_CHECKING:
    from embedworks.evaluation import SystemResult, Task

__all__ = ["default_cache", "register"]

_FEW = "too_few_questions"
_SIDE_BY_SIDE = 3  # systems that fit in a row of a terminal


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(evaluate)


def default_cache() -> Path:
    """Return the folder in which vectors stay between evaluations, below the user's caches."""
    home = Path.home()
    if sys.platform == "win32":
        root = Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    elif sys.platform == "darwin":
        root = home / "Library" / "Caches"
    else:
        root = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    return root / "embedworks" / "vectors"


def evaluate(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL",
            help="static, minilm, bm25, hybrid:MODEL, a folder, a hub name, http://host/v1#model, "
            "a file of vectors; or one run folder with --queries and --qrels.",
        ),
    ],
    suite: Annotated[
        list[str] | None,
        typer.Option(help="Suite, see `list suites`; repeatable. Default core, without --data."),
    ] = None,
    data: Annotated[
        list[Path] | None, typer.Option(help="Your own file or folder; may be repeated.")
    ] = None,
    kind: Annotated[
        str | None, typer.Option(help="What --data is, where its columns leave it open.")
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(help="Column of --data, such as query=title; may be repeated."),
    ] = None,
    split: Annotated[str | None, typer.Option(help="Which part of --data; default test.")] = None,
    generate: Annotated[
        bool,
        typer.Option("--generate", help="--data is documents without labels: make questions."),
    ] = False,
    instruction: Annotated[
        str | None, typer.Option(help="What the tasks of --data are, for --template.")
    ] = None,
    task: Annotated[list[str] | None, typer.Option(help="Only this task; may be repeated.")] = None,
    data_root: Annotated[
        Path | None, typer.Option(help="Public data of the suites; default $EMBEDWORKS_DATA.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for results and the report.")
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(help="Folder of vectors; default in your cache folder.")
    ] = None,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Encode everything anew.")] = False,
    template: Annotated[
        str, typer.Option(help="How instructions are spelled, see `list templates`.")
    ] = "plain",
    trained_on: Annotated[
        Path | None,
        typer.Option(help="Training rows (Parquet) of the models: marks tasks that share texts."),
    ] = None,
    confidence: Annotated[float, typer.Option(help="Level of the intervals.")] = 0.95,
    resamples: Annotated[int, typer.Option(help="Resamples of the bootstrap.")] = 1000,
    seed: Annotated[int, typer.Option(help="Seed of every random choice.")] = 0,
    queries: Annotated[
        Path | None, typer.Option(help="Of a run: table with query_id, text.")
    ] = None,
    qrels: Annotated[
        Path | None, typer.Option(help="Of a run: table with query_id, doc_id, relevance.")
    ] = None,
    metric: Annotated[
        list[str] | None, typer.Option(help="Of a run: see `list metrics`; may be repeated.")
    ] = None,
    base: Annotated[
        bool, typer.Option(help="Of a run: also score the base model; encodes the collection.")
    ] = True,
    json: JsonFlag = False,
) -> None:
    """Score models on suites or on your own data, or a run on judged queries.

    Shows each task's main figure with its interval; --out keeps all figures, the failures and a
    report, for `compare` too. The exit code is 1 when a model failed on a task.
    """
    if queries is not None or qrels is not None:
        _evaluate_run(models, queries, qrels, metric, base, json)
        return
    if (Path(models[0]) / "run.json").is_file():
        raise InputError(
            f"{models[0]} is a run: judge it with --queries and --qrels, or give the model inside."
        )
    if metric or not base:
        raise InputError(
            "--metric and --no-base are for a run, with --queries and --qrels. Every figure of "
            "every task is in what --out keeps and --json prints."
        )
    for option, folder in (("--cache", cache), ("--out", out)):
        if folder is not None and folder.is_file():
            raise InputError(f"{option} must be a folder: {folder} is a file.")
    if cache is not None and no_cache:
        raise InputError("Give --cache or --no-cache, not both.")
    if data is None and (kind or column or split or generate or instruction):
        raise InputError("--kind, --column, --split, --generate and --instruction need --data.")
    from embedworks.data import TEMPLATES, RowSet
    from embedworks.evaluation import Resampling, evaluate_systems
    from embedworks.evaluation.ranking_systems import open_system
    from embedworks.evaluation.reports.evaluation_report import write_evaluation_report

    started = time.perf_counter()
    how = Resampling(confidence, resamples, seed)
    spelling = TEMPLATES[template]  # a wrong name is an error for every kind of system
    tasks: list[Task] = []
    for path in data or ():
        tasks += _own_tasks(path, generate, kind, _columns(column), split, instruction, seed)
    named = suite if suite is not None else [] if data else ["core"]
    tasks, skipped = _with_suites(tasks, named, data_root, task or [])
    rows = None if trained_on is None else RowSet.load(trained_on)
    vectors = None if no_cache else cache or default_cache()
    systems = [open_system(name, cache=vectors, template=spelling) for name in models]
    results = evaluate_systems(
        systems, tasks, resampling=how, out=out, skipped=skipped, trained_on=rows,
        show_progress=False if json else None,
    )  # fmt: skip
    report = write_evaluation_report(results, out / "report")[0] if out is not None else None
    seconds = time.perf_counter() - started
    if json:
        emit_json(
            {
                "systems": {result.name: _as_json(result) for result in results},
                "seconds": round(seconds, 1),
                "report": None if report is None else str(report),
            }
        )
    else:
        _show(results, tasks, skipped)
        kept = "" if report is None else f" Results and report: {report}"
        console.print(f"\n{seconds:.0f} s.{kept}", markup=False)
    if any(result.errors for result in results):
        raise typer.Exit(1)


def _evaluate_run(
    models: Sequence[str],
    queries: Path | None,
    qrels: Path | None,
    metric: Sequence[str] | None,
    base: bool,
    json: bool,
) -> None:
    """Score a run: BM25, base, adapted and hybrid, with intervals."""
    if queries is None or qrels is None or len(models) != 1:
        raise InputError("A run is judged with both --queries and --qrels, one run at a time.")
    from embedworks.evaluation import format_table, load_qrels, load_queries
    from embedworks.training import SYSTEM_LABELS, evaluate_run_folder

    comparison, milliseconds = evaluate_run_folder(
        models[0],
        load_queries(queries),
        load_qrels(qrels),
        metrics=metric or ("ndcg@10", "recall@10", "mrr@10"),
        with_base=base,
    )
    if json:
        emit_json({"comparison": comparison.to_dict(), "ms_per_query": milliseconds})
        return
    console.print(format_table(comparison, labels=SYSTEM_LABELS), markup=False)


def _columns(given: Sequence[str] | None) -> dict[str, str]:
    pairs = [text.partition("=") for text in given or ()]
    for (role, mark, name), text in zip(pairs, given or (), strict=True):
        if not (role and mark and name):
            raise InputError(f"--column must be like query=title, got {text!r}.")
    return {role: name for role, _, name in pairs}


def _own_tasks(
    path: Path,
    generate: bool,
    kind: str | None,
    columns: Mapping[str, str],
    split: str | None,
    instruction: str | None,
    seed: int,
) -> list[Task]:
    from embedworks.evaluation import generate_tasks, load_tasks

    if not generate:
        return load_tasks(path, kind=kind, columns=columns, split=split, instruction=instruction)
    if kind or columns or split:
        raise InputError("--generate makes its own tasks: leave --kind, --column and --split out.")
    return list(generate_tasks(path, instruction=instruction, seed=seed))


def _with_suites(
    tasks: list[Task], suites: Sequence[str], root: Path | None, only: Sequence[str]
) -> tuple[list[Task], dict[str, str]]:
    """Add the tasks of suites, keep those wanted; return them and why others cannot be made."""
    from embedworks._core.validation import check_choice
    from embedworks.evaluation import SUITES, DataFolder

    folder = DataFolder(root)
    chosen = [SUITES[name] for name in suites]
    known = {source.name for suite in chosen for source in suite.sources}
    for name in only:
        check_choice(name, [*known, *(task.name for task in tasks)], name="task")
    found = [task for task in tasks if not only or task.name in only]
    skipped: dict[str, str] = {}
    for suite in chosen:
        own = [source.name for source in suite.sources if source.name in only]
        if only and not own:
            continue
        made, reasons = suite.tasks(folder, only=own)
        found += made
        skipped |= reasons
    if not found:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in skipped.items())
        raise EmptyInputError(
            f"No task can be made ({reasons}). Point --data-root to the public data, or evaluate "
            "on your own with --data."
        )
    return found, skipped


def _show(
    results: Sequence[SystemResult], tasks: Sequence[Task], skipped: Mapping[str, str]
) -> None:
    level = f"{100 * results[0].resampling.confidence:g} %"
    title = f"Main figure [{level} interval]"
    spent = [sum(one.cost.seconds for one in result.tasks.values()) for result in results]
    if len(results) <= _SIDE_BY_SIDE:
        rows = [[t.name, t.metric, *(_cell(one, t.name) for one in results)] for t in tasks]
        rows.append(["seconds", "", *(f"{seconds:.1f}" for seconds in spent)])
        show_table(title, ["task", "metric", *(result.name for result in results)], rows)
    else:
        rows = [[t.name, t.metric, one.name, _cell(one, t.name)] for t in tasks for one in results]
        rows += [
            ["seconds", "", one.name, f"{seconds:.1f}"]
            for one, seconds in zip(results, spent, strict=True)
        ]
        show_table(title, ["task", "metric", "system", "figure"], rows)
    for name, reason in skipped.items():
        console.print(f"Not run: {name} ({reason}).", markup=False)
    own: dict[str, list[str]] = {}
    for result in results:
        for name, reason in result.skipped.items():
            if name not in skipped:
                own.setdefault(reason, []).append(name)
    for reason, names in own.items():
        console.print(f"Not run: {reason}: {', '.join(names)}.", markup=False)
    done = [one for result in results for one in result.tasks.values()]
    few = {f"{way} ({n})" for one in done for way, n in one.details.get(_FEW, {}).items()}
    if few:
        console.print(f"Too few questions for a task: {', '.join(sorted(few))}.", markup=False)
    caveats: dict[str, list[str]] = {}
    for one in done:
        if caveat := one.details.get("caveat"):
            names = caveats.setdefault(caveat, [])
            names += [one.task] if one.task not in names else []
    for caveat, names in caveats.items():
        console.print(f"\n† {caveat} ({', '.join(names)})", markup=False)


def _cell(result: SystemResult, task: str) -> str:
    if task in result.errors:
        return "failed"
    if task not in result.tasks:
        return "-"
    found = result.tasks[task].main.interval
    mark = " †" if result.tasks[task].details.get("caveat") else ""
    return f"{found.mean:.3f} [{found.low:.2f}, {found.high:.2f}]{mark}"


def _as_json(result: SystemResult) -> dict[str, Any]:
    """Return the figures without the values of single items, which `--out` keeps."""
    return {
        "about": dict(result.about),
        "tasks": {
            name: {
                "kind": one.kind,
                "metric": one.metric,
                "scores": {label: score.interval.to_dict() for label, score in one.scores.items()},
                "excluded": dict(one.excluded),
                "details": dict(one.details),
                "cost": one.cost.to_dict(),
            }
            for name, one in result.tasks.items()
        },
        "skipped": dict(result.skipped),
        "errors": dict(result.errors),
    }
