"""Hypothetical documents: identities, an oracle that must help, and what goes wrong."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import embedworks as ew
from embedworks.errors import DataWarning, InputError
from embedworks.evaluation import EncoderSystem
from embedworks.index import BM25Index
from embedworks.models import Encoder, HypotheticalDocuments, expand_query


class Letters:
    def encode(self, texts):
        return np.array([[text.count(c) for c in "abc"] for text in texts], dtype=np.float32)

    encode_query = encode_document = encode


def test_the_vector_is_the_mean_of_unit_vectors():
    searching = HypotheticalDocuments(Letters(), lambda query: ["bb", "c", "a"], k=2)
    assert isinstance(searching, Encoder)
    expected = np.array([1.0, 1.0, 1.0]) / np.sqrt(3)
    np.testing.assert_allclose(searching.encode_query(["aaa"])[0], expected, atol=1e-6)
    alone = HypotheticalDocuments(Letters(), lambda query: ["bb"], include_query=False)
    np.testing.assert_allclose(alone.encode_query(["aaa"])[0], [0, 1, 0], atol=1e-6)


def test_none_are_asked_for_when_k_is_zero():
    def write(query):
        raise AssertionError("not asked for")

    searching = HypotheticalDocuments(Letters(), write, k=0)
    np.testing.assert_allclose(searching.encode_query(["aaa"]), [[1, 0, 0]])
    with pytest.raises(InputError, match="nothing to search with"):
        HypotheticalDocuments(Letters(), write, k=0, include_query=False)


def test_queries_without_a_passage_are_counted_and_searched_with_as_they_are():
    answers = {"a": ["b"], "c": ["  "]}
    searching = HypotheticalDocuments(Letters(), answers.__getitem__, include_query=False)
    with pytest.warns(DataWarning, match="1 of 2 queries got no passage"):
        vectors = searching.encode_query(["a", "c"])
    np.testing.assert_allclose(vectors, [[0, 1, 0], [0, 0, 1]])


def test_an_oracle_improves_real_search(documents):
    """The document itself as its passage is the upper bound; a fixed text is the lower one."""
    model = ew.load("static")
    corpus = {path.name: path.read_text() for path in sorted(documents.rglob("*.*"))}
    names = sorted(corpus)
    queries = {name: f"which page was number {place}?" for place, name in enumerate(names)}
    behind = {query: corpus[name] for name, query in queries.items()}

    def hits(encoder):
        found = EncoderSystem(encoder, name="x").search(queries, corpus, k=1)
        return np.mean([next(iter(found[name])) == name for name in names])

    oracle = HypotheticalDocuments(model, lambda query: [behind[query]])
    noise = HypotheticalDocuments(model, lambda query: ["One text for all."])
    assert len(names) > 3
    assert hits(oracle) == 1.0
    assert hits(oracle) > hits(model)
    assert hits(noise) < 1.0


def test_caches_tell_writers_apart():
    model = ew.load("static")
    kinds = [
        HypotheticalDocuments(model, lambda q: ["x"], identity=name, k=k).content_hash
        for name, k in (("one", 1), ("two", 1), ("one", 2))
    ]
    assert len(set(kinds)) == 3


def test_expanded_queries_find_more_with_bm25():
    index = BM25Index.build(["flour water salt", "a bread board", "yeast"])
    plain = index.search(["bread"], 3)[0][0].tolist()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        expanded = index.search([expand_query("bread", ["flour and yeast"])], 3)[0][0].tolist()
    assert plain == [1]
    assert set(expanded) == {0, 1, 2}
    assert expanded[0] == 1  # five times the query outweighs the passage
    assert expand_query("bread", ["  "]) == "bread"
