from __future__ import annotations

import numpy as np
import pytest

from embedworks._core import validation
from embedworks.errors import (
    DuplicateIdError,
    EmptyInputError,
    InputError,
    NonFiniteError,
    ShapeError,
    UnknownNameError,
)


def test_vectors_become_float32_and_bad_rows_are_named():
    array = validation.check_vectors(np.ones((2, 3), dtype=np.float64))
    assert array.dtype == np.float32
    bad = np.ones((4, 2))
    bad[2, 1] = np.nan
    with pytest.raises(NonFiniteError, match="1 of 4 rows, the first is row 2"):
        validation.check_vectors(bad)
    with pytest.raises(ShapeError, match=r"\(N, D\)"):
        validation.check_vectors(np.ones(3))
    with pytest.raises(ShapeError, match="3 dimensions but 4 are expected"):
        validation.check_vectors(np.ones((1, 3)), dim=4)
    with pytest.raises(EmptyInputError):
        validation.check_vectors(np.ones((0, 3)))
    assert validation.check_vectors(np.ones((0, 3)), allow_empty=True).shape == (0, 3)


def test_texts_must_be_a_list_of_strings():
    with pytest.raises(InputError, match="list of strings, got one str"):
        validation.check_texts("abc")
    with pytest.raises(InputError, match=r"texts\[1\] must be a string, got int"):
        validation.check_texts(["a", 1])


@pytest.mark.parametrize("k", [0, -1, 1.5, True, "3", None])
def test_k_must_be_a_positive_integer(k):
    with pytest.raises(InputError, match="k must be an integer"):
        validation.check_k(k)


def test_ranges_name_the_argument_and_the_bounds():
    assert validation.check_in_range(1.0, name="a", low=0, high=1) == 1.0
    with pytest.raises(InputError, match=r"a must be in \(0, 1\], got 0"):
        validation.check_in_range(0, name="a", low=0, high=1, open_low=True)
    with pytest.raises(InputError, match="got nan"):
        validation.check_in_range(float("nan"), name="a")


def test_choices_and_ids():
    with pytest.raises(UnknownNameError, match="Did you mean 'dense'"):
        validation.check_choice("dence", ["dense", "bm25"], name="mode")
    with pytest.raises(DuplicateIdError, match="'b' occurs more than once"):
        validation.check_unique(["a", "b", "b"])


def test_normalising_keeps_zero_rows_and_the_input():
    rows = np.array([[3.0, 4.0], [0.0, 0.0]])
    before = rows.copy()
    normed = validation.normalize_rows(rows)
    np.testing.assert_allclose(normed, [[0.6, 0.8], [0, 0]], atol=1e-7)
    np.testing.assert_array_equal(rows, before)
