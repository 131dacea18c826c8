"""The filters used lately over one version's rows, with the rows that pass."""

from __future__ import annotations

import threading
from collections import OrderedDict

import numpy as np
import pyarrow as pa

from embedworks.index.where import Condition

__all__ = ["RowMasks"]

_MOST_FILTERS, _MOST_BYTES = 32, 64 * 2**20


class RowMasks:
    """Evaluates filters over one table and keeps the answers, one byte a row.

    The same filter gets the same array, which is read-only, so that others can keep beside it what
    they made of it.
    """

    def __init__(self) -> None:
        self._kept: OrderedDict[str, np.ndarray] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, where: str | Condition | None, rows: pa.Table) -> np.ndarray | None:
        """Return which rows (M,) pass a filter, or None when there is none.

        Raises:
            QuerySyntaxError: When the filter is wrong or does not fit the columns.
        """
        if where is None:
            return None
        key = str(where)  # as conditions, x = 1 equals x = TRUE
        with self._lock:
            mask = self._kept.get(key)
            if mask is not None:
                self._kept.move_to_end(key)
                return mask
        from embedworks.index.filtering import evaluate  # Arrow's functions take time to import

        mask = evaluate(where, rows)
        mask.flags.writeable = False
        with self._lock:
            mask = self._kept.setdefault(key, mask)  # another thread may have been quicker
            while len(self._kept) > max(1, min(_MOST_FILTERS, _MOST_BYTES // max(1, len(rows)))):
                self._kept.popitem(last=False)
        return mask

    def nbytes(self) -> int:
        """Return the bytes held."""
        with self._lock:
            return sum(mask.nbytes for mask in self._kept.values())
