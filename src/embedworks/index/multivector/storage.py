"""What late interaction costs to keep, beside what it finds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from embedworks._core.validation import check_in_range
from embedworks.errors import EmptyInputError

__all__ = ["MultiVectorSearch", "StorageRow", "storage_bytes", "storage_report"]


class MultiVectorSearch(Protocol):
    """What the report needs of an index; all indexes of this package have it."""

    def __len__(self) -> int: ...

    def memory(self) -> dict[str, int]:
        """Return the bytes held, by part."""

    def search(self, queries: Sequence[np.ndarray], k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return ids and scores (Q, k') for one array (U, D) per query."""


@dataclass(frozen=True)
class StorageRow:
    """One index of a storage report.

    Attributes:
        name: Name of the index.
        bytes_per_document: Bytes of everything the index holds, over its documents.
        ratio: These bytes over those of the first index of the report.
        quality: What the caller's function says of its rankings, such as the mean nDCG@10.
    """

    name: str
    bytes_per_document: float
    ratio: float
    quality: float


def storage_bytes(documents: int, tokens: float, dim: int, bits: float = 16) -> float:
    """Return the bytes of the token vectors alone: ``documents * tokens * dim * bits / 8``.

    Args:
        documents: Number of documents (or pages).
        tokens: Vectors of each, on average.
        dim: Dimensions of a vector.
        bits: Bits per value: 32, 16, 8, 4, 2 or 1.

    Paper: Moreira et al. 2026 (Nemotron ColEmbed V2), arXiv 2602.03992, its storage table; what
    the paper calls GB are GiB.

    Example:
        >>> round(storage_bytes(1_000_000, 773, 4096) / 2**30, 1)
        5897.5
    """
    check_in_range(documents, name="documents", low=0)
    check_in_range(tokens, name="tokens", low=0)
    check_in_range(dim, name="dim", low=1)
    check_in_range(bits, name="bits", low=0, open_low=True)
    return documents * tokens * dim * bits / 8


def storage_report(
    indexes: Mapping[str, MultiVectorSearch],
    queries: Sequence[np.ndarray],
    quality: Callable[[np.ndarray], float],
    *,
    k: int = 10,
) -> list[StorageRow]:
    """Compare indexes over the same documents by their size and by what they find.

    Args:
        indexes: Indexes by name; the first is what the others' sizes are compared with.
        queries: One array (U, D) per query.
        quality: Gets the ids (Q, k') an index found; returns a number, such as the mean nDCG.
        k: Results per query.

    Raises:
        EmptyInputError: When there are no indexes or no queries.

    Example:
        >>> from embedworks.index.multivector.maxsim import MaxSimIndex
        >>> documents = [np.eye(4), np.eye(4)[:1]]
        >>> indexes = {name: MaxSimIndex(documents, storage=name) for name in ("float32", "int8")}
        >>> query, right = np.eye(4)[2:], 0
        >>> rows = storage_report(indexes, [query], lambda ids: float((ids[:, 0] == right).mean()))
        >>> [(row.name, row.quality) for row in rows]
        [('float32', 1.0), ('int8', 1.0)]
    """
    if not indexes or not len(queries):
        raise EmptyInputError("A storage report needs at least one index and one query.")
    rows: list[StorageRow] = []
    first = 0.0
    for name, index in indexes.items():
        size = sum(index.memory().values()) / max(1, len(index))
        first = first or size
        ids, _ = index.search(queries, k)
        rows.append(StorageRow(name, size, size / first, float(quality(ids))))
    return rows
