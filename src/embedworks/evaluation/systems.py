"""What is evaluated: something that encodes, something that ranks, or both.

Tasks talk to systems only through the two protocols here, so whatever encodes or ranks can be
evaluated: our models, sentence-transformers', an endpoint, vectors from a file, BM25, or a
combination of them.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from embedworks._core.validation import check_choice, check_k, check_texts, check_vectors
from embedworks.data import content_key
from embedworks.data.templates import TEMPLATES, InstructionTemplate
from embedworks.errors import EmptyInputError, InputError, ShapeError
from embedworks.evaluation.outcomes import Cost
from embedworks.index import SIMILARITIES, BM25Index, ExactIndex
from embedworks.models import EncodingStats, encode_batched, model_fingerprint
from embedworks.models.encoding import count_truncated
from embedworks.models.vectors import Role, VectorStore

__all__ = ["EncoderSystem", "LexicalSystem", "Ranks", "System", "Usage"]

#: Documents encoded and scored at a time when their vectors are not kept.
_BLOCK = 8192

Transform = Callable[[np.ndarray], np.ndarray]


@dataclass
class Usage:
    """Counters of what a system did; the runner reads and resets them around every task."""

    seconds: float = 0.0
    texts: int = 0
    cached: int = 0
    tokens: int = 0
    truncated: int = 0
    zero_vectors: int = 0

    def take(self) -> Cost:
        """Return the counts so far and start again from zero."""
        counts = asdict(self)
        for name in counts:
            setattr(self, name, 0)
        return Cost(encoding_seconds=counts.pop("seconds"), **counts)


@runtime_checkable
class Ranks(Protocol):
    """A system that ranks documents for queries."""

    name: str
    fingerprint: str
    usage: Usage

    def describe(self) -> dict[str, Any]:
        """Return facts for reports as JSON values: kind, dimension, prompts, ..."""
        ...

    def search(
        self,
        queries: Mapping[str, str],
        corpus: Mapping[str, str],
        *,
        k: int,
        instruction: str | None = None,
        candidates: Mapping[str, Sequence[str]] | None = None,
    ) -> dict[str, dict[str, float]]:
        """Return query id -> document id -> score of the ``k`` best documents.

        Args:
            queries: Query id -> text.
            corpus: Document id -> text.
            k: Most documents for each query.
            instruction: What the task is, for systems that read instructions.
            candidates: Query id -> the only documents to rank for it, instead of all.
        """
        ...


@runtime_checkable
class System(Ranks, Protocol):
    """A system that also encodes; what tasks other than ranking need."""

    def encode(
        self, texts: Sequence[str], *, role: Role | None = None, instruction: str | None = None
    ) -> np.ndarray:
        """Return vectors of N texts, float32 (N, D).

        Args:
            texts: N strings.
            role: ``"query"`` or ``"document"`` for models that treat the two differently.
            instruction: What the task is, for systems that read instructions.
        """
        ...


class EncoderSystem:
    """A model with a cache of its vectors, searched exactly.

    Args:
        model: Anything with ``encode``; ``encode_query`` and ``encode_document`` are used when
            they are there.
        name: Name in tables.
        cache: Folder of vectors by content; None encodes anew each time and keeps nothing.
        template: How an instruction is put before a query, a name in
            `embedworks.data.TEMPLATES` or a template; ``"plain"`` leaves instructions out.
        similarity: ``"cosine"`` or ``"dot"``.
        fingerprint: Stands for the model in caches and reports; by default a hash of its weights.
        show_progress: True or False to force a bar; by default there is one on a terminal.

    Raises:
        InputError: When the model cannot encode.

    Example:
        >>> class Lengths:
        ...     def encode(self, texts):
        ...         return np.array([[len(text), 1.0] for text in texts])
        >>> system = EncoderSystem(Lengths(), name="lengths")
        >>> system.search({"q": "aa"}, {"short": "bb", "long": "c" * 90}, k=1)
        {'q': {'short': 1.0}}
    """

    def __init__(
        self,
        model: Any,
        *,
        name: str,
        cache: str | Path | None = None,
        template: str | InstructionTemplate = "plain",
        similarity: str = "cosine",
        fingerprint: str | None = None,
        show_progress: bool | None = None,
    ) -> None:
        if not hasattr(model, "encode"):
            raise InputError(f"A {type(model).__name__} has no encode method: it is no encoder.")
        self.model = model
        self.name = name
        self.cache = None if cache is None else Path(cache)
        self.template = TEMPLATES[template] if isinstance(template, str) else template
        self.similarity = check_choice(similarity, SIMILARITIES, name="similarity")
        self.fingerprint = fingerprint or model_fingerprint(model)
        self.show_progress = show_progress
        self.usage = Usage()
        self._transform: Transform | None = None
        self._stores: dict[str | None, VectorStore] = {}

    def derived(self, name: str, transform: Transform) -> EncoderSystem:
        """Return a system whose vectors are this one's, changed: cut, quantised, whitened.

        Args:
            name: Name in tables; the fingerprint stays that of the model.
            transform: Vectors (N, D) to vectors (N, D').
        """
        other = EncoderSystem(
            self.model,
            name=name,
            cache=self.cache,
            template=self.template,
            similarity=self.similarity,
            fingerprint=self.fingerprint,
            show_progress=self.show_progress,
        )
        before = self._transform
        other._transform = transform if before is None else lambda v: transform(before(v))
        other._stores = self._stores
        return other

    def describe(self) -> dict[str, Any]:
        """Return facts for reports as JSON values."""
        parameters = None
        if hasattr(self.model, "parameters"):
            parameters = sum(int(p.numel()) for p in self.model.parameters())
        return {
            "kind": "encoder",
            "model": type(self.model).__name__,
            "fingerprint": self.fingerprint,
            "dimension": self._dimension(),
            "parameters": parameters,
            "max_tokens": getattr(self.model, "max_seq_length", None),
            "similarity": self.similarity,
            "prompts": dict(getattr(self.model, "prompts", None) or {}),
            "template": self.template.to_dict(),
        }

    def _dimension(self) -> int:
        known = getattr(self.model, "get_embedding_dimension", None)
        dimension = known() if known is not None else None
        if dimension is None:
            return int(self.encode(["dimension"]).shape[1])
        if self._transform is None:
            return int(dimension)
        return int(self._transform(np.ones((1, dimension), dtype=np.float32)).shape[1])

    def encode(
        self, texts: Sequence[str], *, role: Role | None = None, instruction: str | None = None
    ) -> np.ndarray:
        """Return vectors of N texts, float32 (N, D).

        Empty texts are encoded like any other and counted in a `DataWarning`; so are zero
        vectors, in `Usage.zero_vectors`.

        Args:
            texts: N strings.
            role: ``"query"`` or ``"document"`` for models that treat the two differently.
            instruction: What the task is; spelled by the template.

        Raises:
            EmptyInputError: When there are no texts.
            NonFiniteError: When the model gives NaN or infinity.
        """
        items = check_texts(texts)
        if not items:
            raise EmptyInputError(f"{self.name}: there are no texts to encode.")
        spelled = self._spell(items, role, instruction)
        if self.cache is None:
            return self._finish(self._encode(spelled, role))
        store, keys = self._fill(spelled, role)
        return self._finish(store.take(keys))

    def search(
        self,
        queries: Mapping[str, str],
        corpus: Mapping[str, str],
        *,
        k: int,
        instruction: str | None = None,
        candidates: Mapping[str, Sequence[str]] | None = None,
    ) -> dict[str, dict[str, float]]:
        """Return query id -> document id -> score of the ``k`` best documents.

        Exact. The corpus is encoded and scored in blocks, so memory does not grow with it. Where
        scores are equal, the higher document id is kept, which is trec_eval's order.

        Raises:
            EmptyInputError: When there are no queries or documents.
            InputError: When candidates name unknown documents.
            ShapeError: When queries and documents have vectors of different dimensions.
        """
        check_k(k)
        if not queries or not corpus:
            raise EmptyInputError(
                f"A search needs queries and documents, got {len(queries)} and {len(corpus)}."
            )
        asked = list(queries)
        vectors = self.encode(
            [queries[query] for query in asked], role="query", instruction=instruction
        )
        if candidates is not None:
            return self._search_candidates(asked, vectors, corpus, candidates, k, instruction)
        ids = sorted(corpus, reverse=True)  # equal scores go to the first row
        best_rows = np.empty((len(asked), 0), dtype=np.int64)
        best = np.empty((len(asked), 0), dtype=np.float32)
        for start, block in self._blocks([corpus[doc] for doc in ids], instruction):
            if block.shape[1] != vectors.shape[1]:
                raise ShapeError(
                    f"{self.name}: query vectors have {vectors.shape[1]} dimensions and document "
                    f"vectors {block.shape[1]}: they must be of one space."
                )
            index = ExactIndex(block, similarity=self.similarity)
            rows, scores = index.search(vectors, min(k, len(block)), allow_zero=True)
            best_rows = np.concatenate([best_rows, rows + start], axis=1)
            best = np.concatenate([best, scores], axis=1)
            order = np.argsort(-best, axis=1, kind="stable")[:, :k]
            best_rows = np.take_along_axis(best_rows, order, axis=1)
            best = np.take_along_axis(best, order, axis=1)
        return {
            query: {ids[row]: float(score) for row, score in zip(rows, scores, strict=True)}
            for query, rows, scores in zip(asked, best_rows, best, strict=True)
        }

    def _search_candidates(
        self,
        asked: Sequence[str],
        vectors: np.ndarray,
        corpus: Mapping[str, str],
        candidates: Mapping[str, Sequence[str]],
        k: int,
        instruction: str | None,
    ) -> dict[str, dict[str, float]]:
        wanted = sorted({doc for query in asked for doc in candidates.get(query, ())}, reverse=True)
        if unknown := next((doc for doc in wanted if doc not in corpus), None):
            raise InputError(f"Candidate {unknown!r} is not a document of the corpus.")
        if not wanted:
            return {query: {} for query in asked}
        index = ExactIndex(
            self.encode([corpus[d] for d in wanted], role="document", instruction=instruction),
            similarity=self.similarity,
        )
        prepared = index.prepare(vectors, allow_zero=True)
        place = {doc: row for row, doc in enumerate(wanted)}
        found = {}
        for query, vector in zip(asked, prepared, strict=True):
            rows = np.array(sorted(place[d] for d in candidates.get(query, ())), dtype=np.int64)
            scores = index.scores(vector, rows)
            order = np.argsort(-scores, kind="stable")[:k]
            found[query] = {wanted[rows[i]]: float(scores[i]) for i in order}
        return found

    def _blocks(
        self, texts: Sequence[str], instruction: str | None
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Yield document vectors block by block with the number of the first."""
        spelled = self._spell(texts, "document", instruction)
        kept = None if self.cache is None else self._fill(spelled, "document")
        for start in range(0, len(spelled), _BLOCK):
            if kept is None:
                vectors = self._encode(spelled[start : start + _BLOCK], "document")
            else:
                vectors = kept[0].take(kept[1][start : start + _BLOCK])
            yield start, self._finish(vectors)

    def _spell(
        self, texts: Sequence[str], role: Role | None, instruction: str | None
    ) -> Sequence[str]:
        side = "document" if role == "document" else "query"
        prefix = "" if instruction is None else self.template.prefix(instruction, side)
        return [prefix + text for text in texts] if prefix else texts

    def _encode(self, texts: Sequence[str], role: Role | None) -> np.ndarray:
        method = None if role is None or not hasattr(self.model, f"encode_{role}") else role
        with warnings.catch_warnings():
            # Truncation is counted below, for all texts of a task together.
            warnings.filterwarnings("ignore", message=".*longer than the .* tokens this model")
            vectors, stats = encode_batched(
                self.model, texts, role=method, show_progress=self.show_progress
            )
        if len(vectors) != len(texts):
            raise ShapeError(
                f"{self.name} gave {len(vectors)} vectors for {len(texts)} texts: one each is "
                "expected."
            )
        self._count(stats)
        return vectors

    def _count(self, stats: EncodingStats) -> None:
        self.usage.seconds += stats.seconds
        self.usage.texts += stats.texts
        self.usage.tokens += stats.tokens
        self.usage.truncated += stats.truncated

    def _fill(self, texts: Sequence[str], role: Role | None) -> tuple[VectorStore, np.ndarray]:
        """Make sure that the cache has the vectors of all texts; return it and their keys."""
        if role not in self._stores:
            self._stores[role] = VectorStore.beside(self.cache, self.fingerprint, role)
        store = self._stores[role]
        keys = np.array([content_key(text) for text in texts], dtype=np.int64)
        there = ~store.missing(keys)
        if there.any():
            old = [texts[i] for i in np.flatnonzero(there).tolist()]
            self.usage.truncated += count_truncated(self.model, old)
        before = self.usage.texts
        if not there.all():
            store.add(texts, keys, lambda part: self._encode([str(x) for x in part], role))
        kept = len(texts) - (self.usage.texts - before)  # repeats within the texts too
        self.usage.texts += kept
        self.usage.cached += kept
        return store, keys

    def _finish(self, vectors: np.ndarray) -> np.ndarray:
        if self._transform is not None:
            vectors = check_vectors(self._transform(vectors), name=f"vectors of {self.name}")
        self.usage.zero_vectors += int((~vectors.any(axis=1)).sum())
        return vectors


class LexicalSystem:
    """BM25, the baseline that every dense model should be compared with.

    Args:
        name: Name in tables.
        k1: How slowly repeats of a term stop counting.
        b: How much longer texts are discounted, in [0, 1].

    Example:
        >>> LexicalSystem().search({"q": "a cat"}, {"1": "cats sleep", "2": "dogs bark"}, k=2)
        {'q': {'1': 0.693...}}
    """

    def __init__(self, *, name: str = "bm25", k1: float = 1.2, b: float = 0.75) -> None:
        self.name = name
        self.k1 = k1
        self.b = b
        self.fingerprint = f"bm25-k1={k1}-b={b}"
        self.usage = Usage()

    def describe(self) -> dict[str, Any]:
        """Return facts for reports as JSON values."""
        return {"kind": "lexical", "fingerprint": self.fingerprint, "k1": self.k1, "b": self.b}

    def search(
        self,
        queries: Mapping[str, str],
        corpus: Mapping[str, str],
        *,
        k: int,
        instruction: str | None = None,
        candidates: Mapping[str, Sequence[str]] | None = None,
    ) -> dict[str, dict[str, float]]:
        """Return query id -> document id -> score; documents without a query term are left out.

        Instructions are not read: their words would only match.
        """
        check_k(k)
        ids = sorted(corpus, reverse=True)
        started = time.perf_counter()
        index = BM25Index.build([corpus[doc] for doc in ids], k1=self.k1, b=self.b)
        self.usage.seconds += time.perf_counter() - started
        self.usage.texts += len(ids) + len(queries)
        if candidates is None:
            hits = index.search(list(queries.values()), k)
            return {
                query: {ids[row]: float(score) for row, score in zip(rows, scores, strict=True)}
                for query, (rows, scores) in zip(queries, hits, strict=True)
            }
        place = {doc: row for row, doc in enumerate(ids)}
        found = {}
        for query, text in queries.items():
            own = candidates.get(query, ())
            if unknown := next((doc for doc in own if doc not in place), None):
                raise InputError(f"Candidate {unknown!r} is not a document of the corpus.")
            scores = index.row_scores(index.query_terms(text))
            ranked = sorted(own, key=lambda doc: (-scores[place[doc]], place[doc]))[:k]
            found[query] = {doc: float(scores[place[doc]]) for doc in ranked}
        return found
