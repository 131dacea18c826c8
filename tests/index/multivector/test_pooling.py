"""Token pooling, truncated dimensions and the storage report."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from embedworks.errors import EmptyInputError, InputError, NonFiniteError, ShapeError
from embedworks.index.multivector.maxsim import MaxSimIndex, maxsim
from embedworks.index.multivector.pooling import pool_documents, pool_tokens
from embedworks.index.multivector.storage import storage_bytes, storage_report
from embedworks.index.multivector.tokens import TokenMatrix


def slow_ward(unit, clusters):
    """Merge the two clusters of least Lance-Williams (Ward) distance until few enough are left."""
    distance = {
        (a, b): 1 - float(unit[a] @ unit[b]) for a, b in itertools.combinations(range(len(unit)), 2)
    }
    names = list(range(len(unit)))
    following = len(unit)
    sizes = dict.fromkeys(names, 1)
    members = {place: [place] for place in names}
    while len(names) > clusters:
        a, b = min(itertools.combinations(names, 2), key=lambda pair: distance[pair])
        for other in names:
            if other in (a, b):
                continue
            total = sizes[a] + sizes[b] + sizes[other]
            ax, bx = distance[tuple(sorted((a, other)))], distance[tuple(sorted((b, other)))]
            squared = (
                (sizes[a] + sizes[other]) * ax**2
                + (sizes[b] + sizes[other]) * bx**2
                - sizes[other] * distance[(a, b)] ** 2
            ) / total
            distance[(other, following)] = squared**0.5
        members[following] = members[a] + members[b]
        sizes[following] = sizes[a] + sizes[b]
        names = [name for name in names if name not in (a, b)] + [following]
        following += 1
    return sorted(sorted(members[name]) for name in names)


@pytest.mark.parametrize(("length", "factor", "protected"), [(9, 2, 0), (12, 3, 1), (7, 4, 2)])
def test_pools_are_those_of_slow_ward_clustering(length, factor, protected):
    tokens = np.random.default_rng(length).normal(size=(length, 5))
    unit = tokens / np.linalg.norm(tokens, axis=1, keepdims=True)
    groups = slow_ward(unit[protected:], max(1, (length - protected) // factor))
    expected = [unit[place] for place in range(protected)]
    for group in groups:
        mean = unit[protected:][group].mean(axis=0)
        expected.append(mean / np.linalg.norm(mean))
    np.testing.assert_allclose(
        pool_tokens(tokens, factor, protected=protected), expected, atol=1e-6
    )


def test_factor_one_and_short_documents_change_nothing():
    tokens = np.random.default_rng(0).normal(size=(5, 3))
    unit = tokens / np.linalg.norm(tokens, axis=1, keepdims=True)
    np.testing.assert_allclose(pool_tokens(tokens, 1), unit, atol=1e-6)
    np.testing.assert_allclose(pool_tokens(tokens[:2], 9), unit[:2], atol=1e-6)
    np.testing.assert_allclose(pool_tokens(tokens, 2, protected=8), unit, atol=1e-6)
    assert len(pool_tokens(tokens, 50)) == 2


def test_opposite_tokens_do_not_vanish():
    pooled = pool_tokens(np.array([[1.0, 0.0], [-1.0, 0.0]]), 2, protected=0)
    np.testing.assert_allclose(pooled, [[1.0, 0.0]])


def test_pooled_documents_are_findable_and_smaller():
    rng = np.random.default_rng(1)
    topics = rng.normal(size=(40, 12))
    documents = [
        np.repeat(topics[rng.choice(40, 3)], 4, axis=0) + rng.normal(0, 0.05, (12, 12))
        for _ in range(50)
    ]
    pooled = pool_documents(documents, 4, protected=0)
    assert pooled.lengths.tolist() == [3] * 50
    whole, small = MaxSimIndex(documents), MaxSimIndex(pooled)
    asked = [document[::4] for document in documents]
    truth = whole.search(asked, 1)[0]
    assert (small.search(asked, 1)[0] == truth).mean() > 0.95
    assert small.memory()["tokens"] * 4 == whole.memory()["tokens"]
    alone = [pool_tokens(document, 4, protected=0) for document in documents]
    np.testing.assert_array_equal(pooled.tokens, np.concatenate(alone))


def test_truncated_dimensions():
    rng = np.random.default_rng(2)
    documents, query = [rng.normal(size=(4, 8)) for _ in range(9)], rng.normal(size=(3, 8))
    index = MaxSimIndex(documents, truncate_dim=3)
    ids, scores = index.search([query], 9)
    for number, score in zip(ids[0], scores[0], strict=True):
        assert abs(score - maxsim(query[:, :3], documents[number][:, :3])) < 1e-6
    with pytest.raises(ShapeError, match=r"\(U, 8\)"):
        index.search([query[:, :3]], 1)
    for wrong in (0, 9, 2.0):
        with pytest.raises(InputError, match="from 1 to 8"):
            MaxSimIndex(documents, truncate_dim=wrong)


def test_truncated_index_is_saved(tmp_path):
    rng = np.random.default_rng(3)
    documents, query = [rng.normal(size=(4, 8)) for _ in range(9)], rng.normal(size=(3, 8))
    index = MaxSimIndex(documents, truncate_dim=3)
    index.save(tmp_path / "index")
    again = MaxSimIndex.load(tmp_path / "index")
    np.testing.assert_array_equal(index.search([query], 4)[1], again.search([query], 4)[1])


def test_the_papers_storage_table():
    # documents, vectors, dim -> GiB in float16
    table = [(773, 4096, 5897.5), (773, 2560, 3686.0), (2304, 3072, 13183.6), (773, 128, 184.3)]
    for tokens, dim, gib in table:
        assert round(storage_bytes(10**6, tokens, dim) / 2**30, 1) == gib


def test_report_compares_size_and_quality():
    rng = np.random.default_rng(4)
    documents = [rng.normal(size=(6, 16)) for _ in range(30)]
    truth = np.arange(30)
    indexes = {
        "float32": MaxSimIndex(documents),
        "int8": MaxSimIndex(documents, storage="int8"),
        "pooled": MaxSimIndex(pool_documents(documents, 6)),
        "3 dims": MaxSimIndex(documents, truncate_dim=3),
    }
    rows = storage_report(indexes, documents, lambda ids: float((ids[:, 0] == truth).mean()))
    assert [row.name for row in rows] == list(indexes)
    assert rows[0].ratio == 1.0
    assert rows[0].quality == rows[1].quality == 1.0
    assert rows[1].bytes_per_document == (6 * 30 * (16 + 4) + 31 * 8) / 30
    assert rows[2].ratio < 0.4
    with pytest.raises(EmptyInputError):
        storage_report({}, documents, lambda ids: 0.0)


def test_bad_input():
    tokens = np.ones((3, 2))
    for factor in (0, -1, 1.5, True):
        with pytest.raises(InputError, match="factor"):
            pool_tokens(tokens, factor)
    with pytest.raises(InputError, match="protected"):
        pool_tokens(tokens, 2, protected=-1)
    with pytest.raises(NonFiniteError):
        pool_tokens(np.full((3, 2), np.nan), 2)
    with pytest.raises(InputError, match="Document 1 has a zero vector"):
        pool_documents([tokens, np.zeros((2, 2))], 2)
    with pytest.raises(EmptyInputError):
        pool_documents([], 2)
    matrix = TokenMatrix.from_documents([tokens])
    with pytest.raises(InputError, match="no document 1"):
        matrix.document(1)
