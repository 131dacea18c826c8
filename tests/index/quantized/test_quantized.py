"""Quantised vectors against slow loops over what they stand for."""

from __future__ import annotations

import math

import numpy as np
import pytest

from embedworks.errors import (
    DataWarning,
    EmptyInputError,
    FormatError,
    InputError,
    NonFiniteError,
    ShapeError,
    UnknownNameError,
)
from embedworks.index import ExactIndex
from embedworks.index.quantized.index import CODES, QuantizedIndex
from embedworks.index.quantized.product import ProductQuantizer

pytestmark = pytest.mark.filterwarnings("ignore:.*are few for:embedworks.errors.DataWarning")


def clustered(rng, count, dim=16):
    centres = rng.normal(size=(40, dim))
    return centres[rng.integers(0, 40, count)] + rng.normal(0, 0.5, (count, dim))


@pytest.fixture(scope="module")
def vectors():
    return clustered(np.random.default_rng(0), 600)


@pytest.fixture(scope="module")
def quantizers(vectors):
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    product = ProductQuantizer.fit(unit, 4)
    return {"product": product, "opq": ProductQuantizer.fit(unit, 4, rotation="opq", iterations=2)}


@pytest.fixture(scope="module", params=CODES)
def index(request, vectors, quantizers):
    return QuantizedIndex(vectors, codes=request.param, quantizer=quantizers.get(request.param))


def stands_for(index, row):
    """Return the vector that a row's code stands for, with plain loops."""
    code = index._codes[row]
    if index.codes == "int8":
        return [float(value) * float(index._scales[row]) for value in code]
    if index.codes == "binary":
        number = int.from_bytes(code.tobytes(), "little")
        return [(1 if number >> dim & 1 else -1) / math.sqrt(index.dim) for dim in range(index.dim)]
    words = np.concatenate([index.quantizer.codebooks[s, c] for s, c in enumerate(code)])
    return index.quantizer.rotation.astype(float) @ words.astype(float)


def test_scores_equal_slow_ones(index, vectors):
    rng = np.random.default_rng(1)
    queries = rng.normal(size=(5, 16))
    mask = rng.random(600) < 0.2
    for allowed in (None, mask):
        ids, scores = index.search(queries, 7, mask=allowed, oversample=1000)
        rows = range(600) if allowed is None else np.flatnonzero(allowed)
        for query, found, values in zip(queries, ids, scores, strict=True):
            query = query / np.linalg.norm(query)
            exact = {
                int(row): math.fsum(a * b for a, b in zip(query, stands_for(index, row)))
                for row in rows
            }
            best = sorted(exact.values(), reverse=True)[:7]
            np.testing.assert_allclose(values, best, atol=1e-5)
            np.testing.assert_allclose(values, [exact[row] for row in found.tolist()], atol=1e-5)


def test_hamming_picks_the_candidates(vectors):
    index = QuantizedIndex(vectors, codes="binary")
    query = np.random.default_rng(2).normal(size=16)
    signs = [bool(value > 0) for value in query]
    differing = [sum((x > 0) != s for x, s in zip(row, signs)) for row in vectors]
    limit = sorted(differing)[9]
    ids, _ = index.search(query[None], 5, oversample=2)
    assert all(differing[row] <= limit for row in ids[0])


def test_what_each_costs_and_finds(vectors, quantizers):
    rng = np.random.default_rng(3)
    queries = vectors[:60] + rng.normal(0, 0.1, (60, 16))
    truth = ExactIndex(vectors.astype(np.float32)).search(queries, 10)[0]
    recalls = {}
    for codes, size in {"int8": 16 + 4, "binary": 8, "product": 4, "opq": 4}.items():
        index = QuantizedIndex(vectors, codes=codes, quantizer=quantizers.get(codes))
        memory = index.memory()
        assert memory.pop("codes") + memory.pop("scales", 0) == 600 * size
        if index.quantizer is not None:
            assert memory.pop("quantizer") == 4 * (16 * 16 + 256 * 16)
        assert not memory
        ids = index.search(queries, 10)[0]
        recalls[codes] = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(ids, truth)])
    assert recalls["int8"] > 0.97
    assert recalls["opq"] > 0.6
    assert recalls["binary"] > 0.3


def test_product_codes_are_the_nearest_codewords(vectors, quantizers):
    quantizer = quantizers["opq"]
    np.testing.assert_allclose(quantizer.rotation.T @ quantizer.rotation, np.eye(16), atol=1e-4)
    codes = quantizer.encode(vectors[:30])
    turned = vectors[:30].astype(float) @ quantizer.rotation
    for row, code in zip(turned, codes, strict=True):
        for subspace in range(4):
            piece = row[4 * subspace : 4 * subspace + 4]
            distances = [math.dist(piece, word) for word in quantizer.codebooks[subspace]]
            assert distances[code[subspace]] < min(distances) + 1e-4
    decoded = quantizer.decode(codes)
    np.testing.assert_allclose(
        quantizer.tables(vectors[:2])[:, np.arange(4), codes[0]].sum(axis=1),
        vectors[:2] @ decoded[0],
        atol=1e-4,
    )


def test_masks_and_large_k(index, vectors):
    rng = np.random.default_rng(4)
    for share in (0.0, 0.02, 1.0):
        mask = rng.random(600) < share
        ids, _ = index.search(vectors[:3], 1000, mask=mask)
        assert ids.shape == (3, mask.sum())
        assert mask[ids].all()
    assert index.search(np.empty((0, 16)), 3)[0].shape == (0, 3)


def test_dot_keeps_lengths():
    rng = np.random.default_rng(5)
    vectors = clustered(rng, 400) * rng.uniform(1, 4, (400, 1))
    query = rng.normal(size=(1, 16))
    truth = ExactIndex(vectors.astype(np.float32), similarity="dot").search(query, 5)
    ids, scores = QuantizedIndex(vectors, similarity="dot").search(query, 5)
    assert len(set(ids[0]) & set(truth[0][0])) >= 4
    np.testing.assert_allclose(scores, truth[1], rtol=0.02)


def test_saved_and_loaded(tmp_path, index, vectors):
    index.save(tmp_path / "index")
    again = QuantizedIndex.load(tmp_path / "index")
    assert again.memory() == index.memory()
    for one, other in zip(index.search(vectors[:5], 7), again.search(vectors[:5], 7)):
        np.testing.assert_array_equal(one, other)
    np.save(tmp_path / "index" / "codes.npy", index._codes[1:])
    with pytest.raises(FormatError, match="promises"):
        QuantizedIndex.load(tmp_path / "index")


def test_codes_of_other_codebooks_are_refused(tmp_path, vectors):
    index = QuantizedIndex(vectors, codes="product", subspaces=4)
    index.save(tmp_path / "index")
    np.save(tmp_path / "index" / "codebooks.npy", index.quantizer.codebooks + np.float32(1))
    with pytest.raises(FormatError, match="other codebooks"):
        QuantizedIndex.load(tmp_path / "index")
    np.save(tmp_path / "index" / "codebooks.npy", index.quantizer.codebooks * np.float32(np.nan))
    with pytest.raises(FormatError, match="do not fit"):
        QuantizedIndex.load(tmp_path / "index")


def test_bad_input(vectors, quantizers):
    with pytest.raises(UnknownNameError, match="binary"):
        QuantizedIndex(vectors, codes="binray")
    with pytest.raises(InputError, match="keep no lengths"):
        QuantizedIndex(vectors, codes="binary", similarity="dot")
    with pytest.raises(InputError, match="take no subspaces"):
        QuantizedIndex(vectors, subspaces=4)
    with pytest.raises(InputError, match="cannot be cut into 5"):
        QuantizedIndex(vectors, codes="product", subspaces=5)
    with pytest.raises(InputError, match="ExactIndex"):
        QuantizedIndex(vectors[:100], codes="product")
    with pytest.warns(DataWarning, match="are few"):
        ProductQuantizer.fit(vectors, 4)
    with pytest.raises(InputError, match="row 3"):
        QuantizedIndex(np.where(np.arange(600)[:, None] == 3, 0, vectors))
    with pytest.raises(NonFiniteError):
        QuantizedIndex(np.full((3, 2), np.nan))
    with pytest.raises(EmptyInputError):
        QuantizedIndex(np.empty((0, 4)))
    index = QuantizedIndex(vectors)
    with pytest.raises(ShapeError):
        index.search(vectors[:1, :4], 1)
    with pytest.raises(InputError, match="zero"):
        index.search(np.zeros((1, 16)), 1)
    with pytest.raises(ShapeError, match="quantizer is for 16"):
        QuantizedIndex(vectors[:, :8], codes="product", quantizer=ProductQuantizer.fit(vectors, 4))
