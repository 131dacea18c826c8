"""Rerankers behind rankings, fused rankings, and systems by name."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedworks.errors import (
    DuplicateIdError,
    EmptyInputError,
    InputError,
    NonFiniteError,
    ShapeError,
    UnknownNameError,
)
from embedworks.evaluation import (
    EncoderSystem,
    FusedSystem,
    LexicalSystem,
    Ranks,
    RerankedSystem,
    Resampling,
    RetrievalTask,
    System,
    evaluate_systems,
    open_system,
    rank_documents,
)

DOCUMENTS = {
    "a": "cats sleep", "b": "cats and dogs sleep", "c": "dogs bark", "d": "cats", "e": "a bird",
}  # fmt: skip
QUERIES = {"q1": "cats sleep", "q2": "dogs", "q3": "nothing known"}


class Fixed:
    """A first stage with a given order."""

    name = "fixed"
    fingerprint = "fixed"

    def __init__(self, order):
        from embedworks.evaluation import Usage

        self.order = order
        self.usage = Usage()
        self.asked = []

    def describe(self):
        return {"kind": "fixed"}

    def search(self, queries, corpus, *, k, instruction=None, candidates=None):
        self.asked.append((k, instruction))
        self.usage.texts += len(corpus)
        return {q: {d: -float(i) for i, d in enumerate(self.order[:k])} for q in queries}


class Length:
    def __init__(self):
        self.pairs = []

    def predict(self, pairs):
        self.pairs += pairs
        return np.array([len(document) for _, document in pairs], dtype=np.float32)


class Backwards:
    def rank(self, query, documents):
        return list(range(len(documents)))[::-1]


def test_the_head_is_reordered_and_the_tail_stays_below():
    first = Fixed(list("abcde"))
    system = RerankedSystem(first, Length(), depth=3)
    assert isinstance(system, Ranks)
    assert not isinstance(system, System)
    found = system.search({"q": "x"}, DOCUMENTS, k=5, instruction="do")
    assert list(found["q"]) == rank_documents(found["q"]) == ["b", "a", "c", "d", "e"]
    assert first.asked == [(5, "do")]
    assert list(system.search({"q": "x"}, DOCUMENTS, k=2)["q"]) == ["b", "a"]
    assert first.asked[-1] == (3, None)
    cost = system.usage.take()
    assert cost.texts == 2 * (5 + 3)
    assert first.usage.texts == 0


@settings(deadline=None, max_examples=60)
@given(
    st.permutations(list(DOCUMENTS)),
    st.lists(st.floats(-1e12, 1e12), min_size=5, max_size=5),
    st.integers(1, 8),
)
def test_any_scores_keep_the_tail_below_in_its_order(order, scores, depth):
    given_scores = dict(zip(DOCUMENTS.values(), scores))

    class Table:
        def predict(self, pairs):
            return [given_scores[document] for _, document in pairs]

    found = RerankedSystem(Fixed(order), Table(), depth).search({"q": "x"}, DOCUMENTS, k=5)["q"]
    ranked = rank_documents(found)
    assert set(ranked[:depth]) == set(order[:depth])
    assert ranked[depth:] == order[depth:]
    assert [found[doc] for doc in ranked] == sorted(found.values(), reverse=True)


def test_rank_only_rerankers_and_short_lists():
    system = RerankedSystem(LexicalSystem(), Backwards(), depth=100, name="back")
    found = system.search(QUERIES, DOCUMENTS, k=5)
    plain = LexicalSystem().search(QUERIES, DOCUMENTS, k=5)
    for query in QUERIES:
        assert rank_documents(found[query]) == rank_documents(plain[query])[::-1]
    assert found["q3"] == {}

    class Partial:
        def rank(self, query, documents):
            return [1]

    found = RerankedSystem(Fixed(list("abc")), Partial()).search({"q": "x"}, DOCUMENTS, k=5)
    assert list(found["q"]) == ["b", "a", "c"]


def test_candidates_and_instructions_reach_both():
    model = Length()
    system = RerankedSystem(LexicalSystem(), model, template="prepend")
    own = {"q1": ["c", "d"], "q2": ["a"], "q3": []}
    found = system.search(QUERIES, DOCUMENTS, k=3, candidates=own, instruction="Find:")
    assert {query: set(docs) for query, docs in found.items()} == {
        "q1": {"c", "d"}, "q2": {"a"}, "q3": set(),
    }  # fmt: skip
    assert {query for query, _ in model.pairs} == {"Find: cats sleep", "Find: dogs"}


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (lambda pairs: [float("nan")] * len(pairs), NonFiniteError, "NaN"),
        (lambda pairs: [1.0], ShapeError, "one number each"),
        (lambda pairs: np.ones((len(pairs), 3)), ShapeError, "one number each"),
    ],
)
def test_unusable_scores_are_refused(answer, error, message):
    class Broken:
        def predict(self, pairs):
            return answer(pairs)

    with pytest.raises(error, match=message):
        RerankedSystem(Fixed(list("abc")), Broken()).search({"q": "x"}, DOCUMENTS, k=3)


@pytest.mark.parametrize("order", [[0, 0], [5], [-1]])
def test_unusable_orders_are_refused(order):
    class Broken:
        def rank(self, query, documents):
            return order

    with pytest.raises(InputError, match="names a position"):
        RerankedSystem(Fixed(list("abc")), Broken()).search({"q": "x"}, DOCUMENTS, k=3)


def test_unusable_systems_are_refused():
    with pytest.raises(InputError, match="no reranker"):
        RerankedSystem(LexicalSystem(), object())
    with pytest.raises(InputError, match="k must be"):
        RerankedSystem(LexicalSystem(), Length(), 0)
    with pytest.raises(EmptyInputError, match="two systems"):
        FusedSystem([LexicalSystem()])
    with pytest.raises(DuplicateIdError):
        FusedSystem([LexicalSystem(), LexicalSystem()])
    with pytest.raises(InputError, match="weights"):
        FusedSystem([LexicalSystem(), LexicalSystem(name="b")], weights=[1.0])
    with pytest.raises(InputError, match="weight"):
        FusedSystem([LexicalSystem(), LexicalSystem(name="b")], weights=[1.0, -1.0])


def test_fusion_is_the_sum_of_reciprocal_ranks():
    one, two = Fixed(list("abcd")), Fixed(list("dbe"))
    two.name = "two"
    system = FusedSystem([one, two], weights=[1.0, 2.0])
    found = system.search({"q": "x"}, DOCUMENTS, k=5)["q"]
    want = {
        doc: sum(
            weight / (61 + order.index(doc))
            for weight, order in ((1.0, "abcd"), (2.0, "dbe"))
            if doc in order
        )
        for doc in "abcde"
    }
    assert found == pytest.approx(want)
    assert rank_documents(found) == list(found)
    assert isinstance(system, Ranks)
    assert set(system.describe()["systems"]) == {"fixed", "two"}


def test_names_open_systems(static_folder):
    assert open_system("bm25").name == "bm25"
    model = open_system(str(static_folder), template="prepend")
    assert isinstance(model, EncoderSystem)
    hybrid = open_system(f"hybrid:{static_folder}")
    assert hybrid.name == f"hybrid:{static_folder}"
    task = RetrievalTask("t", QUERIES, DOCUMENTS, {"q1": {"a": 1}, "q2": {"c": 1}})
    results = evaluate_systems(
        [open_system("bm25"), model, hybrid], [task], resampling=Resampling(n_resamples=100)
    )
    assert all(not result.errors for result in results)
    assert results[2].about["kind"] == "fused"
    with pytest.raises(UnknownNameError, match="static"):
        open_system("statik")


def test_vectors_from_a_file(tmp_path):
    from embedworks.evaluation import VectorTable

    path = VectorTable(["x", "y"], np.eye(2)).save(tmp_path / "v.parquet")
    found = open_system(str(path)).search({"q": "y"}, {"1": "x", "2": "y"}, k=1)
    assert found == {"q": {"2": 1.0}}
    with pytest.raises(InputError, match="model"):
        open_system("http://localhost:1/v1")


def test_a_real_cross_encoder(transformer_folder):
    pytest.importorskip("sentence_transformers")
    from sentence_transformers import CrossEncoder

    model = CrossEncoder(str(transformer_folder / ".." / "raw"), num_labels=1, max_length=16)
    system = RerankedSystem(LexicalSystem(), model, 10)
    long = {**DOCUMENTS, "f": "cats " * 40}
    found = system.search({"q1": "cats sleep"}, long, k=10)["q1"]
    assert set(found) == {"a", "b", "d", "f"}
    pairs = [("cats sleep", long[doc]) for doc in found]
    lengths = [len(model.tokenizer(*pair)["input_ids"]) for pair in pairs]
    assert system.usage.truncated == sum(length > 16 for length in lengths) > 0
    assert system.describe()["max_tokens"] == 16
