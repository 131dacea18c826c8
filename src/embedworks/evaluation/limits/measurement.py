"""The limits of a model: which top-k sets its vectors express, measured and beside the theory.

Two questions are kept apart. Does the model put what a question asks for on top (recall)? And
could any query at all, given the model's document vectors (sets realised)? Where the second is
far above the first, the documents' geometry is not what stands in the way.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from embedworks._core.extras import require_extra
from embedworks._core.validation import check_in_range, normalize_rows
from embedworks.errors import DataWarning, EmptyInputError, InputError
from embedworks.evaluation.limits.capacity import (
    all_subsets,
    critical_n_fit,
    min_dimension,
    random_subsets,
    verify_subsets,
)
from embedworks.evaluation.limits.limit_data import (
    average_query_strength,
    make_limit,
    qrel_graph_density,
)
from embedworks.evaluation.outcomes import Resampling, TaskResult
from embedworks.evaluation.statistics.intervals import Interval
from embedworks.evaluation.systems import EncoderSystem, LexicalSystem

if TYPE_CHECKING:
    from embedworks.evaluation.kinds.retrieval import Qrels

__all__ = ["DimensionLimits", "LimitsReport", "QrelLimits", "measure_limits", "qrel_limits"]

_MARGIN = 0.1
_MOST_SETS = 20_000


@dataclass(frozen=True)
class DimensionLimits:
    """What the first D numbers of the vectors can do."""

    dimension: int
    """D."""
    recall: Mapping[str, Interval]
    """Metric -> mean over the questions."""
    centroid: float
    """Share of all sets of k documents that the centroid of the set, as a query, realises."""
    centroid_half: float
    """The same with vectors and scores in float16."""
    free: float | None
    """Share that some query realises, as far as optimising found one; None when not asked for."""
    smallest_gap: float
    """Least gap of a centroid query between its set and the rest; negative when one fails. Twice
    the margin, where the model compares by cosine."""
    capacity: float
    """Most documents of which free vectors realise every pair, by the published fit; it
    extrapolates outside 4 to 45 dimensions and describes an optimiser, not a bound."""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        recall = {name: value.to_dict() for name, value in self.recall.items()}
        return {**asdict(self), "recall": recall}


@dataclass(frozen=True)
class QrelLimits:
    """Whether judgements ask for many combinations of documents."""

    queries: int
    """Questions with a relevant document."""
    documents: int
    """Documents relevant to one of them."""
    largest: int
    """Most relevant documents of one question."""
    density: float
    """Share of pairs of questions with a relevant document in common; LIMIT has 0.0855."""
    strength: float
    """Mean summed Jaccard similarity of a question's set to the others; LIMIT has 28.47."""
    min_dimension: int | None
    """Least dimension in which every set of the largest size might be realised with margin 0.1;
    None when all documents are relevant to one question."""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class LimitsReport:
    """What `measure_limits` found."""

    system: str
    """Name of the model."""
    documents: int
    """Documents of the generated collection."""
    queries: int
    """Its questions."""
    sets: int
    """Sets of k of its documents that were tried: all, or 20,000 random ones."""
    k: int
    """Size of the sets."""
    truncated: int
    """Texts of which the model does not read the end."""
    dimensions: tuple[DimensionLimits, ...]
    """From the fewest to the full dimension."""
    lexical: Mapping[str, Interval]
    """BM25's recall on the same texts."""
    chance: Mapping[str, float]
    """Recall of a random order."""
    qrels: QrelLimits | None = None
    """The user's own judgements, when given."""

    @property
    def full(self) -> DimensionLimits:
        """The full dimension."""
        return self.dimensions[-1]

    def sentence(self) -> str:
        """Say what is shown and what is not."""
        full = self.full
        recall = full.recall["recall@2"].mean
        best = max(full.centroid, full.free or 0.0)
        if best - recall > 0.1:
            cause = "what it makes of questions and texts limits it here, not the vectors' room"
        else:
            cause = "the documents' vectors explain most of what is missed"
        lost = full.centroid - full.centroid_half
        half = "none of the sets" if lost < 0.0005 else f"{lost:.1%} of the sets"
        return (
            f"With {full.dimension} dimensions {self.system} finds {recall:.0%} of the answers in "
            f"the top 2 (BM25 {self.lexical['recall@2'].mean:.0%}), while queries exist that put "
            f"{best:.1%} of {self.sets:,} sets of {self.k} documents on top: {cause}. "
            f"Scoring in float16 loses {half}. The critical n is what one optimiser reached, and "
            f"no bound: in exact numbers {2 * self.k} dimensions serve any number of documents, "
            "and precision and margin are what ends it."
        )

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {
            **{
                name: getattr(self, name)
                for name in ("system", "documents", "queries", "sets", "k", "truncated")
            },
            "dimensions": [row.to_dict() for row in self.dimensions],
            "lexical": {name: value.to_dict() for name, value in self.lexical.items()},
            "chance": dict(self.chance),
            "qrels": None if self.qrels is None else self.qrels.to_dict(),
            "sentence": self.sentence(),
        }


def measure_limits(
    system: EncoderSystem,
    *,
    dims: Sequence[int] | None = None,
    n_docs: int = 46,
    n_queries: int = 1000,
    k: int = 2,
    free_queries: bool = True,
    qrels: Qrels | None = None,
    resampling: Resampling | None = None,
    seed: int = 0,
    device: str | None = None,
) -> LimitsReport:
    """Measure which top-k sets a model's vectors express, at full and at cut dimensions.

    On a generated dense collection (`make_limit`): recall of its questions, and the share of the
    sets of k documents that a query realises, given the model's document vectors. The query is
    the centroid of the set, or optimised freely (a lower bound on what is possible). Cutting is
    fair only to models trained for it.

    Args:
        system: The model.
        dims: Dimensions to cut vectors to; by default 8, 16, 32, ... and the full one, which is
            always measured.
        n_docs: Documents of the collection.
        n_queries: Its questions, at most C(n_docs, k).
        k: Relevant documents of each question.
        free_queries: Whether to optimise queries as well, which needs torch.
        qrels: Judgements of your own, to be described beside it.
        resampling: How intervals are made.
        seed: Seed of the collection.
        device: Torch device of the optimisation.

    Raises:
        InputError: When a dimension is not below the model's, or the collection cannot be made.
        MissingExtraError: When ``free_queries`` are asked for without torch.

    Example:
        >>> import embedworks as ew
        >>> from embedworks.evaluation import EncoderSystem
        >>> system = EncoderSystem(ew.load("static"), name="static")
        >>> report = measure_limits(system, dims=[8], n_docs=8, n_queries=20, free_queries=False)
        >>> [row.dimension for row in report.dimensions], report.sets
        ([8, 256], 28)
    """
    if free_queries:
        require_extra("torch", extra="train", purpose="optimise queries (free_queries)")
    how = resampling or Resampling()
    task = make_limit(n_docs, n_queries, k=k, seed=seed)
    assert isinstance(task.corpus, Mapping)
    subsets = _subsets(n_docs, k, seed)
    before = system.usage.truncated
    held = _Held(system, list(task.queries.values()), list(task.corpus.values()))
    truncated = system.usage.truncated - before
    documents = held.encode_document(list(task.corpus.values()))
    whole = EncoderSystem(
        held, name=system.name, similarity=system.similarity, fingerprint=system.fingerprint
    )
    rows = []
    for dim in _dimensions(dims, documents.shape[1]):
        cut = whole.derived(f"{system.name}, first {dim}", partial(_first, dim))
        scores = task.run(cut, how)
        first = documents[:, :dim]
        vectors = first if system.similarity == "dot" else normalize_rows(first)
        rows.append(_limits_at(vectors, subsets, scores, free_queries, seed, device))
    lexical = task.run(LexicalSystem(), how)
    own = None if qrels is None else qrel_limits(qrels)
    return LimitsReport(
        system=system.name,
        documents=n_docs,
        queries=n_queries,
        sets=len(subsets),
        k=k,
        truncated=truncated,
        dimensions=tuple(rows),
        lexical=_recall(lexical),
        chance={f"recall@{at}": min(1.0, at / n_docs) for at in (2, 10, 20)},
        qrels=own,
    )


def qrel_limits(qrels: Qrels) -> QrelLimits:
    """Describe how much judgements combine documents: can a dimension serve them?

    Raises:
        EmptyInputError: When fewer than two questions have a relevant document.

    Example:
        >>> found = qrel_limits({"a": {"1": 1, "2": 1}, "b": {"2": 1, "3": 1}})
        >>> found.documents, found.largest, found.density, found.min_dimension
        (3, 2, 1.0, 1)
    """
    sets = [{doc for doc, value in docs.items() if value > 0} for docs in qrels.values()]
    sets = [own for own in sets if own]
    if not sets:
        raise EmptyInputError(f"None of the {len(qrels)} judged queries has a relevant document.")
    documents, largest = len(set().union(*sets)), max(map(len, sets))
    return QrelLimits(
        queries=len(sets),
        documents=documents,
        largest=largest,
        density=qrel_graph_density(qrels),
        strength=average_query_strength(qrels),
        min_dimension=min_dimension(documents, largest, _MARGIN) if largest < documents else None,
    )


def _limits_at(
    vectors: np.ndarray,
    subsets: np.ndarray,
    result: TaskResult,
    free_queries: bool,
    seed: int,
    device: str | None,
) -> DimensionLimits:
    dim = vectors.shape[1]
    if not vectors.any(axis=1).all():
        raise InputError(f"A document's first {dim} numbers are all 0: it has no direction.")
    centroids = normalize_rows(vectors[subsets].sum(axis=1))
    check = verify_subsets(vectors, centroids, subsets, dtype="float32")
    half = verify_subsets(vectors, centroids, subsets, dtype="float16")
    free = None
    if free_queries:
        queries = _free_queries(vectors, subsets, seed, device)
        free = max(check.share, verify_subsets(vectors, queries, subsets).share)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The fit of the critical n", category=DataWarning)
        capacity = max(0.0, critical_n_fit(dim))
    return DimensionLimits(
        dimension=dim,
        recall=_recall(result),
        centroid=check.share,
        centroid_half=half.share,
        free=free,
        smallest_gap=check.smallest_gap,
        capacity=capacity,
    )


def _free_queries(
    vectors: np.ndarray, subsets: np.ndarray, seed: int, device: str | None
) -> np.ndarray:
    """Return queries for fixed documents, float64 (S, D), optimised where it is easy.

    Orders of scores stay the same when documents are moved by their mean and turned and
    stretched, if queries are stretched back; so documents are whitened first.
    """
    from embedworks.evaluation.limits.free_embeddings import optimize_free_embeddings

    centred = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    left, sizes, right = np.linalg.svd(centred, full_matrices=False)
    rank = int((sizes > 1e-5 * sizes[0]).sum()) if sizes[0] > 0 else 0
    if rank == 0:
        raise InputError("All documents have the same vector: no query can tell them apart.")
    white = left[:, :rank] / np.linalg.norm(left[:, :rank], axis=1).mean()
    found = optimize_free_embeddings(
        subsets,
        len(vectors),
        rank,
        temperature=0.05,
        lr=0.02,
        max_steps=1000,
        documents=white,
        seed=seed,
        device=device,
    )
    queries = (found.queries / sizes[:rank]) @ right[:rank]
    return np.asarray(queries / np.linalg.norm(queries, axis=1, keepdims=True))


def _subsets(n: int, k: int, seed: int) -> np.ndarray:
    if math.comb(n, k) <= _MOST_SETS:
        return all_subsets(n, k)
    return random_subsets(n, k, _MOST_SETS, seed=seed)


def _dimensions(dims: Sequence[int] | None, full: int) -> list[int]:
    if dims is None:
        return [2**power for power in range(3, full.bit_length()) if 2**power < full] + [full]
    for dim in dims:
        check_in_range(dim, name="dims", low=1, high=full)
    return sorted({*map(int, dims), full})


def _first(dim: int, vectors: np.ndarray) -> np.ndarray:
    return vectors[:, :dim]


class _Held:
    """A model that knows the vectors of the texts already: every dimension asks for them again."""

    def __init__(
        self, system: EncoderSystem, queries: Sequence[str], documents: Sequence[str]
    ) -> None:
        self._known = {
            "query": dict(zip(queries, system.encode(queries, role="query"), strict=True)),
            "document": dict(
                zip(documents, system.encode(documents, role="document"), strict=True)
            ),
        }

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        return self.encode_document(texts)

    def encode_query(self, texts: Sequence[str]) -> np.ndarray:
        return np.stack([self._known["query"][text] for text in texts])

    def encode_document(self, texts: Sequence[str]) -> np.ndarray:
        return np.stack([self._known["document"][text] for text in texts])


def _recall(result: TaskResult) -> dict[str, Interval]:
    return {name: score.interval for name, score in result.scores.items()}
