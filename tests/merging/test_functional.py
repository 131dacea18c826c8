from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from references import slow_merges as slow

from embedworks.errors import (
    DataWarning,
    InputError,
    NonFiniteError,
    ShapeError,
    UnknownNameError,
)
from embedworks.merging import (
    karcher,
    linear,
    model_stock,
    multi_slerp,
    nuslerp,
    slerp,
    task_arithmetic,
)

SHAPES = ((), (0,), (1,), (5,), (2, 3), (3, 0), (0, 3), (1, 4), (2, 1, 3))
FAST = settings(max_examples=60, deadline=None, derandomize=True)


@st.composite
def models(draw, least=1, most=4, with_base=None):
    """Draw tensors of one shape, a base or None, and weights; eighths, so that ties are common."""
    shape = draw(st.sampled_from(SHAPES))
    count = draw(st.integers(least, most))
    values = st.lists(
        st.integers(-8, 8), min_size=int(np.prod(shape)), max_size=int(np.prod(shape))
    )
    arrays = [np.array(draw(values), float).reshape(shape) / 8 for _ in range(count)]
    base = None
    if with_base or (with_base is None and draw(st.booleans())):
        base = np.array(draw(values), float).reshape(shape) / 8
        if draw(st.booleans()):
            arrays[0] = base.copy()  # a zero task vector
    weights = draw(st.lists(st.integers(0, 4), min_size=count, max_size=count))
    assume(sum(weights) > 0)
    return arrays, base, [float(w) for w in weights]


def flat(array):
    return None if array is None else array.ravel().tolist()


def check(found, expected, like):
    assert found.shape == like.shape
    np.testing.assert_allclose(found.ravel(), np.array(expected, float), atol=1e-9)


@FAST
@given(models())
def test_linear_is_the_weighted_mean(drawn):
    tensors, _, weights = drawn
    expected = slow.linear([flat(t) for t in tensors], weights)
    check(linear(tensors, weights), expected, tensors[0])
    total = sum(weights)
    summed = linear(tensors, weights, normalize=False)
    check(summed, np.asarray(expected) * total, tensors[0])


@FAST
@given(models(with_base=True), st.sampled_from([0.0, 0.5, 1.0, -2.0]))
def test_task_arithmetic_adds_changes(drawn, scale):
    tensors, base, weights = drawn
    expected = slow.task_arithmetic([flat(t) for t in tensors], weights, flat(base), scale)
    check(task_arithmetic(tensors, weights, base=base, scale=scale), expected, base)


@FAST
@given(models(least=2, most=2))
def test_slerp_and_nuslerp_follow_the_arc(drawn):
    tensors, base, weights = drawn
    parts, origin = [flat(t) for t in tensors], flat(base)
    check(slerp(tensors, weights, base=base), slow.slerp(parts, weights, origin), tensors[0])
    check(nuslerp(tensors, weights, base=base), slow.nuslerp(parts, weights, origin), tensors[0])


@FAST
@given(models(least=2, most=2))
def test_nuslerp_by_rows_and_columns(drawn):
    tensors, base, weights = drawn
    shape = tensors[0].shape
    rows = nuslerp(tensors, weights, base=base, per="row")
    width = max(1, shape[-1]) if shape else 1
    expected = slow.by_rows(slow.nuslerp, [flat(t) for t in tensors], weights, flat(base), width)
    check(rows, expected, tensors[0])
    turned = [np.moveaxis(t, 0, -1) if t.ndim > 1 else t for t in tensors]
    start = base if base is None or base.ndim < 2 else np.moveaxis(base, 0, -1)
    expected = nuslerp(turned, weights, base=start, per="row")
    columns = nuslerp(tensors, weights, base=base, per="column")
    assert columns.shape == shape
    np.testing.assert_allclose(
        np.moveaxis(columns, 0, -1) if len(shape) > 1 else columns, expected, atol=1e-12
    )


@FAST
@given(models())
def test_multi_slerp_is_the_mean_direction(drawn):
    tensors, base, weights = drawn
    expected = slow.multi_slerp([flat(t) for t in tensors], weights, flat(base))
    check(multi_slerp(tensors, weights, base=base), expected, tensors[0])


@FAST
@given(models())
def test_karcher_is_the_mean_on_the_sphere(drawn):
    tensors, base, weights = drawn
    parts = slow.changes([flat(t) for t in tensors], flat(base))
    # Within a quarter of the sphere the mean is unique, and so the same however it is found.
    found = [part for part in parts if slow.norm(part)]
    assume(all(slow.cosine(a, b) > 0.1 for a in found for b in found))
    expected = slow.karcher([flat(t) for t in tensors], weights, flat(base), 200)
    check(karcher(tensors, weights, base=base, max_iter=200, tol=1e-9), expected, tensors[0])


@FAST
@given(models(least=2, with_base=True))
def test_model_stock_weighs_the_mean_by_the_angle(drawn):
    tensors, base, _ = drawn
    parts = [flat(t) for t in tensors]
    width = max(1, base.shape[-1]) if base.shape else 1
    expected = slow.by_rows(slow.model_stock, parts, None, flat(base), width)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        check(model_stock(tensors, base=base), slow.model_stock(parts, None, flat(base)), base)
        check(model_stock(tensors, base=base, per="row"), expected, base)


def test_linear_by_hand_and_type_kept():
    a, b = np.array([1.0, 2.0], np.float16), np.array([3.0, 6.0], np.float16)
    merged = linear([a, b], [1, 3])
    np.testing.assert_array_equal(merged, np.array([2.5, 5.0], np.float16))
    assert merged.dtype == np.float16
    np.testing.assert_array_equal(linear([a, b]), [2.0, 4.0])
    np.testing.assert_array_equal(linear([a, b], [0.5, 0.25], normalize=False), [1.25, 2.5])


@pytest.mark.parametrize("method", [linear, slerp, multi_slerp, karcher])
def test_the_ends_of_an_interpolation_are_the_models(method):
    a, b = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
    exact = method in (linear, slerp)
    for weights, end in (([1.0, 0.0], a), ([0.0, 1.0], b)):
        merged = method([a, b], weights)
        np.testing.assert_allclose(merged, end, rtol=0 if exact else 1e-6)


def test_slerp_by_hand():
    a, b = np.array([2.0, 0.0]), np.array([0.0, 4.0])
    third = slerp([a, b], [2, 1])  # 30 of 90 degrees; sines of 60 and 30 degrees
    np.testing.assert_allclose(third, [2 * np.sqrt(3) / 2, 4 * 0.5])
    moved = slerp([a + 5, b + 5], [2, 1], base=np.full(2, 5.0))
    np.testing.assert_allclose(moved, third + 5)
    # Opposite, parallel and zero vectors are interpolated in a line.
    np.testing.assert_allclose(slerp([a, -a], [3, 1]), [1.0, 0.0])
    np.testing.assert_allclose(slerp([a, 2 * a]), [3.0, 0.0])
    np.testing.assert_allclose(slerp([a, 0 * a]), [1.0, 0.0])


def test_slerp_changes_to_a_line_at_the_published_cosine():
    for cosine, straight in ((0.9996, True), (0.9994, False)):
        a, b = np.array([1.0, 0.0]), np.array([cosine, np.sqrt(1 - cosine**2)])
        line = (a + b) / 2
        merged = slerp([a, b])
        assert np.array_equal(merged, line) == straight
        np.testing.assert_allclose(merged, line, atol=1e-3)


def test_nuslerp_by_hand():
    a, b = np.array([2.0, 0.0]), np.array([0.0, 4.0])
    third = nuslerp([a, b], [2, 1])  # 30 degrees at length 2 + 2 / 3
    np.testing.assert_allclose(third, 8 / 3 * np.array([np.sqrt(3) / 2, 0.5]))
    stacked = nuslerp([np.stack([a, b]), np.stack([b, b])], [2, 1], per="row")
    np.testing.assert_allclose(stacked, [third, b])


def test_karcher_of_two_is_the_middle_of_the_arc_and_differs_from_the_mean_direction():
    rng = np.random.default_rng(1)
    a, b = (v / np.linalg.norm(v) for v in rng.normal(size=(2, 6)))
    np.testing.assert_allclose(karcher([a, b]), slerp([a, b]), atol=1e-9)
    np.testing.assert_allclose(multi_slerp([a, b]), slerp([a, b]), atol=1e-9)
    weighted = karcher([a, b], [1, 3], tol=1e-12, max_iter=100)
    np.testing.assert_allclose(weighted, slerp([a, b], [1, 3]), atol=1e-9)
    assert np.abs(multi_slerp([a, b], [1, 3]) - weighted).max() > 1e-3


def test_karcher_says_when_it_stops_early():
    a, b = np.eye(2)
    with pytest.warns(DataWarning, match="karcher of layer.0 stopped after 1 steps"):
        karcher([a, b], [1, 3], max_iter=1, tol=1e-9, key="layer.0")


def test_model_stock_by_hand():
    base = np.array([1.0, 1.0])

    def merged(*steps):
        return model_stock([base + np.array(step) for step in steps], base=base) - base

    root = np.sqrt(3)  # 60 degrees: c = 1/2, t = 2/3
    np.testing.assert_allclose(merged((2.0, 0.0), (1.0, root)), (1.0, root / 3))
    np.testing.assert_allclose(merged((2.0, 1.0), (4.0, 2.0)), (3.0, 1.5))
    np.testing.assert_allclose(merged((2.0, 0.0), (0.0, 3.0)), (0.0, 0.0))


def test_model_stock_keeps_the_base_where_models_disagree():
    base = np.zeros((2, 2))
    a, b = np.array([[1.0, 0.0], [1.0, 1.0]]), np.array([[-1.0, 0.5], [1.0, 1.0]])
    with pytest.warns(DataWarning, match=r"model_stock of x: .* in 1 of 2 rows"):
        merged = model_stock([a, b], base=base, per="row", key="x")
    np.testing.assert_allclose(merged, [[0.0, 0.0], [1.0, 1.0]])


def test_the_maths_is_wider_than_the_type():
    tensor = np.full(4, 60000.0, np.float16)  # twice that is infinite in float16
    np.testing.assert_array_equal(linear([tensor, tensor]), tensor)
    np.testing.assert_array_equal(linear([tensor, tensor], [2, -1]), tensor)
    np.testing.assert_array_equal(slerp([tensor, tensor]), tensor)
    nine = np.random.default_rng(0).normal(size=(9, 50)).astype(np.float16)
    exact = nine.astype(np.float64).mean(axis=0).astype(np.float16)
    np.testing.assert_array_equal(linear(list(nine)), exact)
    big = np.full(3, 1e30, np.float32)  # and its square in float32
    np.testing.assert_allclose(nuslerp([big, -big * 0.5], [3, 1]), big * 0.625, rtol=1e-6)
    huge = np.full(4, 3e38, np.float32)  # their sum over the tensor is infinite, they are not
    np.testing.assert_array_equal(linear([huge, huge]), huge)
    with pytest.raises(NonFiniteError, match="too large for float16"):
        linear([tensor, tensor], [1, 1], normalize=False)


def test_memory_order_does_not_matter():
    a, b = np.random.default_rng(0).normal(size=(2, 3, 4))
    for method in (linear, slerp, nuslerp):
        np.testing.assert_array_equal(method([np.asfortranarray(a), b[:, :]]), method([a, b]))


def test_bad_input_names_the_tensor():
    a = np.zeros(2)
    with pytest.raises(InputError, match="one weight per tensor"):
        linear([a], [0.5, 0.5])
    with pytest.raises(InputError, match="at least 1 model, got 0"):
        linear([], [])
    with pytest.raises(ShapeError, match="tensor 1 has shape"):
        linear([a, np.zeros(3)], [0.5, 0.5])
    with pytest.raises(NonFiniteError, match="tensor 1 contains NaN"):
        linear([a, a * np.nan], [0.5, 0.5])
    with pytest.raises(NonFiniteError, match="weights must be finite"):
        linear([a, a], [0.5, float("inf")])
    with pytest.raises(InputError, match="sum to zero"):
        linear([a, a], [1, -1])
    for weights in (["a", "b"], 0.5, [None, 1.0]):
        with pytest.raises(InputError, match="list of numbers"):
            linear([a, a], weights)
    with pytest.raises(InputError, match="tensor 1 has type int64"):
        linear([a, np.zeros(2, int)])
    with pytest.raises(ShapeError, match="the base's tensor has shape"):
        task_arithmetic([a, a], base=np.zeros(3))
    with pytest.raises(InputError, match="give `base`"):
        task_arithmetic([a, a], base=None)
    with pytest.raises(InputError, match="scale must be"):
        task_arithmetic([a, a], base=a, scale=np.nan)
    with pytest.raises(InputError, match="exactly 2 models, got 3"):
        slerp([a, a, a])
    with pytest.raises(InputError, match="0 or greater"):
        slerp([a, a], [2, -1])
    with pytest.raises(InputError, match="finds its own weights"):
        model_stock([a, a], [1, 2], base=a)
    with pytest.raises(UnknownNameError, match="Did you mean 'column'"):
        nuslerp([a, a], per="columns")
    with pytest.raises(UnknownNameError, match="per"):
        model_stock([a, a], base=a, per="column")
    with pytest.raises(InputError, match="max_iter"):
        karcher([a, a], max_iter=0)
