"""Systems made of systems: a reranker behind a ranking, two rankings fused, and one by its name."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from embedworks._core.validation import check_in_range, check_k, check_unique
from embedworks.data.templates import TEMPLATES, InstructionTemplate
from embedworks.errors import EmptyInputError, InputError, NonFiniteError, ShapeError
from embedworks.evaluation.outcomes import Cost
from embedworks.evaluation.statistics.metrics import rank_documents
from embedworks.evaluation.systems import EncoderSystem, LexicalSystem, Ranks, Usage
from embedworks.index import reciprocal_rank_fusion
from embedworks.models import load, model_fingerprint

__all__ = ["FusedSystem", "PairScorer", "RankOnly", "RerankedSystem", "open_system"]

#: Queries whose pairs are scored in one call.
_QUERIES = 64


@runtime_checkable
class PairScorer(Protocol):
    """A cross-encoder: reads query and document together; sentence-transformers' has this."""

    def predict(self, pairs: list[tuple[str, str]], /) -> Any:
        """Return one score per pair, higher is better."""
        ...


@runtime_checkable
class RankOnly(Protocol):
    """A reranker that gives an order and no scores, as some services do."""

    def rank(self, query: str, documents: list[str], /) -> Sequence[int]:
        """Return positions of documents, best first; those left out come last."""
        ...


class RerankedSystem:
    """A system whose first places another model puts in a new order.

    The first ``depth`` documents are rescored; what comes after them keeps its order and stays
    below. Rankings shorter than ``depth`` are rescored whole.

    Args:
        first: Finds the documents.
        cross_encoder: Has ``predict(pairs) -> scores``, or else ``rank(query, documents) ->
            positions``, whose order is turned into descending scores.
        depth: Documents rescored for each query.
        name: Name in tables; made of both by default.
        template: How an instruction is put before a query for the cross-encoder; ``"plain"``
            leaves it out. The first system has a template of its own.
        fingerprint: Stands for the cross-encoder; by default a hash of its weights, or its
            type's name where there are none.

    Raises:
        InputError: When ``cross_encoder`` has neither method, or ``depth`` is below 1.

    Example:
        >>> class Shorter:
        ...     def predict(self, pairs):
        ...         return [-len(document) for _, document in pairs]
        >>> system = RerankedSystem(LexicalSystem(), Shorter(), depth=2)
        >>> found = system.search({"q": "cat"}, {"1": "a cat sat", "2": "cat"}, k=2)
        >>> list(found["q"])
        ['2', '1']
    """

    def __init__(
        self,
        first: Ranks,
        cross_encoder: PairScorer | RankOnly,
        depth: int = 100,
        *,
        name: str | None = None,
        template: str | InstructionTemplate = "plain",
        fingerprint: str | None = None,
    ) -> None:
        if not isinstance(cross_encoder, (PairScorer, RankOnly)):
            raise InputError(
                f"A {type(cross_encoder).__name__} has neither predict(pairs) nor rank(query, "
                "documents): it is no reranker."
            )
        self.first = first
        self.cross_encoder = cross_encoder
        self.depth = check_k(depth)
        self.template = TEMPLATES[template] if isinstance(template, str) else template
        own = fingerprint or _fingerprint(cross_encoder)
        self.name = name or f"{first.name} + {type(cross_encoder).__name__} (top {depth})"
        self.fingerprint = f"{first.fingerprint}+{own}@{depth}"
        self.usage = Usage()

    def describe(self) -> dict[str, Any]:
        """Return facts for reports as JSON values."""
        parameters = None
        if hasattr(self.cross_encoder, "parameters"):
            parameters = sum(int(p.numel()) for p in self.cross_encoder.parameters())
        return {
            "kind": "reranked",
            "fingerprint": self.fingerprint,
            "cross_encoder": type(self.cross_encoder).__name__,
            "cross_encoder_parameters": parameters,
            "max_tokens": _max_tokens(self.cross_encoder),
            "depth": self.depth,
            "template": self.template.to_dict(),
            "first": self.first.describe(),
        }

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

        Raises:
            NonFiniteError: When the cross-encoder gives NaN or infinity.
            ShapeError: When it gives another number of scores than pairs.
            InputError: When a rank-only reranker names a position twice, or one that is not there.
        """
        check_k(k)
        found = self.first.search(
            queries, corpus, k=max(k, self.depth), instruction=instruction, candidates=candidates
        )
        _absorb(self.usage, self.first.usage.take())
        prefix = "" if instruction is None else self.template.prefix(instruction, "query")
        ranked = {query: rank_documents(found.get(query, {})) for query in queries}
        started = time.perf_counter()
        scored: dict[str, dict[str, float]] = {}
        asked = list(queries)
        for start in range(0, len(asked), _QUERIES):
            block = asked[start : start + _QUERIES]
            heads = [ranked[query][: self.depth] for query in block]
            texts = [prefix + queries[query] for query in block]
            scores = self._rescore(texts, [[corpus[doc] for doc in head] for head in heads])
            for query, head, own in zip(block, heads, scores, strict=True):
                scored[query] = _with_tail(head, own, ranked[query][len(head) :], k)
        self.usage.seconds += time.perf_counter() - started
        return scored

    def _rescore(self, queries: Sequence[str], documents: list[list[str]]) -> list[list[float]]:
        """Return the scores of each query's documents."""
        self.usage.texts += sum(map(len, documents))
        scorer = self.cross_encoder
        if not isinstance(scorer, PairScorer):
            return [self._by_rank(q, own) for q, own in zip(queries, documents, strict=True)]
        pairs = [(q, text) for q, own in zip(queries, documents, strict=True) for text in own]
        if not pairs:
            return [[] for _ in queries]
        flat = np.asarray(scorer.predict(pairs), dtype=np.float64)
        if flat.shape not in ((len(pairs),), (len(pairs), 1)):
            raise ShapeError(
                f"{self.name}: the cross-encoder gave scores of shape {flat.shape} for "
                f"{len(pairs)} pairs: one number each is expected."
            )
        if not np.isfinite(flat).all():
            bad = int((~np.isfinite(flat)).sum())
            raise NonFiniteError(
                f"{self.name}: the cross-encoder gave NaN or infinity for {bad} of {len(pairs)} "
                "pairs."
            )
        self.usage.truncated += _truncated_pairs(scorer, pairs)
        ends = np.cumsum([len(own) for own in documents])[:-1]
        return [part.tolist() for part in np.split(flat.reshape(-1), ends)]

    def _by_rank(self, query: str, documents: list[str]) -> list[float]:
        if not documents:
            return []
        assert isinstance(self.cross_encoder, RankOnly)
        order = [int(place) for place in self.cross_encoder.rank(query, documents)]
        if len(set(order)) < len(order) or any(not 0 <= p < len(documents) for p in order):
            raise InputError(
                f"{self.name}: the order {order[:10]} names a position twice or one that is not "
                f"among the {len(documents)} documents."
            )
        taken = set(order)
        order += [place for place in range(len(documents)) if place not in taken]
        scores = [0.0] * len(documents)
        for rank, place in enumerate(order):
            scores[place] = float(len(documents) - rank)
        return scores


class FusedSystem:
    """Several rankings as one, by the sum of ``weight / (60 + rank)``.

    Needs no scores, so anything can be fused, such as BM25 with vectors.

    Args:
        systems: Two or more.
        name: Name in tables; made of all by default.
        depth: Places of each ranking that count.
        weights: One per system; all equal by default.

    Raises:
        EmptyInputError: When there are fewer than two systems.
        DuplicateIdError: When two have one name.
        InputError: When a weight or the depth is not usable.

    Example:
        >>> both = FusedSystem([LexicalSystem(), LexicalSystem(name="bm25 b=0", b=0.0)])
        >>> list(both.search({"q": "cat"}, {"1": "a cat", "2": "a dog"}, k=2)["q"])
        ['1']
    """

    def __init__(
        self,
        systems: Sequence[Ranks],
        *,
        name: str | None = None,
        depth: int = 100,
        weights: Sequence[float] | None = None,
    ) -> None:
        if len(systems) < 2:
            raise EmptyInputError(f"A fusion needs two systems or more, got {len(systems)}.")
        check_unique([system.name for system in systems], name="names of fused systems")
        if weights is not None and len(weights) != len(systems):
            raise InputError(f"{len(systems)} systems need as many weights, got {len(weights)}.")
        self.systems = list(systems)
        self.weights = [1.0] * len(systems) if weights is None else [float(w) for w in weights]
        for weight in self.weights:
            check_in_range(weight, name="each weight", low=0.0)
        self.depth = check_k(depth)
        self.name = name or " + ".join(system.name for system in systems)
        parts = [f"{s.fingerprint}*{w:g}" for s, w in zip(systems, self.weights, strict=True)]
        self.fingerprint = f"rrf({','.join(parts)})@{depth}"
        self.usage = Usage()

    def describe(self) -> dict[str, Any]:
        """Return facts for reports as JSON values."""
        return {
            "kind": "fused",
            "fingerprint": self.fingerprint,
            "depth": self.depth,
            "weights": self.weights,
            "systems": {system.name: system.describe() for system in self.systems},
        }

    def search(
        self,
        queries: Mapping[str, str],
        corpus: Mapping[str, str],
        *,
        k: int,
        instruction: str | None = None,
        candidates: Mapping[str, Sequence[str]] | None = None,
    ) -> dict[str, dict[str, float]]:
        """Return query id -> document id -> fused score of the ``k`` best documents."""
        check_k(k)
        runs = []
        for system in self.systems:
            runs.append(
                system.search(
                    queries,
                    corpus,
                    k=max(k, self.depth),
                    instruction=instruction,
                    candidates=candidates,
                )
            )
            _absorb(self.usage, system.usage.take())
        ids = sorted(corpus, reverse=True)  # equal scores go to the first row
        place = {doc: row for row, doc in enumerate(ids)}
        fused = {}
        for query in queries:
            rankings = [
                np.array([place[doc] for doc in rank_documents(run.get(query, {}))], dtype=np.int64)
                for run in runs
            ]
            rows, scores = reciprocal_rank_fusion(rankings, weights=self.weights)
            best = zip(rows[:k].tolist(), scores[:k].tolist(), strict=True)
            fused[query] = {ids[row]: score for row, score in best}
        return fused


def open_system(
    name: str, *, cache: str | Path | None = None, template: str | InstructionTemplate = "plain"
) -> Ranks:
    """Return the system that a name stands for.

    ``"bm25"`` is BM25; ``"hybrid:NAME"`` is BM25 fused with another system;
    ``"https://host/v1#model"`` an embeddings endpoint; a file name that ends in ``.parquet``,
    ``.safetensors`` or ``.npy`` finished vectors. Anything else is given to
    `embedworks.models.load`: ``"static"``, ``"minilm"``, a folder, a hub name.

    Args:
        name: What to open.
        cache: Folder of vectors by content; None keeps none.
        template: How instructions are put before queries, as in `EncoderSystem`.

    Raises:
        UnknownNameError: When nothing has this name.
        NotFoundError: When a path was given and there is nothing.
        OfflineError: When the model must come from a hub that cannot be reached.

    Example:
        >>> open_system("bm25").name, open_system("hybrid:static").name
        ('bm25', 'hybrid:static')
    """
    if name == "bm25":
        return LexicalSystem()
    if name.startswith("hybrid:"):
        if name == "hybrid:":
            raise InputError("hybrid: needs the name of a system after it, such as hybrid:static.")
        inner = open_system(name.removeprefix("hybrid:"), cache=cache, template=template)
        return FusedSystem([LexicalSystem(), inner], name=name)
    if re.match(r"https?://", name):
        from embedworks.evaluation.remote import open_endpoint

        return open_endpoint(name, cache=cache, template=template)
    if Path(name).suffix in (".npy", ".parquet", ".safetensors"):
        from embedworks.evaluation.remote import open_vectors

        return open_vectors(name, template=template)
    return EncoderSystem(load(name), name=name, cache=cache, template=template)


def _with_tail(
    head: Sequence[str], scores: Sequence[float], tail: Sequence[str], k: int
) -> dict[str, float]:
    """Return the rescored head, best first, and below it the tail in its old order."""
    order = sorted(range(len(head)), key=lambda place: -scores[place])
    found = {head[place]: scores[place] for place in order}
    lowest = min(scores, default=0.0)
    # Steps that the sum does not swallow, whatever the size of the scores.
    step = max(1.0, abs(lowest) * 1e-6)
    found |= {doc: lowest - step * place for place, doc in enumerate(tail, 1)}
    return dict(list(found.items())[:k])


def _absorb(usage: Usage, cost: Cost) -> None:
    """Add what a part of the system used."""
    usage.seconds += cost.encoding_seconds
    usage.texts += cost.texts
    usage.cached += cost.cached
    usage.tokens += cost.tokens
    usage.truncated += cost.truncated
    usage.zero_vectors += cost.zero_vectors


def _fingerprint(cross_encoder: object) -> str:
    if hasattr(cross_encoder, "state_dict"):
        return model_fingerprint(cross_encoder)
    return str(getattr(cross_encoder, "fingerprint", type(cross_encoder).__name__))


def _max_tokens(cross_encoder: object) -> int | None:
    """Return how many tokens of a pair are read, where the reranker says so."""
    for name in ("max_seq_length", "max_length"):
        limit = getattr(cross_encoder, name, None)
        if isinstance(limit, int) and math.isfinite(limit):
            return limit
    return None


def _truncated_pairs(cross_encoder: object, pairs: Sequence[tuple[str, str]]) -> int:
    """Return how many pairs have an end that is not read; 0 where the reranker cannot tell."""
    limit, tokenizer = _max_tokens(cross_encoder), getattr(cross_encoder, "tokenizer", None)
    if limit is None or tokenizer is None:
        return 0
    long = [pair for pair in pairs if len(pair[0]) + len(pair[1]) + 3 > limit]
    if not long:
        return 0
    first, second = zip(*long, strict=True)
    encoded = tokenizer(list(first), list(second), truncation=False, verbose=False)
    return sum(len(ids) > limit for ids in encoded["input_ids"])
