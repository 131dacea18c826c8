"""Checks that run over every registered thing of every kind."""

from __future__ import annotations

import importlib

import numpy as np
import pytest

from embedworks._core.registry import REGISTRIES, Registry
from embedworks.errors import UnknownNameError


def registry_of(kind: str) -> Registry:
    module, attribute = REGISTRIES[kind]
    return getattr(importlib.import_module(module), attribute)


@pytest.mark.parametrize("kind", sorted(REGISTRIES))
def test_every_kind_lists_described_names(kind):
    registry = registry_of(kind)
    assert isinstance(registry, Registry)
    assert len(registry) > 0
    for name in registry:
        assert registry.summary(name).strip(), f"{kind} {name} has no summary"
        assert registry[name] is not None
    with pytest.raises(UnknownNameError, match="Did you mean|Known"):
        registry["no such name"]


@pytest.mark.parametrize("name", registry_of("merge-methods").names())
def test_merging_a_model_with_itself_changes_nothing(name):
    tensor = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    before = tensor.copy()
    merged = registry_of("merge-methods")[name]([tensor, tensor], [0.5, 0.5])
    np.testing.assert_allclose(merged, tensor, atol=1e-6)
    np.testing.assert_array_equal(tensor, before)
    assert merged.dtype == tensor.dtype


@pytest.mark.parametrize("name", registry_of("metrics").names())
def test_metrics_are_one_for_a_perfect_and_zero_for_an_empty_ranking(name):
    from embedworks.evaluation import parse_metric

    metric = parse_metric(f"{name}@1")
    assert metric(["a", "b"], {"a": 1}) == pytest.approx(1.0)
    assert metric([], {"a": 1}) == 0.0
    assert metric(["b"], {"a": 1}) == 0.0


@pytest.mark.parametrize("name", registry_of("search-modes").names())
def test_search_modes_keep_their_promises(name):
    """Filter respected, no repeats, sorted, ties by row, vectors and texts left alone."""
    from embedworks.index import BM25Index, ExactIndex
    from embedworks.index.modes import Queries, Searchable

    rng = np.random.default_rng(0)
    words = ["zip", "file", "json", "text", "date", "tree", "heap", "path"]
    texts = [" ".join(rng.choice(words, size=6)) for _ in range(60)]
    vectors = rng.normal(size=(60, 8)).astype(np.float32)
    vectors[30:40] = vectors[20:30]
    texts[30:40] = texts[20:30]
    mode = registry_of("search-modes")[name]
    searchable = Searchable(ExactIndex(vectors), BM25Index.build(texts))
    queries = Queries(["zip file", "heap"], rng.normal(size=(2, 8)).astype(np.float32))
    mask = rng.random(60) > 0.5
    for k in (1, 7, 1000):
        for rows, scores in mode.run(searchable, queries, k, mask):
            assert mask[rows].all()
            assert len(set(rows.tolist())) == len(rows) <= min(k, mask.sum())
            if mode.uses_vectors:
                assert len(rows) == min(k, mask.sum())
            pairs = list(zip(-scores, rows, strict=True))
            assert pairs == sorted(pairs)
    again = mode.run(searchable, queries, 7, mask)
    one = mode.run(searchable, Queries(queries.texts[1:], queries.vectors[1:]), 7, mask)
    np.testing.assert_array_equal(again[1][0], one[0][0])


@pytest.mark.parametrize("name", registry_of("pair-sources").names())
def test_pair_sources_give_usable_pairs(name, documents):
    from embedworks.data import chunk_documents, make_pairs, read_documents

    chunks = list(chunk_documents(read_documents(documents)))
    pairs = list(make_pairs(chunks, sources={name: 0.5}, seed=0))
    again = list(make_pairs(chunks, sources={name: 0.5}, seed=0))
    assert pairs == again
    ids = {chunk.chunk_id for chunk in chunks}
    for pair in pairs:
        assert pair.source == name
        assert pair.chunk_id in ids
        assert pair.anchor.strip()
        assert pair.positive.strip()
        assert pair.weight > 0
        assert pair.anchor.lower() not in pair.positive.lower()


@pytest.mark.parametrize("name", ["static", "minilm"])
def test_registered_models_encode(name):
    import embedworks as ew
    from embedworks.errors import OfflineError

    if name == "minilm":
        pytest.importorskip("sentence_transformers")
    try:
        model = ew.load(name)
    except OfflineError:
        pytest.skip("the MiniLM package is not installed (extra `minilm`)")
    texts = ["How do I read a file?", "Reading files", "Bananas are yellow."]
    vectors = model.encode(texts)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-4)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.2
    np.testing.assert_allclose(model.encode(texts[::-1])[::-1], vectors, atol=1e-5)
