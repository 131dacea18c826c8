"""What mining did, and where unmarked positives may still hide.

Counts, keep rates, score histograms and the most doubtful negatives with their texts; no model and
no corpus is needed to read it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np

from embedworks._core.files import write_json
from embedworks.data import RowSet
from embedworks.negatives.rules import NegativeRule

__all__ = ["MiningReport", "MiningResult", "RuleCount", "Suspect"]

_BINS = 40


@dataclass
class RuleCount:
    """What one rule turned down under one scorer.

    Attributes:
        rule: The rule, such as ``"relative 0.05"``.
        scorer: Whose scores were judged.
        judged: Candidates the scorer had a score for.
        kept: How many of them passed.
        by_source: ``(judged, kept)`` of each source.
    """

    rule: str
    scorer: str
    judged: int = 0
    kept: int = 0
    by_source: dict[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def keep_rate(self) -> float:
        """Share of the judged candidates that passed, 0 when none was judged."""
        return self.kept / self.judged if self.judged else 0.0

    def add(self, known: np.ndarray, kept: np.ndarray, sources: Sequence[str]) -> None:
        """Count one block: bool arrays (B, C) and B source names."""
        judged_by_row = known.sum(axis=1)
        kept_by_row = (known & kept).sum(axis=1)
        self.judged += int(judged_by_row.sum())
        self.kept += int(kept_by_row.sum())
        names = np.asarray(sources)
        for source in dict.fromkeys(sources):
            rows = names == source
            before = self.by_source.get(source, (0, 0))
            self.by_source[source] = (
                before[0] + int(judged_by_row[rows].sum()),
                before[1] + int(kept_by_row[rows].sum()),
            )


@dataclass
class Histogram:
    """Scores of positives, of kept and of turned-down candidates under one scorer.

    The edges come from the first block; what lies outside is counted in the end bins.
    """

    edges: list[float] = field(default_factory=list)
    positives: list[int] = field(default_factory=list)
    kept: list[int] = field(default_factory=list)
    dropped: list[int] = field(default_factory=list)

    def add(self, positives: np.ndarray, kept: np.ndarray, dropped: np.ndarray) -> None:
        parts = [part[np.isfinite(part)] for part in (positives, kept, dropped)]
        together = np.concatenate(parts)
        if not len(together):
            return
        if not self.edges:
            low, high = float(together.min()), float(together.max())
            margin = 0.05 * (high - low) or 0.5
            self.edges = np.linspace(low - margin, high + margin, _BINS + 1).tolist()
            self.positives, self.kept, self.dropped = ([0] * _BINS for _ in range(3))
        for counts, part in zip((self.positives, self.kept, self.dropped), parts, strict=True):
            inside = np.clip(part, self.edges[0], self.edges[-1])
            for place, count in enumerate(np.histogram(inside, self.edges)[0]):
                counts[place] += int(count)


@dataclass(frozen=True)
class Suspect:
    """A negative that was kept although it scores close to, or above, the positive.

    Attributes:
        row: Position of the row among those that were mined.
        source: Its source.
        anchor: The anchor, shortened.
        positive: The positive, shortened.
        negative: The negative, shortened.
        negative_id: Its id in the corpus.
        score: Its score.
        positive_score: The lowest score of the positives.
        scorer: Whose scores these are.
    """

    row: int
    source: str
    anchor: str
    positive: str
    negative: str
    negative_id: str
    score: float
    positive_score: float
    scorer: str


@dataclass
class MiningReport:
    """The audit of one run of a miner.

    Attributes:
        rows: Rows given.
        rows_kept: Rows that got enough negatives.
        negatives: Negatives chosen in all.
        replaced: Negatives the rows had before, which the mined ones take the place of.
        candidates: Candidates looked at.
        turned_down: Candidates that some rule turned down.
        dropped_by_source: Rows dropped, by source.
        relaxed: Negatives taken although a rule turned them down.
        random: Negatives drawn at random.
        found_by: Chosen negatives by the retriever that ranked them best.
        rules: One `RuleCount` per rule and scorer.
        histograms: Score histograms by scorer.
        positive_ranks: Quantiles of the positives' ranks, by retriever.
        suspects: The most doubtful negatives, worst first.
        truth: With known positives: what the rules did with them; see `Miner.mine`.
    """

    rows: int = 0
    rows_kept: int = 0
    negatives: int = 0
    replaced: int = 0
    candidates: int = 0
    turned_down: int = 0
    dropped_by_source: Counter[str] = field(default_factory=Counter)
    relaxed: int = 0
    random: int = 0
    found_by: Counter[str] = field(default_factory=Counter)
    rules: list[RuleCount] = field(default_factory=list)
    histograms: dict[str, Histogram] = field(default_factory=dict)
    positive_ranks: dict[str, dict[str, float]] = field(default_factory=dict)
    suspects: list[Suspect] = field(default_factory=list)
    truth: dict[str, float] | None = None

    @property
    def rows_dropped(self) -> int:
        """Rows that got too few negatives."""
        return self.rows - self.rows_kept

    def count_rule(
        self,
        rule: NegativeRule,
        scorer: str,
        known: np.ndarray,
        kept: np.ndarray,
        sources: Sequence[str],
    ) -> None:
        """Add one block's judgement of one rule under one scorer."""
        name = f"{rule.kind} {rule.value:g}"
        for entry in self.rules:
            if (entry.rule, entry.scorer) == (name, scorer):
                break
        else:
            entry = RuleCount(name, scorer)
            self.rules.append(entry)
        entry.add(known, kept, sources)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values that JSON can hold."""
        values = asdict(self)
        values["rows_dropped"] = self.rows_dropped
        values["dropped_by_source"] = dict(self.dropped_by_source)
        values["found_by"] = dict(self.found_by)
        for plain, rule in zip(values["rules"], self.rules, strict=True):
            plain["keep_rate"] = rule.keep_rate
            plain["by_source"] = {k: list(v) for k, v in rule.by_source.items()}
        return values

    def save(self, path: str | Path) -> None:
        """Write `to_dict` as JSON, atomically."""
        write_json(Path(path), self.to_dict())

    def to_text(self, *, suspects: int = 5, width: int = 100) -> str:
        """Return the report as plain text tables.

        Args:
            suspects: How many doubtful negatives to show.
            width: Characters per line.
        """
        from rich.console import Console
        from rich.table import Table

        console = Console(file=StringIO(), width=width, color_system=None, highlight=False)
        console.print(
            f"{self.rows_kept:,} of {self.rows:,} rows kept with {self.negatives:,} negatives "
            f"({self.relaxed:,} relaxed, {self.random:,} random); rules turned down "
            f"{self.turned_down:,} of {self.candidates:,} candidates.",
            markup=False,
        )
        for source, count in self.dropped_by_source.items():
            console.print(f"dropped {count:,} rows of source {source!r}", markup=False)
        table = Table("rule", "scores of", "judged", "kept")
        for rule in self.rules:
            table.add_row(rule.rule, rule.scorer, f"{rule.judged:,}", f"{rule.keep_rate:.1%}")
        if self.rules:
            console.print(table)
        for name, histogram in self.histograms.items():
            console.print(f"scores of {name}", markup=False)
            for label in ("positives", "kept", "dropped"):
                bars = _bars(getattr(histogram, label))
                console.print(f"  {label:<10}{bars}", markup=False)
            console.print(
                f"  {'':<10}{histogram.edges[0]:<.3f}{histogram.edges[-1]:>{_BINS - 5}.3f}"
            )
        if self.truth is not None:
            for name, value in self.truth.items():
                console.print(f"{name}: {value:.4g}", markup=False)
        for suspect in self.suspects[:suspects]:
            console.print(
                f"\nrow {suspect.row} ({suspect.source}), {suspect.scorer} "
                f"{suspect.score:.3f} against {suspect.positive_score:.3f}\n"
                + "\n".join(
                    f"  {name:<10}{shorten(' '.join(text.split()), width - 12)}"
                    for name, text in (
                        ("anchor", suspect.anchor),
                        ("positive", suspect.positive),
                        ("negative", suspect.negative),
                    )
                ),
                markup=False,
            )
        return str(console.file.getvalue())  # type: ignore[attr-defined]


@dataclass(frozen=True, eq=False)
class MiningResult:
    """Rows with negatives, and the audit.

    Attributes:
        rows: The rows that got enough negatives, in the order given.
        kept: int64 positions of these rows among those given.
        positive_ranks: By retriever, int64 (N,): the rank of each given row's positive.
        report: The audit.
    """

    rows: RowSet
    kept: np.ndarray
    positive_ranks: dict[str, np.ndarray]
    report: MiningReport


def _bars(counts: Sequence[int]) -> str:
    heights = " ▁▂▃▄▅▆▇█"
    top = max(counts, default=0)
    if not top:
        return "(none)"
    return "".join(heights[-(-8 * count // top)] for count in counts)


def shorten(value: Any, length: int = 300) -> str:
    """Return a text, or a dict's description, in at most ``length`` characters."""
    text = value if isinstance(value, str) else _describe(value)
    return text if len(text) <= length else text[: length - 1] + "…"


def _describe(value: Mapping[str, Any]) -> str:
    parts = [
        f"{name}: {item}"
        if isinstance(item, str | int | float)
        else f"{name}: <{type(item).__name__}>"
        for name, item in value.items()
    ]
    return "{" + ", ".join(parts) + "}"
