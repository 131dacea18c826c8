"""The compressed index against slow loops over what it decodes."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from embedworks.errors import (
    EmptyInputError,
    FormatError,
    InputError,
    NonFiniteError,
    NotFoundError,
    ShapeError,
)
from embedworks.index.multivector.maxsim import MaxSimIndex
from embedworks.index.multivector.plaid import PlaidIndex, default_centroids
from embedworks.index.multivector.residual import (
    SCALE_UNIT,
    ResidualCodec,
    principal_axes,
    share_bytes,
)


def topical(rng, count, dim=16, topics=30, most=12):
    """Documents whose tokens lie around a few centres, as those of a real model do."""
    centres = rng.normal(size=(topics, dim))
    return [
        centres[rng.integers(0, topics, n)] + rng.normal(0, 0.4, (n, dim))
        for n in rng.integers(1, most + 1, count)
    ]


def slow_maxsim(query, tokens):
    total = 0.0
    for one in query.astype(float):
        total += max(math.fsum(a * b for a, b in zip(one, other)) for other in tokens.astype(float))
    return total


@pytest.fixture(scope="module")
def documents():
    return topical(np.random.default_rng(0), 120)


@pytest.fixture(scope="module")
def index(documents):
    return PlaidIndex(documents, bits=2, dims=12)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_codec_equals_a_slow_one(bits):
    rng = np.random.default_rng(bits)
    vectors = (rng.normal(size=(400, 8)) * [8, 6, 4, 3, 2, 1, 0.5, 0.2]).astype(np.float32)
    codec = ResidualCodec.fit(vectors, centroids=5, bits=bits)
    nearest, codes, scales = codec.encode(vectors[:40])
    decoded = codec.decode(nearest, codes, scales)
    assert codes.shape == (40, bits)
    assert codec.code_bytes == bits
    turned = vectors @ codec.axes
    for row in range(40):
        distances = [math.dist(turned[row], centroid) for centroid in codec.centroids]
        assert nearest[row] == int(np.argmin(distances))
        rest = turned[row] - codec.centroids[nearest[row]]
        expected = codec.centroids[nearest[row]].astype(float)
        for byte in range(bits):
            part = slice(codec.edges[byte], codec.edges[byte + 1])
            words = codec.codewords[part].T
            losses = [math.dist(rest[part], word) for word in words]
            assert losses[codes[row, byte]] <= min(losses) + 1e-4
            expected[part] += words[codes[row, byte]]
        scale = math.hypot(*turned[row]) / math.hypot(*expected)
        assert abs(scales[row] * SCALE_UNIT - scale) <= SCALE_UNIT
        np.testing.assert_allclose(decoded[row], np.multiply(expected, scale), atol=3e-3)
        np.testing.assert_allclose(
            np.linalg.norm(decoded[row]), np.linalg.norm(vectors[row]), rtol=1e-3
        )


def slow_loss(variances):
    """What eight bits lose on Gaussian axes: bisect for the level of the water."""
    low, high = 0.0, max(variances)
    for _ in range(200):
        level = (low + high) / 2
        if sum(0.5 * math.log2(one / level) for one in variances if one > level) > 8:
            low = level
        else:
            high = level
    return sum(min(one, high) for one in variances)


def test_bytes_are_shared_as_the_best_of_all_ways():
    rng = np.random.default_rng(4)
    for count in (1, 2, 3, 5, 8):
        variances = rng.exponential(size=8) ** 2
        variances[rng.integers(0, 8)] = 0
        found = share_bytes(variances, count)
        losses = {}
        for inner in itertools.combinations(range(1, 8), count - 1):
            edges = (0, *inner, 8)
            losses[edges] = sum(slow_loss(variances[a:b]) for a, b in itertools.pairwise(edges))
        assert losses[tuple(found.tolist())] <= min(losses.values()) * (1 + 1e-9) + 1e-12


def test_bytes_go_where_the_variance_is():
    assert np.diff(share_bytes(np.ones(64), 16)).tolist() == [4] * 16
    widths = np.diff(share_bytes(np.exp(-np.arange(384) / 90), 80))
    assert widths.sum() == 384
    assert (np.diff(widths[1:]) >= 0).all()
    assert widths[-1] > 2 * widths[1]
    assert share_bytes(np.ones(100), 1).tolist() == [0, 100]
    for count in (0, 4):
        with pytest.raises(InputError, match="count"):
            share_bytes(np.ones(3), count)


def test_axes_are_those_of_what_is_left():
    rng = np.random.default_rng(8)
    vectors = topical(rng, 400, dim=12, topics=6)
    vectors = np.concatenate(vectors) * [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0.01, 0.01]
    codec = ResidualCodec.fit(vectors.astype(np.float32), centroids=6, bits=4, dims=8)
    np.testing.assert_allclose(codec.axes.T @ codec.axes, np.eye(8), atol=1e-5)
    turned = vectors @ codec.axes
    nearest = np.linalg.norm(turned[:, None] - codec.centroids, axis=2).argmin(axis=1)
    rest = turned - codec.centroids[nearest]
    moments = rest.T @ rest / len(rest)
    assert np.abs(moments - np.diag(np.diag(moments))).max() < 1e-3 * moments[0, 0]
    assert (np.diff(np.diag(moments)) <= 1e-6).all()
    # What is kept is what the principal axes of the vectors keep.
    kept = (turned**2).sum() / (vectors**2).sum()
    best = ((vectors @ principal_axes(vectors, 8)) ** 2).sum() / (vectors**2).sum()
    assert abs(kept - best) < 1e-5


def test_codewords_lose_less_than_quantiles_of_each_axis():
    rng = np.random.default_rng(6)
    vectors = (rng.normal(size=(4000, 16)) * np.exp(-np.arange(16) / 6)).astype(np.float32)
    codec = ResidualCodec.fit(vectors, centroids=1, bits=2)
    rest = vectors @ codec.axes - codec.centroids[0]
    decoded = codec.decode(*codec.encode(vectors)) - codec.centroids[0]
    cuts = np.quantile(rest, [0.25, 0.5, 0.75], axis=0)
    middles = np.quantile(rest, [0.125, 0.375, 0.625, 0.875], axis=0)
    buckets = (rest[:, None] >= cuts).sum(axis=1)
    quantiles = np.take_along_axis(middles, buckets, axis=0)
    assert ((rest - decoded) ** 2).sum() < 0.75 * ((rest - quantiles) ** 2).sum()


def test_more_bits_are_closer():
    vectors = np.random.default_rng(1).normal(size=(3000, 8)).astype(np.float32)
    errors = []
    for bits in (1, 2, 4, 8):
        codec = ResidualCodec.fit(vectors, centroids=8, bits=bits)
        errors.append(np.abs(codec.decode(*codec.encode(vectors)) - vectors @ codec.axes).mean())
    assert errors == sorted(errors, reverse=True)
    assert errors[3] < errors[0] / 10


def test_principal_axes_keep_the_most():
    vectors = np.random.default_rng(2).normal(size=(200, 6)) * [5, 1, 4, 0.1, 2, 0.2]
    axes = principal_axes(vectors, 3)
    np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-6)
    kept = (vectors @ axes) ** 2
    assert abs(kept.sum() - (np.linalg.svd(vectors)[1][:3] ** 2).sum()) < 1e-2


def test_nothing_pruned_equals_slow_maxsim_of_decoded_tokens(index):
    rng = np.random.default_rng(3)
    for length in (1, 5, 16, 17, 40):
        query = rng.normal(size=(length, 16))
        query /= np.linalg.norm(query, axis=1, keepdims=True)
        ids, scores = index.search([query], 120, probes=10**6, candidates=120)
        turned = query @ index.codec.axes
        truth = [slow_maxsim(turned, index.document(m)) for m in ids[0]]
        np.testing.assert_allclose(scores[0], truth, atol=1e-4)
        assert sorted(ids[0]) == list(range(120))
        assert (np.diff(scores[0]) <= 0).all()


def test_the_three_stages_equal_slow_ones(index):
    rng = np.random.default_rng(4)
    owners = [set(index._nearest[a:b]) for a, b in zip(index.offsets[:-1], index.offsets[1:])]
    for _ in range(10):
        query = rng.normal(size=(5, 16))
        query /= np.linalg.norm(query, axis=1, keepdims=True)
        turned = query @ index.codec.axes
        probed = set()
        for one in turned:
            order = np.argsort(-(index.codec.centroids @ one), kind="stable")
            probed |= set(order[:3].tolist())
        found = [m for m, own in enumerate(owners) if own & probed]
        rough = {}
        for m in found:
            part = slice(index.offsets[m], index.offsets[m + 1])
            rough[m] = slow_maxsim(turned, index.codec.centroids[index._nearest[part]])
        kept = sorted(found, key=lambda m: -rough[m])[:9]
        exact = {m: slow_maxsim(turned, index.document(m)) for m in kept}
        expected = sorted(kept, key=lambda m: -exact[m])[:4]
        ids, _ = index.search([query], 4, probes=3, candidates=9)
        assert ids[0].tolist() == expected


@pytest.fixture(scope="module")
def long_codes():
    """21 bytes a token: the third stage reads 8, and 5 are left when eight are read at a time."""
    documents = topical(np.random.default_rng(7), 80, dim=40)
    index = PlaidIndex(documents, bits=4.2, centroids=12, iterations=2)
    assert index.codec.code_bytes == 21
    return index


def slow_tokens(index, document, count):
    """Tokens with what the first ``count`` bytes of their codes say."""
    codec, rows = index.codec, []
    for token in range(index.offsets[document], index.offsets[document + 1]):
        row = codec.centroids[index._nearest[token]].astype(float)
        for byte in range(count):
            part = slice(codec.edges[byte], codec.edges[byte + 1])
            row[part] += codec.codewords[part, index._codes[token, byte]]
        rows.append(row * index._scales[token] * SCALE_UNIT)
    return np.array(rows)


@pytest.mark.parametrize("length", [9, 16, 19])
def test_long_codes_are_scored_in_part_and_whole(long_codes, length):
    rng = np.random.default_rng(length)
    query = rng.normal(size=(length, 40))
    query /= np.linalg.norm(query, axis=1, keepdims=True)
    turned = query @ long_codes.codec.axes
    whole = [slow_maxsim(turned, long_codes.document(m)) for m in range(80)]
    parts = [slow_maxsim(turned, slow_tokens(long_codes, m, 8)) for m in range(80)]
    everything = {"probes": 12, "candidates": 80}
    ids, scores = long_codes.search([query], 80, **everything)
    assert sorted(ids[0]) == list(range(80))
    np.testing.assert_allclose(scores[0], [whole[m] for m in ids[0]], atol=1e-4)
    kept = sorted(range(80), key=lambda m: -parts[m])[:7]
    expected = sorted(kept, key=lambda m: -whole[m])[:5]
    assert long_codes.search([query], 5, finalists=7, **everything)[0][0].tolist() == expected
    rough = {
        m: slow_maxsim(turned, slow_tokens(long_codes, m, 0) / scales(long_codes, m))
        for m in range(80)
    }
    first = sorted(rough, key=lambda m: -rough[m])[:20]
    kept = sorted(first, key=lambda m: -parts[m])[:7]
    expected = sorted(kept, key=lambda m: -whole[m])[:5]
    ids, _ = long_codes.search([query], 5, probes=12, candidates=20, finalists=7)
    assert ids[0].tolist() == expected


def scales(index, document):
    part = slice(index.offsets[document], index.offsets[document + 1])
    return index._scales[part, None] * SCALE_UNIT


def test_tables_are_products_with_codewords(long_codes):
    codec = long_codes.codec
    columns = np.random.default_rng(1).normal(size=(40, 3)).astype(np.float32)
    tables = codec.tables(columns)
    assert tables.shape == (21, 256, 3)
    for byte, word, token in [(0, 0, 0), (7, 255, 1), (20, 3, 2)]:
        axes = range(codec.edges[byte], codec.edges[byte + 1])
        truth = math.fsum(float(codec.codewords[a, word]) * float(columns[a, token]) for a in axes)
        assert abs(tables[byte, word, token] - truth) < 1e-5


def test_masks_and_large_k(index, documents):
    rng = np.random.default_rng(5)
    for share in (0.0, 0.05, 0.5, 1.0):
        mask = rng.random(120) < share
        for k in (1, 20, 500):
            ids, scores = index.search(documents[:4], k, mask=mask, probes=1, candidates=1)
            assert ids.shape == scores.shape == (4, min(k, mask.sum()))
            assert mask[ids].all()
            assert all(len(set(row)) == len(row) for row in ids.tolist())


def test_finds_what_exact_search_finds(documents):
    asked = [document[:6] for document in documents[::3]]
    truth = MaxSimIndex(documents).search(asked, 10)[0]
    index = PlaidIndex(documents, bits=4)
    ids = index.search(asked, 10)[0]
    shared = [len(set(a) & set(b)) / 10 for a, b in zip(ids.tolist(), truth.tolist())]
    assert np.mean(shared) > 0.93


def test_memory_is_all_that_is_held(index):
    held = [value for value in vars(index).values() if isinstance(value, np.ndarray)]
    held += list(vars(index.codec).values())
    assert sum(index.memory().values()) == sum(part.nbytes for part in held)
    assert index.memory()["codes"] == 3 * index.offsets[-1]


def test_dot_keeps_lengths(documents):
    longer = [document * (1 + number % 3) for number, document in enumerate(documents)]
    index = PlaidIndex(longer, bits=8, similarity="dot")
    truth = MaxSimIndex(longer, similarity="dot")
    query = longer[3][:1]
    _, scores = index.search([query], 5)
    np.testing.assert_allclose(scores, truth.search([query], 5)[1], rtol=0.02)


def test_the_same_seed_gives_the_same_index(documents):
    first, second = (PlaidIndex(documents, bits=1, seed=3) for _ in range(2))
    np.testing.assert_array_equal(first._codes, second._codes)


def test_saved_and_loaded(tmp_path, index, documents):
    index.save(tmp_path / "index")
    again = PlaidIndex.load(tmp_path / "index")
    for one, other in zip(index.search(documents[:5], 7), again.search(documents[:5], 7)):
        np.testing.assert_array_equal(one, other)


def test_damage_is_found(tmp_path, index):
    folder = tmp_path / "index"

    def swap(name, array):
        index.save(folder)
        np.save(folder / f"{name}.npy", array)

    for name, array in [
        ("nearest", np.full_like(index._nearest, 60_000)),
        ("centroids", np.full_like(index.codec.centroids, np.nan)),
        ("offsets", np.zeros_like(index.offsets)),
        ("edges", index.codec.edges[::-1].copy()),
        ("codewords", np.full_like(index.codec.codewords, np.inf)),
    ]:
        swap(name, array)
        with pytest.raises(FormatError, match="do not fit"):
            PlaidIndex.load(folder)
    swap("codes", index._codes[:-1])
    with pytest.raises(FormatError, match="promises"):
        PlaidIndex.load(folder)
    with pytest.raises(NotFoundError):
        PlaidIndex.load(tmp_path / "nowhere")
    MaxSimIndex([np.ones((2, 3))]).save(folder)
    with pytest.raises(FormatError, match="'maxsim'"):
        PlaidIndex.load(folder)


@pytest.mark.parametrize(("bits", "dims", "count"), [(0.1, None, 1), (5 / 3, 12, 2), (3, 10, 4)])
def test_bits_may_be_any_share(documents, bits, dims, count):
    index = PlaidIndex(documents, bits=bits, dims=dims)
    assert index.codec.code_bytes == count
    assert index.memory()["codes"] == count * index.offsets[-1]


def test_small_collections():
    one = PlaidIndex([np.ones((1, 8))])
    assert one.search([np.ones((3, 8))], 5)[0].tolist() == [
        [0],
    ]
    assert default_centroids(1) == 1


def test_bad_input(index, documents):
    for bits in (0, 9, -1, np.nan):
        with pytest.raises(InputError, match="bits"):
            PlaidIndex(documents, bits=bits)
    with pytest.raises(InputError, match="dims"):
        PlaidIndex(documents, dims=20)
    with pytest.raises(InputError, match="centroids"):
        PlaidIndex(documents, centroids=10**6)
    with pytest.raises(InputError, match="Document 0 has a zero vector"):
        PlaidIndex([np.zeros((2, 8))])
    with pytest.raises(InputError, match="probes"):
        index.search(documents[:1], 1, probes=0)
    with pytest.raises(InputError, match="k must be"):
        index.search(documents[:1], 1, candidates=0)
    with pytest.raises(InputError, match="k must be"):
        index.search(documents[:1], 1, finalists=0)
    with pytest.raises(ShapeError, match="list"):
        index.search(documents[0], 1)
    with pytest.raises(ShapeError, match="Query 0"):
        index.search([np.ones((2, 12))], 1)
    with pytest.raises(EmptyInputError, match="Query 0"):
        index.search([np.ones((0, 16))], 1)
    with pytest.raises(NonFiniteError, match="Query 0"):
        index.search([np.full((1, 16), np.nan)], 1)
    with pytest.raises(ShapeError, match="mask"):
        index.search(documents[:1], 1, mask=np.ones(3, dtype=bool))


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_added_and_removed_documents(similarity, tmp_path):
    rng = np.random.default_rng(5)
    everything = topical(rng, 260)
    index = PlaidIndex(everything[:200], bits=4, similarity=similarity)
    first = [index.document(n) for n in range(200)]
    assert index.add(everything[200:]).tolist() == list(range(200, 260))
    assert len(index) == 260
    for number in range(200):
        np.testing.assert_array_equal(index.document(number), first[number])
    gone = [0, 7, 203, 259]
    assert index.remove(gone) == 4
    assert index.remove([7, 8]) == 1
    index.save(tmp_path / "plaid")
    again = PlaidIndex.load(tmp_path / "plaid")
    assert again.removed.tolist() == index.removed.tolist() == [0, 7, 8, 203, 259]
    left = [n for n in range(260) if n not in {*gone, 8}]
    mask = np.arange(260) % 3 > 0
    queries = [everything[n][:5] for n in (3, 7, 120, 230, 259)]
    for one in (index, again):
        ids, scores = one.search(queries, 300, candidates=300, probes=10**6)
        assert all(sorted(row) == left for row in ids.tolist())
        masked, _ = one.search(queries, 300, mask=mask)
        assert all(set(row) == {n for n in left if mask[n]} for row in masked.tolist())
        assert masked.shape[1] == sum(mask[left])
        for number, query in enumerate(queries):
            query = query.astype(np.float32)
            if similarity == "cosine":
                query = query / np.linalg.norm(query, axis=1, keepdims=True)
            turned = one.codec.turn(query)
            for place in (0, 40, 254):
                expected = slow_maxsim(turned, one.document(int(ids[number, place])))
                assert scores[number, place] == pytest.approx(expected, rel=1e-3, abs=1e-3)
    assert again.add(everything[:1]).tolist() == [260]  # the mapped codes are not written to
    assert 260 in again.search(queries, 300)[0]
    assert len(PlaidIndex.load(tmp_path / "plaid")) == 260


def test_most_of_an_index_may_be_added():
    """Centroids of a fifth of the documents still find what an exact index finds."""
    everything = topical(np.random.default_rng(8), 400)
    index = PlaidIndex(everything[:80], bits=8)
    for start in range(80, 400, 40):
        index.add(everything[start : start + 40])
    queries = [document[:4] for document in everything[::20]]
    found, _ = index.search(queries, 10)
    truth, _ = MaxSimIndex(everything).search(queries, 10)
    hits = [len(set(a) & set(b)) for a, b in zip(found.tolist(), truth.tolist(), strict=True)]
    assert np.mean(hits) / 10 >= 0.9


def test_refused_additions_and_removals_change_nothing(tmp_path):
    everything = topical(np.random.default_rng(2), 60)
    index = PlaidIndex(everything)
    before = index.search(everything[:2], 60)
    for bad, error in (
        ([np.ones((2, 5))], ShapeError),
        ([np.full((2, 16), np.nan)], NonFiniteError),
        ([np.zeros((1, 16))], InputError),
        ([np.empty((0, 16))], EmptyInputError),
    ):
        with pytest.raises(error):
            index.add([everything[0], *bad])
    for numbers in ([60], [-1], [3, 99]):
        with pytest.raises(InputError, match=r"\[0, 60\)"):
            index.remove(numbers)
    assert index.add([]).tolist() == []
    assert index.remove([]) == 0
    after = index.search(everything[:2], 60)
    for left, right in zip(before, after, strict=True):
        np.testing.assert_array_equal(left, right)
    index.remove([5])
    with pytest.raises(InputError, match="removed"):
        index.document(5)
    with pytest.raises(ShapeError, match="mask"):
        index.search(everything[:1], 3, mask=np.ones(7, dtype=bool))
    index.save(tmp_path / "plaid")
    header = tmp_path / "plaid" / "index.json"
    for damage in ("[60]", '"x"', "[null]"):
        text = header.read_text().replace('"removed": [\n      5\n    ]', f'"removed": {damage}')
        assert damage in text
        (tmp_path / "other").mkdir(exist_ok=True)
        for file in (tmp_path / "plaid").iterdir():
            (tmp_path / "other" / file.name).write_bytes(file.read_bytes())
        (tmp_path / "other" / "index.json").write_text(text)
        with pytest.raises(FormatError, match="Build the index again"):
            PlaidIndex.load(tmp_path / "other")
