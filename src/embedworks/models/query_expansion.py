"""Search with what an answer might look like: hypothetical documents in front of a query.

A language model (or any rule) writes passages that could answer the query; they are searched with,
not shown. Helps where queries and documents look different, and costs a generation per query. The
passages may be wrong in fact: only their vectors or their words are used.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from embedworks._core.validation import check_in_range, check_texts, check_vectors, normalize_rows
from embedworks.errors import DataWarning, InputError
from embedworks.models.encoding import model_fingerprint

__all__ = ["HypotheticalDocuments", "expand_query"]

Write = Callable[[str], Sequence[str]]


class HypotheticalDocuments:
    """A model whose query vectors are means over the query and passages that could answer it.

    ``v_q = normalise(mean(f(q), g(d_1), ..., g(d_k)))`` with f the model's query side and g its
    document side, each of unit length. It is an encoder like any other: give it to a `Collection`
    as ``encoder=``, or to `embedworks.evaluation.EncoderSystem`.

    Args:
        model: The model that encoded the documents.
        write: ``write(query)`` returns passages, best first. Passages without text are left out.
        k: Most passages used for a query; 0 searches with the query alone.
        include_query: Whether the query is one of what is averaged.
        identity: Names what decides the passages, for caches of vectors; by default the name of
            ``write``.

    Raises:
        InputError: When ``k`` is negative, or there would be nothing to search with.

    Warns:
        DataWarning: When some query got no passage; it is searched with as it is. One warning a
            call, with the number.

    Paper: HyDE, Gao et al. 2023, arXiv 2212.10496, equation 8. The paper samples from one model
    that was not trained with labels; here both are whatever the caller has.

    Example:
        >>> import embedworks as ew
        >>> model = ew.load("static")
        >>> searching = HypotheticalDocuments(model, lambda query: [f"A guide to {query}."], k=1)
        >>> searching.encode_query(["bread baking"]).shape
        (1, 256)
    """

    def __init__(
        self,
        model: Any,
        write: Write,
        *,
        k: int = 4,
        include_query: bool = True,
        identity: str | None = None,
    ) -> None:
        check_in_range(k, name="k", low=0)
        if k == 0 and not include_query:
            raise InputError("k=0 without the query leaves nothing to search with.")
        self.model = model
        self.write = write
        self.k = k
        self.include_query = include_query
        self.identity = identity or getattr(write, "__qualname__", type(write).__qualname__)

    @property
    def content_hash(self) -> str:
        """Hex SHA-256 of the model and what decides the passages."""
        parts = f"{model_fingerprint(self.model)} {self.identity} {self.k} {self.include_query}"
        return hashlib.sha256(parts.encode()).hexdigest()

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Return the model's own vectors, (N, D)."""
        return np.asarray(self.model.encode(texts))

    def encode_document(self, texts: Sequence[str]) -> np.ndarray:
        """Return the model's own vectors of documents, (N, D)."""
        return np.asarray(self.model.encode_document(texts))

    def encode_query(self, texts: Sequence[str]) -> np.ndarray:
        """Return unit vectors of queries with their passages, float32 (N, D)."""
        queries = check_texts(texts)
        own = self._unit(self.model.encode_query(queries))
        if self.k == 0 or not queries:
            return own
        passages = [[p for p in self.write(query) if p.strip()][: self.k] for query in queries]
        alone = sum(not found for found in passages)
        if alone:
            warnings.warn(
                f"{alone} of {len(queries)} queries got no passage and are searched with as they "
                "are.",
                DataWarning,
                stacklevel=2,
            )
        flat = [passage for found in passages for passage in found]
        if not flat:
            return own
        encoded = self._unit(self.model.encode_document(flat))
        owners = np.repeat(np.arange(len(queries)), [len(found) for found in passages])
        used = np.array([self.include_query or not found for found in passages])
        total = np.where(used[:, None], own, 0).astype(np.float64)
        np.add.at(total, owners, encoded)
        return self._unit(total)

    def _unit(self, vectors: Any) -> np.ndarray:
        checked = check_vectors(np.asarray(vectors), allow_empty=True)
        return np.asarray(normalize_rows(checked), dtype=np.float32)


def expand_query(query: str, passages: Sequence[str], *, repeats: int = 5) -> str:
    """Return a query for BM25 with passages behind it, the query repeated to keep its weight.

    Args:
        query: The query.
        passages: What could answer it; none gives the query back.
        repeats: How often the query stands there, 1 or more.

    Paper: query2doc, Wang et al. 2023, arXiv 2303.07678, section 2, which repeats five times.

    Example:
        >>> expand_query("bread", ["Flour and water."], repeats=2)
        'bread bread Flour and water.'
    """
    check_in_range(repeats, name="repeats", low=1)
    query, *found = check_texts([query, *passages])
    kept = [passage for passage in found if passage.strip()]
    return " ".join([*[query] * repeats, *kept]) if kept else query
