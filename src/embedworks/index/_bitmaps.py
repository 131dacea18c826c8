"""Filters that have been evaluated already, in the form `FilteredIndex` takes filters."""

from __future__ import annotations

import hashlib

import numpy as np
import pyarrow as pa

from embedworks.index.attributes import AttributeTable, Cardinality, Filter
from embedworks.index.where import Condition

__all__ = ["Bitmap", "BitmapTable"]


class Bitmap(Condition):
    """A filter that has been evaluated already; the same rows have the same name."""

    def __init__(self, mask: np.ndarray) -> None:
        self.mask = mask
        packed = np.packbits(mask)
        self._name = f"bitmap {hashlib.blake2b(packed.data, digest_size=16).hexdigest()}"

    def columns(self) -> frozenset[str]:
        return frozenset()

    def __str__(self) -> str:
        return self._name


class _Passing(Filter):
    """The rows of a bitmap."""

    def __init__(self, mask: np.ndarray) -> None:
        self._mask, self.total = np.ascontiguousarray(mask).view(np.uint8), len(mask)
        self._count = int(np.count_nonzero(mask))

    def cardinality(self) -> Cardinality:
        return Cardinality(self._count, self._count, self._count)

    def test(self, rows: np.ndarray) -> np.ndarray:
        return self._mask[rows]

    def mask(self) -> np.ndarray:
        return self._mask.copy()


class BitmapTable(AttributeTable):
    """M rows whose filters come as bitmaps."""

    def __init__(self, rows: int) -> None:
        super().__init__(pa.table({"row": pa.nulls(rows)}))

    def compile(self, condition: Condition | str) -> Filter:
        if isinstance(condition, Bitmap):
            return _Passing(condition.mask)
        return super().compile(condition)
