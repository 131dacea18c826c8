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


def merges(name):
    """Return a merge method, some models and their base, and options that drop nothing."""
    method = registry_of("merge-methods")[name]
    base, *models = np.random.default_rng(0).normal(size=(4, 3, 4)).astype(np.float32)
    models = [base + model / 8 + 0.5 for model in models[: method.most or 3]]
    everything = {"density": 1.0, "gamma": 0.0, "epsilon": 0.0}
    options = {key: everything[key] for key in everything if key in method.settings.model_fields}
    return method, models, base, options


def bases(method, base):
    """Return the bases the method can be called with."""
    return ([] if method.needs_base else [None]) + ([base] if method.takes_base else [])


every_merge = pytest.mark.parametrize("name", registry_of("merge-methods").names())


@every_merge
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(3, 4), (12,), (2, 3, 2), (1,), (), (0,), (0, 4), (4, 0)])
def test_merging_a_model_with_itself_changes_nothing(name, dtype, shape):
    method, models, base, options = merges(name)
    size = int(np.prod(shape))
    tensor = models[0].ravel()[:size].reshape(shape).astype(dtype)
    base = base.ravel()[:size].reshape(shape).astype(dtype)
    given = [tensor, base]
    before = [array.copy() for array in given]
    for array in given:
        array.flags.writeable = False
    for count in range(method.least, (method.most or 4) + 1):
        for start in bases(method, base):
            merged = method([tensor] * count, [1 / count] * count, base=start, **options)
            assert merged.dtype == dtype
            assert merged.shape == shape
            assert isinstance(merged, np.ndarray)
            assert not np.shares_memory(merged, tensor)
            tolerance = 1e-3 if dtype == np.float16 else 1e-6
            np.testing.assert_allclose(merged, tensor, atol=tolerance)
            np.testing.assert_array_equal(
                merged, method([tensor] * count, base=start, **options), "weights default to equal"
            )
    for array, old in zip(given, before, strict=True):
        np.testing.assert_array_equal(array, old)


@every_merge
def test_merging_models_that_did_not_change_gives_the_base(name):
    method, models, base, _ = merges(name)
    for start in bases(method, base):
        same = method([base] * len(models), base=start)
        np.testing.assert_allclose(same, base, atol=1e-6)
        if start is not None:  # one that changed among them is no trouble
            merged = method([models[0], *[base] * (len(models) - 1)], base=start)
            assert np.isfinite(merged).all()


@every_merge
def test_the_order_of_merged_models_matters_only_where_said(name):
    method, models, base, _ = merges(name)
    weights = [0.2, 0.5, 0.3][: len(models)] if method.weighted else [1.0] * len(models)
    for start in bases(method, base):
        merged = method(models, weights, base=start)
        turned = method(models[::-1], weights[::-1], base=start)
        assert np.allclose(merged, turned, atol=1e-6) == method.symmetric


@every_merge
def test_merges_are_deterministic_and_random_ones_follow_seed_and_name(name):
    method, models, base, _ = merges(name)
    base = base if method.takes_base else None
    merged = method(models, base=base, key="layer.0.weight")
    again = method(models, base=base, key="layer.0.weight")
    np.testing.assert_array_equal(merged, again)
    other_name = method(models, base=base, key="layer.1.weight")
    assert np.array_equal(merged, other_name) != method.random
    if method.random:
        other_seed = method(models, base=base, key="layer.0.weight", seed=1)
        assert not np.array_equal(merged, other_seed)


@every_merge
def test_merges_agree_over_types_and_leave_their_input(name):
    method, models, base, _ = merges(name)
    start = base if method.takes_base else None
    before = [model.copy() for model in (*models, base)]
    wide = method(
        [model.astype(np.float64) for model in models],
        base=None if start is None else start.astype(np.float64),
        key="x",
    )
    np.testing.assert_allclose(method(models, base=start, key="x"), wide, atol=1e-5)
    turned = method(
        [np.asfortranarray(model) for model in models],
        base=None if start is None else np.asfortranarray(start),
        key="x",
    )
    np.testing.assert_array_equal(turned, method(models, base=start, key="x"))
    for array, old in zip((*models, base), before, strict=True):
        np.testing.assert_array_equal(array, old)


@every_merge
def test_merges_refuse_what_they_cannot_merge(name):
    from embedworks.errors import InputError, NonFiniteError, SettingsError, ShapeError

    method, models, base, _ = merges(name)
    start = base if method.needs_base else None
    bad = models[-1].copy()
    bad[1, 2] = np.nan
    last = len(models) - 1
    with pytest.raises(NonFiniteError, match=f"^x: tensor {last} contains NaN"):
        method([*models[:-1], bad], base=start, key="x")
    with pytest.raises(ShapeError, match=rf"tensor {last} has shape \(4, 3\).*\(3, 4\)"):
        method([*models[:-1], models[-1].T], base=start)
    for dtype in (np.int64, np.uint8, np.bool_, np.complex64):
        with pytest.raises(InputError, match=f"tensor {last} has type {np.dtype(dtype)}"):
            method([*models[:-1], models[-1].astype(dtype)], base=start)
    with pytest.raises(InputError, match=f"at least {method.least}|exactly {method.least}"):
        method(models[: method.least - 1], base=start)
    if method.most is not None:
        with pytest.raises(InputError, match="exactly"):
            method([*models, models[0]], base=start)
    with pytest.raises(InputError, match="one weight per tensor"):
        method(models, [1.0] * (len(models) + 1), base=start)
    with pytest.raises(NonFiniteError, match="weights must be finite"):
        method(models, [1.0] * last + [float("nan")], base=start)
    if method.weighted:
        method(models, [2.0] + [1.0] * last, base=start)
    else:
        with pytest.raises(InputError, match="own weights"):
            method(models, [2.0] + [1.0] * last, base=start)
    with pytest.raises(SettingsError, match="nosuch"):
        method(models, base=start, nosuch=1)
    if method.needs_base:
        with pytest.raises(InputError, match="needs the base"):
            method(models)
    if not method.takes_base:
        with pytest.raises(InputError, match="no use for a base"):
            method(models, base=base)
        return
    with pytest.raises(NonFiniteError, match="the base's tensor contains NaN"):
        method(models, base=np.full_like(base, np.inf))
    with pytest.raises(ShapeError, match="the base's tensor has shape"):
        method(models, base=base[:2])


@every_merge
def test_weights_that_sum_to_zero_are_an_error_or_a_task_unlearned(name):
    from embedworks.errors import InputError

    method, models, base, options = merges(name)
    start = base if method.needs_base else None
    weights = [1.0] * (len(models) - 1) + [1.0 - len(models)]
    if name not in ("breadcrumbs", "dare", "task_arithmetic"):  # the others divide by the sum
        with pytest.raises(InputError, match="sum to zero|0 or greater|own weights"):
            method(models, weights, base=start, **options)
        return
    merged = method(models, weights, base=start, **options)
    expected = base + sum(w * (m - base) for w, m in zip(weights, models, strict=True))
    np.testing.assert_allclose(merged, expected, atol=1e-5)


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
