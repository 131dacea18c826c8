"""Columns of attributes prepared for filters: rows by value, and rows by element of a set."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from embedworks.index.filtering import comparable, kind_of

__all__ = ["SetColumn", "SortedColumn"]


class SortedColumn:
    """A column of single values: rows by value, then NaN, then missing."""

    def __init__(self, name: str, array: pa.Array) -> None:
        self.name, self.type = name, array.type
        self.kind = kind_of(array.type)
        total = len(array)
        valid = np.asarray(array.is_valid().to_numpy(zero_copy_only=False), dtype=bool)
        rows = np.flatnonzero(valid).astype(np.int32)
        codes, self.distinct = _codes(array.filter(pa.array(valid)), self.kind)
        order = np.argsort(codes, kind="stable")
        self.known = len(rows)  # places before this hold values or NaN
        self.order = np.concatenate([rows[order], np.flatnonzero(~valid).astype(np.int32)])
        self.rank = np.empty(total, dtype=np.int32)
        self.rank[self.order] = np.arange(total, dtype=np.int32)
        counts = np.bincount(codes, minlength=len(self.distinct))[: len(self.distinct)]
        self.offsets: list[int] = [0, *np.cumsum(counts).tolist()]
        self.whole = not isinstance(self.distinct, list) and self.distinct.dtype == np.int64
        if isinstance(self.distinct, list):
            self._places = {value: place for place, value in enumerate(self.distinct)}

    def nbytes(self) -> int:
        """Return the bytes of order and rank, and of the numbers."""
        numbers = 0 if isinstance(self.distinct, list) else self.distinct.nbytes
        return self.order.nbytes + self.rank.nbytes + numbers + 8 * len(self.offsets)

    def run(self, operator: str, value: Any) -> tuple[int, int]:
        """Return the run of ``operator value``; ``value`` is already of the column's type."""
        if operator == "=":
            if isinstance(self.distinct, list):
                place = self._places.get(value, -1)
                return (0, 0) if place < 0 else (self.offsets[place], self.offsets[place + 1])
            return self._below(value, "left"), self._below(value, "right")
        if operator in ("<", "<="):
            return 0, self._below(value, "left" if operator == "<" else "right")
        return self._below(value, "right" if operator == ">" else "left"), self.offsets[-1]

    def _below(self, value: Any, side: Any) -> int:
        if isinstance(self.distinct, list):
            import bisect

            find = bisect.bisect_left if side == "left" else bisect.bisect_right
            return self.offsets[find(self.distinct, value)]
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            return 0 if value < 0 else self.offsets[-1]
        return self.offsets[self.distinct.searchsorted(value, side)]


def _codes(array: pa.Array, kind: str) -> tuple[np.ndarray, np.ndarray | list[str]]:
    """Return int codes in the order of values, and the distinct values; NaN gets the last code."""
    if kind == "text":
        encoded = comparable(array).dictionary_encode()
        words = encoded.dictionary.to_pylist()
        order = sorted(range(len(words)), key=words.__getitem__)
        place = np.empty(len(words), dtype=np.int64)
        place[order] = np.arange(len(words))
        return place[encoded.indices.to_numpy(zero_copy_only=False)], [words[i] for i in order]
    array = comparable(array)
    if kind == "date":
        array = array.cast(pa.int64())
    elif pa.types.is_floating(array.type):
        array = array.cast(pa.float64())
    elif kind != "null":
        array = array.cast(pa.int64())
    values = array.to_numpy(zero_copy_only=False)
    if values.dtype != np.float64:
        values = values.astype(np.int64)
    nan = np.isnan(values) if values.dtype == np.float64 else np.zeros(len(values), dtype=bool)
    distinct, inverse = np.unique(values[~nan], return_inverse=True)
    codes = np.full(len(values), len(distinct), dtype=np.int64)
    codes[~nan] = inverse
    return codes, distinct


class SetColumn:
    """A column of sets: the rows of every element."""

    def __init__(self, name: str, array: pa.Array) -> None:
        self.name, self.type, self.total = name, array.type, len(array)
        valid = np.asarray(array.is_valid().to_numpy(zero_copy_only=False), dtype=bool)
        self.missing = np.flatnonzero(~valid).astype(np.int32)
        owners = pc.list_parent_indices(array).to_numpy(zero_copy_only=False)
        values = pc.list_flatten(array)
        self.elements = SortedColumn(name, values)
        twice = self._repeated(owners)
        if twice.any():
            values, owners = values.filter(pa.array(~twice)), owners[~twice]
            self.elements = SortedColumn(name, values)
        self.owners = np.ascontiguousarray(owners[self.elements.order], dtype=np.int32)

    def _repeated(self, owners: np.ndarray) -> np.ndarray:
        """Say which elements stand in their set a second time, bool by place in ``owners``."""
        order, counts = self.elements.order, np.diff(self.elements.offsets)
        codes = np.repeat(np.arange(len(counts)), counts)
        rows = owners[order[: len(codes)]]
        again = (codes[1:] == codes[:-1]) & (rows[1:] == rows[:-1])
        twice = np.zeros(len(owners), dtype=bool)
        twice[order[1 : len(codes)][again]] = True
        return twice

    def nbytes(self) -> int:
        """Return the bytes of the postings."""
        return self.elements.nbytes() + self.owners.nbytes + self.missing.nbytes

    def rows(self, value: Any) -> np.ndarray:
        """Return the rows whose set has ``value``, ascending."""
        start, end = self.elements.run("=", value)
        return self.owners[start:end]
