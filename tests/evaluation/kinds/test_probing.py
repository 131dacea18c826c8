"""Probes find what is there, and chance where labels are random."""

from __future__ import annotations

import numpy as np
import pytest
from references.toy_systems import BagOfWords, RandomVectors, VectorTable, system_of

from embedworks.errors import EmptyInputError, InputError, ShapeError, UnknownNameError
from embedworks.evaluation.kinds.probing import PROBED_PROPERTIES, ProbeTask, generated_probe, probe
from embedworks.evaluation.outcomes import Resampling

FEW = Resampling(n_resamples=100)


@pytest.mark.parametrize("classes", [2, 4])
def test_random_labels_are_at_chance(classes):
    rng = np.random.default_rng(0)
    labels = [str(i) for i in rng.integers(0, classes, 400)]
    found = probe(rng.normal(size=(400, 64)), labels)
    hits = np.array(found.predictions) == np.array(labels)
    control = np.array(found.control_predictions) == np.array(found.control_labels)
    assert hits.mean() == pytest.approx(1 / classes, abs=0.1)
    assert control.mean() == pytest.approx(1 / classes, abs=0.1)
    assert found.control_fit > hits.mean() + 0.1  # by rote it can
    assert sorted(found.control_labels) == sorted(labels)


def test_a_planted_property_is_found_and_selective():
    rng = np.random.default_rng(0)
    texts = [f"t{i}" for i in range(200)]
    labels = ["low", "high"] * 100
    vectors = rng.normal(size=(200, 16))
    vectors[1::2, 3] += 4
    system = system_of(VectorTable(dict(zip(texts, vectors, strict=True))))
    found = ProbeTask("planted", texts, labels).run(system, FEW)
    assert found.scores["accuracy"].interval.mean > 0.95
    assert found.main.interval.mean > 0.3
    assert found.details["chance"] == 0.5
    assert found == ProbeTask("planted", texts, labels).run(system, FEW)
    for failure in found.failures:
        assert failure.expected != failure.found


def test_groups_are_not_split():
    """A vector that gives its group away predicts the label only when groups are split."""
    rng = np.random.default_rng(0)
    groups = [f"g{i % 20}" for i in range(200)]
    labels = ["even" if int(g[1:]) % 2 == 0 else "odd" for g in groups]
    own = {g: rng.normal(size=16) for g in dict.fromkeys(groups)}
    vectors = np.stack([own[g] for g in groups]) + 0.01 * rng.normal(size=(200, 16))
    split = probe(vectors, labels)
    kept = probe(vectors, labels, groups=groups)
    assert np.mean(np.array(split.predictions) == np.array(labels)) > 0.9
    assert np.mean(np.array(kept.predictions) == np.array(labels)) < 0.8
    of_group = dict(zip(groups, kept.control_labels, strict=True))
    assert [of_group[g] for g in groups] == list(kept.control_labels)


def test_a_bag_of_words_holds_words_and_no_order():
    system = system_of(BagOfWords())
    content = generated_probe("word_content", count=300).run(system, FEW)
    order = generated_probe("word_order", count=300).run(system, FEW)
    assert content.scores["accuracy"].interval.mean > 0.9
    assert order.scores["accuracy"].interval.mean == pytest.approx(0.5, abs=0.1)
    assert order.main.interval.low < 0 < order.main.interval.high


@pytest.mark.parametrize("name", sorted(PROBED_PROPERTIES))
def test_generated_probes_tell_nothing_of_random_vectors(name):
    task = generated_probe(name, count=120)
    assert len(set(task.texts())) == len(task.texts()) >= 110
    found = task.run(system_of(RandomVectors()), FEW)
    assert found.scores["accuracy"].interval.mean == pytest.approx(
        found.details["chance"], abs=0.15
    )
    counts = found.details["labels"].values()
    assert max(counts) - min(counts) <= 10


def test_bad_input_is_refused():
    texts = [f"t{i}" for i in range(10)]
    with pytest.raises(ShapeError, match="10 texts and 9 labels"):
        ProbeTask("bad", texts, ["a"] * 9)
    with pytest.raises(InputError, match="'bad': all labels are 'a'"):
        ProbeTask("bad", texts, ["a"] * 10)
    with pytest.raises(InputError, match="label 'b' has 2 texts"):
        ProbeTask("bad", texts, ["a"] * 8 + ["b"] * 2)
    with pytest.raises(InputError, match="2 groups cannot"):
        ProbeTask("bad", texts, ["a", "b"] * 5, groups=["g", "h"] * 5)
    with pytest.raises(ShapeError, match="9 groups"):
        ProbeTask("bad", texts, ["a", "b"] * 5, groups=["g"] * 9)
    with pytest.raises(EmptyInputError, match="no labels"):
        ProbeTask("bad", [], [])
    with pytest.raises(InputError, match="folds"):
        ProbeTask("bad", texts, ["a", "b"] * 5, folds=1)
    with pytest.raises(ShapeError, match="one each"):
        probe(np.ones((9, 2)), ["a", "b"] * 5)
    with pytest.raises(UnknownNameError, match="length"):
        generated_probe("lenght")
    with pytest.raises(InputError, match="count"):
        generated_probe("length", count=10)
    flat = VectorTable({text: [1.0, 2.0] for text in texts})
    with pytest.raises(InputError, match="toy gives all 10 texts the same vector"):
        ProbeTask("flat", texts, ["a", "b"] * 5).run(system_of(flat), FEW)
