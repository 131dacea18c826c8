from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from references import slow_merges as slow

from embedworks.errors import InputError, UnknownNameError
from embedworks.merging import _inputs, breadcrumbs, dare, della, ram, sce, task_arithmetic, ties

SHAPES = ((), (0,), (1,), (5,), (2, 3), (3, 0), (0, 3), (1, 4), (2, 2, 5))
FAST = settings(max_examples=60, deadline=None, derandomize=True)
DENSITIES = st.sampled_from([0.01, 0.2, 0.5, 0.7, 1.0])
COMBINE = st.sampled_from(["linear", "ties"])


@st.composite
def models(draw, least=1, most=4):
    """Draw tensors of one shape, their base and weights; eighths, so that ties are common."""
    shape = draw(st.sampled_from(SHAPES))
    size = int(np.prod(shape))
    values = st.lists(st.integers(-8, 8), min_size=size, max_size=size)
    count = draw(st.integers(least, most))
    arrays = [np.array(draw(values), float).reshape(shape) / 8 for _ in range(count)]
    base = np.array(draw(values), float).reshape(shape) / 8
    if draw(st.booleans()):
        arrays[0] = base.copy()  # a zero task vector
    weights = draw(st.lists(st.integers(0, 4), min_size=count, max_size=count))
    assume(sum(weights) > 0)
    return arrays, base, [float(w) for w in weights]


def flat(drawn):
    tensors, base, weights = drawn
    return [t.ravel().tolist() for t in tensors], weights, base.ravel().tolist()


def check(found, expected, like):
    assert found.shape == like.shape
    np.testing.assert_allclose(found.ravel(), np.array(expected, float), atol=1e-9)


@FAST
@given(models(), DENSITIES, st.sampled_from([1.0, 0.25]), st.sampled_from(["sum", "count"]))
def test_ties_trims_elects_and_averages(drawn, density, scale, majority):
    tensors, base, weights = drawn
    expected = slow.ties(*flat(drawn), density, scale, majority)
    found = ties(tensors, weights, base=base, density=density, scale=scale, majority=majority)
    check(found, expected, base)


@FAST
@given(models(), DENSITIES, st.sampled_from([0.0, 0.01, 0.2, 0.3]), COMBINE)
def test_breadcrumbs_keeps_the_middle(drawn, density, gamma, combine):
    assume(density + gamma <= 1)
    tensors, base, weights = drawn
    expected = slow.breadcrumbs(*flat(drawn), density, gamma, combine)
    options = {"density": density, "gamma": gamma, "combine": combine}
    check(breadcrumbs(tensors, weights, base=base, **options), expected, base)


@FAST
@given(models(), DENSITIES, st.sampled_from(["expected", "l1", "none"]), COMBINE)
def test_dare_drops_what_it_draws(drawn, density, rescale, combine):
    tensors, base, weights = drawn
    expected = slow.randomly(
        *flat(drawn), lambda vector: [density] * len(vector), rescale, combine, 5, "name"
    )
    options = {"rescale": rescale, "combine": combine, "seed": 5, "key": "name"}
    check(dare(tensors, weights, base=base, density=density, **options), expected, base)


@FAST
@given(
    models(),
    st.sampled_from([(0.5, 0.15), (0.7, 0.3), (0.2, 0.1), (1.0, 0.0)]),
    st.sampled_from(["expected", "l1", "none"]),
    COMBINE,
)
def test_della_drops_by_rank(drawn, chances, rescale, combine):
    tensors, base, weights = drawn
    width = max(1, base.shape[-1]) if base.shape else 1
    expected = slow.randomly(
        *flat(drawn),
        lambda vector: slow.ranked_chances(vector, width, *chances),
        rescale,
        combine,
        5,
        "name",
    )
    options = {"rescale": rescale, "combine": combine, "seed": 5, "key": "name"}
    found = della(tensors, weights, base=base, density=chances[0], epsilon=chances[1], **options)
    check(found, expected, base)


@FAST
@given(models(least=2), DENSITIES)
def test_sce_selects_calculates_and_erases(drawn, topk):
    tensors, base, _ = drawn
    parts, _, origin = flat(drawn)
    check(sce(tensors, base=base, select_topk=topk), slow.sce(parts, origin, topk), base)


@FAST
@given(models(), st.sampled_from([0.0, 1e-5, 0.25]))
def test_ram_averages_over_those_who_changed(drawn, eps):
    tensors, base, weights = drawn
    check(ram(tensors, weights, base=base, eps=eps), slow.ram(*flat(drawn), eps), base)


def test_ties_by_hand():
    base = np.full((2, 3), 10.0)
    first = base + np.array([[4.0, -3.0, 0.5], [2.0, 1.0, 0.0]])
    second = base + np.array([[2.0, 5.0, -0.25], [-2.0, 4.0, 0.125]])
    merged = ties([first, second], base=base, density=4 / 6)
    # Kept are 4, -3, 2, 1 and 2, 5, -2, 4. In the second place 5 outvotes -3; in the fourth
    # 2 - 2 is a tie, which is positive.
    np.testing.assert_allclose(merged - base, [[3.0, 5.0, 0.0], [2.0, 2.5, 0.0]])
    weighted = ties([first, second], [3, 1], base=base, density=4 / 6)
    np.testing.assert_allclose(weighted - base, [[3.5, -3.0, 0.0], [2.0, 1.75, 0.0]])
    half = ties([first, second], base=base, density=4 / 6, scale=0.5)
    np.testing.assert_allclose(half - base, (merged - base) / 2)


def test_ties_counts_heads_or_adds_sizes():
    models = [np.array([value]) for value in (5.0, -1.0, -2.0)]
    zero = np.zeros(1)
    np.testing.assert_allclose(ties(models, base=zero, density=1.0), [5.0])
    np.testing.assert_allclose(ties(models, base=zero, density=1.0, majority="count"), [-1.5])


def test_ties_with_everything_and_one_model_is_the_model():
    model, base = np.random.default_rng(0).normal(size=(2, 4, 5))
    np.testing.assert_allclose(ties([model], base=base, density=1.0), model)


def test_breadcrumbs_by_hand():
    base = np.ones(10)
    model = base + np.array([9.0, -8.0, 7.0, 6.0, -5.0, 4.0, 3.0, 2.0, 1.0, 0.0])
    merged = breadcrumbs([model], base=base, density=0.3, gamma=0.2)
    np.testing.assert_allclose(merged - base, [0, 0, 7, 6, -5, 0, 0, 0, 0, 0])


@pytest.mark.parametrize("size", [1, 2, 3, 7, 49, 50, 51])
def test_breadcrumbs_never_lose_a_small_tensor(size):
    change = np.arange(1.0, size + 1)
    kept = breadcrumbs([change], base=np.zeros(size))
    count = max(1, round(0.14 * size))
    outliers = 1 if size >= 50 else 0  # 1 % rounds to 0 below
    expected = np.zeros(size)
    expected[size - outliers - count : size - outliers] = change[
        size - outliers - count : size - outliers
    ]
    np.testing.assert_array_equal(kept, expected)


def test_random_drops_are_right_on_average():
    rng = np.random.default_rng(0)
    base, model = rng.normal(size=(2, 6, 8))
    change = model - base
    for method, options in ((dare, {}), (della, {"combine": "linear"})):
        draws = np.stack(
            [method([model], base=base, seed=seed, **options) - base for seed in range(400)]
        )
        error = np.abs(draws.mean(axis=0) - change) / (draws.std(axis=0) / np.sqrt(400))
        assert error.max() < 4, (
            method.__name__
        )  # of 48 entries; 3 sigma would be exceeded by chance
        assert error.mean() < 1.1, method.__name__


def test_l1_rescaling_restores_the_sum_of_sizes():
    rng = np.random.default_rng(0)
    base, model = rng.normal(size=(2, 6, 8))
    wanted = np.abs(model - base).sum()
    for method in (dare, della):
        for rescale, same in (("l1", True), ("expected", False), ("none", False)):
            merged = method([model], base=base, rescale=rescale, combine="linear")
            assert np.isclose(np.abs(merged - base).sum(), wanted) == same


def test_della_keeps_large_changes_more_often():
    change = np.tile(np.arange(1.0, 12.0), (2000, 1))
    options = {"rescale": "none", "combine": "linear", "density": 0.5, "epsilon": 0.4}
    kept = (della([change], base=np.zeros_like(change), **options) > 0).mean(axis=0)
    np.testing.assert_allclose(kept, np.linspace(0.1, 0.9, 11), atol=0.04)


def test_random_drops_depend_on_seed_name_and_model():
    base, change = np.zeros(64), np.ones(64)
    for method in (dare, della):

        def drawn(seed=0, key="a", method=method):
            return method([change], base=base, seed=seed, key=key)

        np.testing.assert_array_equal(drawn(), drawn())
        assert not np.array_equal(drawn(), drawn(seed=1))
        assert not np.array_equal(drawn(), drawn(key="b"))
        both = method([change, change], base=base, rescale="none", combine="linear")
        assert 0.5 in both  # kept of one model and not of the other


def test_sce_by_hand():
    base = np.zeros(4)
    first, second = np.array([3.0, 1.0, 1.0, 0.0]), np.array([1.0, 1.0, -2.0, 2.0])
    # Variances 1, 0, 2.25 and 1: the second is dropped. Mean squares 10 : 9 of 19.
    merged = sce([first, second], base=base, select_topk=0.75)
    np.testing.assert_allclose(merged, [(30 + 9) / 19, 0.0, -2.0, 2.0])


def test_ram_takes_single_changes_whole_where_a_mean_dilutes_them():
    base = np.zeros(3)
    first, second = np.array([2.0, 4.0, 0.0]), np.array([0.0, 2.0, 1e-6])
    np.testing.assert_allclose(ram([first, second], base=base), [2.0, 3.0, 0.0])
    np.testing.assert_allclose(ram([first, second], [1, 3], base=base), [2.0, 2.5, 0.0])
    np.testing.assert_allclose(task_arithmetic([first, second], base=base), [1.0, 3.0, 5e-7])


def test_blocks_do_not_show(monkeypatch):
    rng = np.random.default_rng(0)
    base, *tensors = rng.normal(size=(4, 7, 6))
    methods = (ties, breadcrumbs, dare, della, sce, ram)
    whole = [method(tensors, base=base) for method in methods]
    rescaled = [method(tensors, base=base, rescale="l1") for method in (dare, della)]
    monkeypatch.setattr(_inputs, "BLOCK", 8)
    for method, expected in zip(methods, whole, strict=True):
        np.testing.assert_allclose(method(tensors, base=base), expected, atol=1e-12)
    for method, expected in zip((dare, della), rescaled, strict=True):
        found = method(tensors, base=base, rescale="l1")
        np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize(
    ("method", "options", "error", "message"),
    [
        (ties, {"density": 0.0}, InputError, "density must be in"),
        (ties, {"density": 1.5}, InputError, "density must be in"),
        (ties, {"density": float("nan")}, InputError, "density must be in"),
        (ties, {"majority": "votes"}, UnknownNameError, "majority 'votes'"),
        (ties, {"scale": float("inf")}, InputError, "scale must be in"),
        (ties, {"weights": [1, -1]}, InputError, "0 or greater"),
        (ties, {"weights": [0, 0]}, InputError, "sum to zero"),
        (dare, {"density": 0.0}, InputError, "density must be in"),
        (dare, {"rescale": "l2"}, UnknownNameError, "rescale 'l2'.*'l1'"),
        (dare, {"combine": "tie"}, UnknownNameError, "Did you mean 'ties'"),
        (dare, {"combine": "ties", "weights": [1, -1]}, InputError, "0 or greater"),
        (dare, {"seed": -1}, InputError, "seed must be"),
        (della, {"density": 0.1}, InputError, "density - epsilon must be above 0"),
        (della, {"density": 0.9}, InputError, "density 0.9 and epsilon 0.15"),
        (della, {"density": float("nan")}, InputError, "density"),
        (della, {"epsilon": -0.1}, InputError, "epsilon must be in"),
        (breadcrumbs, {"density": 0.9, "gamma": 0.2}, InputError, "at most 1"),
        (breadcrumbs, {"gamma": -0.1}, InputError, "gamma must be in"),
        (breadcrumbs, {"density": 0.0}, InputError, "density must be in"),
        (sce, {"select_topk": 0.0}, InputError, "select_topk must be in"),
        (sce, {"weights": [1, 2]}, InputError, "finds its own weights"),
        (ram, {"eps": -1.0}, InputError, "eps must be in"),
    ],
)
def test_options_out_of_range_are_named(method, options, error, message):
    with pytest.raises(error, match=message):
        method([np.ones(4), np.ones(4)], base=np.zeros(4), **options)


def test_weights_that_are_used_as_given_may_be_negative():
    base, change = np.zeros(3), np.array([1.0, 2.0, 3.0])
    np.testing.assert_allclose(dare([change], [-2], base=base, density=1.0), -2 * change)
    merged = breadcrumbs([change], [-2], base=base, density=1.0, gamma=0.0)
    np.testing.assert_allclose(merged, -2 * change)
