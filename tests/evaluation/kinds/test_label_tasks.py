"""Classification and clustering against scikit-learn and slow loops."""

from __future__ import annotations

import json
import zlib
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedworks.errors import (
    EmptyInputError,
    InputError,
    NonFiniteError,
    ShapeError,
    UnknownNameError,
)
from embedworks.evaluation import (
    LEARNERS,
    ClassificationTask,
    ClusteringTask,
    EncoderSystem,
    Resampling,
    TaskResult,
)
from embedworks.evaluation.kinds._clustering import adjusted_rand, cluster_seeds, purity, v_measure
from embedworks.evaluation.kinds.label_tasks import macro_f1

sklearn_metrics = pytest.importorskip("sklearn.metrics")

FEW = Resampling(n_resamples=100)
LABELS = ("river", "stone", "tree")


class Planted:
    """The vector of ``"stone 7"`` is near that of ``"stone"``, with noise of its own."""

    def __init__(self, noise=0.3):
        self.noise = noise
        self.texts = 0

    def encode(self, texts):
        self.texts += len(texts)
        rows = []
        for text in texts:
            rng = np.random.default_rng(zlib.crc32(text.encode()))
            noise = self.noise * rng.normal(size=len(LABELS))
            rows.append(np.eye(len(LABELS))[LABELS.index(text.split()[0])] + noise)
        return np.array(rows)


def system(model=None):
    return EncoderSystem(model or Planted(), name="planted", fingerprint="planted")


def texts(count, start=0, labels=LABELS):
    return [(f"{label} {i}", label) for label in labels for i in range(start, start + count)]


numbers = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=40)


@given(numbers)
@settings(max_examples=100, deadline=None)
def test_measures_equal_scikit_learn(rows):
    truth, found = np.array(rows).T
    assert v_measure(truth, found) == pytest.approx(
        sklearn_metrics.v_measure_score(truth, found), abs=1e-9
    )
    assert adjusted_rand(truth, found) == pytest.approx(
        sklearn_metrics.adjusted_rand_score(truth, found), abs=1e-9
    )
    assert macro_f1(truth, found) == pytest.approx(
        sklearn_metrics.f1_score(truth, found, average="macro"), abs=1e-9
    )
    inside = [Counter(truth[found == c].tolist()).most_common(1)[0][1] for c in set(found.tolist())]
    assert purity(truth, found) == pytest.approx(sum(inside) / len(truth))


def test_measures_refuse_what_has_no_value():
    with pytest.raises(ShapeError, match="2 labels and 1"):
        v_measure(np.array([0, 1]), np.array([0]))
    with pytest.raises(EmptyInputError):
        purity(np.array([], dtype=int), np.array([], dtype=int))


@pytest.mark.parametrize("learner", LEARNERS.names())
def test_learners_find_planted_labels(learner):
    task = ClassificationTask("toy", texts(20), texts(20, 100), learner=learner)
    result = task.run(system(), FEW)
    assert result.main.interval.mean > 0.85
    assert len(result.main.values) == len(result.items) == 60
    assert result.details["chance"] == pytest.approx(1 / 3)
    assert result.details["learner"] == learner
    assert TaskResult.from_dict(json.loads(json.dumps(result.to_dict()))) == result


def test_knn_equals_scikit_learn_and_centroid_a_loop():
    from sklearn.neighbors import KNeighborsClassifier

    rng = np.random.default_rng(0)
    train, test = rng.normal(size=(50, 4)), rng.normal(size=(200, 4))
    train, test = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (train, test))
    labels = rng.integers(0, 2, size=50)
    near = KNeighborsClassifier(5).fit(train, labels).predict(test)
    assert (LEARNERS["knn"](train, labels, test) == near).all()  # two labels: five votes never tie
    centres = [train[labels == c].mean(axis=0) for c in (0, 1)]
    slow = [int(np.argmax([v @ c / np.linalg.norm(c) for c in centres])) for v in test]
    assert LEARNERS["centroid"](train, labels, test).tolist() == slow


def test_knn_ties_go_to_the_nearest_label():
    train = np.array([[1.0, 0.0], [0.0, 1.0]])
    test = np.array([[0.9, 0.1], [0.1, 0.9]])
    assert LEARNERS["knn"](train, np.array([1, 0]), test).tolist() == [1, 0]
    angles = np.deg2rad([10, 20, 30, 40, 50])
    train = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    ahead = LEARNERS["knn"](train, np.array([2, 1, 1, 2, 0]), np.array([[1.0, 0.0]]))
    assert ahead.tolist() == [2]  # two votes each for 1 and 2


def test_few_shot_draws_differ_are_averaged_and_encode_little():
    model = Planted(0.6)
    task = ClassificationTask("toy", texts(200), texts(20, 500), per_class=2, draws=4)
    result = task.run(system(model), FEW)
    draws = result.details["accuracy_of_draws"]
    assert len(draws) == 4
    assert len(set(draws)) > 1
    assert result.main.interval.mean == pytest.approx(np.mean(draws))
    assert set(result.main.values) <= {0.0, 0.25, 0.5, 0.75, 1.0}
    assert result.details["training_texts"] == 6
    assert model.texts <= 4 * 6 + 60
    again = task.run(system(Planted(0.6)), FEW)
    assert again == result
    other = ClassificationTask("toy", texts(200), texts(20, 500), per_class=2, draws=4, seed=1)
    assert other.run(system(Planted(0.6)), FEW) != result


def test_rare_labels_are_counted():
    train = [*texts(8, labels=LABELS[:2]), ("tree 1", "tree")]
    task = ClassificationTask("toy", train, [*texts(4, 50), ("river 9", "sea")], per_class=4)
    result = task.run(system(), FEW)
    assert result.details["labels_with_fewer_training_texts_than_asked"] == 1
    assert result.excluded == {"test texts of labels without training texts": 1}
    assert len(result.items) == 12


def test_texts_in_both_parts_are_counted():
    task = ClassificationTask("toy", texts(8), [*texts(4), *texts(4, 100)])
    assert task.run(system(), FEW).details["test_texts_also_trained_on"] == 12


def test_failures_and_confusions_name_labels():
    result = ClassificationTask("toy", texts(20), texts(20, 100)).run(system(Planted(0.8)), FEW)
    worst = result.failures[0]
    assert worst.score == 0.0
    assert worst.expected[0] in LABELS
    assert worst.found[0] != worst.expected[0]
    assert len(result.failures) <= 10
    assert len({failure.expected for failure in result.failures}) > 1  # not only the first label's
    right, guess, times = result.details["confusions"][0]
    assert right != guess
    assert times >= 1


def test_bad_classification_data_and_systems():
    with pytest.raises(EmptyInputError, match="no training"):
        ClassificationTask("toy", [], texts(1))
    with pytest.raises(EmptyInputError, match="no test"):
        ClassificationTask("toy", texts(1), [])
    with pytest.raises(InputError, match="all its training texts have the label 'river'"):
        ClassificationTask("toy", texts(3, labels=LABELS[:1]), texts(1))
    with pytest.raises(EmptyInputError, match="no test text has one of the 2 labels"):
        ClassificationTask("toy", texts(3, labels=LABELS[:2]), texts(3, labels=LABELS[2:]))
    with pytest.raises(UnknownNameError, match="centroid"):
        ClassificationTask("toy", texts(3), texts(3), learner="centriod")
    with pytest.raises(InputError, match="labels of 'toy'"):
        ClassificationTask("toy", [("a", 1), ("b", 2)], texts(3))

    class Constant:
        def encode(self, texts):
            return np.ones((len(texts), 2))

    class Broken:
        def encode(self, texts):
            return np.full((len(texts), 2), np.nan)

    for task in (
        ClassificationTask("toy", texts(3), texts(3)),
        ClusteringTask("toy", *zip(*texts(3))),
    ):
        with pytest.raises(InputError, match="constant gives"):
            task.run(EncoderSystem(Constant(), name="constant", fingerprint="c"), FEW)
        with pytest.raises(NonFiniteError):
            task.run(EncoderSystem(Broken(), name="broken", fingerprint="b"), FEW)


def test_clusters_of_planted_labels():
    task = ClusteringTask("toy", *zip(*texts(30)))
    result = task.run(system(Planted(0.2)), FEW)
    assert result.main.interval.mean > 0.8
    assert result.scores["adjusted-rand"].interval.mean > 0.8
    assert result.details["labels"] == 3
    assert result.main.interval.mean == pytest.approx(np.mean(result.details["v_measure_of_seeds"]))
    assert TaskResult.from_dict(json.loads(json.dumps(result.to_dict()))) == result
    assert task.run(system(Planted(0.2)), FEW) == result


def test_interval_of_clusters_holds_the_figure_at_chance():
    rng = np.random.default_rng(0)

    class Random:
        def encode(self, texts):
            return rng.normal(size=(len(texts), 8))

    words = [f"text {i}" for i in range(120)]
    labels = [f"label {i % 12}" for i in range(120)]
    result = ClusteringTask("toy", words, labels).run(system(Random()), FEW)
    interval = result.main.interval
    assert interval.mean > 0.2  # V-measure is not 0 at chance
    assert abs(result.scores["adjusted-rand"].interval.mean) < 0.1
    for score in result.scores.values():
        assert score.interval.low < score.interval.mean < score.interval.high
        assert np.mean(score.replicates) == pytest.approx(score.interval.mean, abs=1e-9)


def test_labels_of_one_text_are_left_out():
    rows = [*texts(5), ("river 99", "alone")]
    result = ClusteringTask("toy", *zip(*rows)).run(system(), FEW)
    assert result.excluded == {"texts alone in their label": 1}
    assert result.details["texts"] == 15


def test_cluster_failures_say_where_a_text_went():
    rows = [*texts(20), ("river 999", "stone")]
    result = ClusteringTask("toy", *zip(*rows)).run(system(Planted(0.05)), FEW)
    assert [f.text for f in result.failures] == ["river 999"]
    assert result.failures[0].expected == ("stone",)
    assert result.failures[0].found[0] == "a cluster of river (20 of 21)"


def test_seeds_make_the_clusters():
    vectors = np.random.default_rng(0).normal(size=(60, 5))
    found = cluster_seeds(vectors, 6, [0, 1, 0])
    assert (found[0] == found[2]).all()
    assert (found[0] != found[1]).any()
    assert found.shape == (3, 60)


def test_bad_clustering_data():
    with pytest.raises(EmptyInputError, match="0 texts"):
        ClusteringTask("toy", [], [])
    with pytest.raises(EmptyInputError, match="0 seeds"):
        ClusteringTask("toy", *zip(*texts(3)), seeds=[])
    with pytest.raises(ShapeError, match="2 texts and 1 labels"):
        ClusteringTask("toy", ["a", "b"], ["x"])
    with pytest.raises(InputError, match="1 of its 1 labels"):
        ClusteringTask("toy", ["a", "b"], ["x", "x"])
    with pytest.raises(InputError, match="0 of its 2 labels"):
        ClusteringTask("toy", ["a", "b"], ["x", "y"])
