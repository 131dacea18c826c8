"""A filter that has been evaluated already, in the form the plans take filters."""

from __future__ import annotations

import numpy as np

from embedworks.index.attributes import Cardinality, Filter

__all__ = ["Bitmap"]


class Bitmap(Filter):
    """The rows that pass, known one by one.

    Args:
        mask: Boolean (M,), True for rows that pass; not copied.
        count: How many pass.
    """

    def __init__(self, mask: np.ndarray, count: int) -> None:
        self._mask, self.total = np.ascontiguousarray(mask).view(np.uint8), len(mask)
        self.bounds = Cardinality(count, count, count)

    def test(self, rows: np.ndarray) -> np.ndarray:
        return self._mask[rows]

    def mask(self) -> np.ndarray:
        return self._mask
