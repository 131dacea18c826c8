"""Fisher merging and RegMean of one tensor, against slow loops and the equations they solve."""

from __future__ import annotations

import numpy as np
import pytest
from references import slow_merges as slow

from embedworks.errors import InputError, NonFiniteError, ShapeError
from embedworks.merging import fisher, linear, regmean


def layers(count=3, out=4, wide=3, rows=20, dtype=np.float64, seed=0):
    """Return linear layers (out, in), inputs (rows, in) and their Gram matrices."""
    rng = np.random.default_rng(seed)
    weights = [rng.normal(size=(out, wide)).astype(dtype) for _ in range(count)]
    inputs = [rng.normal(size=(rows, wide)) @ rng.normal(size=(wide, wide)) for _ in range(count)]
    return weights, inputs, [x.T @ x for x in inputs]


@pytest.mark.parametrize("shape", [(), (0,), (5,), (2, 3)])
@pytest.mark.parametrize("weights", [None, [1.0, 0.0, 2.5]])
def test_fisher_equals_slow_loops(shape, weights):
    rng = np.random.default_rng(1)
    tensors = [rng.normal(size=shape) for _ in range(3)]
    fishers = [rng.integers(0, 3, size=shape).astype(np.float32) for _ in range(3)]
    merged = fisher(tensors, fishers, weights, eps=0.25)
    expected = slow.fisher(
        [t.ravel().tolist() for t in tensors], [f.ravel().tolist() for f in fishers],
        weights or [1.0] * 3, 0.25,
    )  # fmt: skip
    np.testing.assert_allclose(merged.ravel(), expected, atol=1e-12)
    assert merged.shape == shape


def test_fisher_by_hand():
    merged = fisher(
        [np.array([0.0, 0.0, 4.0]), np.array([8.0, 8.0, 8.0])],
        [np.array([3.0, 0.0, 1.0]), np.array([1.0, 5.0, 1.0])],
    )
    # 8 * 1 / 4; only the second model's loss cares; equal Fishers give the mean
    np.testing.assert_allclose(merged, [2.0, 8.0, 6.0], atol=1e-7)
    none = fisher([np.zeros(2), np.ones(2)], [np.zeros(2), np.zeros(2)], [1, 3])
    np.testing.assert_allclose(none, [0.75, 0.75])  # where no loss cares, the weighted mean


@pytest.mark.parametrize("weights", [None, [1.0, 0.0, 2.5]])
@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.9, 1.0])
def test_regmean_equals_slow_loops(alpha, weights):
    tensors, inputs, grams = layers()
    merged = regmean(tensors, grams, weights, alpha=alpha, ridge=0.0)
    expected = slow.regmean(
        [t.tolist() for t in tensors], [x.tolist() for x in inputs], weights or [1.0] * 3, alpha
    )
    np.testing.assert_allclose(merged, expected, atol=1e-9)


def test_regmean_is_the_least_squares_solution_and_so_beats_the_mean():
    tensors, inputs, grams = layers()

    def error(layer):
        return sum(((x @ layer.T - x @ t.T) ** 2).sum() for x, t in zip(inputs, tensors))

    merged = regmean(tensors, grams, alpha=1.0, ridge=0.0)
    stacked = np.linalg.lstsq(
        np.vstack(inputs), np.vstack([x @ t.T for x, t in zip(inputs, tensors)])
    )[0].T
    np.testing.assert_allclose(merged, stacked, atol=1e-9)
    assert error(merged) < 0.9 * error(linear(tensors))
    # Where the columns are weighed alone, the result is between.
    assert error(merged) < error(regmean(tensors, grams, alpha=0.9)) < error(linear(tensors))


def test_directions_without_input_get_the_mean_by_ridge_and_an_error_without():
    tensors, inputs, _ = layers(count=2, wide=6, rows=2)
    grams = [x.T @ x for x in inputs]  # rank 4 together, of 6
    merged = regmean(tensors, grams, alpha=1.0)
    free = np.linalg.svd(sum(grams))[2][4:]  # directions no input has
    np.testing.assert_allclose(merged @ free.T, linear(tensors) @ free.T, atol=1e-5)
    with pytest.raises(InputError, match="Give a ridge above 0"):
        regmean(tensors, grams, alpha=1.0, ridge=0.0)
    nothing = [np.zeros((6, 6))] * 2
    np.testing.assert_allclose(regmean(tensors, nothing), linear(tensors))
    one_dead = [np.diag([0.0, *[1.0] * 5])] * 2  # an input that is always zero
    np.testing.assert_allclose(regmean(tensors, one_dead), linear(tensors), atol=1e-9)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_model_merged_with_itself_and_types_and_inputs(dtype):
    tensors, _, grams = layers(dtype=dtype)
    fishers = [np.abs(t).astype(np.float32) for t in tensors]
    for function, measured in ((fisher, fishers), (regmean, grams)):
        before = [array.copy() for array in (*tensors, *measured)]
        for array in (*tensors, *measured):
            array.flags.writeable = False
        same = function([tensors[0]] * 3, measured)
        assert same.dtype == dtype
        np.testing.assert_allclose(same, tensors[0], atol=1e-3 if dtype == np.float16 else 1e-5)
        turned = function(tensors[::-1], measured[::-1], [3, 2, 1])
        np.testing.assert_allclose(turned, function(tensors, measured, [1, 2, 3]), rtol=2e-3)
        for array, old in zip((*tensors, *measured), before, strict=True):
            np.testing.assert_array_equal(array, old)


def test_what_cannot_be_merged_is_refused():
    tensors, _, grams = layers()
    fishers = [np.ones((4, 3))] * 3
    for function, measured in ((fisher, fishers), (regmean, grams)):
        with pytest.raises(InputError, match="3 tensors and 2 measurements"):
            function(tensors, measured[:2])
        with pytest.raises(ShapeError, match="measured for tensor 1 has shape"):
            function(tensors, [measured[0], np.ones((2, 2)), measured[2]])
        with pytest.raises(NonFiniteError, match="measured for tensor 2"):
            function(tensors, [*measured[:2], np.full_like(measured[2], np.nan)])
        with pytest.raises(NonFiniteError, match="tensor 0 contains NaN"):
            function([np.full((4, 3), np.inf), *tensors[1:]], measured)
        with pytest.raises(InputError, match="0 or greater"):
            function(tensors, measured, [1, -1, 3])
        with pytest.raises(InputError, match="sum to zero"):
            function(tensors, measured, [0, 0, 0])
    with pytest.raises(InputError, match="below 0"):
        fisher(tensors, [*fishers[:2], -fishers[0]])
    with pytest.raises(InputError, match="eps must be in"):
        fisher(tensors, fishers, eps=0.0)
    with pytest.raises(InputError, match="alpha must be in"):
        regmean(tensors, grams, alpha=1.5)
    with pytest.raises(ShapeError, match="matrices"):
        regmean([np.ones(3)], [np.ones((3, 3))])
    skew = grams[1] + np.triu(np.ones((3, 3)), 1) * 50
    with pytest.raises(InputError, match="Gram matrix of tensor 1 is not symmetric"):
        regmean(tensors, [grams[0], skew, grams[2]])
