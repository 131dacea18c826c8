"""Two tiers: exact scores, only the candidates read, nothing half written."""

from __future__ import annotations

import numpy as np
import pytest

from embedworks.errors import (
    FormatError,
    InputError,
    NonFiniteError,
    NotFoundError,
    ShapeError,
    StorageError,
)
from embedworks.index import ExactIndex
from embedworks.index.quantized import two_tier
from embedworks.index.quantized.index import QuantizedIndex
from embedworks.index.quantized.product import ProductQuantizer
from embedworks.index.quantized.two_tier import TwoTierIndex

pytestmark = pytest.mark.filterwarnings("ignore:.*are few for:embedworks.errors.DataWarning")


@pytest.fixture(scope="module")
def vectors():
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(50, 32))
    noise = rng.normal(0, 0.6, (2000, 32))
    return (centres[rng.integers(0, 50, 2000)] + noise).astype(np.float32)


@pytest.fixture(scope="module")
def quantizer(vectors):
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return ProductQuantizer.fit(unit, 8, rotation="opq", iterations=2)


@pytest.fixture
def index(tmp_path, vectors, quantizer):
    return TwoTierIndex.build(tmp_path / "index", vectors, quantizer=quantizer)


def test_recall_within_a_point_at_a_sixteenth_of_the_memory(index, vectors):
    rng = np.random.default_rng(1)
    queries = vectors[rng.integers(0, 2000, 40)] + rng.normal(0, 0.2, (40, 32))
    truth, exact = ExactIndex(vectors).search(queries, 100)
    ids, scores = index.search(queries, 100, candidates=600)
    assert index.memory()["codes"] * 16 == vectors.nbytes == index.disk()
    shared = [len(set(a) & set(b)) / 100 for a, b in zip(ids.tolist(), truth.tolist())]
    assert np.mean(shared) > 0.99
    for query in range(40):
        known = dict(zip(truth[query].tolist(), exact[query]))
        for row, score in zip(ids[query].tolist(), scores[query]):
            assert abs(known.get(row, score) - score) < 1e-6


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_all_candidates_equal_exact_search(tmp_path, vectors, similarity):
    index = TwoTierIndex.build(tmp_path / "i", vectors, codes="int8", similarity=similarity)
    truth = ExactIndex(vectors, similarity=similarity).search(vectors[:5], 20)
    found = index.search(vectors[:5], 20, candidates=2000)
    np.testing.assert_array_equal(found[0], truth[0])
    np.testing.assert_allclose(found[1], truth[1], rtol=1e-6)


def test_only_candidates_are_read(tmp_path, index, vectors):
    queries = vectors[:3]
    before = index.search(queries, 10, candidates=40)
    assert index.bytes_read == 3 * 40 * 32 * 4
    candidates, _ = index.coarse.search(queries, 40)
    # Every other row on disk becomes NaN: a single one that was read would be an error.
    path = tmp_path / "index" / "vectors.npy"
    kept = np.load(path, mmap_mode="r+")
    kept[np.setdiff1d(np.arange(2000), candidates)] = np.nan
    kept.flush()
    again = TwoTierIndex.load(tmp_path / "index")
    for one, other in zip(before, again.search(queries, 10, candidates=40)):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(NonFiniteError, match="on disk"):
        again.search(queries, 10, candidates=2000)


def test_pages_are_counted_as_they_lie_in_the_file(index, vectors):
    candidates, _ = index.coarse.search(vectors[:7], 60)
    index.search(vectors[:7], 10, candidates=60)
    start = (index.vectors.offset, 32 * 4)
    assert start[0] > 0
    expected = 0
    for rows in candidates.tolist():
        touched = set()
        for row in rows:
            for byte in range(row * start[1], (row + 1) * start[1]):
                touched.add((start[0] + byte) // 4096)
        expected += len(touched)
    assert index.pages_read == expected


@pytest.mark.parametrize("dim", [1500, 2100])  # rows of more than a page
def test_pages_of_long_rows(tmp_path, dim):
    vectors = np.random.default_rng(0).normal(size=(40, dim)).astype(np.float32)
    index = TwoTierIndex.build(tmp_path / "i", vectors, codes="binary")
    index.search(vectors[:1], 40, candidates=40)
    whole = index.vectors.offset + vectors.nbytes
    assert index.pages_read == -(-whole // 4096)


@pytest.mark.parametrize("cold", [True, False])
def test_pages_are_asked_for_ahead_when_the_file_is_not_in_memory(
    index, vectors, cold, monkeypatch
):
    asked = []
    real = index.vectors

    class Mapped:
        def __len__(self):
            return len(real._mmap)

        def madvise(self, what, start, length):
            asked.extend(range(start // 4096, -(-(start + length) // 4096)))
            real._mmap.madvise(what, start, length)  # a start off a page is an error

    class Vectors:
        _mmap, strides, shape = Mapped(), real.strides, real.shape
        __getitem__ = staticmethod(real.__getitem__)

    expected = index.search(vectors[:1], 10, candidates=60)
    rows = np.sort(index.coarse.search(vectors[:1], 60)[0][0])
    faults = iter(range(0, 100, 1 if cold else 100))
    monkeypatch.setattr(two_tier, "_page_faults", lambda: next(faults, 0))
    monkeypatch.setattr(index, "vectors", Vectors())
    for one, other in zip(expected, index.search(vectors[:1], 10, candidates=60)):
        np.testing.assert_array_equal(one, other)
    start, stride = index._starts_at, 32 * 4
    touched = {
        byte // 4096
        for row in rows
        for byte in range(start + row * stride, start + (row + 1) * stride)
    }
    assert sorted(asked) == (sorted(touched) if cold else [])


def test_half_the_bytes_in_float16(tmp_path, vectors, quantizer):
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    index = TwoTierIndex.build(tmp_path / "i", unit, quantizer=quantizer, storage="float16")
    ids, scores = index.search(unit[:9], 10, candidates=500)
    assert index.disk() == unit.nbytes / 2
    assert index.bytes_read == 9 * 500 * 32 * 2
    kept = unit.astype(np.float16).astype(float)
    for query, found, given in zip(unit[:9].astype(float), ids.tolist(), scores, strict=True):
        for row, score in zip(found, given):
            cosine = query @ kept[row] / np.linalg.norm(kept[row]) / np.linalg.norm(query)
            assert abs(cosine - score) < 1e-6


def test_other_vectors_can_rank(tmp_path, vectors):
    """Codes of the first half of the dimensions, ranked by all of them."""
    index = TwoTierIndex.build(tmp_path / "i", vectors[:, :16], codes="int8", ranked=vectors)
    truth = ExactIndex(vectors).search(vectors[:5], 10)
    found = index.search(vectors[:5, :16], 10, candidates=2000, ranking=vectors[:5])
    np.testing.assert_array_equal(found[0], truth[0])
    np.testing.assert_allclose(found[1], truth[1], rtol=1e-6)
    with pytest.raises(ShapeError, match="32"):
        index.search(vectors[:5, :16], 10)
    with pytest.raises(ShapeError, match="as many in ranking"):
        index.search(vectors[:5, :16], 10, ranking=vectors[:4])
    with pytest.raises(InputError, match="zero"):
        index.search(vectors[:1, :16], 10, ranking=np.zeros((1, 32)))
    for wrong, problem in ((vectors[:9], "as many ranked"), (vectors * 1e6, "infinite in float16")):
        with pytest.raises(InputError, match=problem):
            TwoTierIndex.build(
                tmp_path / "j", vectors, codes="binary", ranked=wrong, storage="float16"
            )


def test_masks_and_large_k(index, vectors):
    rng = np.random.default_rng(2)
    mask = rng.random(2000) < 0.01
    ids, _ = index.search(vectors[:4], 50, mask=mask, candidates=1000)
    assert ids.shape == (4, min(50, mask.sum()))
    assert mask[ids].all()
    assert index.search(vectors[:1], 3000, candidates=3000)[0].shape == (1, 2000)


def test_a_failed_build_leaves_the_old_index(tmp_path, index, vectors, quantizer, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "no space")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(StorageError, match="disk is full"):
        TwoTierIndex.build(tmp_path / "index", vectors[:500], quantizer=quantizer)
    assert len(TwoTierIndex.load(tmp_path / "index")) == 2000
    assert [path.name for path in tmp_path.iterdir()] == ["index"]


def test_damage_is_found(tmp_path, index, vectors):
    path = tmp_path / "index" / "vectors.npy"
    data = path.read_bytes()
    path.write_bytes(data[:-100])
    with pytest.raises(FormatError, match="damaged"):
        TwoTierIndex.load(tmp_path / "index")
    np.save(path, vectors[:-1])
    with pytest.raises(FormatError, match="promises"):
        TwoTierIndex.load(tmp_path / "index")
    path.unlink()
    with pytest.raises(FormatError, match="missing"):
        TwoTierIndex.load(tmp_path / "index")
    with pytest.raises(NotFoundError):
        TwoTierIndex.load(tmp_path / "nowhere")
    with pytest.raises(FormatError, match="2000 codes need"):
        TwoTierIndex(index.coarse, vectors[:10])
    QuantizedIndex(vectors).save(tmp_path / "other")
    with pytest.raises(FormatError, match="'quantized'"):
        TwoTierIndex.load(tmp_path / "other")


def test_bad_queries(index, vectors):
    with pytest.raises(InputError, match="candidates must be at least k"):
        index.search(vectors[:1], 20, candidates=10)
    with pytest.raises(InputError, match="k must be"):
        index.search(vectors[:1], 0)
    with pytest.raises(NonFiniteError):
        index.search(np.full((1, 32), np.nan), 1)
