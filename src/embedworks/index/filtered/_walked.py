"""What the indexes built for filters share: rows, exact scans, the way from a filter to results.

A subclass adds a structure over the rows that were there when it was built, says which filters
it serves, and proposes rows. Everything that makes the results right is here: proposals are
scored exactly, removed rows are dropped, rows added later are scanned beside the structure, and
the exact scan takes over where few rows pass or a walk comes back short.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import OrderedDict
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import pyarrow as pa

from embedworks._core.validation import (
    check_choice,
    check_in_range,
    check_k,
    check_vectors,
    normalize_rows,
)
from embedworks.errors import FormatError, InputError, ShapeError
from embedworks.index.attributes import AttributeTable
from embedworks.index.exact import SIMILARITIES, ExactIndex
from embedworks.index.filtered import _kernels as kernels
from embedworks.index.filtered._beam import Scratch, on_sphere
from embedworks.index.filtered._bookkeeping import (
    pack_attributes,
    unpack_attributes,
    without_rows,
)
from embedworks.index.filtered._ready import Plan, Ready
from embedworks.index.protocol import Neighbors, Where, read_index, write_index
from embedworks.index.where import Condition, parse_where

__all__ = ["WalkedIndex", "check_numbers"]

_SPARE = 16  # rows a scan keeps beyond k, so that rounding cannot lose one
_KEPT_FILTERS = 32
_BYTES = np.dtype(np.uint8)


class WalkedIndex(ABC):
    """Vectors with attributes and a structure over the rows there when it was built.

    Rows added later are scanned exactly beside it: build anew when they have become many.
    """

    FORMAT: ClassVar[str]
    WALK: ClassVar[str]  # name of the plan
    serves: str  # which filters, for messages

    def __init__(
        self,
        vectors: np.ndarray,
        table: AttributeTable,
        *,
        similarity: str,
        inside: np.ndarray,
        exact_below: int,
        ef: int,
        alive: np.ndarray | None = None,
        built: int | None = None,
    ) -> None:
        self.alive = np.ones(len(vectors), dtype=np.uint8) if alive is None else alive
        self.built = len(vectors) if built is None else built
        if not len(table) == len(vectors) == len(inside) == len(self.alive) >= self.built:
            raise ShapeError(
                f"{len(vectors)} vectors need as many rows of attributes, got {len(table)}."
            )
        self.similarity = check_choice(similarity, SIMILARITIES, name="similarity")
        self.vectors, self.table, self.inside = vectors, table, inside
        self.exact_below = int(check_in_range(exact_below, name="exact_below", low=0))
        self.ef = int(check_in_range(ef, name="ef", low=1))
        self._local = threading.local()
        self._renew()

    def _structured(self, vectors: np.ndarray) -> np.ndarray:
        """Return the built vectors in the order in which the structure numbers them."""
        return vectors

    def _renew(self) -> None:
        """Make anew what depends on the rows."""
        self._exact = ExactIndex(self.vectors, similarity="dot")
        self._points = on_sphere(self._structured(self.vectors[: self.built]), self.similarity)
        self.outside = np.flatnonzero(self.inside == 0).astype(np.int32)
        self._recount()

    def _recount(self) -> None:
        """Make anew what depends on which rows are removed."""
        self._kept: OrderedDict[str | None, Ready] = OrderedDict()
        self._live = int(np.count_nonzero(self.alive))
        there = np.count_nonzero(self.alive[: self.built])
        self._share = max(1e-3, there / max(1, self.built))

    # What a subclass gives.

    @abstractmethod
    def _route(self, ready: Ready) -> Any:
        """Return what the walk needs under a filter; raise `_refuse` when it is not served."""

    @abstractmethod
    def _walk(self, point: np.ndarray, k: int, ef: int, ready: Ready) -> np.ndarray | None:
        """Propose built rows that pass, removed or not; None when the walk gave up.

        Args:
            point: The query, on the sphere.
            k: How many results are wanted.
            ef: How wide to look.
            ready: The filter.
        """

    @abstractmethod
    def _parts(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Return settings and arrays of the structure."""

    @classmethod
    @abstractmethod
    def _from_parts(
        cls, settings: dict[str, Any], arrays: dict[str, np.ndarray], common: dict[str, Any]
    ) -> Self:
        """Make the index from what `_parts` gave and the constructor's common arguments."""

    # What they share.

    def __len__(self) -> int:
        return self._live

    def add(self, vectors: np.ndarray, attributes: pa.Table | None = None) -> np.ndarray:
        """Append vectors (N, D) with their attributes; returns their row numbers, int64 (N,).

        They are scanned exactly beside the graph; `build` anew when they have become many.
        """
        vectors = check_vectors(vectors, dim=self.vectors.shape[1], allow_empty=True)
        first, total = len(self.vectors), len(self.vectors) + len(vectors)
        if attributes is None:
            raise InputError("This index has attributes: give those of the new rows.")
        _check_lengths(vectors, attributes)
        stored = normalize_rows(vectors) if self.similarity == "cosine" else vectors
        table = self.table.append(attributes)
        self.alive = np.concatenate([self.alive, np.ones(len(vectors), dtype=np.uint8)])
        self.inside = np.concatenate([self.inside, np.zeros(len(vectors), dtype=np.uint8)])
        self.vectors, self.table = np.concatenate([self.vectors, stored]), table
        self._renew()
        return np.arange(first, total)

    def remove(self, rows: np.ndarray) -> int:
        """Remove rows by number; returns how many of them had not been removed before.

        Walks still pass through them.

        Raises:
            InputError: When a number is no row of the index; nothing is removed then.
        """
        self.alive, present = without_rows(self.alive, rows)
        self._recount()
        return present

    def forget_filters(self) -> None:
        """Drop what is kept of the filters used lately, as a benchmark needs between queries."""
        self._kept.clear()

    def search(
        self, queries: np.ndarray, k: int, *, where: Where = None, ef: int | None = None
    ) -> Neighbors:
        """Return the best ``min(k, matching)`` rows for each query.

        Args:
            queries: Array of shape (Q, D).
            k: Number of results wanted.
            where: One filter for all queries, or a list with one per query; None is no filter.
            ef: How many rows the walk keeps in view, at least 1; more finds more and takes
                longer. By default the index's own.

        Raises:
            ShapeError: When dimensions, or the number of filters, do not fit.
            InputError: On a zero query under cosine, ``k < 1``, or a filter that this index does
                not serve.
            QuerySyntaxError: When a filter does not fit the attributes.
        """
        k, ef = check_k(k), self._width(ef)
        queries = check_vectors(
            queries, name="queries", dim=self.vectors.shape[1], allow_empty=True
        )
        if self.similarity == "cosine":
            if not queries.any(axis=1).all():
                raise InputError("A query is a zero vector: cosine similarity is not defined.")
            queries = normalize_rows(queries)
        if where is None or isinstance(where, str | Condition):
            filters = [self._ready(where)] * len(queries)
        elif len(where) != len(queries):
            raise ShapeError(f"{len(queries)} queries need as many filters, got {len(where)}.")
        else:
            filters = [self._ready(one) for one in where]
        margins = self._exact.margins(queries).tolist()
        result = Neighbors([], [], [])
        for query, margin, ready in zip(queries, margins, filters, strict=True):
            plan = self._plan(ready, k)[0]
            found = self._proposed(query, k, ef, ready) if plan == self.WALK else ready.rows
            if found is None:
                plan, found = f"{plan}, then exact", ready.rows
            best, scores = self._scan(query, margin, k, found)
            result.rows.append(best)
            result.scores.append(scores)
            result.plans.append(plan)
        return result

    def explain(self, k: int, *, where: str | Condition | None = None) -> Plan:
        """Say how a search would be carried out, and why."""
        ready = self._ready(where)
        plan, reason = self._plan(ready, check_k(k))
        text = None if where is None else str(where)
        return Plan(plan, reason, text, len(self), ready.count)

    def memory(self) -> dict[str, int]:
        """Return the bytes held, by part."""
        own = not np.shares_memory(self._points, self.vectors)
        return {
            "vectors": self.vectors.nbytes,
            "points": self._points.nbytes if own else 0,
            **{name: array.nbytes for name, array in self._parts()[1].items()},
            **self.table.memory(),
        }

    def save(self, folder: Path) -> None:
        """Write the index to a folder, all or nothing."""
        settings, arrays = self._parts()
        common = {"similarity": self.similarity, "built": self.built, "ef": self.ef,
                  "exact_below": self.exact_below}  # fmt: skip
        write_index(folder, self.FORMAT, {**common, "structure": settings}, {
            "vectors": self.vectors,
            "alive": self.alive,
            "inside": self.inside,
            "attributes": pack_attributes(self.table),
            **arrays,
        })  # fmt: skip

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read an index that `save` wrote.

        Raises:
            NotFoundError: When there is none.
            FormatError: When it is damaged, of another class or of another version.
        """
        settings, arrays = read_index(folder, cls.FORMAT)
        try:
            if {arrays[name].dtype for name in ("alive", "inside", "attributes")} != {_BYTES}:
                raise ValueError("marks of rows must be uint8")
            common = {
                "vectors": arrays.pop("vectors"),
                "table": unpack_attributes(arrays.pop("attributes")),
                "alive": arrays.pop("alive"),
                "inside": arrays.pop("inside"),
                **{name: settings[name] for name in ("similarity", "built", "ef", "exact_below")},
            }
            return cls._from_parts(dict(settings["structure"]), arrays, common)
        except (KeyError, TypeError, ValueError, pa.ArrowException) as error:
            raise FormatError(
                f"The index in {folder} is damaged ({error!r}). Delete it and build it again."
            ) from error

    # Private parts.

    def _width(self, ef: int | None) -> int:
        return self.ef if ef is None else int(check_in_range(ef, name="ef", low=1))

    @staticmethod
    def _prepare(
        vectors: np.ndarray, attributes: pa.Table, similarity: str
    ) -> tuple[np.ndarray, AttributeTable]:
        """Check what `build` was given; returns vectors to keep and the attributes."""
        check_choice(similarity, SIMILARITIES, name="similarity")
        vectors = check_vectors(vectors, allow_empty=True)
        _check_lengths(vectors, attributes)
        stored = normalize_rows(vectors) if similarity == "cosine" else vectors.copy()
        return stored, AttributeTable(attributes)

    def _refuse(self, condition: Condition | None) -> InputError:
        """Return the error for a filter that is not served."""
        name = type(self).__name__
        return InputError(
            f"{name} serves {self.serves}; the filter is {str(condition)!r:.200}. AcornIndex, "
            "PartitionIndex and FilteredIndex serve every filter."
        )

    def _ready(self, where: str | Condition | None) -> Ready:
        """Compile a filter, or find it among those used lately."""
        key = where if where is None else str(where)  # as conditions, x = 1 equals x = TRUE
        found = self._kept.get(key)
        if found is None:
            found = Ready(self, parse_where(where) if isinstance(where, str) else where)
            self._kept[key] = found
            if len(self._kept) > _KEPT_FILTERS:
                self._kept.popitem(last=False)
        return found

    def _plan(self, ready: Ready, k: int) -> tuple[str, str]:
        """Return the plan's name and the reason."""
        matching, few = ready.count, self.exact_below
        if not matching:
            return "empty", "no row passes"
        if matching <= k:
            return "exact", f"all of them are wanted (k = {k})"
        if matching - len(ready.beside) <= few:
            return "exact", f"at most {few:,} rows are scanned"
        return self.WALK, f"more than {few:,} rows pass"

    def _proposed(self, query: np.ndarray, k: int, ef: int, ready: Ready) -> np.ndarray | None:
        """Walk, and add the rows that came later; None when too few came back."""
        wanted = min(k, ready.count - len(ready.beside))
        point = query
        if self._points.shape[1] > len(query):
            point = np.append(query, np.float32(0.0))
        width = min(self.built, int(np.ceil(max(ef, k) / self._share)))
        rows = self._walk(point, k, width, ready)
        if rows is None:
            return None
        rows = rows[self.alive[rows].view(bool)]
        return np.concatenate([rows, ready.beside]) if len(rows) >= wanted else None

    def _scan(
        self, query: np.ndarray, margin: float, k: int, rows: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Score the given rows exactly and return the best k."""
        wanted = min(k, len(rows))
        best = np.empty(wanted, dtype=np.int64), np.empty(wanted, dtype=np.float32)
        kernels.best_of_rows(self.vectors, query, rows, margin, *best)
        return best

    @property
    def _scratch(self) -> Scratch:
        """This thread's work space over the built rows."""
        found: Scratch | None = getattr(self._local, "scratch", None)
        if found is None:
            found = self._local.scratch = Scratch(self.built)
        return found


def _check_lengths(vectors: np.ndarray, attributes: pa.Table) -> None:
    if attributes.num_rows != len(vectors):
        raise ShapeError(
            f"{len(vectors)} vectors need as many rows of attributes, got {attributes.num_rows}."
        )


def check_numbers(
    name: str,
    array: np.ndarray,
    *,
    below: int,
    least: int = 0,
    dim: int = 1,
    rows: int | None = None,
) -> np.ndarray:
    """Return int32 numbers read from a file if kernels can rely on them.

    Raises:
        ValueError: On another type, number of dimensions or rows, or a number out of range.
    """
    if array.dtype != np.int32 or array.ndim != dim or (rows is not None and len(array) != rows):
        raise ValueError(f"{name} is {array.dtype} of shape {array.shape}")
    if array.size and not least <= int(array.min()) <= int(array.max()) < below:
        raise ValueError(f"{name} has numbers outside [{least}, {below})")
    return array


def _heap(size: int) -> tuple[np.ndarray, np.ndarray]:
    return np.empty(size, dtype=np.int32), np.empty(size, dtype=np.float32)
