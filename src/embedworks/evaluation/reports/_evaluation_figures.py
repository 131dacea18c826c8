"""What both forms of the evaluation report show: cells, costs, sweeps, facts; all as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from embedworks.evaluation.outcomes import BETTER, Cost, TaskResult
from embedworks.evaluation.reports._html import clip, number, seconds
from embedworks.evaluation.runner import SystemResult
from embedworks.evaluation.statistics.comparing import SystemComparison
from embedworks.evaluation.statistics.intervals import Interval
from embedworks.evaluation.statistics.sample_sizes import agreement_by_size
from embedworks.evaluation.sweeps import step_of

__all__ = [
    "Curves",
    "all_tasks",
    "cost_text",
    "heading_of_task",
    "left_out_rows",
    "mark_of",
    "memory",
    "repeat_facts",
    "rounded",
    "speed",
    "sweeps",
    "verdict_text",
]


class Curves(NamedTuple):
    """Lines that share their axes."""

    title: str
    x_label: str
    y_label: str
    lines: list[tuple[str, list[float], list[float]]]
    kinds: list[tuple[str, Interval]]
    """Rows for steps that are kinds, not counts."""


def all_tasks(results: Sequence[SystemResult]) -> list[str]:
    """Return the tasks that any system ran, in the order of the results."""
    return list(dict.fromkeys(task for result in results for task in result.tasks))


def heading_of_task(results: Sequence[SystemResult], task: str) -> tuple[str, str]:
    """Return a task's name, and its kind, metric and number of items."""
    one = next(result.tasks[task] for result in results if task in result.tasks)
    turned = "" if one.better == "higher" else f", {BETTER[one.better]}"
    return task, f"{one.kind}, {one.metric}{turned}, n = {one.main.interval.n:,}"


def rounded(value: Interval) -> tuple[str, str]:
    """Return a figure and its interval as text."""
    if value.n == 1:
        return f"{value.mean:.3f}", "one item, no interval"
    return f"{value.mean:.3f}", f"[{value.low:.3f}, {value.high:.3f}]"


def speed(cost: Cost) -> str:
    """Return how many texts a second were encoded; cached ones do not count."""
    fresh = cost.texts - cost.cached
    if fresh <= 0 or cost.encoding_seconds <= 0:
        return "cached" if cost.cached else "–"
    return f"{fresh / cost.encoding_seconds:,.0f} texts/s"


def cost_text(cost: Cost) -> str:
    """Return speed, time and memory on one line."""
    return f"{speed(cost)} · {seconds(cost.seconds)} · {memory(cost.peak_memory_mb)}"


def memory(megabytes: float) -> str:
    """Return how much memory a task added, in words."""
    return f"{megabytes:,.0f} MB" if megabytes >= 1 else "< 1 MB"


def mark_of(comparison: SystemComparison | None, task: str, system: str) -> str:
    """Return ``"best"``, ``"tied"`` (not clearly worse than the best) or ``""``."""
    leaders = comparison.leaders.get(task, ()) if comparison is not None else ()
    if len(leaders) == 0 or system not in leaders:
        return ""
    return "best" if system == leaders[0] else "tied"


def dagger(outcome: TaskResult) -> str:
    """Return the mark of a figure that has a caveat."""
    return " †" if outcome.details.get("caveat") else ""


def verdict_text(results: Sequence[SystemResult], comparison: SystemComparison | None) -> str:
    """Say what came out."""
    if comparison is not None:
        without = [clip(result.name, 60) for result in results if not result.tasks]
        return " ".join([comparison.sentence(), *(f"{name} gave no result." for name in without)])
    done = len(all_tasks(results))
    ran = [clip(result.name, 60) for result in results if result.tasks]
    if not ran:
        return "No task gave a result: see what was left out."
    names = ", ".join(ran[:8])
    tasks = "1 task" if done == 1 else f"{done} tasks"
    return f"{names}: {tasks}, no other system on the same tasks to compare with."


def left_out_rows(results: Sequence[SystemResult]) -> list[tuple[str, str, str, str]]:
    """Return (system, task, what, why) for all that is not in the figures."""
    rows = []
    for result in results:
        rows += [(result.name, task, "failed", why) for task, why in result.errors.items()]
        rows += [(result.name, task, "skipped", why) for task, why in result.skipped.items()]
        for task, outcome in result.tasks.items():
            rows += [
                (result.name, task, f"{count:,} items left out", why)
                for why, count in outcome.excluded.items()
            ]
            for count, what in (
                (outcome.cost.truncated, "the model does not read their end"),
                (outcome.cost.zero_vectors, "the model has no vector for them: zero is used"),
            ):
                if count:
                    rows.append((result.name, task, f"{count:,} texts", what))
            if caveat := outcome.details.get("caveat"):
                rows.append((result.name, task, "figure marked †", str(caveat)))
    return rows


def repeat_facts(result: SystemResult) -> dict[str, str]:
    """Return what is needed to evaluate a system again: label -> value."""
    facts = {
        _label(key): _value(value)
        for key, value in result.about.items()
        if value not in (None, "", {}, []) and key != "prompts"
    }
    prompts = result.about.get("prompts")
    if isinstance(prompts, Mapping):
        facts |= {f"prompt {name!r}": repr(text) for name, text in prompts.items() if text}
    for task, outcome in result.tasks.items():
        if instruction := outcome.details.get("instruction"):
            facts[f"instruction of {task}"] = repr(instruction)
    how = result.resampling
    facts["resampling"] = (
        f"{how.n_resamples:,} resamples, seed {how.seed}, {how.confidence:.0%} intervals"
    )
    facts |= {_label(key): _value(value) for key, value in result.environment.items()}
    return facts


def sweeps(results: Sequence[SystemResult], comparison: SystemComparison | None) -> list[Curves]:
    """Return the curves that names of systems, names of tasks and details of tasks tell."""
    return [
        *_system_sweeps(results, comparison),
        *_task_sweeps(results),
        *_own_sweeps(results),
        *_agreement(results, comparison),
    ]


def _system_sweeps(
    results: Sequence[SystemResult], comparison: SystemComparison | None
) -> list[Curves]:
    if comparison is None or not comparison.averages:
        return []
    means = {name: average.tasks for name, average in comparison.averages.items()}
    size = next(iter(comparison.averages.values())).other_tasks.n
    y_label = f"mean over {size} tasks" if size > 1 else comparison.tasks[0]
    steps: dict[str, dict[str, dict[int | str, Interval]]] = {}
    for name, mean in means.items():
        if (step := step_of(name)) is not None:
            steps.setdefault(step.unit, {}).setdefault(step.base, {})[step.value] = mean
    widths = {result.name: result.about.get("dimension") for result in results}
    found = []
    for unit, bases in steps.items():
        lines, kinds = [], []
        for base, points in bases.items():
            if unit == "numbers":
                whole = [(base, means[base])] if base in means else []
                kinds += [*whole, *((f"{base}[{kind}]", p) for kind, p in points.items())]
                continue
            if unit == "dimensions" and base in means and isinstance(widths.get(base), int):
                points[int(widths[base])] = means[base]  # type: ignore[arg-type]
            ordered = sorted((int(x), p.mean) for x, p in points.items())
            lines.append((base, [float(x) for x, _ in ordered], [y for _, y in ordered]))
        title = "Quantisation" if unit == "numbers" else f"Fewer {unit}"
        lines = [line for line in lines if len(line[1]) > 1]
        title += f" of {lines[0][0]}" if len(lines) == 1 else ""
        if lines or len(kinds) > 1:
            found.append(Curves(title, unit, y_label, lines, kinds))
    return found


def _task_sweeps(results: Sequence[SystemResult]) -> list[Curves]:
    found: dict[tuple[str, str], Curves] = {}
    for result in results:
        points: dict[tuple[str, str], list[tuple[float, float]]] = {}
        for task, outcome in result.tasks.items():
            step = step_of(task)
            if step is None or isinstance(step.value, str):
                continue
            key = (step.base, step.unit)
            points.setdefault(key, []).append((step.value, outcome.main.interval.mean))
            if key not in found:
                title = f"{step.base} by {step.unit}"
                found[key] = Curves(title, step.unit, outcome.metric, [], [])
        for key, line in points.items():
            if len(line) > 1:
                line.sort()
                found[key].lines.append((result.name, [x for x, _ in line], [y for _, y in line]))
    return [curves for curves in found.values() if curves.lines]


def _own_sweeps(results: Sequence[SystemResult]) -> list[Curves]:
    """Read ``details["sweep"]``: ``{"label": ..., "x": [...], "y": [...]}``."""
    found: dict[str, Curves] = {}
    for result in results:
        for task, outcome in result.tasks.items():
            sweep = outcome.details.get("sweep")
            if not isinstance(sweep, Mapping) or not all(
                isinstance(sweep.get(axis), (list, tuple)) for axis in "xy"
            ):
                continue
            pairs = sorted(
                (float(x), float(y))
                for x, y in zip(sweep["x"], sweep["y"])
                if isinstance(x, (int, float)) and isinstance(y, (int, float))
            )
            if len(pairs) < 2:
                continue
            if task not in found:
                label = str(sweep.get("label", "step"))
                found[task] = Curves(f"{task} by {label}", label, outcome.metric, [], [])
            line = (result.name, [x for x, _ in pairs], [y for _, y in pairs])
            found[task].lines.append(line)
    return list(found.values())


def _agreement(
    results: Sequence[SystemResult], comparison: SystemComparison | None
) -> list[Curves]:
    """Return how well samples of the items would have ordered three or more systems."""
    if comparison is None or len(comparison.systems) < 3:
        return []
    lines = []
    results = [result for result in results if result.name in comparison.systems]
    for task in comparison.tasks:
        outcomes = [result.tasks[task] for result in results]
        apart = len({one.main.interval.mean for one in outcomes}) > 1
        if apart and all(len(one.main.values) > 20 for one in outcomes):
            found = agreement_by_size(results, task, n_samples=100)
            lines.append((task, [float(one.size) for one in found], [one.mean for one in found]))
    title = "How few items would tell the same order"
    y_label = "Kendall's tau-b with all items"
    return [Curves(title, "items", y_label, lines, [])] if lines else []


def _label(key: str) -> str:
    return key.replace("_", " ")


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_value(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(_value(item) for item in value)
    return number(value)
