"""Filters are evaluated once, and never confused."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from embedworks.errors import QuerySyntaxError
from embedworks.index import _row_masks, parse_where
from embedworks.index._row_masks import RowMasks
from embedworks.index.filtering import evaluate

ROWS = pa.table({"n": list(range(100)), "on": [n % 3 == 0 for n in range(100)]})


def test_the_same_filter_is_the_same_read_only_array():
    masks = RowMasks()
    first = masks.of("n < 10", ROWS)
    assert masks.of("n < 10", ROWS) is first
    assert masks.of(parse_where("n < 10"), ROWS) is not None
    np.testing.assert_array_equal(first, evaluate("n < 10", ROWS))
    with pytest.raises(ValueError, match="read-only"):
        first[0] = False
    assert masks.of(None, ROWS) is None


def test_filters_that_compare_equal_and_mean_something_else_are_apart():
    masks = RowMasks()
    one, true = parse_where("n = 1"), parse_where("on = TRUE")
    assert masks.of(one, ROWS).sum() == 1
    assert masks.of(true, ROWS).sum() == 34
    with pytest.raises(QuerySyntaxError):
        masks.of(parse_where("n = TRUE"), ROWS)
    with pytest.raises(QuerySyntaxError):
        masks.of("missing = 1", ROWS)
    assert masks.nbytes() == 200


def test_only_so_many_are_kept(monkeypatch):
    masks = RowMasks()
    first = masks.of("n < 0", ROWS)
    for number in range(1, 2 * _row_masks._MOST_FILTERS):
        masks.of(f"n < {number}", ROWS)
    assert masks.nbytes() == 100 * _row_masks._MOST_FILTERS
    assert masks.of("n < 0", ROWS) is not first
    monkeypatch.setattr(_row_masks, "_MOST_BYTES", 250)
    masks.of("n < 1000", ROWS)
    assert masks.nbytes() == 200
    monkeypatch.setattr(_row_masks, "_MOST_BYTES", 10)  # a table larger than all room
    assert masks.of("n < 2000", ROWS).all()
    assert masks.nbytes() == 100
