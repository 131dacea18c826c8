"""The evaluation report as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from embedworks.evaluation.reports._evaluation_figures import (
    Curves,
    all_tasks,
    cost_text,
    dagger,
    heading_of_task,
    left_out_rows,
    mark_of,
    repeat_facts,
    rounded,
    sweeps,
    verdict_text,
)
from embedworks.evaluation.reports._html import MAX_ROWS, clip
from embedworks.evaluation.reports.tables import markdown_rows, p_text
from embedworks.evaluation.runner import SystemResult
from embedworks.evaluation.statistics.comparing import SystemComparison

__all__ = ["markdown"]

_FAILURES = 60


def markdown(
    results: Sequence[SystemResult], comparison: SystemComparison | None, title: str
) -> str:
    """Return the whole report."""
    parts = [f"# {_text(title, 200)}", _text(verdict_text(results, comparison), 1000)]
    if comparison is not None:
        parts += ["## Systems", *_systems(comparison)]
    parts += ["## Tasks", _tasks(results, comparison)]
    if comparison is not None:
        parts += ["## Differences", *_differences(comparison)]
    for curves in sweeps(results, comparison):
        parts += [f"## {_text(curves.title, 120)}", _sweep(curves)]
    parts += _failures(results) + _left_out(results)
    parts.append("## How to repeat it")
    for result in results:
        rows = [[_text(k, 80), _text(v, 500)] for k, v in repeat_facts(result).items()]
        parts += [f"### {_text(result.name, 80)}", markdown_rows(["fact", "value"], rows)]
    return "\n\n".join(parts) + "\n"


def _systems(comparison: SystemComparison) -> list[str]:
    header = ["system", "mean over tasks", "mean over kinds", "on other tasks", "Borda"]
    header += ["mean rank", "wins / ties / losses"]
    rows = []
    for name in comparison.systems:
        mean, place = comparison.averages.get(name), comparison.standings[name]
        means = (mean.tasks, mean.kinds, mean.other_tasks) if mean else ()
        cells = [" ".join(rounded(value)) for value in means] or ["–"] * 3
        counts = f"{place.wins} / {place.ties} / {place.losses}"
        rows.append([_text(name, 80), *cells, f"{place.borda:g}", f"{place.mean_rank:.2f}", counts])
    return [markdown_rows(header, rows)]


def _tasks(results: Sequence[SystemResult], comparison: SystemComparison | None) -> str:
    rows = []
    for task in all_tasks(results)[:MAX_ROWS]:
        name, about = heading_of_task(results, task)
        for result in results:
            if task not in result.tasks:
                continue
            outcome = result.tasks[task]
            mark = {"best": " (best)", "tied": " (not clearly worse)"}.get(
                mark_of(comparison, task, result.name), ""
            )
            rows.append(
                [
                    f"{_text(name, 80)} ({about})",
                    _text(result.name, 80),
                    " ".join(rounded(outcome.main.interval)) + mark + dagger(outcome),
                    cost_text(outcome.cost),
                ]
            )
    return markdown_rows(["task", "system", "figure", "speed, time, memory"], rows)


def _differences(comparison: SystemComparison) -> list[str]:
    rows = [
        [
            f"{_text(gap.system, 60)} minus {_text(gap.other, 60)}",
            _text(gap.task, 80),
            gap.difference.describe(),
            p_text(gap.corrected_p),
            gap.finding,
        ]
        for gap in (*(comparison.overall if len(comparison.tasks) > 1 else ()), *comparison.gaps)
    ]
    more = f"{len(rows) - MAX_ROWS:,} more rows are not shown." if len(rows) > MAX_ROWS else ""
    note = f"Positive is better. p-values are corrected ({comparison.correction})."
    header = ["pair", "task", "difference", "corrected p", "finding"]
    return [markdown_rows(header, rows[:MAX_ROWS]), f"{note} {more}".strip()]


def _sweep(curves: Curves) -> str:
    if curves.kinds:
        rows = [[_text(name, 80), " ".join(rounded(value))] for name, value in curves.kinds]
        return markdown_rows(["system", curves.y_label], rows)
    places = sorted({x for _, xs, _ in curves.lines for x in xs})
    rows = []
    for name, xs, ys in curves.lines:
        known = dict(zip(xs, ys))
        rows.append([_text(name, 80), *(f"{known[x]:.3f}" if x in known else "–" for x in places)])
    return markdown_rows([_text(curves.x_label, 60), *(f"{x:g}" for x in places)], rows)


def _failures(results: Sequence[SystemResult]) -> list[str]:
    rows = [
        [
            _text(task, 80),
            _text(result.name, 80),
            _text(outcome.failures[0].text, 160),
            _text("; ".join(outcome.failures[0].found[:2]), 200),
            _text("; ".join(outcome.failures[0].expected[:2]), 200),
        ]
        for result in results
        for task, outcome in result.tasks.items()
        if outcome.failures
    ]
    if not rows:
        return []
    header = ["task", "system", "asked", "found", "expected"]
    return ["## Worst failure of each", markdown_rows(header, rows[:_FAILURES])]


def _left_out(results: Sequence[SystemResult]) -> list[str]:
    rows = [[_text(cell, 300) for cell in row] for row in left_out_rows(results)]
    if not rows:
        return []
    return [
        "## Left out",
        markdown_rows(["system", "task", "what", "why"], rows[:MAX_ROWS]),
    ]


def _text(text: object, limit: int) -> str:
    """Return a text on one line that is no Markdown or HTML."""
    line = clip(text, limit).replace("\\", "\\\\")
    for mark in "`_[]#<>":
        line = line.replace(mark, "\\" + mark)
    return line
