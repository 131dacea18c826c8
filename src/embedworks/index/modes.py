"""The ways to rank a collection's rows for a query: dense, BM25, or both together.

A mode sees vectors and an inverted index over the same M rows; it knows nothing about storage.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from embedworks._core.registry import Registry, did_you_mean
from embedworks._core.validation import check_choice, check_in_range
from embedworks.errors import InputError, SettingsError
from embedworks.index._hybrid import RANKED_ROWS, HybridSearch
from embedworks.index._planned import PlannedDense
from embedworks.index.bm25 import BM25Index
from embedworks.index.exact import ExactIndex

__all__ = ["SEARCH_MODES", "HybridSettings", "Queries", "Ranked", "SearchMode", "Searchable"]

_FUSION_PLANS = {
    "zscore": "average the z-scores",
    "linear": "average BM25 over its highest score and the cosine moved to [0, 1]",
    "rrf": f"add up weight / (60 + rank) over the first {RANKED_ROWS:,} of each",
}
FUSIONS = tuple(_FUSION_PLANS)

#: One ranked list: row numbers (int64) and scores (float32), best first.
Ranked = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class HybridSettings:
    """How mode ``"hybrid"`` combines dense and BM25 scores.

    Both rankers see the same rows, those that pass the filter, and are fused. The first results
    of that list then refine both queries (see `rocchio` and `expand_terms`), and the refined
    rankings are fused in the same way.

    Attributes:
        bm25_weight: Share of BM25 in [0, 1]; the dense scores have the rest. The weaker the
            model, the higher: about 0.5 for a static model, 0.35 for a transformer.
        feedback_rows: How many first results refine the queries; 0 leaves that step out.
        feedback_terms: How many terms are added to the BM25 query.
        original_weight: Share of the original queries in the refined ones, in [0, 1].
        fusion: ``"zscore"`` averages z-scores, BM25's among the rows that share a term with the
            query and the dense ones among all rows; ``"linear"`` averages BM25 divided by its
            highest score and the cosine moved to [0, 1] (Bruch et al. 2022, arXiv 2210.11934,
            with theoretical minima); ``"rrf"`` adds up ``weight / (60 + rank)`` over the first
            1,000 of each ranker (see `reciprocal_rank_fusion`). The first keeps most of what the
            scores say; the others are what papers compare with.
    """

    bm25_weight: float = 0.5
    feedback_rows: int = 5
    feedback_terms: int = 20
    original_weight: float = 0.5
    fusion: str = "zscore"

    def __post_init__(self) -> None:
        check_in_range(self.bm25_weight, name="bm25_weight", low=0.0, high=1.0)
        check_in_range(self.feedback_rows, name="feedback_rows", low=0)
        check_in_range(self.feedback_terms, name="feedback_terms", low=1)
        check_in_range(self.original_weight, name="original_weight", low=0.0, high=1.0)
        check_choice(self.fusion, FUSIONS, name="fusion")

    def to_dict(self) -> dict[str, Any]:
        """Return plain values; `from_dict` reads them back."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> HybridSettings:
        """Make settings from `to_dict` output.

        Raises:
            SettingsError: On an unknown setting.
        """
        known = list(cls.__dataclass_fields__)
        for name in values:
            if name not in known:
                raise SettingsError(f"Unknown hybrid setting {name!r}. {did_you_mean(name, known)}")
        counts = ("feedback_rows", "feedback_terms")
        checked: dict[str, Any] = {n: int(v) if n in counts else v for n, v in values.items()}
        return cls(**checked)


@dataclass(frozen=True)
class Searchable:
    """What a mode searches: the same M rows as vectors and as postings.

    With ``planned``, mode "dense" takes the plan that is cheapest; without, it scans.
    """

    dense: ExactIndex
    bm25: BM25Index
    hybrid: HybridSettings = field(default_factory=HybridSettings)
    planned: PlannedDense | None = None


@dataclass(frozen=True)
class Queries:
    """Q queries as texts, as vectors (Q, D), or both."""

    texts: Sequence[str] | None
    vectors: np.ndarray | None

    def need_texts(self, mode: str) -> Sequence[str]:
        """Return the texts or say why the mode needs them."""
        if self.texts is None:
            raise InputError(f"mode={mode!r} needs the query's text. Give it, or use mode='dense'.")
        return self.texts

    def need_vectors(self, mode: str) -> np.ndarray:
        """Return the vectors or say why the mode needs them."""
        if self.vectors is None:
            raise InputError(
                f"mode={mode!r} needs the query's vector. Give encoder=, the model that made the "
                "collection's vectors, or use mode='bm25'."
            )
        return self.vectors


@dataclass(frozen=True)
class SearchMode:
    """One way to rank.

    Attributes:
        name: What a caller writes.
        uses_vectors: Whether query texts must be encoded.
        plan: ``plan(searchable, k, mask)`` says in words what a search does.
        run: ``run(searchable, queries, k, mask)`` returns one `Ranked` per query: rows pass the
            mask, sorted by score, highest first, equal scores by ascending row.
    """

    name: str
    uses_vectors: bool
    plan: Callable[[Searchable, int, np.ndarray | None], tuple[str, ...]]
    run: Callable[[Searchable, Queries, int, np.ndarray | None], list[Ranked]]


#: Search modes by name.
SEARCH_MODES: Registry[SearchMode] = Registry("search modes")


def dense(
    searchable: Searchable, queries: Queries, k: int, mask: np.ndarray | None
) -> list[Ranked]:
    """Rank by cosine similarity: exactly min(k, matching) rows.

    Exact, unless graph and lists are there and the planner finds a plan over them cheaper.
    """
    vectors = queries.need_vectors("dense")
    if searchable.planned is not None:
        return searchable.planned.search(vectors, k, mask)
    ids, scores = searchable.dense.search(vectors, k, mask=mask, allow_zero=True)
    return list(zip(ids, scores, strict=True))


def bm25(searchable: Searchable, queries: Queries, k: int, mask: np.ndarray | None) -> list[Ranked]:
    """Rank by BM25: only rows that share a term with the query."""
    return searchable.bm25.search(queries.need_texts("bm25"), k, mask=mask)


def hybrid(
    searchable: Searchable, queries: Queries, k: int, mask: np.ndarray | None
) -> list[Ranked]:
    """Rank by dense and BM25 scores together, with feedback: exactly min(k, matching) rows."""
    texts, vectors = queries.need_texts("hybrid"), queries.need_vectors("hybrid")
    settings = searchable.hybrid
    search = HybridSearch(
        searchable.dense,
        searchable.bm25,
        bm25_weight=settings.bm25_weight,
        feedback_rows=settings.feedback_rows,
        feedback_terms=settings.feedback_terms,
        original_weight=settings.original_weight,
        fusion=settings.fusion,
    )
    return search.run(texts, vectors, k, mask)


def _plan_dense(searchable: Searchable, k: int, mask: np.ndarray | None) -> tuple[str, ...]:
    if searchable.planned is not None:
        return searchable.planned.explain(k, mask)
    return _plan_scan(searchable, mask)


def _plan_scan(searchable: Searchable, mask: np.ndarray | None) -> tuple[str, ...]:
    matching = len(searchable.dense) if mask is None else int(np.count_nonzero(mask))
    return (searchable.dense.plan(matching),)


def _plan_bm25(searchable: Searchable, k: int, mask: np.ndarray | None) -> tuple[str, ...]:
    terms = len(searchable.bm25.vocabulary)
    return (f"BM25: add up the postings of the query's terms ({terms:,} terms known)",)


def _plan_hybrid(searchable: Searchable, k: int, mask: np.ndarray | None) -> tuple[str, ...]:
    settings = searchable.hybrid
    share = settings.bm25_weight
    steps = [
        *_plan_scan(searchable, mask),
        *_plan_bm25(searchable, k, mask),
        f"{_FUSION_PLANS[settings.fusion]}: {share:.2f} BM25, {1 - share:.2f} dense",
    ]
    if settings.feedback_rows:
        steps.append(
            f"refine both queries by the first {settings.feedback_rows} results "
            f"({settings.feedback_terms} more terms) and repeat"
        )
    return tuple(steps)


for _name, _vectors, _plan, _run in (
    ("dense", True, _plan_dense, dense),
    ("bm25", False, _plan_bm25, bm25),
    ("hybrid", True, _plan_hybrid, hybrid),
):
    SEARCH_MODES.add(_name, SearchMode(_name, _vectors, _plan, _run), summary=_run.__doc__ or "")
