"""What a plan's epoch holds, counted, for printed plans and reports."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from embedworks.data.batches import BatchPlan, EpochBatches

__all__ = ["BatchSummary", "SourceSummary", "summarize"]


@dataclass(frozen=True)
class SourceSummary:
    """One source, merged source or cluster of a plan.

    Attributes:
        name: Its name.
        loss: Name of its loss, or None.
        rows: Rows it has.
        batch_size: Rows of a full batch.
        expected: Share of the draws it should have.
        drawn: Share it has in this epoch, in the same unit.
        seen: Different rows seen in this epoch.
        repeated: Rows seen again in this epoch.
    """

    name: str
    loss: str | None
    rows: int
    batch_size: int
    expected: float
    drawn: float
    seen: int
    repeated: int


@dataclass(frozen=True)
class BatchSummary:
    """What one epoch of a `BatchPlan` holds.

    Attributes:
        strategy: Name of the strategy.
        weighted: Whether sources are drawn by weight; else every row is seen once.
        share_of: What shares are of: ``"batches"`` or ``"rows"``.
        rows: Rows of the plan.
        batches: Batches of the epoch.
        batch_rows: Smallest, mean and largest batch.
        pure: Share of batches whose rows have one source.
        sources: Every source, merged source or cluster.
        never_seen: Those that no epoch sees.
        left_out: Rows that this epoch leaves out, by reason.

    Example:
        >>> from embedworks.data import BatchPlan, BatchSettings
        >>> plan = BatchPlan.from_sources(["a"] * 3 + ["b"], BatchSettings(batch_size=2))
        >>> print(plan.summary())
        2 batches of 2 rows, mixed, every row once; 50 % of the batches have one source
        source  loss    rows   size  expected    drawn      seen
        a       -          3      2    75.0 %   75.0 %         3
        b       -          1      2    25.0 %   25.0 %         1
    """

    strategy: str
    weighted: bool
    share_of: str
    rows: int
    batches: int
    batch_rows: tuple[int, float, int]
    pure: float
    sources: tuple[SourceSummary, ...]
    never_seen: tuple[str, ...]
    left_out: dict[str, int]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        low, mean, high = self.batch_rows
        size = f"{high}" if low == high else f"{low} to {high} (mean {mean:.1f})"
        kind = f"drawn by share of {self.share_of}" if self.weighted else "every row once"
        width = max([6, *(len(s.name) for s in self.sources)])
        loss_width = max([4, *(len(s.loss or "-") for s in self.sources)])
        lines = [
            f"{self.batches} batches of {size} rows, {self.strategy}, {kind}; "
            f"{self.pure:.0%} of the batches have one source".replace("%", " %"),
            f"{'source':<{width}}  {'loss':<{loss_width}}{'rows':>8}{'size':>7}{'expected':>10}"
            f"{'drawn':>9}{'seen':>10}",
        ]
        lines += [
            f"{s.name:<{width}}  {s.loss or '-':<{loss_width}}{s.rows:>8}{s.batch_size:>7}"
            f"{100 * s.expected:>8.1f} %{100 * s.drawn:>7.1f} %{s.seen:>10}"
            + (f" + {s.repeated} again" if s.repeated else "")
            for s in self.sources
        ]
        lines += [f"left out: {count} rows {reason}" for reason, count in self.left_out.items()]
        if self.never_seen:
            lines.append("never seen, too small for a batch: " + ", ".join(self.never_seen))
        return "\n".join(lines)


def summarize(plan: BatchPlan, epoch: EpochBatches) -> BatchSummary:
    """Count what an epoch holds. ``epoch`` has whole batches, over all processes."""
    units = plan.units
    sizes = np.diff(epoch.starts)
    batch_of = np.repeat(np.arange(len(epoch)), sizes)
    unit = units.of_row[epoch.rows]
    first = unit[epoch.starts[:-1]]
    pure = np.bincount(batch_of, weights=unit != first[batch_of], minlength=len(epoch)) == 0
    by_batch = plan.draws_batches
    drawn = np.bincount(first if by_batch else unit, minlength=len(units.names))
    times = np.bincount(epoch.rows, minlength=len(units.of_row))
    seen = np.bincount(units.of_row[times > 0], minlength=len(units.names))
    repeated = np.bincount(
        units.of_row, weights=np.maximum(times - 1, 0), minlength=len(units.names)
    )
    return BatchSummary(
        strategy=plan.settings.strategy,
        weighted=plan.settings.weighted,
        share_of="batches" if by_batch else "rows",
        rows=len(units.of_row),
        batches=len(epoch),
        batch_rows=(int(sizes.min()), float(sizes.mean()), int(sizes.max())),
        pure=float(pure.mean()),
        sources=tuple(
            SourceSummary(
                name,
                units.losses[i],
                int(units.counts[i]),
                int(units.sizes[i]),
                float(plan.shares[i]),
                float(drawn[i] / drawn.sum()),
                int(seen[i]),
                int(repeated[i]),
            )
            for i, name in enumerate(units.names)
        ),
        never_seen=plan.never_seen,
        left_out=epoch.left_out,
    )
