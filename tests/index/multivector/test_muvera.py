"""Fixed-dimension encodings: what they are, and what their products approximate."""

from __future__ import annotations

import numpy as np
import pytest

from embedworks.errors import FormatError, InputError, ShapeError
from embedworks.index.multivector.maxsim import MaxSimIndex, maxsim
from embedworks.index.multivector.muvera import FixedDimensionEncoder, MuveraIndex
from embedworks.index.multivector.tokens import TokenMatrix


def unit(rng, count, dim):
    vectors = rng.normal(size=(count, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def slow_encoding(encoder, tokens, *, query):
    """Encode one text with plain loops."""
    result = []
    for normals, signs in zip(encoder.normals, encoder.signs, strict=True):
        codes = [[float(normal @ token) > 0 for normal in normals] for token in tokens]
        short = tokens.astype(float) @ signs if signs.shape[1] else tokens.astype(float)
        for cell in range(2 ** len(normals)):
            bits = [bool(cell >> place & 1) for place in range(len(normals))]
            inside = [one for one, code in zip(short, codes, strict=True) if code == bits]
            if query:
                result.append(np.sum(inside, axis=0) if inside else np.zeros(short.shape[1]))
            elif inside:
                result.append(np.mean(inside, axis=0))
            else:
                differ = [sum(a != b for a, b in zip(code, bits, strict=True)) for code in codes]
                result.append(short[int(np.argmin(differ))])
    return np.concatenate(result) / np.sqrt(len(encoder.normals))


@pytest.mark.parametrize(("planes", "projected"), [(0, None), (2, None), (3, 4), (5, 1)])
def test_encodings_equal_slow_ones(planes, projected):
    rng = np.random.default_rng(planes)
    encoder = FixedDimensionEncoder.draw(6, repetitions=3, planes=planes, projected=projected)
    texts = [unit(rng, int(n), 6) for n in rng.integers(1, 9, 7)]
    matrix = TokenMatrix.from_documents(texts)
    for encode, query in ((encoder.encode_queries, True), (encoder.encode_documents, False)):
        found = encode(matrix)
        assert found.shape == (7, encoder.size)
        expected = [slow_encoding(encoder, text, query=query) for text in texts]
        np.testing.assert_allclose(found, expected, atol=1e-5)


def products(encoder, queries, documents):
    left = encoder.encode_queries(TokenMatrix.from_documents(queries))
    return left @ encoder.encode_documents(TokenMatrix.from_documents(documents)).T


def test_never_above_maxsim_and_equal_for_single_tokens():
    rng = np.random.default_rng(1)
    encoder = FixedDimensionEncoder.draw(8, repetitions=4, planes=3, projected=None)
    queries = [unit(rng, 5, 8) for _ in range(10)]
    documents = [unit(rng, n, 8) for n in (1, 1, 4, 9)]
    truth = np.array([[maxsim(q, d) for d in documents] for q in queries])
    found = products(encoder, queries, documents)
    assert (found <= truth + 1e-5).all()
    np.testing.assert_allclose(found[:, :2], truth[:, :2], atol=1e-5)
    assert (found[:, 2:] < truth[:, 2:] - 1e-3).any()


def test_more_planes_come_closer_to_maxsim():
    rng = np.random.default_rng(2)
    centres = unit(rng, 40, 32)
    noisy = lambda rows: centres[rows] + rng.normal(0, 0.02, (len(rows), 32)).astype(np.float32)  # noqa: E731
    documents = [noisy(rng.choice(40, 8)) for _ in range(30)]
    queries = [noisy(rng.choice(40, 4)) for _ in range(20)]
    truth = np.array([[maxsim(q, d, similarity="dot") for d in documents] for q in queries])
    gaps = []
    for planes in (0, 2, 4, 6):
        encoder = FixedDimensionEncoder.draw(32, repetitions=20, planes=planes, projected=None)
        gaps.append(float((truth - products(encoder, queries, documents)).mean()))
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[-1] < gaps[0] / 2


def test_signs_are_right_on_average():
    rng = np.random.default_rng(3)
    queries, documents = [unit(rng, 4, 16)], [unit(rng, 6, 16) for _ in range(5)]
    whole, short = [], []
    for seed in range(60):
        for projected, kept in ((None, whole), (8, short)):
            encoder = FixedDimensionEncoder.draw(
                16, repetitions=10, planes=2, projected=projected, seed=seed
            )
            kept.append(products(encoder, queries, documents)[0])
    error = np.std(short, axis=0) / np.sqrt(60)
    assert (np.abs(np.mean(short, axis=0) - np.mean(whole, axis=0)) < 4 * error).all()


def test_two_stages_find_what_exact_search_finds():
    rng = np.random.default_rng(4)
    centres = unit(rng, 60, 24)
    documents = [centres[rng.choice(60, 8)] + rng.normal(0, 0.1, (8, 24)) for _ in range(400)]
    asked = [document[:4] for document in documents[:30]]
    truth, scores = MaxSimIndex(documents).search(asked, 10)
    index = MuveraIndex(documents, repetitions=20, planes=4, projected=8)
    found, values = index.search(asked, 10, candidates=100)
    shared = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found.tolist(), truth.tolist())])
    assert shared > 0.9
    known = dict(zip(zip(np.repeat(range(30), 10), truth.ravel().tolist()), scores.ravel()))
    for query in range(30):
        for number, value in zip(found[query].tolist(), values[query]):
            assert known.get((query, number), value) == value
    everything = index.search(asked, 10, candidates=400)
    np.testing.assert_array_equal(everything[0], truth)


def test_masks():
    rng = np.random.default_rng(5)
    documents = [unit(rng, 3, 8) for _ in range(50)]
    index = MuveraIndex(documents)
    for share in (0.0, 0.1, 0.9):
        mask = rng.random(50) < share
        ids, _ = index.search(documents[:3], 20, mask=mask, candidates=20)
        assert ids.shape == (3, min(20, mask.sum()))
        assert mask[ids].all()


def test_saved_and_loaded(tmp_path):
    rng = np.random.default_rng(6)
    documents = [unit(rng, 3, 8) for _ in range(30)]
    index = MuveraIndex(documents, storage="int8")
    index.save(tmp_path / "index")
    again = MuveraIndex.load(tmp_path / "index")
    for one, other in zip(index.search(documents[:4], 5), again.search(documents[:4], 5)):
        np.testing.assert_array_equal(one, other)
    np.save(tmp_path / "index" / "normals.npy", index.encoder.normals[:, :, :7])
    with pytest.raises(FormatError, match="promises"):
        MuveraIndex.load(tmp_path / "index")


def test_bad_input():
    for wrong in ({"repetitions": 0}, {"planes": 13}, {"projected": 9}, {"planes": 1.5}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            FixedDimensionEncoder.draw(8, **wrong)
    encoder = FixedDimensionEncoder.draw(8)
    with pytest.raises(ShapeError, match="8 dimensions"):
        encoder.encode_queries(TokenMatrix.from_documents([np.ones((1, 7))]))
    with pytest.raises(ShapeError, match="Query 0"):
        MuveraIndex([np.ones((2, 8))]).search([np.ones((2, 7))], 1)
