"""The limits of a model: known geometry, the best query, and what is said of it."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest

import embedworks
from embedworks.errors import EmptyInputError, InputError
from embedworks.evaluation import EncoderSystem, Resampling
from embedworks.evaluation.limits import measure_limits, qrel_limits

HOW = Resampling(n_resamples=100)


class Words:
    """A dimension per word: finds everything, and can express every set."""

    def __init__(self):
        self.places = {}

    def encode(self, texts):
        vectors = np.zeros((len(texts), 4000), dtype=np.float32)
        for row, text in enumerate(texts):
            for word in text.lower().replace(",", " ").replace(".", " ").replace("?", " ").split():
                vectors[row, self.places.setdefault(word, len(self.places))] = 1
        return vectors


def measured(model, name="model", **changes):
    system = EncoderSystem(model, name=name, fingerprint=name)
    options = {"n_docs": 10, "n_queries": 40, "resampling": HOW, "device": "cpu", **changes}
    return measure_limits(system, **options)


def test_a_model_that_keeps_every_word_is_not_limited():
    report = measured(Words(), dims=[], free_queries=False)
    assert report.full.dimension == 4000
    assert report.full.recall["recall@2"].mean == 1.0
    assert report.full.centroid == 1.0
    assert report.lexical["recall@2"].mean == 1.0
    assert report.chance["recall@2"] == 0.2
    assert "100% of the answers" in report.sentence()


def test_random_vectors_express_what_they_do_not_find():
    pytest.importorskip("torch")

    def encode(texts):
        rng = np.random.default_rng(len(texts))
        return rng.normal(size=(len(texts), 64)).astype(np.float32)

    report = measured(SimpleNamespace(encode=encode), dims=[2, 8])
    low, middle, full = report.dimensions
    assert (low.dimension, middle.dimension, full.dimension) == (2, 8, 64)
    assert low.free < middle.free <= full.free == 1.0
    assert all(row.centroid <= row.free for row in report.dimensions)
    assert low.smallest_gap < 0 < full.smallest_gap
    assert full.recall["recall@2"].mean < 0.6
    assert "what it makes of questions" in report.sentence()


def test_optimised_queries_beat_centroids():
    """Documents on a curve in the plane of the construction: centroids fail, queries exist."""
    pytest.importorskip("torch")
    from embedworks.evaluation.limits import cyclic_polytope_embeddings

    documents = cyclic_polytope_embeddings(10, 2).astype(np.float32)

    def encode(texts):
        return documents if len(texts) == 10 else np.ones((len(texts), 4), dtype=np.float32)

    found = measured(SimpleNamespace(encode=encode), dims=[]).full
    assert found.centroid < 0.9
    assert found.free > found.centroid


def test_the_report_is_json_and_repeats():
    model = embedworks.load("static")
    first, again = (measured(model, dims=[16], free_queries=False) for _ in range(2))
    assert first == again
    value = json.loads(json.dumps(first.to_dict()))
    assert value["dimensions"][0]["dimension"] == 16
    assert value["sentence"] == first.sentence()


def test_many_sets_are_sampled_and_lengths_count_for_dot():
    def encode(texts):
        vectors = np.random.default_rng(0).normal(size=(len(texts), 300)).astype(np.float32)
        vectors[0] *= 100
        return vectors

    options = {"n_docs": 210, "n_queries": 20, "dims": [], "free_queries": False}
    report = measured(SimpleNamespace(encode=encode), **options)
    assert report.sets == 20_000
    system = EncoderSystem(
        SimpleNamespace(encode=encode), name="dot", fingerprint="dot", similarity="dot"
    )
    dot = measure_limits(system, resampling=HOW, **options)
    assert dot.full.centroid < report.full.centroid


def test_bad_input_is_named():
    with pytest.raises(InputError, match="dims"):
        measured(Words(), dims=[5000], free_queries=False)
    with pytest.raises(InputError, match="all documents the same similarity"):
        measured(SimpleNamespace(encode=lambda texts: np.zeros((len(texts), 4))), dims=[])
    with pytest.raises(InputError, match="all documents the same similarity"):
        measured(SimpleNamespace(encode=lambda texts: np.ones((len(texts), 4))), dims=[])


def test_own_judgements_are_described():
    found = qrel_limits({"a": {"1": 1, "2": 1}, "b": {"2": 1, "3": 1}, "c": {"4": 1, "5": 0}})
    assert (found.queries, found.documents, found.largest) == (3, 4, 2)
    assert found.density == pytest.approx(1 / 3)
    assert found.min_dimension == 1
    assert qrel_limits({"a": {"1": 1}, "b": {"1": 1}}).min_dimension is None
    with pytest.raises(EmptyInputError):
        qrel_limits({"a": {"1": 0}})
