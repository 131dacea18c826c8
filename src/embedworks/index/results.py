"""What a search returns."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

__all__ = ["BatchResult", "Explanation", "Hit"]


@dataclass(frozen=True)
class Hit:
    """One row found by a search.

    Attributes:
        rank: Place in the result, from 1.
        score: What the hits are sorted by, higher is better: the reranker's score if there was
            one, else the cosine, BM25 or fused score, as the mode defines it.
        chunk_id: Id of the row.
        doc_id: Id of the document it comes from.
        title: Headings or names above it.
        path: File it comes from.
        start_line: First line in that file, or None.
        end_line: Last line, or None.
        text: The whole text of the row.
        passage: The part that matches the query best.
        highlights: ``(start, end)`` of each matching word inside ``passage``.
        attributes: Further columns; missing values are left out.
        first_score: The mode's score of a hit that was reranked; None without a reranker.
    """

    rank: int
    score: float
    chunk_id: str
    doc_id: str
    title: str
    path: str
    start_line: int | None
    end_line: int | None
    text: str
    passage: str
    highlights: tuple[tuple[int, int], ...] = ()
    attributes: dict[str, Any] = field(default_factory=dict)
    first_score: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as ``--json`` shows them."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class BatchResult:
    """Rankings of many queries.

    Attributes:
        rows: One int64 array of row numbers per query, best first.
        scores: One float32 array per query.
        chunk_ids: The rows' chunk ids, one list per query.
        doc_ids: The rows' document ids, one list per query; chunks of one document repeat it.
        first_scores: With a reranker, one float32 array of the mode's scores per query, in the
            same order; ``scores`` are then the reranker's.
    """

    rows: list[np.ndarray]
    scores: list[np.ndarray]
    chunk_ids: list[list[str]]
    doc_ids: list[list[str]]
    first_scores: list[np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class Explanation:
    """How a search was carried out.

    Attributes:
        mode: Search mode.
        where: The filter as it was understood, or None.
        rows: Rows in the collection.
        matching: Rows that pass the filter.
        plan: The steps, in words.
        seconds: Time of each step.
        version: Version of the table that was searched; None on a server.
    """

    mode: str
    where: str | None
    rows: int
    matching: int
    plan: tuple[str, ...]
    seconds: dict[str, float]
    version: int | None

    @property
    def selectivity(self) -> float:
        """Share of the rows that pass the filter, 1.0 for an empty collection."""
        return self.matching / self.rows if self.rows else 1.0

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as ``--json`` shows them."""
        return {**asdict(self), "selectivity": self.selectivity}

    def __str__(self) -> str:
        of_version = "" if self.version is None else f" of version {self.version}"
        head = (
            f"{self.mode} search{of_version}: {self.matching:,} of {self.rows:,} rows match "
            f"({self.selectivity:.1%})"
        )
        times = ", ".join(f"{name} {value * 1e3:.1f} ms" for name, value in self.seconds.items())
        filters = [f"filter: {self.where}"] if self.where else []
        return "\n".join([head, *filters, *(f"- {step}" for step in self.plan), f"time: {times}"])
