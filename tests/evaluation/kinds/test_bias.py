"""Effect sizes and permutation tests against slow loops, and what a task must not hide."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from references.toy_systems import VectorTable, system_of

from embedworks.errors import EmptyInputError, InputError, ShapeError
from embedworks.evaluation.kinds.bias import (
    AssociationTask,
    association_scores,
    weat_effect_size,
    weat_permutation_test,
)
from embedworks.evaluation.outcomes import Resampling

FEW = Resampling(n_resamples=100)


def _cosine(a, b):
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def _slow_effect(x, y, a, b, ddof):
    def s(w):
        return sum(_cosine(w, v) for v in a) / len(a) - sum(_cosine(w, v) for v in b) / len(b)

    of_x, of_y = [s(w) for w in x], [s(w) for w in y]
    return (np.mean(of_x) - np.mean(of_y)) / np.std(of_x + of_y, ddof=ddof)


def _planted(rng, size, lean, dim=8):
    vectors = rng.normal(size=(size, dim))
    vectors[:, 0] += lean
    return vectors.astype(np.float32)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 6), st.integers(2, 6), st.integers(1, 5), st.integers(0, 1), st.integers(0))
def test_effect_size_follows_the_definition(n_x, n_y, n_a, ddof, seed):
    rng = np.random.default_rng(seed)
    x, y, a, b = (_planted(rng, n, 0.0) for n in (n_x, n_y, n_a, n_a + 1))
    of_x, of_y = association_scores(x, a, b), association_scores(y, a, b)
    found = weat_effect_size(of_x, of_y, ddof=ddof)
    assert found == pytest.approx(_slow_effect(x, y, a, b, ddof), abs=1e-5)
    assert weat_effect_size(of_y, of_x, ddof=ddof) == pytest.approx(-found)
    assert np.allclose(association_scores(x, b, a), -of_x)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 4), st.integers(2, 4), st.integers(0, 3), st.integers(0))
def test_the_exact_test_counts_all_divisions(n_x, n_y, spread, seed):
    both = np.random.default_rng(seed).integers(0, spread + 1, size=n_x + n_y).astype(float)
    found = weat_permutation_test(both[:n_x], both[n_x:])
    observed = both[:n_x].mean() - both[n_x:].mean()
    above = beyond = total = 0
    for chosen in itertools.combinations(range(n_x + n_y), n_x):
        rest = [i for i in range(n_x + n_y) if i not in chosen]
        value = both[list(chosen)].mean() - both[rest].mean()
        above += value >= observed - 1e-9
        beyond += abs(value) >= abs(observed) - 1e-9
        total += 1
    assert found.exact
    assert found.permutations == total
    assert found.p_value == pytest.approx(above / total)
    assert found.p_two_sided == pytest.approx(beyond / total)


def test_the_sampled_test_agrees_with_the_exact_one():
    rng = np.random.default_rng(0)
    x, y = rng.normal(0.6, 1, 7), rng.normal(0, 1, 7)  # 3,432 divisions
    exact = weat_permutation_test(x, y)
    larger = np.concatenate([x, [x.mean()]]), np.concatenate([y, [y.mean()]])  # 12,870
    sampled = weat_permutation_test(*larger, samples=4000, seed=1)
    assert exact.exact
    assert not sampled.exact
    assert sampled.permutations == 4000
    assert sampled == weat_permutation_test(*larger, samples=4000, seed=1)
    both = np.concatenate(larger)
    sums = np.array([both[list(c)].sum() for c in itertools.combinations(range(16), 8)])
    wanted = (sums >= larger[0].sum() - 1e-9).mean()
    assert sampled.p_value == pytest.approx(wanted, abs=0.02)


def test_p_values_are_uniform_under_the_null():
    rng = np.random.default_rng(0)
    found = [weat_permutation_test(*rng.normal(size=(2, 5))).p_value for _ in range(400)]
    assert np.mean(np.array(found) <= 0.1) == pytest.approx(0.1, abs=0.04)
    assert np.mean(np.array(found) <= 0.5) == pytest.approx(0.5, abs=0.08)


def test_bad_scores_are_refused():
    with pytest.raises(EmptyInputError, match="at least 2"):
        weat_effect_size([1.0], [1.0, 2.0])
    with pytest.raises(InputError, match="not defined"):
        weat_effect_size([1.0, 1.0], [1.0, 1.0])
    with pytest.raises(InputError, match="NaN"):
        weat_permutation_test([1.0, np.nan], [1.0, 2.0])
    with pytest.raises(InputError, match=r"targets\[1\] is the zero vector"):
        association_scores(np.array([[1.0], [0.0]]), np.ones((1, 1)), np.ones((1, 1)))
    with pytest.raises(ShapeError):
        association_scores(np.ones((2, 3)), np.ones((2, 2)), np.ones((2, 3)))


WORDS = {part: [f"{part}{i}" for i in range(8)] for part in "xyab"}


def _system(lean=2.0, seed=0, zero=()):
    rng = np.random.default_rng(seed)
    signs = {"x": 1, "y": -1, "a": 1, "b": -1}
    table = {}
    for part, words in WORDS.items():
        scale = lean if part in "xy" else 3.0
        for word, vector in zip(words, _planted(rng, 8, signs[part] * scale), strict=True):
            table[word] = np.zeros(8) if word in zero else vector
    return VectorTable(table)


def test_a_planted_association_is_found_and_no_other():
    task = AssociationTask("planted", *WORDS.values())
    found = task.run(system_of(_system()), Resampling())
    assert found.main.interval.low > 1
    assert found.details["p_value"] < 0.001
    assert found.details["coverage"] == dict.fromkeys("xyab", 1.0)
    assert len(found.failures) == 10
    nothing = task.run(system_of(_system(lean=0.0)), Resampling())
    assert nothing.details["p_value"] > 0.05
    assert nothing.main.interval.low < 0 < nothing.main.interval.high
    swapped = AssociationTask("swapped", WORDS["y"], WORDS["x"], WORDS["a"], WORDS["b"])
    assert swapped.run(system_of(_system()), FEW).main.interval.mean == pytest.approx(
        -found.main.interval.mean
    )


def test_the_identity_template_is_the_test_of_words():
    plain = AssociationTask("one", *WORDS.values()).run(system_of(_system()), FEW)
    templated = AssociationTask("one", *WORDS.values(), templates=["{}"])
    assert templated.run(system_of(_system()), FEW) == plain


def test_sentences_of_a_word_are_no_independent_evidence():
    """Twice the same sentence changes neither interval nor p-value."""
    model = _system(lean=0.6)
    doubled = VectorTable({f"{w}{end}": v for w, v in model.table.items() for end in (".", "!")})
    plain = AssociationTask("one", *WORDS.values()).run(system_of(model), FEW)
    twice = AssociationTask("two", *WORDS.values(), templates=["{}.", "{}!"])
    found = twice.run(system_of(doubled), FEW)
    assert found.details["p_value"] == plain.details["p_value"]
    assert found.main.interval.n == plain.main.interval.n
    assert found.main.interval.low == pytest.approx(plain.main.interval.low, rel=0.05)


def test_words_without_a_vector_are_counted():
    found = AssociationTask("holes", *WORDS.values()).run(
        system_of(_system(zero=("x0", "a1", "a2"))), FEW
    )
    assert found.excluded == {"texts with the zero vector": 3}
    assert found.details["coverage"] == {"x": 0.875, "y": 1.0, "a": 0.75, "b": 1.0}
    with pytest.raises(InputError, match="has vectors for 1 of the texts of y"):
        AssociationTask("holes", *WORDS.values()).run(system_of(_system(zero=WORDS["y"][1:])), FEW)


def test_constant_vectors_are_refused():
    same = VectorTable({word: np.ones(3) for words in WORDS.values() for word in words})
    with pytest.raises(InputError, match="toy associates all targets"):
        AssociationTask("flat", *WORDS.values()).run(system_of(same), FEW)


def test_bad_sets_are_refused():
    with pytest.raises(EmptyInputError, match="x needs at least 2"):
        AssociationTask("bad", ["a", "a"], ["b", "c"], ["d", "e"], ["f", "g"])
    with pytest.raises(EmptyInputError, match="none of them blank"):
        AssociationTask("bad", ["a", " "], ["b", "c"], ["d", "e"], ["f", "g"])
    with pytest.raises(InputError, match="in both a and b"):
        AssociationTask("bad", ["a", "h"], ["b", "c"], ["d", "e"], ["e", "g"])
    with pytest.raises(InputError, match=r"exactly one \{\}"):
        AssociationTask("bad", *WORDS.values(), templates=["This is it."])
    with pytest.raises(EmptyInputError, match="no templates"):
        AssociationTask("bad", *WORDS.values(), templates=[])
