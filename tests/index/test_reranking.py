"""A second opinion on the first results: order, both scores, and refusals."""

from __future__ import annotations

import numpy as np
import pytest

from embedworks.errors import InputError, NonFiniteError, ShapeError
from embedworks.index.collection import Collection
from embedworks.index.modes import SEARCH_MODES
from embedworks.index.reranking import rerank_scores

pytest.importorskip("lancedb")
DIM = 4


class Longest:
    """Prefers texts with many words; remembers what it read."""

    def __init__(self):
        self.pairs = []

    def predict(self, pairs):
        self.pairs.extend(pairs)
        return np.array([[len(text.split())] for _, text in pairs])


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    rng = np.random.default_rng(0)
    rows = [
        {"chunk_id": f"c{n}", "title": f"T{n}", "text": "file " * int(rng.integers(1, 20)), "n": n}
        for n in range(60)
    ]
    path = tmp_path_factory.mktemp("rerank") / "c"
    return Collection.create(path, rows, rng.standard_normal((60, DIM)))


@pytest.mark.parametrize("mode", SEARCH_MODES.names())
@pytest.mark.parametrize("where", [None, "n < 30", "n = 99"])
def test_reranking_orders_the_first_results(collection, mode, where):
    query = {"query": "file", "vector": np.ones(DIM), "mode": mode, "where": where}
    model = Longest()
    hits = collection.search(**query, k=5, rerank=model, rerank_depth=20)
    first = collection.search(**query, k=20)
    expected = sorted(first, key=lambda hit: (-len(f"{hit.title} {hit.text}".split()), hit.rank))
    assert [hit.chunk_id for hit in hits] == [hit.chunk_id for hit in expected[:5]]
    assert [hit.first_score for hit in hits] == [hit.score for hit in expected[:5]]
    assert [hit.rank for hit in hits] == list(range(1, len(hits) + 1))
    assert all(hit.first_score is None for hit in first)
    assert len(model.pairs) == len(first)
    if where is None:
        assert ("file", f"{first[0].title}\n{first[0].text}") in model.pairs
        batch = collection.search_many(
            ["file", "file"], vectors=np.ones((2, DIM)), mode=mode, k=5, rerank=model,
            rerank_depth=20,
        )  # fmt: skip
        for number in range(2):
            assert batch.chunk_ids[number] == [hit.chunk_id for hit in hits]
            assert batch.scores[number].tolist() == [hit.score for hit in hits]
            assert batch.first_scores[number].tolist() == [hit.first_score for hit in hits]
    assert collection.search_many(["file"], mode="bm25").first_scores is None


def test_a_large_k_is_read_whole(collection):
    hits = collection.search("file", mode="bm25", k=55, rerank=Longest(), rerank_depth=3)
    assert len(hits) == 55


def test_explain_names_the_reranker(collection):
    told = collection.explain("file", mode="bm25", where="n < 7", k=2, rerank=Longest())
    assert told.plan[-1] == "rerank: read query and text of the first 7 rows with Longest"
    assert "rerank" in told.seconds


def test_bad_rerankers(collection):
    class Bad:
        def __init__(self, answer):
            self.predict = lambda pairs: answer

    with pytest.raises(InputError, match="query's text"):
        collection.search(vector=np.ones(DIM), mode="dense", rerank=Longest())
    with pytest.raises(InputError, match="rerank_depth"):
        collection.search("file", mode="bm25", rerank=Longest(), rerank_depth=0)
    with pytest.raises(InputError, match=r"predict\(pairs\)"):
        collection.search("file", mode="bm25", rerank="a name")
    with pytest.raises(ShapeError, match="one score per pair"):
        collection.search("file", mode="bm25", rerank=Bad(np.ones((50, 2))))
    with pytest.raises(NonFiniteError, match="pair 1"):
        rerank_scores(Bad([0.0, np.nan]), [("a", "b"), ("a", "c")])


def test_a_cross_encoder_folder(collection, tmp_path, transformer_folder):
    """A random two-layer cross-encoder, saved and loaded as one from a hub would be."""
    library = pytest.importorskip("sentence_transformers")
    from embedworks.errors import FormatError, NotFoundError, OfflineError
    from embedworks.models import load_reranker

    raw = transformer_folder.parent / "raw"
    library.CrossEncoder(str(raw), num_labels=1, device="cpu").save_pretrained(str(tmp_path / "ce"))
    model = load_reranker(tmp_path / "ce", device="cpu")
    hits = collection.search("file", mode="bm25", k=3, rerank=model, rerank_depth=10)
    pairs = [("file", f"{hit.title}\n{hit.text}") for hit in hits]
    np.testing.assert_allclose([hit.score for hit in hits], model.predict(pairs), atol=1e-5)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    with pytest.raises(NotFoundError, match="no cross-encoder folder"):
        load_reranker("./nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FormatError, match="not a cross-encoder"):
        load_reranker(tmp_path / "empty")
    (tmp_path / "ce" / "model.safetensors").write_bytes(b"x")
    with pytest.raises(FormatError, match="could not be loaded"):
        load_reranker(tmp_path / "ce")
    with pytest.raises(OfflineError, match="folder of a cross-encoder"):
        load_reranker("org/name", local_files_only=True)
