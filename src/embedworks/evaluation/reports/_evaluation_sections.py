"""The sections of the evaluation page, each from results to HTML ("" when empty)."""

from __future__ import annotations

from collections.abc import Sequence

from embedworks.evaluation.outcomes import Failure, TaskResult
from embedworks.evaluation.reports._evaluation_figures import (
    Curves,
    all_tasks,
    cost_text,
    dagger,
    heading_of_task,
    left_out_rows,
    mark_of,
    memory,
    repeat_facts,
    rounded,
    sweeps,
    verdict_text,
)
from embedworks.evaluation.reports._html import (
    MAX_ROWS,
    clip,
    data_table,
    esc,
    facts_list,
    key_figures,
    seconds,
)
from embedworks.evaluation.reports._page import frame
from embedworks.evaluation.reports._plots import MAP_GROUPS, dot_plot, lines_plot
from embedworks.evaluation.reports.tables import p_text
from embedworks.evaluation.runner import SystemResult
from embedworks.evaluation.statistics.comparing import Average, Gap, SystemComparison
from embedworks.evaluation.statistics.intervals import Interval

__all__ = ["body"]

_FAILURES = 600
_FORESTS = 12
_PANELS = 24
_COLUMNS = 40


def body(results: Sequence[SystemResult], comparison: SystemComparison | None, title: str) -> str:
    """Return the content of the page."""
    sections = {
        "Systems": ("systems", _systems(results, comparison)),
        "Tasks": ("tasks", _tasks(results, comparison)),
        "Differences": ("differences", _differences(comparison)),
        "Sweeps": ("sweeps", _sweeps(sweeps(results, comparison))),
        "Failures": ("failures", _failures(results)),
        "Left out": ("left-out", _left_out(results, comparison)),
        "How to repeat it": ("repeat", _repeat(results)),
    }
    return frame(_head(results, comparison, title), sections)


def _head(results: Sequence[SystemResult], comparison: SystemComparison | None, title: str) -> str:
    date = str(results[0].environment.get("date", ""))[:10]
    kicker = f'<p class="kicker">{esc(clip(date, 40))}</p>' if date else ""
    items = sum(outcome.main.interval.n for outcome in _first_outcomes(results))
    figures = {
        "systems": f"{len(results):,}",
        "tasks": f"{len(all_tasks(results)):,}",
        "scored items": f"{items:,}",
        "time": seconds(sum(o.cost.seconds for r in results for o in r.tasks.values())),
    }
    failed = sum(len(result.errors) for result in results)
    if failed:
        figures["failed"] = f"{failed:,}"
    return (
        f"{kicker}<h1>{esc(clip(title, 200))}</h1>"
        f'<p class="verdict">{esc(clip(verdict_text(results, comparison), 1000))}</p>'
        + key_figures(figures)
    )


def _first_outcomes(results: Sequence[SystemResult]) -> list[TaskResult]:
    return [
        next(result.tasks[task] for result in results if task in result.tasks)
        for task in all_tasks(results)
    ]


def _systems(results: Sequence[SystemResult], comparison: SystemComparison | None) -> str:
    averages = {} if comparison is None else comparison.averages
    common = comparison.tasks if comparison is not None else ()
    first = next((result for result in results if result.tasks), results[0])
    kinds = len({first.tasks[task].kind for task in common}) > 1
    header = ["System"]
    if averages:
        header += ["Mean over<br>tasks", *["Mean over<br>kinds"] * kinds, "On other<br>tasks"]
    header += ["Borda,<br>mean rank", "Won, tied,<br>lost"] * (comparison is not None)
    header += ["Dimen-<br>sions", "Time", "Memory<br>added"]
    rows, best = [], []
    for result in results:
        costs = [outcome.cost for outcome in result.tasks.values()]
        cells = [esc(clip(result.name, 60))]
        if averages:
            cells += _mean_cells(averages.get(result.name), with_kinds=kinds)
        if comparison is not None:
            cells += _standing_cells(result.name, comparison)
        fresh = sum(cost.texts - cost.cached for cost in costs)
        taken = sum(cost.encoding_seconds for cost in costs)
        pace = f"{fresh / taken:,.0f} texts/s" if fresh > 0 and taken > 0 else ""
        pace = pace or ("cached" if any(cost.cached for cost in costs) else "")
        cells += [
            esc(result.about.get("dimension") or "–"),
            f"{seconds(sum(cost.seconds for cost in costs))}<small>{pace}</small>",
            memory(max((cost.peak_memory_mb for cost in costs), default=0.0)),
        ]
        rows.append(cells)
        best.append(_is_best(result.name, comparison))
    note = ""
    if comparison is not None:
        count = f"{len(comparison.tasks):,} task{'s' if len(comparison.tasks) != 1 else ''}"
        note = (
            f'<p class="note">Means, Borda counts and ranks are over the {count} that every '
            "system ran and none is known to have trained on. Brackets hold other items of the "
            "same tasks; “on other tasks” also draws tasks anew within their kind. “Won” counts "
            "differences that are clear of noise after correction.</p>"
        )
    caption = "Each system over all tasks" + ("; the best mean is marked." if averages else ".")
    return data_table(header, rows, caption=caption, sortable=True, marked=best, wide=True) + note


def _mean_cells(mean: Average | None, *, with_kinds: bool) -> list[str]:
    if mean is None:
        return ["–"] * (2 + with_kinds)
    cells = [_interval(v) for v in ((mean.tasks, mean.kinds) if with_kinds else (mean.tasks,))]
    return [*cells, "–" if mean.other_tasks.note else _interval(mean.other_tasks)]


def _standing_cells(name: str, comparison: SystemComparison) -> list[str]:
    place = comparison.standings.get(name)
    if place is None:  # no result at all
        return ["–", "–"]
    rank = f"{place.borda:g}<small>rank {place.mean_rank:.2f}</small>"
    return [rank if comparison.tasks else "–", f"{place.wins}, {place.ties}, {place.losses}"]


def _is_best(name: str, comparison: SystemComparison | None) -> bool:
    if comparison is None or name not in comparison.averages:
        return False
    top = max(average.tasks.mean for average in comparison.averages.values())
    return comparison.averages[name].tasks.mean == top


def _tasks(results: Sequence[SystemResult], comparison: SystemComparison | None) -> str:
    shown = results[:_COLUMNS]
    header = ["Task", *(esc(clip(result.name, 40)) for result in shown)]
    rows = []
    for task in all_tasks(results):
        name, about = heading_of_task(results, task)
        cells = [f"{esc(clip(name, 60))}<small>{esc(clip(about, 120))}</small>"]
        cells += [_task_cell(result, task, comparison) for result in shown]
        rows.append(cells)
    more = ""
    if len(results) > len(shown):
        more = f'<p class="note">{len(results) - len(shown):,} more systems are not shown.</p>'
    caption = "Figure, interval, and speed, time, memory added at the peak."
    if any(dagger(outcome) for result in shown for outcome in result.tasks.values()):
        caption += " † see “Left out”."
    if comparison is not None:
        caption += " ★ best on the task, ≈ not clearly worse than the best."
    return data_table(header, rows, caption=caption, sortable=True, wide=True) + more


def _task_cell(result: SystemResult, task: str, comparison: SystemComparison | None) -> str:
    outcome = result.tasks.get(task)
    if outcome is None:
        why = "failed" if task in result.errors else "not run"
        return f'<span class="same">{why}</span>'
    figure, span = rounded(outcome.main.interval)
    mark = mark_of(comparison, task, result.name)
    sign = {"best": " ★", "tied": " ≈"}.get(mark, "") + dagger(outcome)
    return (
        f'<span class="{mark or "plain"}">{figure}{sign}</span><small>{span}</small>'
        f"<small>{esc(cost_text(outcome.cost))}</small>"
    )


def _interval(value: Interval) -> str:
    figure, span = rounded(value)
    return f"{figure}<small>{span}</small>"


def _differences(comparison: SystemComparison | None) -> str:
    if comparison is None:
        return ""
    pairs: dict[tuple[str, str], list[Gap]] = {}
    overall = comparison.overall if len(comparison.tasks) > 1 else ()  # of one, it is the task
    for gap in (*overall, *comparison.gaps):
        pairs.setdefault((gap.system, gap.other), []).append(gap)
    panels = "".join(
        "<figure>"
        + dot_plot(
            [(gap.task, gap.difference) for gap in gaps[:_PANELS]],
            title=clip(f"{clip(system, 24)} − {clip(other, 24)}", 52),
            x_label="difference, right is better",
            own=[gap.finding != "unclear" for gap in gaps[:_PANELS]],
            width=440.0,
        )
        + _not_shown(len(gaps), _PANELS, "tasks")
        + "</figure>"
        for (system, other), gaps in list(pairs.items())[:_FORESTS]
    )
    rows = [
        [
            f"{esc(clip(gap.system, 40))} − {esc(clip(gap.other, 40))}",
            esc(clip(gap.task, 60)),
            _finding(gap),
            esc(p_text(gap.difference.p_value)),
            esc(p_text(gap.corrected_p)),
        ]
        for gaps in pairs.values()
        for gap in gaps
    ]
    method = {
        "holm": "by Holm's method: the chance of a single false finding is bounded",
        "benjamini-hochberg": "by Benjamini and Hochberg: the share of false findings is bounded",
        "none": "not at all: expect false findings among many comparisons",
    }[comparison.correction]
    caption = (
        "Paired differences on the same items; positive is better whatever the direction of the "
        f"metric. ▲ better, ▼ worse, ≈ not clear of noise. p-values are corrected {method}."
    )
    table = data_table(
        ["Difference", "Task", "Gap", "p", "Corrected p"],
        rows,
        caption=caption,
        sortable=True,
        numeric=[False, False, True, True, True],
    )
    note = _not_shown(len(pairs), _FORESTS, "pairs are in the table only")
    summary = f"<summary>All differences with p-values ({len(rows):,})</summary>"
    intro = "Blue differences are clear of noise after correction, grey ones are not."
    return (
        f'<p class="note">{intro}</p><div class="panels wide">{panels}</div>{note}'
        f"<details>{summary}{table}</details>"
    )


def _not_shown(count: int, limit: int, what: str) -> str:
    return f'<p class="note">{count - limit:,} more {what}.</p>' if count > limit else ""


def _finding(gap: Gap) -> str:
    kind, sign = {"better": ("up", "▲"), "worse": ("down", "▼")}.get(gap.finding, ("same", "≈"))
    size = gap.difference
    span = "one item" if size.n == 1 else f"[{size.low:+.3f}, {size.high:+.3f}]"
    return f'<span class="{kind}">{sign} {size.mean:+.3f}</span><small>{span}</small>'


def _sweeps(found: Sequence[Curves]) -> str:
    panels = "".join(f"<figure>{_sweep(curves)}</figure>" for curves in found[:_PANELS])
    return f'<div class="panels wide">{panels}</div>' if panels else ""


def _sweep(curves: Curves) -> str:
    if curves.kinds:
        return dot_plot(
            curves.kinds[:_PANELS],
            title=curves.title,
            x_label=clip(curves.y_label, 60),
            own=["[" not in name for name, _ in curves.kinds[:_PANELS]],
            width=440.0,
        )
    plot = lines_plot(
        curves.lines,
        title=clip(curves.title, 56),
        x_label=clip(curves.x_label, 60),
        y_label=clip(curves.y_label, 40),
    )
    return plot + _not_shown(len(curves.lines), MAP_GROUPS, "lines are not drawn")


def _failures(results: Sequence[SystemResult]) -> str:
    groups = [
        (task, result.name, result.tasks[task].metric, result.tasks[task].failures)
        for task in all_tasks(results)
        for result in results
        if task in result.tasks and result.tasks[task].failures
    ]
    if not groups:
        return ""
    each = max(1, _FAILURES // len(groups))
    shown = [(*group[:3], group[3][:each]) for group in groups[:_FAILURES]]
    blocks = "".join(
        _failure_group(*group, is_open=place == 0) for place, group in enumerate(shown)
    )
    left = sum(len(group[3]) for group in groups) - sum(len(group[3]) for group in shown)
    note = f'<p class="note">{left:,} more are in the result files.</p>' if left else ""
    intro = "What was asked, found and expected where each system was worst, task by task."
    return f'<p class="note">{intro}</p><div class="filters"></div>{blocks}{note}'


def _failure_group(
    task: str, system: str, metric: str, failures: Sequence[Failure], *, is_open: bool
) -> str:
    task, system = clip(task, 60), clip(system, 60)
    items = "".join(_failure(failure) for failure in failures)
    return (
        f'<details class="failure" data-task="{esc(task)}" data-system="{esc(system)}"'
        f"{' open' if is_open else ''}><summary>{esc(task)} · {esc(system)} "
        f"<small>{len(failures)} worst by {esc(metric)}</small></summary>"
        f'<ol class="failures">{items}</ol></details>'
    )


def _failure(failure: Failure) -> str:
    def listing(texts: Sequence[str]) -> str:
        shown = "".join(f"<li>{esc(clip(text, 200))}</li>" for text in texts[:3])
        return f"<ul>{shown or '<li>nothing</li>'}</ul>"

    return (
        f'<li><h3><span dir="auto">{esc(clip(failure.text, 300))}</span></h3>'
        f'<p class="note">score {failure.score:.2f}, item {esc(clip(failure.item, 40))}</p>'
        f'<div class="two"><div><h4>Found</h4>{listing(failure.found)}</div>'
        f"<div><h4>Expected</h4>{listing(failure.expected)}</div></div></li>"
    )


def _left_out(results: Sequence[SystemResult], comparison: SystemComparison | None) -> str:
    rows = [
        [esc(clip(system, 60)), esc(clip(task, 60)), esc(clip(what, 60)), esc(clip(why, 300))]
        for system, task, what, why in left_out_rows(results)
    ]
    html = ""
    if rows:
        html += data_table(
            ["System", "Task", "What", "Why"],
            rows,
            caption="What is not in the figures above, or is worth knowing about them.",
            sortable=True,
            numeric=[False] * 4,
        )
    if comparison is not None and comparison.left_out:
        means = [[esc(clip(t, 60)), esc(clip(w, 200))] for t, w in comparison.left_out.items()]
        html += data_table(
            ["Task", "Why"],
            means,
            caption="Tasks that are not in means, Borda counts or ranks.",
            numeric=[False, False],
        )
    return html


def _repeat(results: Sequence[SystemResult]) -> str:
    return "".join(
        f"<details{' open' if len(results) == 1 else ''}>"
        f"<summary>{esc(clip(result.name, 80))}</summary>"
        f"{facts_list(repeat_facts(result))}</details>"
        for result in results[:MAX_ROWS]
    )
