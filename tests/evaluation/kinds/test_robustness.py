"""A bag of words must fail where only order tells, and pass where words do."""

from __future__ import annotations

import pytest
from references.toy_systems import BagOfWords, VectorTable, system_of

from embedworks.errors import EmptyInputError, InputError, UnknownNameError
from embedworks.evaluation.kinds.robustness import (
    ROBUSTNESS_CHANGES,
    RobustnessTask,
    generated_robustness,
)
from embedworks.evaluation.outcomes import Resampling

FEW = Resampling(n_resamples=100)


def test_a_bag_of_words_fails_word_order():
    found = generated_robustness("word_order", count=50).run(system_of(BagOfWords()), FEW)
    assert found.main.interval.mean == 0
    assert found.details["similarity_other"] == pytest.approx(1, abs=1e-6)
    assert len(found.failures) == 10


@pytest.mark.parametrize("change", sorted(ROBUSTNESS_CHANGES))
def test_generated_texts_differ_and_come_again(change):
    task = generated_robustness(change, count=60)
    assert task.triples == generated_robustness(change, count=60).triples
    assert task.triples != generated_robustness(change, count=60, seed=1).triples
    assert len(task.triples) == 60
    for text, same, other in task.triples:
        assert len({text, same, other}) == 3
        assert text.endswith(".")


def test_word_order_keeps_the_words():
    for text, same, other in generated_robustness("word_order", count=40).triples:
        assert sorted(text.lower().split()) == sorted(other.lower().split())
        assert " was " in same
        assert same.split()[1] == other.split()[1]  # who is done to, then who does


def test_negation_says_the_same_twice():
    for text, same, other in generated_robustness("negation", count=40).triples:
        assert "not" not in text.split()
        assert other == text.replace(" is ", " is not ")
        assert " is not " in same


def test_values_and_ties_by_hand():
    table = {
        "a": [1, 0], "a same": [1, 0.1], "a other": [1, 1],
        "b": [1, 0], "b same": [0, 1], "b other": [1, 0.1],
        "c": [1, 0], "c same": [2, 2], "c other": [1, 1],
    }  # fmt: skip
    task = RobustnessTask("hand", [(x, f"{x} same", f"{x} other") for x in "abc"])
    found = task.run(system_of(VectorTable(table)), FEW)
    assert found.main.values == (1.0, 0.0, 0.5)
    assert [failure.item for failure in found.failures] == ["1", "2"]


def test_bad_input_is_refused():
    with pytest.raises(EmptyInputError, match="no triples"):
        RobustnessTask("bad", [])
    with pytest.raises(EmptyInputError, match="triple 0 needs three texts"):
        RobustnessTask("bad", [("a", " ", "b")])
    with pytest.raises(InputError, match="are equal"):
        RobustnessTask("bad", [("a", "a", "b")])
    with pytest.raises(UnknownNameError, match="typos"):
        generated_robustness("typo")
    flat = VectorTable({text: [1.0, 0.0] for text in "abc"})
    with pytest.raises(InputError, match="toy gives all 3 texts the same vector"):
        RobustnessTask("flat", [("a", "b", "c")]).run(system_of(flat), FEW)
