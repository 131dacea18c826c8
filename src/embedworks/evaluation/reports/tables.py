"""Comparisons as text: terminal table, Markdown table, and one sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from embedworks._core.validation import check_choice
from embedworks.evaluation.kinds.retrieval import Comparison
from embedworks.evaluation.statistics.intervals import Difference

__all__ = [
    "distinct_differences",
    "format_table",
    "markdown_rows",
    "markdown_table",
    "p_text",
    "verdict_sentence",
]


def format_table(comparison: Comparison, *, labels: Mapping[str, str] | None = None) -> str:
    """Lay out a comparison as aligned plain text for a terminal.

    One row per system with mean and interval, then one block per baseline with the paired
    differences; a star marks differences whose interval excludes zero.

    Args:
        comparison: Result of `embedworks.evaluation.compare_runs`.
        labels: System -> name to show.

    Example:
        >>> from embedworks.evaluation import compare_runs
        >>> qrels = {"q1": {"a": 1}, "q2": {"b": 1}}
        >>> runs = {"old": {"q1": {"a": 1.0}}, "new": {"q1": {"a": 1.0}, "q2": {"b": 1.0}}}
        >>> table = compare_runs(runs, qrels, baseline="old", metrics=["mrr@10"])
        >>> print(format_table(table))
        system     mrr@10
        old        0.500 [0.000, 1.000]
        new        1.000 [1.000, 1.000]
        <BLANKLINE>
        minus old
        new        +0.500 [+0.000, +1.000]
        <BLANKLINE>
        2 queries; brackets: 95% intervals over queries; *: interval excludes zero
    """
    names = _names(comparison, labels)
    rows = [["system", *comparison.metrics], *_score_rows(comparison, names)]
    for baseline, block in _difference_rows(comparison, names):
        rows += [[], [f"minus {baseline}"], *block]
    widths = [
        max((len(row[column]) for row in rows if column < len(row)), default=0)
        for column in range(1 + len(comparison.metrics))
    ]
    lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths)).rstrip() for row in rows]
    return "\n".join([*lines, "", _legend(comparison)])


def markdown_table(comparison: Comparison, *, labels: Mapping[str, str] | None = None) -> str:
    """Lay out a comparison as Markdown: the scores, then a table for each baseline.

    Args:
        comparison: Result of `embedworks.evaluation.compare_runs`.
        labels: System -> name to show.

    Returns:
        Markdown that ends with a line on queries and intervals.
    """
    names = _names(comparison, labels)
    parts = [markdown_rows(["system", *comparison.metrics], _score_rows(comparison, names))]
    for baseline, block in _difference_rows(comparison, names):
        parts.append(markdown_rows([f"minus {baseline}", *comparison.metrics], block))
    return "\n\n".join([*parts, _legend(comparison).replace("*:", r"\*:")]) + "\n"


def verdict_sentence(
    comparison: Comparison,
    *,
    system: str,
    against: Sequence[str],
    metric: str = "success@1",
    labels: Mapping[str, str] | None = None,
) -> str:
    """Say in words how a system compares, and whether the difference is more than noise.

    Args:
        comparison: Result of `embedworks.evaluation.compare_runs` that includes ``metric``.
        system: The system the sentence is about.
        against: Systems to name beside it; the first must be a baseline of the comparison.
        metric: ``"success@1"`` reads as "finds the right passage first in 61% of ...".
        labels: System -> name to show, as it stands within a sentence.

    Raises:
        UnknownNameError: When a system or the metric is not in the comparison.

    Example:
        >>> from embedworks.evaluation import compare_runs
        >>> qrels = {f"q{i}": {"a": 1} for i in range(4)}
        >>> good = {query: {"a": 1.0} for query in qrels}
        >>> weak = {"q0": {"a": 1.0}}
        >>> table = compare_runs({"a": good, "b": weak}, qrels, baseline="b", metrics=["success@1"])
        >>> verdict_sentence(table, system="a", against=["b"], labels={"a": "adapted search"})
        'Adapted search finds the right passage first in 100% of 4 held-out questions, b in 25%.
         The gain over b is 75 points (95% interval +25 to +100).'
    """
    for name in (system, *against):
        check_choice(name, comparison.systems, name="system")
    check_choice(metric, comparison.metrics, name="metric")
    check_choice(against[0], comparison.baselines, name="baseline")
    names = _names(comparison, labels)
    points = metric == "success@1"

    def figure(name: str) -> str:
        mean = comparison.results[name].intervals[metric].mean
        return f"{mean:.0%}" if points else f"{mean:.3f}"

    verb = "finds the right passage first in" if points else f"has {metric}"
    queries = f"{comparison.n:,} held-out question{'s' if comparison.n != 1 else ''}"
    rest = ", ".join(f"{names[name]} in {figure(name)}" for name in against)
    if not points:
        rest = ", ".join(f"{names[name]} {figure(name)}" for name in against)
    own = f"{figure(system)} {'of' if points else 'on'} {queries}"
    sentence = f"{names[system]} {verb} {own}, {rest}. "
    sentence = sentence[:1].upper() + sentence[1:]
    return sentence + _gap_sentence(
        comparison.differences[against[0]][system][metric], names[against[0]], points
    )


def distinct_differences(
    comparison: Comparison,
) -> list[tuple[str, str, Mapping[str, Difference]]]:
    """List (system, baseline, differences); of two mirrored pairs only the first is listed."""
    listed: dict[tuple[str, str], Mapping[str, Difference]] = {}
    for baseline, rows in comparison.differences.items():
        for system, row in rows.items():
            if (baseline, system) not in listed:
                listed[system, baseline] = row
    return [(system, baseline, row) for (system, baseline), row in listed.items()]


def p_text(p_value: float) -> str:
    """Return ``"p = 0.012"`` or ``"p < 0.001"``.

    Example:
        >>> p_text(0.0004), p_text(0.25)
        ('p < 0.001', 'p = 0.250')
    """
    return "p < 0.001" if p_value < 0.001 else f"p = {p_value:.3f}"


def _gap_sentence(gap: Difference, other: str, points: bool) -> str:
    scale, form, unit = (100, ".0f", " points") if points else (1, ".3f", "")
    level = f"{gap.confidence:.0%}"
    span = f"({level} interval {gap.low * scale:+{form}} to {gap.high * scale:+{form}})"
    size = f"{abs(gap.mean) * scale:{form}}{unit}"
    if gap.n == 1:
        return f"One question cannot tell whether the difference to {other} is more than noise."
    if not gap.is_clear:
        return f"The difference to {other} is not clear of noise {span}."
    word = "gain over" if gap.mean > 0 else "loss against"
    return f"The {word} {other} is {size} {span}."


def _names(comparison: Comparison, labels: Mapping[str, str] | None) -> dict[str, str]:
    given = labels or {}
    return {name: given.get(name, name) for name in comparison.systems}


def _score_rows(comparison: Comparison, names: Mapping[str, str]) -> list[list[str]]:
    return [
        [names[name], *(result.intervals[m].describe() for m in comparison.metrics)]
        for name, result in comparison.results.items()
    ]


def _difference_rows(
    comparison: Comparison, names: Mapping[str, str]
) -> list[tuple[str, list[list[str]]]]:
    def cell(gap: Difference) -> str:
        return gap.describe() + ("*" if gap.is_clear else "")

    blocks: dict[str, list[list[str]]] = {}
    for system, baseline, row in distinct_differences(comparison):
        cells = [names[system], *(cell(row[m]) for m in comparison.metrics)]
        blocks.setdefault(names[baseline], []).append(cells)
    return list(blocks.items())


def _legend(comparison: Comparison) -> str:
    queries = "1 query" if comparison.n == 1 else f"{comparison.n:,} queries"
    return (
        f"{queries}; brackets: {comparison.confidence:.0%} intervals over queries; "
        "*: interval excludes zero"
    )


def markdown_rows(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out a Markdown table; all columns but the first are right-aligned."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(c.replace("|", r"\|").replace("*", r"\*") for c in cells) + " |"

    rule = "|---|" + "---:|" * (len(header) - 1)
    return "\n".join([line(header), rule, *(line(row) for row in rows)])
