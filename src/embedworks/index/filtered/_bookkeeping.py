"""What every filtered index does with its rows: take some out, keep their attributes in a file."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from embedworks.errors import InputError
from embedworks.index.attributes import AttributeTable

__all__ = ["pack_attributes", "unpack_attributes", "without_rows"]


def without_rows(alive: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, int]:
    """Return which rows are left when some are removed, and how many of them were there.

    Args:
        alive: 1 for rows that are not removed, uint8 (M,); not changed, filters in use keep it.
        rows: Row numbers; one given twice counts once.

    Raises:
        InputError: When a number is no row of the index.

    Example:
        >>> without_rows(np.array([1, 0, 1], dtype=np.uint8), np.array([0, 1]))
        (array([0, 0, 1], dtype=uint8), 1)
    """
    chosen = np.unique(np.asarray(rows, dtype=np.int64))
    if len(chosen) and not 0 <= chosen[0] <= chosen[-1] < len(alive):
        raise InputError(f"rows must be in [0, {len(alive)}), got {chosen[0]} to {chosen[-1]}.")
    present = int(alive[chosen].sum())
    left = alive.copy()
    left[chosen] = 0
    return left, present


def pack_attributes(table: AttributeTable) -> np.ndarray:
    """Return a table as the bytes of an Arrow file, uint8."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.table.schema) as writer:
        writer.write_table(table.table)
    return np.frombuffer(sink.getvalue(), dtype=np.uint8)


def unpack_attributes(packed: np.ndarray) -> AttributeTable:
    """Return the table that `pack_attributes` packed.

    Raises:
        pyarrow.ArrowException: When the bytes are damaged.
    """
    return AttributeTable(pa.ipc.open_file(pa.py_buffer(packed.tobytes())).read_all())
