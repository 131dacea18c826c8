"""Attacks: they find what is there, stand at their baselines where nothing is."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from references.toy_systems import BagOfWords, RandomVectors, VectorTable, system_of

from embedworks.errors import EmptyInputError, InputError
from embedworks.evaluation.kinds.leakage import (
    AttributeInferenceTask,
    InversionTask,
    MembershipTask,
    auc,
)
from embedworks.evaluation.outcomes import Resampling

FEW = Resampling(n_resamples=100)
NOUNS = ["tea", "rye", "oat", "fig", "yam", "nut", "egg", "ham", "pea", "soy"]
LOOKS = ["red", "old", "hot", "raw", "big", "dry", "wet", "new", "odd", "shy"]
PLACES = ["inn", "bar", "pub", "den"]


def _texts():
    return [f"the {look} {noun} in the {place}" for look in LOOKS for noun in NOUNS
            for place in PLACES]  # fmt: skip


values = st.lists(st.integers(0, 5).map(float), min_size=1, max_size=12)


@given(values, values)
def test_auc_counts_pairs(high, low):
    slow = sum((a > b) + 0.5 * (a == b) for a in high for b in low) / len(high) / len(low)
    assert auc(high, low) == pytest.approx(slow)
    assert auc(low, high) == pytest.approx(1 - slow)


def test_auc_is_scikit_learn_s():
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    high, low = rng.normal(1, 1, 50).round(1), rng.normal(0, 1, 70).round(1)
    wanted = metrics.roc_auc_score([1] * 50 + [0] * 70, np.concatenate([high, low]))
    assert auc(high, low) == pytest.approx(wanted, abs=1e-12)


def test_auc_needs_both_sides():
    with pytest.raises(EmptyInputError, match="both sides"):
        auc([], [1.0])
    with pytest.raises(InputError, match="NaN"):
        auc([float("nan")], [1.0])


def test_a_bag_of_words_can_be_read():
    task = InversionTask("bag", _texts(), max_share=0.2)
    found = task.run(system_of(BagOfWords()), FEW)
    assert found.main.interval.mean > 0.95
    assert found.scores["over_best_baseline"].interval.low > 0.2
    assert found.details["vocabulary"] == 20  # places are in a quarter of the texts
    words = set(found.failures[0].found)
    assert words == set(found.failures[0].text.split()) - {"the", "in", *PLACES}
    assert found == task.run(system_of(BagOfWords()), FEW)


def test_random_vectors_tell_no_more_than_the_prior():
    found = InversionTask("random", _texts(), max_share=0.2).run(system_of(RandomVectors()), FEW)
    assert found.main.interval.mean <= found.scores["prior_f1"].interval.high + 0.03
    assert found.scores["over_best_baseline"].interval.low <= 0


def test_parts_share_no_text_and_unknown_words_are_missed():
    texts = _texts()
    task = InversionTask("parts", [*texts, *texts[:9], "the in"], max_share=0.2)
    assert sum(task.sizes.values()) == len(texts) == len(set(task.texts()))
    found = task.run(system_of(BagOfWords()), FEW)
    assert found.excluded == {"texts that are repeated or have no word that counts": 10}
    rare = [f"{text} x{chr(97 + i % 26)}{chr(97 + i // 26)}" for i, text in enumerate(texts)]
    lost = InversionTask("rare", rare, max_share=0.2).run(system_of(BagOfWords()), FEW)
    assert lost.details["known_words"] < 0.75  # one of three is nowhere else
    assert lost.main.interval.mean < 0.85


def test_bad_inversions_are_refused():
    with pytest.raises(EmptyInputError, match="100 different texts"):
        InversionTask("few", _texts()[:50])
    with pytest.raises(InputError, match="max_share"):
        InversionTask("bad", _texts(), max_share=0.0)
    flat = VectorTable({text: [1.0] for text in _texts()})
    with pytest.raises(InputError, match="toy gives all 400 texts the same vector"):
        InversionTask("flat", _texts(), max_share=0.2).run(system_of(flat), FEW)


def test_an_attribute_is_inferred_or_not():
    texts = _texts()
    labels = [text.split()[-1] for text in texts]
    task = AttributeInferenceTask("place", texts, labels)
    told = task.run(system_of(BagOfWords()), FEW)
    assert told.kind == "leakage"
    assert told.scores["accuracy"].interval.mean > 0.99
    shuffled = list(np.random.default_rng(0).permutation(labels))
    chance = AttributeInferenceTask("shuffled", texts, shuffled).run(system_of(BagOfWords()), FEW)
    assert chance.scores["accuracy"].interval.mean == pytest.approx(0.25, abs=0.08)


def _pairs(start, count):
    return [(f"question {i}", f"answer {i}") for i in range(start, start + count)]


def test_membership_is_a_coin_on_data_never_trained_on():
    task = MembershipTask("null", _pairs(0, 400), _pairs(400, 400))
    found = task.run(system_of(RandomVectors()), Resampling())
    assert found.main.interval.low < 0.5 < found.main.interval.high
    assert found.main.interval.mean == pytest.approx(0.5, abs=0.06)
    assert found.details["found_at_5_percent_false_alarms"] == pytest.approx(0.05, abs=0.04)


def test_a_model_that_knows_its_pairs_gives_them_away():
    rng = np.random.default_rng(0)
    members, others = _pairs(0, 50), _pairs(50, 50)
    table = {text: rng.normal(size=8) for pair in (*members, *others) for text in pair}
    table.update({b: table[a] + 0.5 * rng.normal(size=8) for a, b in members})
    task = MembershipTask("known", [*members, members[0]], others)
    found = task.run(system_of(VectorTable(table)), FEW)
    assert found.main.interval.low > 0.9
    assert found.excluded == {"repeated pairs": 1}
    assert found.failures[0].item.startswith("member ")
    swapped = MembershipTask("swapped", others, members).run(system_of(VectorTable(table)), FEW)
    assert swapped.main.interval.mean == pytest.approx(1 - found.main.interval.mean)


def test_bad_members_are_refused():
    with pytest.raises(EmptyInputError, match="20 different pairs on each side, got 19"):
        MembershipTask("few", _pairs(0, 19), _pairs(50, 50))
    with pytest.raises(InputError, match="on both sides"):
        MembershipTask("both", _pairs(0, 30), _pairs(29, 30))
    flat = VectorTable({t: [1.0, 0.0] for p in (*_pairs(0, 20), *_pairs(20, 20)) for t in p})
    with pytest.raises(InputError, match="all 40 pairs as near"):
        MembershipTask("flat", _pairs(0, 20), _pairs(20, 20)).run(system_of(flat), FEW)
