"""What every late-interaction index does with input that is wrong."""

from __future__ import annotations

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
from embedworks.index import MaxSimIndex, MuveraIndex, PlaidIndex

KINDS = {
    "exact": MaxSimIndex,
    "plaid": PlaidIndex,
    "muvera": lambda documents: MuveraIndex(documents, repetitions=3, planes=2),
}


@pytest.fixture(scope="module")
def documents():
    rng = np.random.default_rng(0)
    return [rng.normal(size=(n, 8)) for n in rng.integers(1, 6, 30)]


@pytest.mark.parametrize("kind", KINDS)
def test_documents_are_named(kind, documents):
    build = KINDS[kind]
    with pytest.raises(EmptyInputError, match="no documents"):
        build([])
    # A document whose tokens are all masked away has none left.
    masked = documents[2][np.zeros(len(documents[2]), dtype=bool)]
    with pytest.raises(EmptyInputError, match="the first is document 2"):
        build([*documents[:2], masked])
    for value in (np.nan, np.inf):
        with pytest.raises(NonFiniteError, match="Document 2"):
            build([*documents[:2], np.full((1, 8), value)])
    with pytest.raises(InputError, match="Document 2 has a zero vector as token 1"):
        build([*documents[:2], np.eye(8)[:3] * [[1], [0], [1]]])
    with pytest.raises(ShapeError, match="Document 2"):
        build([*documents[:2], np.ones((2, 7))])
    with pytest.raises(ShapeError, match="Document 0"):
        build([np.ones(8)])


@pytest.mark.parametrize("kind", KINDS)
def test_queries_are_named_and_k_is_cut(kind, documents):
    index = KINDS[kind](documents)
    good = documents[0]
    for wrong, error in (
        (np.empty((0, 8)), EmptyInputError),
        (np.full((2, 8), np.nan), NonFiniteError),
        (np.zeros((1, 8)), InputError),
        (np.ones((2, 9)), ShapeError),
        (np.ones(8), ShapeError),
    ):
        with pytest.raises(error, match="Query 1"):
            index.search([good, wrong], 3)
    for k in (0, -1, 1.5, True):
        with pytest.raises(InputError, match="k must be"):
            index.search([good], k)
    ids, scores = index.search([good, good], 10**6)
    assert ids.shape == scores.shape == (2, 30)
    assert sorted(ids[0].tolist()) == list(range(30))
    assert index.search([], 5)[0].shape == (0, 5)


@pytest.mark.parametrize("kind", KINDS)
def test_any_damaged_file_is_found(kind, documents, tmp_path):
    index = KINDS[kind](documents)
    index.save(tmp_path / "index")
    files = sorted(path for path in (tmp_path / "index").rglob("*") if path.is_file())
    assert len(files) >= 3
    for path in files:
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises((FormatError, NotFoundError)):
            type(index).load(tmp_path / "index")
        path.unlink()
        with pytest.raises((FormatError, NotFoundError)):
            type(index).load(tmp_path / "index")
        path.write_bytes(whole)
    again = type(index).load(tmp_path / "index")
    for one, other in zip(again.search(documents[:3], 4), index.search(documents[:3], 4)):
        np.testing.assert_array_equal(one, other)
