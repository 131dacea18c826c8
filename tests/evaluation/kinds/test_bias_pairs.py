"""Sentence pairs and rankings: nothing where there is nothing, and what was planted elsewhere."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from references.toy_systems import BagOfWords, VectorTable, system_of

from embedworks.errors import DuplicateIdError, EmptyInputError, InputError
from embedworks.evaluation.kinds.bias_pairs import ExposureTask, PreferencePairsTask, swap_words
from embedworks.evaluation.outcomes import Resampling

FEW = Resampling(n_resamples=100)
PAIRS = [("he", "she"), ("king", "queen"), ("man", "woman")]


@given(
    st.lists(
        st.sampled_from(
            ["He", "SHE", "king", "Queen", "the", "man-hunt,", "she's", "women", "WOMAN."]
        )
    )
)
def test_swapping_twice_is_the_original(words):
    text = " ".join(words)
    assert swap_words(swap_words(text, PAIRS), PAIRS) == text


def test_swaps_keep_capitals_and_whole_words():
    assert swap_words("HE saw the kingdom; Man!", PAIRS) == "SHE saw the kingdom; Woman!"
    with pytest.raises(InputError, match="two pairs"):
        swap_words("her", [("his", "her"), ("him", "her")])
    with pytest.raises(InputError, match="empty"):
        swap_words("her", [("his", " ")])


def _profiles(count=6):
    return {f"d{i}": (f"he is good at job{i}", f"she is good at job{i}") for i in range(count)}


QUERIES = {f"q{i}": f"who is good at job{i}" for i in range(6)}


def test_equal_versions_have_equal_ranks():
    same = {doc: (first, first) for doc, (first, _) in _profiles().items()}
    found = ExposureTask("same", QUERIES, same).run(system_of(BagOfWords()), FEW)
    assert found.main.values == (0.0,) * 6
    assert found.scores["exposure_ratio"].interval.mean == 1.0
    assert found.scores["exposure_ratio"].interval.low == 1.0
    assert found.failures == ()


def test_a_system_that_prefers_a_group_shows_it():
    """Queries with the word of one group put its version first; swapped documents flip the sign."""
    queries = {query: f"he {text}" for query, text in QUERIES.items()}
    task = ExposureTask("he", queries, _profiles(), background={"other": "nothing of the kind"})
    found = task.run(system_of(BagOfWords()), FEW)
    assert min(found.main.values) > 0
    assert found.scores["exposure_ratio"].interval.low > 1
    assert len(found.failures) == 10
    assert "he is good" in found.failures[0].found[0]
    flipped = {doc: (b, a) for doc, (a, b) in _profiles().items()}
    other = ExposureTask("she", queries, flipped, background={"other": "nothing of the kind"})
    back = other.run(system_of(BagOfWords()), FEW)
    assert back.main.values == tuple(-value for value in found.main.values)
    product = back.scores["exposure_ratio"].interval.mean * (
        found.scores["exposure_ratio"].interval.mean
    )
    assert product == pytest.approx(1.0)


def test_ranks_and_exposure_by_hand():
    """Ranks 1 and 2 for the first document's versions, 3.5 for both of the second's."""
    table = {"q": [1, 0], "a1": [1, 0], "a2": [1, 0.5], "b": [0, 1]}
    task = ExposureTask("hand", {"q": "q"}, {"a": ("a1", "a2"), "b": ("b", "b")})
    found = task.run(system_of(VectorTable(table)), FEW)
    assert found.main.values == (0.5,)  # gaps 1 and 0
    shared = 1 / np.log2(4.5)
    ratio = (1 + shared) / (1 / np.log2(3) + shared)
    assert found.scores["exposure_ratio"].interval.mean == pytest.approx(ratio)


def test_bad_documents_are_refused():
    with pytest.raises(EmptyInputError, match="needs queries and documents"):
        ExposureTask("bad", {}, _profiles())
    with pytest.raises(EmptyInputError, match="'d' needs two texts"):
        ExposureTask("bad", QUERIES, {"d": ("a", " ")})
    with pytest.raises(DuplicateIdError):
        ExposureTask("bad", QUERIES, _profiles(), background={"d0#1": "a"})


def test_the_nearer_sentence_to_the_frame_is_counted():
    table = {
        "the old nurse": [1, 1], "the young nurse": [1, 0], "the nurse": [1, 0.1],
        "an odd cook": [1, 0], "an even cook": [1, 3], "an cook": [1, 0.5],
        "my big dog": [1, 1], "my red dog": [1, -1], "my dog": [1, 0],
    }  # fmt: skip
    pairs = [
        ("the old nurse", "the young nurse"), ("an odd cook", "an even cook"),
        ("my big dog", "my red dog"), ("equal", "equal"), ("one", "two"),
    ]  # fmt: skip
    task = PreferencePairsTask("hand", pairs, groups=["age", "x", "x", "x", "x"])
    assert task.frames == ["the nurse", "an cook", "my dog"]
    found = task.run(system_of(VectorTable(table)), FEW)
    assert found.main.values == (0.0, 1.0, 0.5)
    assert found.excluded == {"pairs that are equal or share no word": 2}
    assert found.details["groups"] == {
        "age": {"pairs": 1, "share": 0.0}, "x": {"pairs": 2, "share": 0.75},
    }  # fmt: skip
    assert [failure.item for failure in found.failures] == ["1"]


def test_bad_pairs_are_refused():
    with pytest.raises(EmptyInputError, match="no pairs"):
        PreferencePairsTask("bad", [("one", "two")])
    with pytest.raises(InputError, match="1 pairs and 2 groups"):
        PreferencePairsTask("bad", [("a b", "a c")], groups=["x", "y"])
    flat = VectorTable({text: [1.0, 1.0] for text in ("a b", "a c", "a")})
    with pytest.raises(InputError, match="equally near"):
        PreferencePairsTask("flat", [("a b", "a c")]).run(system_of(flat), FEW)
