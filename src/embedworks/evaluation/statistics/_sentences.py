"""Comparisons of systems in plain words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from embedworks.evaluation.reports.tables import p_text

if TYPE_CHECKING:
    from embedworks.evaluation.statistics.comparing import Gap, SystemComparison

__all__ = ["listed", "sentence"]


def listed(names: Sequence[str]) -> str:
    """Return ``"a, b and c"``."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def sentence(comparison: SystemComparison) -> str:
    """Say in plain words which system is better and how sure that is."""
    decisive = comparison.overall or comparison.gaps
    if len(comparison.tasks) == 1 and comparison.gaps:
        decisive = comparison.gaps
    if len(decisive) == 1 or len({(gap.system, gap.other) for gap in comparison.gaps}) == 1:
        if len(decisive) == 1:
            return _of_one(decisive[0], comparison)
        return _counts(decisive[0].system, decisive[0].other, comparison)
    if not comparison.averages:
        return (
            f"{len(comparison.systems)} systems share no task to average over: see the differences "
            "on each task."
        )
    best = max(comparison.averages, key=lambda name: comparison.averages[name].tasks.mean)
    mean = comparison.averages[best]
    beaten: list[str] = []
    unclear: list[str] = []
    for gap in comparison.overall:
        if best in (gap.system, gap.other):
            rival = gap.other if gap.system == best else gap.system
            (unclear if gap.finding == "unclear" else beaten).append(rival)
    parts = [f"clearly better than {listed(beaten)}"] if beaten else []
    parts += [f"not clearly better than {listed(unclear)}"] if unclear else []
    if len(beaten) + len(unclear) < len(comparison.systems) - 1:
        parts.append("not tested against the others")
    size = mean.other_tasks.n
    where = f"mean over {size} tasks" if size > 1 else "figure on the only task for a mean"
    return f"{best} has the highest {where}, {mean.tasks.describe()}; {', '.join(parts)}."


def _of_one(gap: Gap, comparison: SystemComparison) -> str:
    """Tell one difference, and how the tasks stand if there are several."""
    size = gap.difference
    turned = size.mean < 0
    ahead, behind = (gap.other, gap.system) if turned else (gap.system, gap.other)
    low, high = (0.0 - size.high, 0.0 - size.low) if turned else (size.low, size.high)
    where = f"on {'' if gap in comparison.gaps else 'the '}{gap.task}"
    by = f"by {abs(size.mean):.3f}"
    span = f"{100 * size.confidence:g} % interval {low:+.3f} to {high:+.3f}"
    chance = p_text(gap.corrected_p)
    if size.mean == 0:
        text = f"{ahead} and {behind} are equal {where}."
    elif gap.finding == "unclear":
        noise = f"which is not clear of noise ({chance})"
        text = f"{ahead} is ahead of {behind} {where} {by} ({span}), {noise}."
    else:
        text = f"{ahead} is better than {behind} {where} {by} ({span}; {chance})."
    if len(comparison.gaps) == 1:
        return text
    return f"{text} {_counts(ahead, behind, comparison)}"


def _counts(system: str, other: str, comparison: SystemComparison) -> str:
    """Tell on how many tasks a system is better, worse, and neither."""
    counts = {"better": 0, "worse": 0, "unclear": 0}
    for gap in comparison.gaps:
        turned = {"better": "worse", "worse": "better"}.get(gap.finding, "unclear")
        counts[gap.finding if gap.system == system else turned] += 1
    return (
        f"Task by task, {system} is better than {other} on {counts['better']}, worse on "
        f"{counts['worse']}, and not clear of noise on {counts['unclear']}."
    )
