"""Where candidates and scores come from: dense encoders, any search index, a cross-encoder.

Anything with the right method will do; nothing needs to inherit. An encoder becomes a
`DenseRetriever`, an index with ``search`` a `SearchRetriever`, a model with ``predict`` a
`Rescorer`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as from_bytes
from safetensors.numpy import save as to_bytes

from embedworks._core.files import atomic_path, sha256_of_text
from embedworks._core.validation import check_choice, normalize_rows
from embedworks.data.rows import RowInput
from embedworks.errors import FormatError, InputError, NonFiniteError, ShapeError
from embedworks.models.vectors import VectorStore, encode_inputs, fingerprint_of
from embedworks.negatives._topk import pair_scores, sort_by_score, top_k
from embedworks.negatives.corpus import Problem

__all__ = [
    "CanPredict",
    "CanSearch",
    "DenseRetriever",
    "Found",
    "Rescorer",
    "Retriever",
    "SearchRetriever",
    "Session",
]

_SCORE_BYTES = 2**28  # scores of one block of queries against the whole corpus
_PAIRS = 4096  # pairs given to one call of a cross-encoder


class CanSearch(Protocol):
    """An index: ``search(queries, k)``.

    It returns one ``(ids, scores)`` per query, best first, or a pair of arrays (Q, k); ids are
    positions in the corpus, or corpus ids when they are strings; negative positions are skipped.
    """

    @property
    def search(self) -> Callable[..., Any]:
        """Called with Q queries and the number of results wanted."""
        ...


class CanPredict(Protocol):
    """A model that scores pairs, such as ``sentence_transformers.CrossEncoder``."""

    @property
    def predict(self) -> Callable[..., Any]:
        """Called with a list of ``(query, document)``; returns one score per pair."""
        ...


class Found(dict[str, np.ndarray]):
    """Candidates of B queries: ``positions``, ``scores`` (B, K), ``positive``, ``ranks`` (B,).

    ``positive`` is the lowest score of a query's positives, ``ranks`` the place the row's own
    positive would have among the candidates, counted from 1; K + 1 where an index left it out.
    """


class Session:
    """A retriever or rescorer at work on one problem.

    Attributes:
        name: The scorer's name in rules and reports.
        identity: Changes whenever what is found may change; None where that is not known, and
            then nothing found is cached.
        scores_pairs: Whether `score` works for any pair, so that the scorer judges candidates
            that others found.
        compares_documents: Whether `similarity` works.
    """

    name: str
    identity: str | None = None
    scores_pairs = False
    compares_documents = False

    def find(self, low: int, high: int, depth: int) -> Found:
        """Return candidates of rows ``low`` to ``high`` in order of falling score."""
        raise InputError(f"{self.name!r} scores candidates, it cannot find any: add a retriever.")

    def score(self, rows: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Return float32 (B, C) scores of documents for rows; -inf where the position is -1."""
        raise InputError(
            f"{self.name!r} returns lists and cannot score a given pair: take the scores of a "
            "dense retriever or of a rescorer."
        )

    def similarity(self, rows: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Return each candidate's highest similarity to a positive (B, C)."""
        raise InputError(f"{self.name!r} cannot compare documents: that takes a dense retriever.")


class Retriever(Protocol):
    """What a miner asks of a retriever: a name, and a `Session` for the problem at hand."""

    @property
    def name(self) -> str:
        """Its name in rules and reports."""
        ...

    def open(self, problem: Problem, cache: Path | None, show_progress: bool | None) -> Session:
        """Get ready for one set of rows and one corpus."""
        ...


class DenseRetriever:
    """Candidates by the similarity of vectors, searched exactly.

    Args:
        model: Anything with ``encode``, or ``encode_query`` and ``encode_document``.
        name: Its name in rules and reports.
        similarity: ``"cosine"`` or ``"dot"``.
        side: What is searched with. ``"document"`` searches with the row's positive: candidates
            are then compared with the document, and the score to stay below is that of the
            pair, so a negative is further from the positive than the query is.
        fingerprint: Stands for the model in caches; by default a hash of its weights. Give one
            for models that live elsewhere.

    Example:
        >>> class Lengths:
        ...     def encode(self, texts):
        ...         return np.array([[len(text), 1.0] for text in texts])
        >>> DenseRetriever(Lengths(), name="lengths").name
        'lengths'
    """

    def __init__(
        self,
        model: Any,
        *,
        name: str = "dense",
        similarity: Literal["cosine", "dot"] = "cosine",
        side: Literal["query", "document"] = "query",
        fingerprint: str | None = None,
    ) -> None:
        if not any(hasattr(model, method) for method in ("encode", "encode_query")):
            raise InputError(f"a {type(model).__name__} has no encode method: it is no encoder.")
        self.model = model
        self.name = name
        self.similarity = check_choice(similarity, ("cosine", "dot"), name="similarity")
        self.side = check_choice(side, ("query", "document"), name="side")
        self.fingerprint = fingerprint

    def open(self, problem: Problem, cache: Path | None, show_progress: bool | None) -> Session:
        """Encode what the problem needs and return a `Session`."""
        return _DenseSession(self, problem, cache, show_progress)


class _DenseSession(Session):
    scores_pairs = True
    compares_documents = True

    def __init__(
        self, of: DenseRetriever, problem: Problem, cache: Path | None, show_progress: bool | None
    ) -> None:
        self.name = of.name
        self.problem = problem
        fingerprint = fingerprint_of(of.model, of.fingerprint) if cache or of.fingerprint else ""
        self.identity = (
            sha256_of_text("dense", fingerprint, of.similarity, of.side) if fingerprint else None
        )

        def encode(inputs: Sequence[RowInput], keys: np.ndarray, role: Any) -> np.ndarray:
            store = VectorStore.beside(cache, fingerprint, role)
            label = f"Encoding ({of.name}, {role})"
            store.add(
                inputs,
                keys,
                lambda part: encode_inputs(of.model, part, role),
                show_progress=show_progress,
                label=label,
            )
            vectors = store.take(keys)
            if of.similarity == "dot":
                return vectors
            zero = np.flatnonzero(~vectors.any(axis=1))
            if len(zero):
                raise InputError(
                    f"{of.name!r} gave {len(zero)} {role} vectors of zeros, the first for "
                    f"{inputs[int(zero[0])]!r:.60}: cosine is not defined. Drop these inputs."
                )
            return normalize_rows(vectors)

        self.documents = encode(problem.documents, problem.document_keys, "document")
        self.queries = encode(problem.anchors, problem.anchor_keys, "query")
        if self.queries.shape[1] != self.documents.shape[1]:
            raise ShapeError(
                f"{of.name!r} gives queries {self.queries.shape[1]} and documents "
                f"{self.documents.shape[1]} dimensions: they cannot be compared."
            )
        self.searched = self.queries if of.side == "query" else self.documents[problem.own]

    def find(self, low: int, high: int, depth: int) -> Found:
        problem = self.problem
        step = max(1, min(high - low, _SCORE_BYTES // (4 * problem.size)))
        positions = np.full((high - low, depth), -1, dtype=np.int64)
        positive = pair_scores(
            self.queries[low:high], self.documents, problem.positives.padded(low, high)
        )
        own = pair_scores(self.queries[low:high], self.documents, problem.own[low:high, None])
        ranks = np.empty(high - low, dtype=np.int64)
        corpus = self.documents[: problem.size]
        for start in range(low, high, step):
            part = range(start, min(start + step, high))
            scores = self.searched[part.start : part.stop] @ corpus.T
            for place, row in enumerate(part):
                scores[place, problem.excluded(row)] = -np.inf
            rows = slice(part.start - low, part.stop - low)
            ranks[rows] = 1 + np.count_nonzero(scores > own[rows], axis=1)
            positions[rows] = top_k(scores, depth)
        found = pair_scores(self.searched[low:high], self.documents, positions)
        positions, found = sort_by_score(positions, found)
        lowest = np.where(np.isneginf(positive), np.inf, positive).min(axis=1)
        return Found(positions=positions, scores=found, positive=lowest, ranks=ranks)

    def score(self, rows: np.ndarray, positions: np.ndarray) -> np.ndarray:
        return pair_scores(self.searched[rows], self.documents, positions)

    def similarity(self, rows: np.ndarray, positions: np.ndarray) -> np.ndarray:
        result = np.full(positions.shape, -np.inf, dtype=np.float32)
        positives = self.problem.positives
        for place, row in enumerate(rows.tolist()):
            there = positions[place] >= 0
            scores = self.documents[positives[row]] @ self.documents[positions[place, there]].T
            result[place, there] = scores.max(axis=0)
        return result


class SearchRetriever:
    """Candidates from anything with ``search(queries, k)``: BM25, an approximate index, a service.

    It judges only what it returned itself. A positive it did not return counts as lower than
    everything it did, so a margin rule keeps none of that query's candidates.

    Args:
        index: See `CanSearch`. It must hold the corpus that is mined, in the same order, or
            answer with corpus ids.
        name: Its name in rules and reports.
        encode: Turns a list of anchors into what the index searches with, such as vectors; by
            default the anchors themselves.
        fingerprint: Stands for the index in caches. Without one, its answers are not cached.

    Example:
        >>> class ByLength:
        ...     def search(self, queries, k):
        ...         return [([0], [1.0]) for _ in queries]
        >>> SearchRetriever(ByLength()).name
        'search'
    """

    def __init__(
        self,
        index: CanSearch,
        *,
        name: str = "search",
        encode: Callable[[list[RowInput]], Any] | None = None,
        fingerprint: str | None = None,
    ) -> None:
        if not hasattr(index, "search"):
            raise InputError(f"a {type(index).__name__} has no search method: it is no index.")
        self.index = index
        self.name = name
        self.encode = encode
        self.fingerprint = fingerprint

    def open(self, problem: Problem, cache: Path | None, show_progress: bool | None) -> Session:
        """Return a `Session` that asks the index block by block."""
        return _SearchSession(self, problem)


class _SearchSession(Session):
    def __init__(self, of: SearchRetriever, problem: Problem) -> None:
        self.name = of.name
        self.of = of
        self.problem = problem
        if of.fingerprint is not None:
            self.identity = sha256_of_text("search", of.fingerprint)

    def find(self, low: int, high: int, depth: int) -> Found:
        problem = self.problem
        never = [problem.excluded(row) for row in range(low, high)]
        k = min(problem.size, depth + max((len(x) for x in never), default=0))
        anchors = problem.anchors[low:high]
        answer = self.of.index.search(self.of.encode(anchors) if self.of.encode else anchors, k)
        lists = list(zip(*answer, strict=True)) if isinstance(answer, tuple) else list(answer)
        if len(lists) != high - low:
            raise ShapeError(
                f"{self.name!r} answered {len(lists)} of {high - low} queries: one (ids, scores) "
                "for each is expected."
            )
        positions = np.full((high - low, depth), -1, dtype=np.int64)
        scores = np.full((high - low, depth), -np.inf, dtype=np.float32)
        positive = np.full(high - low, -np.inf, dtype=np.float32)
        ranks = np.full(high - low, depth + 1, dtype=np.int64)
        for place, (ids, values) in enumerate(lists):
            where, found = self._checked(ids, values)
            wanted = problem.positives[low + place]
            positives = found[np.isin(where, wanted)]
            own = found[where == problem.own[low + place]]
            keep = ~np.isin(where, never[place])
            if len(positives) == len(wanted):
                positive[place] = positives.min()
            if len(own):
                ranks[place] = min(depth, int((found[keep] > own[0]).sum())) + 1
            count = min(depth, int(keep.sum()))
            positions[place, :count] = where[keep][:count]
            scores[place, :count] = found[keep][:count]
        return Found(positions=positions, scores=scores, positive=positive, ranks=ranks)

    def _checked(self, ids: Any, values: Any) -> tuple[np.ndarray, np.ndarray]:
        found = np.asarray(values, dtype=np.float32).reshape(-1)
        names = ids.tolist() if isinstance(ids, np.ndarray) else list(ids)
        if len(names) != len(found):
            raise ShapeError(f"{self.name!r} gave {len(names)} ids with {len(found)} scores.")
        if np.isnan(found).any():
            raise NonFiniteError(f"{self.name!r} gave a score that is NaN.")
        if names and isinstance(names[0], str):
            unknown = [name for name in names if name not in self.problem.corpus.positions]
            if unknown:
                raise InputError(
                    f"{self.name!r} returned {unknown[0]!r}, which is not an id of the corpus."
                )
            names = [self.problem.corpus.positions[name] for name in names]
        where = np.array(names, dtype=np.int64)
        if len(where) and where.max() >= self.problem.size:
            raise InputError(
                f"{self.name!r} returned position {where.max()} in a corpus of "
                f"{self.problem.size} documents: was it built from another corpus?"
            )
        keep = (where >= 0) & np.isfinite(found)
        _, first = np.unique(where[keep], return_index=True)
        first = first[np.lexsort((where[keep][first], -found[keep][first]))]
        return where[keep][first], found[keep][first]


class Rescorer:
    """Scores of a model that reads query and document together.

    Args:
        model: Anything with ``predict(list of pairs) -> scores``.
        name: Its name in rules and reports.
        fingerprint: Stands for the model in caches; by default a hash of its weights. Give one
            for models that live elsewhere; without one their scores are not cached.

    Example:
        >>> class Overlap:
        ...     def predict(self, pairs):
        ...         return [len(set(a.split()) & set(b.split())) for a, b in pairs]
        >>> Rescorer(Overlap()).name
        'rescorer'
    """

    def __init__(
        self, model: CanPredict, *, name: str = "rescorer", fingerprint: str | None = None
    ) -> None:
        if not hasattr(model, "predict"):
            raise InputError(f"a {type(model).__name__} has no predict method: it scores no pairs.")
        self.model = model
        self.name = name
        self.fingerprint = fingerprint

    def open(self, problem: Problem, cache: Path | None, show_progress: bool | None) -> Session:
        """Return a `Session` that scores pairs, each once."""
        return _RescoringSession(self, problem, cache)


class _RescoringSession(Session):
    scores_pairs = True

    def __init__(self, of: Rescorer, problem: Problem, cache: Path | None) -> None:
        self.name = of.name
        self.of = of
        self.problem = problem
        known = of.fingerprint is not None or hasattr(of.model, "state_dict")
        if known and cache is not None:
            self.identity = sha256_of_text("pairs 1", fingerprint_of(of.model, of.fingerprint))
        self.folder = None if self.identity is None or cache is None else cache / "pairs"
        self._known: dict[tuple[int, int], float] = {}

    def score(self, rows: np.ndarray, positions: np.ndarray) -> np.ndarray:
        problem = self.problem
        if len(self._known) > 50 * _PAIRS:  # pairs of earlier blocks do not come again
            self._known.clear()
        wanted: dict[tuple[int, int], tuple[int, int]] = {}
        anchors = problem.anchor_keys[rows].tolist()
        for place, column in zip(*np.nonzero(positions >= 0), strict=True):
            pair = (anchors[place], int(positions[place, column]))
            if pair not in self._known:
                wanted.setdefault(pair, (int(rows[place]), pair[1]))
        pairs = list(wanted)
        for start in range(0, len(pairs), _PAIRS):
            part = pairs[start : start + _PAIRS]
            self._known.update(
                zip(part, self._predict([wanted[p] for p in part]).tolist(), strict=True)
            )
        result = np.full(positions.shape, -np.inf, dtype=np.float32)
        for place, column in zip(*np.nonzero(positions >= 0), strict=True):
            result[place, column] = self._known[anchors[place], int(positions[place, column])]
        return result

    def _predict(self, pairs: list[tuple[int, int]]) -> np.ndarray:
        problem = self.problem
        path = None
        if self.folder is not None:
            keys = [(problem.anchor_keys[row], problem.document_keys[d]) for row, d in pairs]
            name = sha256_of_text(str(self.identity), np.array(keys).tobytes().hex())[:32]
            path = self.folder / f"{name}.safetensors"
            stored = read_arrays(path, {"scores": (len(pairs),)})
            if stored is not None:
                return stored["scores"]
        texts = [(problem.anchors[row], problem.documents[d]) for row, d in pairs]
        scores = np.asarray(self.of.model.predict(texts), dtype=np.float32)
        if scores.shape != (len(pairs),):
            raise ShapeError(
                f"{self.name!r} gave scores of shape {scores.shape} for {len(pairs)} pairs: one "
                "number each is expected."
            )
        if not np.isfinite(scores).all():
            raise NonFiniteError(
                f"{self.name!r} gave NaN or infinity, first for "
                f"{texts[int(np.flatnonzero(~np.isfinite(scores))[0])]!r:.120}."
            )
        if path is not None:
            write_arrays(path, {"scores": scores})
        return scores


def read_arrays(path: Path, shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray] | None:
    """Read cached arrays, or return None where there are none; damaged files are errors."""
    if not path.is_file():
        return None
    try:
        arrays = from_bytes(path.read_bytes())
    except SafetensorError as error:
        raise FormatError(f"the cache file {path} is damaged ({error}): delete it.") from error
    if {name: array.shape for name, array in arrays.items()} != shapes:
        raise FormatError(f"the cache file {path} holds other arrays than expected: delete it.")
    return arrays


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write arrays to a cache file in one step."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(
            to_bytes({name: np.ascontiguousarray(array) for name, array in arrays.items()})
        )
