"""Vectors with attributes to search: generated ones, and rows held out of one's own as queries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa

from embedworks._core.seeding import generator
from embedworks._core.validation import (
    check_choice,
    check_in_range,
    check_vectors,
    normalize_rows,
)
from embedworks.errors import InputError, ShapeError
from embedworks.index.attributes import AttributeTable

__all__ = ["FilteredData", "hold_out_queries", "synthetic_filtered_data"]

#: Share of the rows -> number of tags that so many rows have.
_TAGS = {0.5: 2, 0.1: 4, 0.01: 8, 0.001: 16, 0.0001: 16}
_CLUSTERS, _FAMILY = 100, 10
_SPREAD = 0.7  # of a point around its centre, in each dimension; centres have spread 1


@dataclass(frozen=True, eq=False)
class FilteredData:
    """What is searched, and with which queries; all vectors have unit length.

    Attributes:
        vectors: float32 (M, D).
        table: Attributes, M rows.
        queries: float32 (Q, D).
        ordered: Columns whose ranges an index may be built for, or by which it may keep a copy of
            the vectors in order.
        labels: Columns of values or sets that an index may be built for.
    """

    vectors: np.ndarray
    table: pa.Table
    queries: np.ndarray
    ordered: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()

    @cached_property
    def attributes(self) -> AttributeTable:
        """The attributes made ready to filter by."""
        return AttributeTable(self.table)

    @classmethod
    def of(
        cls,
        vectors: np.ndarray,
        table: pa.Table,
        queries: np.ndarray,
        *,
        ordered: Sequence[str] = (),
        labels: Sequence[str] = (),
    ) -> FilteredData:
        """Check arrays and bring them to unit length: search is by cosine.

        Raises:
            ShapeError: When rows or dimensions do not fit together.
            NonFiniteError: When a vector contains NaN or infinity.
            InputError: When a vector is zero: it has no cosine.
            UnknownNameError: When ``ordered`` or ``labels`` names a column that is not there.
        """
        vectors = check_vectors(vectors)
        queries = check_vectors(queries, name="queries", dim=vectors.shape[1])
        if table.num_rows != len(vectors):
            raise ShapeError(
                f"{len(vectors)} vectors need as many rows of attributes, got {table.num_rows}."
            )
        for name, array in (("vectors", vectors), ("queries", queries)):
            zero = np.flatnonzero(~array.any(axis=1))
            if len(zero):
                raise InputError(
                    f"{len(zero)} of the {name} are zero and have no cosine, the first in row "
                    f"{zero[0]}: remove them."
                )
        for name in (*ordered, *labels):
            check_choice(name, table.column_names, name="column")
        unit, asked = normalize_rows(vectors), normalize_rows(queries)
        return cls(unit, table, asked, tuple(ordered), tuple(labels))


def hold_out_queries(
    vectors: np.ndarray,
    table: pa.Table,
    count: int,
    *,
    ordered: Sequence[str] = (),
    labels: Sequence[str] = (),
    seed: int = 0,
) -> FilteredData:
    """Take rows out of a set to ask for the others with.

    Args:
        vectors: Array of shape (M, D).
        table: Attributes, M rows.
        count: Rows to take out, fewer than M.
        ordered: As in `FilteredData`.
        labels: As in `FilteredData`.
        seed: Which ones.

    Raises:
        InputError: When ``count`` is not in [1, M - 1], or a vector is zero.
        ShapeError: When rows do not fit together.

    Example:
        >>> rows = pa.table({"year": [2000, 2001, 2002]})
        >>> data = hold_out_queries(np.eye(3), rows, 1)
        >>> data.queries.shape, data.vectors.shape, data.table.num_rows
        ((1, 3), (2, 3), 2)
    """
    vectors = check_vectors(vectors)
    if table.num_rows != len(vectors):
        raise ShapeError(
            f"{len(vectors)} vectors need as many rows of attributes, got {table.num_rows}."
        )
    check_in_range(count, name="held-out queries", low=1, high=len(vectors) - 1)
    order = generator(seed, "held-out queries").permutation(len(vectors))
    asked, kept = np.sort(order[:count]), np.sort(order[count:])
    rest = table.take(pa.array(kept))
    return FilteredData.of(vectors[kept], rest, vectors[asked], ordered=ordered, labels=labels)


def synthetic_filtered_data(
    rows: int = 100_000, dim: int = 128, queries: int = 100, *, seed: int = 0
) -> FilteredData:
    """Generate clustered vectors with attributes of every kind, tied to them or not.

    Independent of the vectors: ``number`` (int, every value once), ``kind`` (text; half the rows
    have the first, a quarter the second, ...), ``tags`` (sets; tags of 50 to 0.01 % of the rows).
    Tied to them: ``cluster`` (int, 100), ``area`` (text, 10 clusters each), ``along`` (float, the
    place along a direction) and ``topics`` (sets of two: the cluster's and the area's).

    Args:
        rows: Rows M.
        dim: Dimensions D.
        queries: Queries Q, from the same clusters.
        seed: Seed of everything.

    Example:
        >>> data = synthetic_filtered_data(50, 4, 2)
        >>> data.table.column_names
        ['number', 'kind', 'tags', 'cluster', 'area', 'along', 'topics']
    """
    check_in_range(rows, name="rows", low=1)
    check_in_range(dim, name="dim", low=2)
    check_in_range(queries, name="queries", low=1)
    rng = generator(seed, "filtered data")
    centres = rng.normal(size=(_CLUSTERS, dim)).astype(np.float32)
    cluster = rng.integers(0, _CLUSTERS, rows + queries)
    points = centres[cluster]
    points += np.float32(_SPREAD) * rng.standard_normal(points.shape, dtype=np.float32)
    points = normalize_rows(points)
    direction = rng.normal(size=dim).astype(np.float32)
    cluster = cluster[:rows]
    kind = np.minimum(rng.geometric(0.5, rows) - 1, 25)
    areas = [f"area {c // _FAMILY}" for c in range(_CLUSTERS)]
    topics = np.array([[areas[c], f"theme {c}"] for c in range(_CLUSTERS)])[cluster].ravel()
    table = pa.table(
        {
            "number": rng.permutation(rows),
            "kind": np.array([chr(97 + letter) for letter in range(26)])[kind],
            "tags": _tags(rows, rng),
            "cluster": cluster,
            "area": np.array(areas)[cluster],
            "along": points[:rows] @ direction / np.linalg.norm(direction),
            "topics": pa.ListArray.from_arrays(
                np.arange(rows + 1, dtype=np.int32) * 2, pa.array(topics)
            ),
        }
    )
    return FilteredData(points[:rows], table, points[rows:])


def _tags(rows: int, rng: np.random.Generator) -> pa.ListArray:
    """Give each tag to its share of the rows, drawn at random."""
    owners, names = [], []
    for share, count in _TAGS.items():
        for number in range(count):
            chosen = rng.choice(rows, size=round(rows * share), replace=False)
            owners.append(chosen)
            names += [f"{share:g}-{number}"] * len(chosen)
    owner = np.concatenate(owners)
    order = np.argsort(owner, kind="stable")
    offsets = np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=rows))])
    return pa.ListArray.from_arrays(
        offsets.astype(np.int32), pa.array(names, pa.string()).take(pa.array(order))
    )
