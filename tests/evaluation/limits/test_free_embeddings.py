"""Free vectors: small cases that are known, the search, and its file."""

from __future__ import annotations

import json

import numpy as np
import pytest

from embedworks.errors import BudgetError, FormatError, InputError, ShapeError, UnknownNameError
from embedworks.evaluation.limits import (
    all_subsets,
    critical_n,
    optimize_free_embeddings,
    random_subsets,
    verify_subsets,
)
from embedworks.evaluation.limits import free_embeddings as module

pytest.importorskip("torch")


@pytest.mark.parametrize("loss", ["infonce", "sigmoid", "hinge"])
@pytest.mark.parametrize("query", ["free", "centroid"])
def test_six_documents_fit_in_five_dimensions(loss, query):
    subsets = all_subsets(6, 2)
    found = optimize_free_embeddings(subsets, 6, 5, loss=loss, query=query, device="cpu")
    assert found.solved
    assert found.accuracy == 1.0
    check = verify_subsets(found.documents, found.queries, subsets, dtype="float32")
    assert check.wrong == 0
    for vectors in (found.documents, found.queries):
        assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_the_best_vectors_are_kept_and_counted():
    subsets = all_subsets(12, 2)
    found = optimize_free_embeddings(subsets, 12, 3, max_steps=400, device="cpu")
    assert not found.solved
    assert 0 < found.realised < found.accuracy < 1
    check = verify_subsets(found.documents, found.queries, subsets, dtype="float32")
    assert check.share == pytest.approx(found.realised)


def test_seeds_repeat():
    first, again, other = (
        optimize_free_embeddings(all_subsets(9, 2), 9, 3, max_steps=100, seed=s, device="cpu")
        for s in (1, 1, 2)
    )
    assert (first.documents == again.documents).all()
    assert not np.array_equal(first.documents, other.documents)


def test_patience_ends_it():
    found = optimize_free_embeddings(
        all_subsets(10, 2), 10, 2, lr=0.1, patience=50, max_steps=4000, device="cpu"
    )
    assert found.steps < 4000


def test_documents_can_be_given():
    rng = np.random.default_rng(0)
    documents = rng.normal(size=(6, 5)).astype(np.float32)
    subsets = all_subsets(6, 2)
    found = optimize_free_embeddings(subsets, 6, 5, documents=documents, device="cpu")
    assert (found.documents == documents).all()
    # Six points in general position in five dimensions: every set can be cut off.
    assert found.solved


def test_collinear_documents_cannot_be_served():
    documents = np.array([[1.0, 0.0], [2.0, 0.0], [3.0, 0.0]], dtype=np.float32)
    found = optimize_free_embeddings(
        all_subsets(3, 1), 3, 2, documents=documents, max_steps=300, device="cpu"
    )
    assert found.realised <= 2 / 3


def test_bad_settings_are_refused():
    subsets = all_subsets(4, 2)
    with pytest.raises(UnknownNameError, match="infonce"):
        optimize_free_embeddings(subsets, 4, 3, loss="infonc")
    with pytest.raises(InputError, match="temperature"):
        optimize_free_embeddings(subsets, 4, 3, temperature=0)
    with pytest.raises(InputError, match="nothing to optimise"):
        optimize_free_embeddings(subsets, 4, 3, query="centroid", documents=np.eye(4)[:, :3])
    with pytest.raises(InputError, match="zero vector"):
        optimize_free_embeddings(subsets, 4, 3, documents=np.eye(4)[:, :3])
    with pytest.raises(ShapeError):
        optimize_free_embeddings(subsets, 4, 3, documents=np.eye(4))
    with pytest.raises(InputError, match="4 rows"):
        optimize_free_embeddings(subsets, 4, 3, documents=np.eye(3))


def test_too_many_scores_are_refused_with_a_way_out():
    with pytest.raises(BudgetError, match=r"random_subsets\(1000, 2, ") as caught:
        optimize_free_embeddings(all_subsets(1000, 2), 1000, 8)
    count = int(str(caught.value).split("random_subsets(1000, 2, ")[1].split(",")[0])
    module._check_memory(len(random_subsets(1000, 2, count, seed=0)), 1000, 2, 2e9)
    with pytest.raises(BudgetError, match="GB"):
        critical_n(8, start=2000)


def quick(solved, tmp_path=None, **changes):
    """Search where ``n <= solved`` is solved, without optimising."""
    calls = []

    def made(trials, n):
        calls.append(n)
        return {"realised": 1.0 if n <= solved else 0.5, "seconds": 1.0}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module._Trials, "_make", made)
        found = critical_n(5, device="cpu", **changes)
    return found, calls


@pytest.mark.parametrize("start", [3, 4, 9, 14, 37, 80])
@pytest.mark.parametrize("solved", [3, 4, 14, 15, 36])
def test_the_search_finds_the_end_from_anywhere(start, solved):
    found, calls = quick(solved, start=start)
    assert found.n == solved
    assert len(calls) == len(set(calls)) <= 16
    assert set(found.tried) == set(calls)


def test_the_search_can_sweep_stop_and_fail():
    assert set(quick(14, sweep=3)[1]) >= {15, 16, 17}
    assert quick(100, most=20)[0].n == 20
    assert quick(0, start=9)[0].n == 0
    assert quick(14)[0].published == 14
    with pytest.raises(InputError, match="most"):
        critical_n(5, most=2)


def test_near_the_published_figure_of_five_dimensions():
    found = optimize_free_embeddings(all_subsets(13, 2), 13, 5, device="cpu")
    assert found.solved  # the published critical n is 14


def test_finished_optimisations_are_kept(tmp_path):
    cache = tmp_path / "trials.json"
    options = {"k": 1, "most": 8, "start": 6, "device": "cpu", "max_steps": 500}
    first = critical_n(2, cache=cache, **options)
    before = cache.read_bytes()
    assert critical_n(2, cache=cache, **options) == first
    assert cache.read_bytes() == before
    critical_n(2, cache=cache, **{**options, "max_steps": 600})
    assert len(json.loads(cache.read_text())["trials"]) == 2 * len(first.tried)
    assert first.to_dict()["tried"][str(first.n)] == 1.0
    cache.write_text('{"format": "something else"}')
    with pytest.raises(FormatError, match="not a file"):
        critical_n(2, cache=cache, **options)
    cache.write_text('{"format": "embedworks-critical-n", "version": 1, "trials": {"x": 3}}')
    with pytest.raises(FormatError, match="version or form"):
        critical_n(2, cache=cache, **options)
    cache.write_text('{"format": "embedworks-cri')
    with pytest.raises(FormatError, match="half written"):
        critical_n(2, cache=cache, **options)
