from __future__ import annotations

import numpy as np
import pytest

from embedworks.errors import InputError, NonFiniteError, ShapeError
from embedworks.merging import MERGE_METHODS, linear


def test_hand_computed_and_type_kept():
    a, b = np.array([1.0, 2.0], np.float16), np.array([3.0, 6.0], np.float16)
    merged = linear([a, b], [0.5, 0.25])
    np.testing.assert_array_equal(merged, np.array([1.25, 2.5], np.float16))
    assert merged.dtype == np.float16
    assert MERGE_METHODS["linear"] is linear


def test_the_ends_of_an_interpolation_are_the_models():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 3, 4)).astype(np.float32)
    np.testing.assert_array_equal(linear([a, b], [1.0, 0.0]), a)
    np.testing.assert_array_equal(linear([a, b], [0.0, 1.0]), b)


def test_bad_input_names_the_tensor():
    a = np.zeros(2)
    with pytest.raises(InputError, match="one weight per tensor"):
        linear([a], [0.5, 0.5])
    with pytest.raises(InputError, match="got 0 tensors"):
        linear([], [])
    with pytest.raises(ShapeError, match="tensor 1 has shape"):
        linear([a, np.zeros(3)], [0.5, 0.5])
    with pytest.raises(NonFiniteError, match="tensor 1 contains NaN"):
        linear([a, a * np.nan], [0.5, 0.5])
    with pytest.raises(NonFiniteError, match="weights must be finite"):
        linear([a, a], [0.5, float("inf")])
