"""Measure filtered search: recall against speed of every method, interleaved, on one thread.

Every cell has two passes. The first climbs each method's ladder until the recall is high enough
or a query takes too long; it also warms up. The second times what is left in rounds, in another
order each round, so that a slow minute of the machine hits all. Every query has a filter of its
own, and the clock covers everything done with it; filters that come again may be kept on request.
"""

from __future__ import annotations

import gc
import importlib
import importlib.util
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace

import numpy as np

from embedworks._core.memory import PeakMemory
from embedworks._core.progress import progress
from embedworks._core.seeding import generator
from embedworks._core.validation import check_in_range, check_k, check_unique
from embedworks.errors import EmptyInputError
from embedworks.evaluation.filtered.contestants import FILTERED_METHODS
from embedworks.evaluation.filtered.ground_truth import (
    FilteredTruth,
    Judgement,
    exact_filtered,
    filter_correlation,
)
from embedworks.evaluation.filtered.methods import Answer, BuiltIndex, FilteredMethod
from embedworks.evaluation.filtered.report import BuildCost, CellReport, FilteredReport, Point
from embedworks.evaluation.filtered.workloads import FilteredCell, FilteredWorkload
from embedworks.evaluation.filtered.worlds import FilteredData
from embedworks.index.filtering import evaluate

__all__ = ["compare_filtered"]

_WARM = 4  # queries asked beforehand, to warm up and to see whether a value is too slow
_CORRELATED = 20  # queries whose filters' correlation is measured


@dataclass(frozen=True, eq=False)
class _Contestant:
    """A method with its index."""

    method: FilteredMethod
    built: BuiltIndex
    answer: Answer


@dataclass(frozen=True, eq=False)
class _Asked:
    """A cell with its data and its answer key."""

    cell: FilteredCell
    data: FilteredData
    truth: FilteredTruth
    forget: bool

    @classmethod
    def of(cls, cell: FilteredCell, data: FilteredData, k: int, *, forget: bool) -> _Asked:
        """Evaluate the filters row by row, not with the attribute table, and score every row."""
        masks = {str(where): evaluate(where, data.table) for where in dict.fromkeys(cell.wheres)}
        stacked = np.stack([masks[str(where)] for where in cell.wheres])
        truth = exact_filtered(data.vectors, data.queries, stacked, k)
        return cls(cell, data, truth, forget)


@dataclass(eq=False)
class _Trial:
    """One method and value while a cell is measured."""

    contestant: _Contestant
    value: float
    seconds: list[np.ndarray] = field(default_factory=list)
    judgements: list[Judgement] = field(default_factory=list)


def compare_filtered(
    workload: FilteredWorkload,
    methods: Sequence[str] | None = None,
    *,
    k: int = 10,
    target_recall: float = 0.95,
    rounds: int = 3,
    enough: float = 0.99,
    slowest: float = 0.05,
    build_threads: int = 1,
    keep_filters: bool = False,
    seed: int = 0,
    on_cell: Callable[[FilteredReport], None] | None = None,
) -> FilteredReport:
    """Measure methods on every cell of a workload.

    Args:
        workload: Vectors, attributes, queries and their filters.
        methods: Names among `FILTERED_METHODS`; None takes all that are installed.
        k: Rows wanted.
        target_recall: Recall at which the report compares methods, in (0, 1].
        rounds: Timed passes over the queries; their spread is reported.
        enough: A ladder ends at the first value that reaches this recall.
        slowest: A ladder also ends at the first value that takes longer than so many seconds a
            query; such values are not measured.
        build_threads: Threads for building; build times compare only with 1.
        keep_filters: Whether a method may use what it kept of a filter it has seen before, as
            where many ask under the same one; otherwise it pays for every query's filter anew.
        seed: Order within rounds.
        on_cell: Called with what is known after each cell, such as to write it down.

    Returns:
        The report. Index, filters, recall and times are those of this process and machine.

    Raises:
        UnknownNameError: On a method that is not there; names close ones.
        DuplicateIdError: When a method is named twice.
        EmptyInputError: When no method can take part.
        InputError: On settings out of range.

    Example:
        >>> from embedworks.evaluation.filtered.workloads import filtered_workload
        >>> from embedworks.evaluation.filtered.worlds import synthetic_filtered_data
        >>> drawn = filtered_workload(synthetic_filtered_data(500, 8, 4), kinds=["range"],
        ...                           shares=[0.1], correlations=["none"])
        >>> report = compare_filtered(drawn, ["numpy exact", "exact plan"], rounds=1)
        >>> [(p.method, p.recall) for p in report.cells[0].points]
        [('numpy exact', 1.0), ('exact plan', 1.0)]
    """
    k = check_k(k)
    check_in_range(target_recall, name="target_recall", low=0, high=1, open_low=True)
    check_in_range(enough, name="enough", low=target_recall, high=1)
    check_in_range(rounds, name="rounds", low=1)
    check_in_range(slowest, name="slowest", low=0, open_low=True)
    check_in_range(build_threads, name="build_threads", low=1)
    names = FILTERED_METHODS.names() if methods is None else list(methods)
    check_unique(names, name="methods")
    wanted = [FILTERED_METHODS[name] for name in names]
    absent = {method.name: reason for method in wanted if (reason := method.missing())}
    chosen = [method for method in wanted if method.name not in absent]
    if not chosen:
        raise EmptyInputError(f"No method can take part: {absent or 'none was named'}.")
    rng = generator(seed, "rounds")
    data = workload.data
    with ExitStack() as stack:
        with threads_of(build_threads):
            contestants, builds = _build(chosen, data, stack)
        threads = stack.enter_context(threads_of(1))
        bar = stack.enter_context(progress("Filtered search", len(workload.cells)))
        report = FilteredReport(
            settings={
                "rows": len(data.vectors),
                "dim": data.vectors.shape[1],
                "queries": len(data.queries),
                "k": k,
                "rounds": rounds,
                "threads": threads,
                "build_threads": build_threads,
                "keep_filters": keep_filters,
                "seed": seed,
                "ordered": list(data.ordered),
                "labels": list(data.labels),
                "columns": data.table.column_names,
            },
            target_recall=target_recall,
            planners=tuple(method.name for method in chosen if method.planner),
            builds=builds,
            cells=(),
            skipped_cells=workload.skipped,
            skipped_methods=absent,
        )
        for cell in workload.cells:
            asked = _Asked.of(cell, data, k, forget=not keep_filters)
            found = _measure(asked, contestants, rounds, enough, slowest, rng)
            report = replace(report, cells=(*report.cells, found))
            if on_cell is not None:
                on_cell(report)
            bar.advance()
    return report


@contextmanager
def threads_of(count: int) -> Iterator[str]:
    """Set the threads of faiss and, where ``threadpoolctl`` is installed, of BLAS; says which."""
    import faiss

    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(count)
    try:
        if importlib.util.find_spec("threadpoolctl") is None:
            yield f"{count} (BLAS as set outside)"
        else:
            with importlib.import_module("threadpoolctl").threadpool_limits(limits=count):
                yield str(count)
    finally:
        faiss.omp_set_num_threads(before)


def _build(
    methods: list[FilteredMethod], data: FilteredData, stack: ExitStack
) -> tuple[list[_Contestant], dict[str, BuildCost]]:
    """Build each index once; the stack will close it."""
    made: dict[Callable[[FilteredData], BuiltIndex], tuple[BuiltIndex, BuildCost]] = {}
    contestants, builds = [], {}
    _ = data.attributes  # whoever uses them first should not pay
    for method in methods:
        if method.build not in made:
            peak, started = PeakMemory(), time.perf_counter()
            built = method.build(data)
            stack.callback(built.close)
            seconds = time.perf_counter() - started
            cost = BuildCost(round(seconds, 3), built.nbytes, round(peak.megabytes(), 1))
            made[method.build] = built, cost
        built, builds[method.name] = made[method.build]
        contestants.append(_Contestant(method, built, method.answer(built, data)))
    return contestants, builds


def _measure(
    asked: _Asked,
    contestants: list[_Contestant],
    rounds: int,
    enough: float,
    slowest: float,
    rng: np.random.Generator,
) -> CellReport:
    cell, data, truth = asked.cell, asked.data, asked.truth
    skipped: dict[str, str] = {}
    trials = [
        trial
        for contestant in contestants
        for trial in _climb(contestant, asked, enough, slowest, skipped)
    ]
    gc.collect()
    gc.disable()
    try:
        for _ in range(rounds):
            for place in rng.permutation(len(trials)):
                seconds, found = _ask(trials[place], asked, len(truth))
                trials[place].seconds.append(seconds)
                trials[place].judgements += _judge(found, asked)
    finally:
        gc.enable()
    matching = truth.matching
    related = [
        filter_correlation(data.vectors, data.queries[number], truth.masks[number])
        for number in range(min(_CORRELATED, len(truth)))
        if matching[number]
    ]
    return CellReport(
        name=cell.name,
        kind=cell.kind,
        share=cell.share,
        correlation=cell.correlation,
        passing=float(matching.mean()) / len(data.vectors),
        measured_correlation=float(np.mean(related)) if related else 0.0,
        filters=len({str(where) for where in cell.wheres}),
        example=str(cell.wheres[0]),
        points=tuple(_point(trial) for trial in trials),
        skipped=skipped,
    )


def _climb(
    contestant: _Contestant, asked: _Asked, enough: float, slowest: float, skipped: dict[str, str]
) -> list[_Trial]:
    """Go up a ladder as far as it is worth; returns what is to be timed."""
    method = contestant.method
    reasons = (method.refuses(contestant.built, where) for where in asked.cell.wheres)
    refused = next((reason for reason in reasons if reason), "")
    if refused:
        skipped[method.name] = refused
        return []
    trials: list[_Trial] = []
    for value in method.ladder:
        trial = _Trial(contestant, value)
        _ask(trial, asked, _WARM)  # the first calls compile or load something
        if _ask(trial, asked, _WARM)[0].mean() > slowest:
            at = f" at {method.knob} {value:g}" if method.knob else ""
            skipped[method.name] = f"over {1e3 * slowest:g} ms a query{at}"
            break
        _, found = _ask(trial, asked, len(asked.truth))
        trials.append(trial)
        if np.mean([one.recall for one in _judge(found, asked)]) >= enough:
            break
    return trials


def _ask(trial: _Trial, asked: _Asked, count: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """Ask the first ``count`` queries; returns the seconds of each and the answers."""
    method, built, answer = (
        trial.contestant.method,
        trial.contestant.built,
        trial.contestant.answer,
    )
    k, value, clock = asked.truth.k, trial.value, time.perf_counter
    seconds, found = [], []
    for query, where in zip(asked.data.queries[:count], asked.cell.wheres, strict=False):
        if asked.forget:
            method.forget(built)
        started = clock()
        rows = answer(query, k, where, value)
        seconds.append(clock() - started)
        found.append(rows)
    return np.array(seconds), found


def _judge(found: list[np.ndarray], asked: _Asked) -> list[Judgement]:
    data = asked.data
    return [
        asked.truth.judge(number, rows, data.vectors, data.queries[number])
        for number, rows in enumerate(found)
    ]


def _point(trial: _Trial) -> Point:
    single = np.concatenate(trial.seconds)
    return Point(
        method=trial.contestant.method.name,
        value=trial.value,
        recall=float(np.mean([one.recall for one in trial.judgements])),
        wrong=sum(one.wrong for one in trial.judgements),
        missing=sum(one.missing for one in trial.judgements),
        seconds=tuple(float(seconds.mean()) for seconds in trial.seconds),
        median=float(np.median(single)),
        p99=float(np.quantile(single, 0.99)),
    )
