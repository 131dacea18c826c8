"""Systems: exact streamed search, caches, counting, and vectors that cannot be used."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedworks.errors import (
    EmptyInputError,
    InputError,
    NonFiniteError,
    ShapeError,
    UnknownNameError,
)
from embedworks.evaluation import EncoderSystem, LexicalSystem, System, systems
from embedworks.evaluation.systems import Ranks


class Table:
    """Vectors by text."""

    def __init__(self, table):
        self.table = {text: np.asarray(v, dtype=np.float32) for text, v in table.items()}
        self.seen = []

    def encode(self, texts):
        self.seen += list(texts)
        return np.stack([self.table[text] for text in texts])


class TwoSides(Table):
    def encode_query(self, texts):
        return self.encode([f"query {text}" for text in texts])

    def encode_document(self, texts):
        return self.encode([f"document {text}" for text in texts])


def made(table, **options):
    return EncoderSystem(Table(table), name="table", fingerprint="table", **options)


def slow_search(table, queries, corpus, k, similarity="cosine"):
    """All scores by one loop, sorted as trec_eval sorts."""
    found = {}
    for query, text in queries.items():
        a = np.asarray(table[text], dtype=np.float64)
        scores = {}
        for doc, body in corpus.items():
            b = np.asarray(table[body], dtype=np.float64)
            scale = np.linalg.norm(a) * np.linalg.norm(b) if similarity == "cosine" else 1.0
            scores[doc] = float(a @ b / scale) if scale else 0.0
        ranked = sorted(corpus, key=lambda d: (round(scores[d], 6), d), reverse=True)[:k]
        found[query] = {doc: scores[doc] for doc in ranked}
    return found


def same(found, expected):
    assert list(found) == list(expected)
    for query, ranking in expected.items():
        assert list(found[query]) == list(ranking)
        np.testing.assert_allclose(list(found[query].values()), list(ranking.values()), atol=1e-5)


VECTORS = st.lists(
    st.tuples(*[st.sampled_from([-1.0, 0.0, 0.0, 1.0, 2.0])] * 3), min_size=1, max_size=14
)


@settings(max_examples=60, deadline=None)
@given(VECTORS, VECTORS, st.integers(1, 16), st.integers(1, 6), st.sampled_from(["cosine", "dot"]))
def test_streamed_search_equals_brute_force(docs, asked, k, block, similarity):
    """With ties, zero vectors on both sides, and more documents than a block."""
    table = {f"d{i}": v for i, v in enumerate(docs)} | {f"q{i}": v for i, v in enumerate(asked)}
    corpus = {f"id{i}": f"d{i}" for i in range(len(docs))}
    queries = {f"Q{i}": f"q{i}" for i in range(len(asked))}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(systems, "_BLOCK", block)
        found = made(table, similarity=similarity).search(queries, corpus, k=k)
    same(found, slow_search(table, queries, corpus, k, similarity))


@settings(max_examples=40, deadline=None)
@given(VECTORS, st.integers(1, 16), st.data())
def test_candidates_equal_brute_force(docs, k, data):
    table = {f"d{i}": v for i, v in enumerate(docs)} | {"q": docs[0]}
    corpus = {f"id{i}": f"d{i}" for i in range(len(docs))}
    own = data.draw(st.lists(st.sampled_from(sorted(corpus)), unique=True))
    found = made(table).search({"Q": "q", "R": "q"}, corpus, k=k, candidates={"Q": own})
    expected = slow_search(table, {"Q": "q"}, {doc: corpus[doc] for doc in own}, k)
    same(found, {**expected, "R": {}})


def test_constant_vectors_rank_by_id_descending(monkeypatch):
    monkeypatch.setattr(systems, "_BLOCK", 4)
    table = {f"d{i}": (0.3, 0.4) for i in range(11)} | {"q": (1.0, 0.1)}
    corpus = {str(i): f"d{i}" for i in range(11)}
    found = made(table).search({"q": "q"}, corpus, k=6)["q"]
    assert list(found) == ["9", "8", "7", "6", "5", "4"]
    assert len(set(found.values())) == 1


class Waves:
    """256 numbers from the number a text is."""

    def encode(self, texts):
        numbers = np.array([int(text) for text in texts], dtype=np.float32)
        return np.sin(numbers[:, None] * np.linspace(0.1, 3, 256, dtype=np.float32))


@pytest.mark.parametrize("cached", [False, True])
def test_memory_does_not_grow_with_the_corpus(monkeypatch, tmp_path, cached):
    monkeypatch.setattr(systems, "_BLOCK", 1024)
    system = EncoderSystem(
        Waves(), name="waves", fingerprint="waves", cache=tmp_path if cached else None,
        show_progress=False,
    )  # fmt: skip
    size = 30_000
    corpus = {f"{i:06}": str(i) for i in range(size)}
    system.search({"q": "7"}, {"0": "1"}, k=1)  # imports and compilation
    tracemalloc.start()
    try:
        found = system.search({"q": "77", "r": "123"}, corpus, k=5)
        peak = tracemalloc.get_traced_memory()[1] / 2**20
    finally:
        tracemalloc.stop()
    assert next(iter(found["q"])) == "000077"
    assert next(iter(found["r"])) == "000123"
    assert peak < 0.6 * (size * 256 * 4 / 2**20)  # all vectors at once are 29 MB


def test_warm_equals_cold(tmp_path, static_folder):
    from embedworks.models import load

    model = load(str(static_folder))
    queries = {"q1": "open a tar archive", "q2": "parse the arguments", "q3": ""}
    corpus = {f"d{i}": t for i, t in enumerate(["tar file", "argument parser", "tar file", "x"])}
    plain = EncoderSystem(model, name="plain")
    with pytest.warns(UserWarning, match="no token"):
        expected = plain.search(queries, corpus, k=3)
    cold = EncoderSystem(model, name="cold", cache=tmp_path)
    with pytest.warns(UserWarning, match="no token"):
        found = cold.search(queries, corpus, k=3)
    assert found == expected
    first = cold.usage.take()
    warm = EncoderSystem(model, name="warm", cache=tmp_path)
    assert warm.search(queries, corpus, k=3) == expected
    second = warm.usage.take()
    assert (first.texts, first.cached) == (7, 1)  # "tar file" is there twice
    assert (second.texts, second.cached) == (7, 7)
    assert first.zero_vectors == second.zero_vectors == plain.usage.take().zero_vectors == 1
    np.testing.assert_array_equal(warm.encode(["tar file"]), plain.encode(["tar file"]))


def test_a_cache_is_not_read_by_another_model(tmp_path):
    one = EncoderSystem(Table({"a": [1.0, 0.0]}), name="m", fingerprint="1", cache=tmp_path)
    two = EncoderSystem(Table({"a": [0.0, 1.0]}), name="m", fingerprint="2", cache=tmp_path)
    assert one.encode(["a"]).tolist() == [[1.0, 0.0]]
    assert two.encode(["a"]).tolist() == [[0.0, 1.0]]


def test_roles_have_vectors_of_their_own(tmp_path):
    table = {"query a": [1.0, 0.0], "document a": [0.0, 1.0], "a": [1.0, 1.0]}
    for cache in (None, tmp_path):
        system = EncoderSystem(TwoSides(table), name="m", fingerprint="m", cache=cache)
        for _ in range(2):
            assert system.encode(["a"], role="query").tolist() == [[1.0, 0.0]]
            assert system.encode(["a"], role="document").tolist() == [[0.0, 1.0]]
            assert system.encode(["a"]).tolist() == [[1.0, 1.0]]


def test_instructions_are_spelled_by_the_template():
    from embedworks.data.templates import TEMPLATES

    name = next(n for n in TEMPLATES.names() if TEMPLATES[n].prefix("find it", "query"))
    prefix = TEMPLATES[name].prefix("find it", "query")
    model = Table({f"{prefix}a": [1.0], "a": [2.0]})
    system = EncoderSystem(model, name="m", fingerprint="m", template=name)
    assert system.encode(["a"], role="query", instruction="find it").tolist() == [[1.0]]
    assert system.encode(["a"], role="query").tolist() == [[2.0]]
    plain = EncoderSystem(model, name="m", fingerprint="m")
    assert plain.encode(["a"], role="query", instruction="find it").tolist() == [[2.0]]


def test_usage_counts_and_starts_again():
    system = made({"a": [1.0, 0.0], "b": [0.0, 0.0]})
    system.encode(["a", "b", "a"])
    cost = system.usage.take()
    assert (cost.texts, cost.cached, cost.zero_vectors) == (3, 0, 1)
    assert cost.encoding_seconds >= 0
    assert system.usage.take().texts == 0


def test_derived_systems(tmp_path):
    system = made({"a": [1.0, 2.0, 3.0]}, cache=tmp_path)
    doubled = system.derived("doubled", lambda v: 2 * v)
    both = doubled.derived("both", lambda v: v[:, :2])
    assert both.encode(["a"]).tolist() == [[2.0, 4.0]]
    assert system.encode(["a"]).tolist() == [[1.0, 2.0, 3.0]]
    assert system.model.seen == ["a"]
    broken = system.derived("broken", lambda v: v * np.nan)
    with pytest.raises(NonFiniteError, match="broken"):
        broken.encode(["a"])


def test_what_systems_refuse():
    system = made({"a": [1.0, 0.0], "bad": [np.nan, 0.0]})
    with pytest.raises(NonFiniteError):
        system.encode(["a", "bad"])
    with pytest.raises(EmptyInputError):
        system.encode([])
    with pytest.raises(InputError):
        system.encode("a")
    with pytest.raises(EmptyInputError, match="0 and 1"):
        system.search({}, {"d": "a"}, k=1)
    with pytest.raises(EmptyInputError):
        system.search({"q": "a"}, {}, k=1)
    with pytest.raises(InputError, match="k must be"):
        system.search({"q": "a"}, {"d": "a"}, k=0)
    with pytest.raises(InputError, match="'e' is not a document"):
        system.search({"q": "a"}, {"d": "a"}, k=1, candidates={"q": ["e"]})
    with pytest.raises(InputError, match="no encode"):
        EncoderSystem(object(), name="nothing")
    with pytest.raises(UnknownNameError, match="similarity"):
        made({}, similarity="cosinus")


def test_dimensions_that_differ_are_refused():
    table = {"query a": [1.0, 0.0], "document a": [0.0, 1.0, 1.0]}
    system = EncoderSystem(TwoSides(table), name="lopsided", fingerprint="m")
    with pytest.raises(ShapeError, match=r"lopsided.* 2 .* 3:"):
        system.search({"q": "a"}, {"d": "a"}, k=1)
    with pytest.raises(ShapeError):
        system.search({"q": "a"}, {"d": "a"}, k=1, candidates={"q": ["d"]})


def test_too_few_vectors_are_refused():
    class Short:
        def encode(self, texts):
            return np.ones((len(texts) - 1, 2), dtype=np.float32)

    system = EncoderSystem(Short(), name="short", fingerprint="s")
    with pytest.raises(ShapeError, match="1 vectors for 2 texts"):
        system.encode(["a", "b"])


def test_describe_is_json(static_folder):
    import json

    from embedworks.models import load

    about = EncoderSystem(load(str(static_folder)), name="m").describe()
    assert json.loads(json.dumps(about)) == about
    assert about["dimension"] == 48
    assert about["fingerprint"]
    assert json.loads(json.dumps(LexicalSystem().describe()))["kind"] == "lexical"


def test_protocols_tell_what_a_system_can():
    assert isinstance(made({}), System)
    assert isinstance(LexicalSystem(), Ranks)
    assert not isinstance(LexicalSystem(), System)


def test_bm25_ranks_and_reranks_alike():
    corpus = {"1": "cats sleep", "2": "dogs bark at cats", "3": "birds sing", "4": "cats sleep"}
    system = LexicalSystem()
    whole = system.search({"q": "cats"}, corpus, k=4)["q"]
    assert list(whole) == ["4", "1", "2"]
    part = system.search({"q": "cats"}, corpus, k=2, candidates={"q": ["2", "1", "3"]})["q"]
    assert list(part) == ["1", "2"]
    assert part["1"] == pytest.approx(whole["1"])
    assert system.search({"q": "fish"}, corpus, k=2) == {"q": {}}
    with pytest.raises(InputError, match="'9'"):
        system.search({"q": "cats"}, corpus, k=2, candidates={"q": ["9"]})
