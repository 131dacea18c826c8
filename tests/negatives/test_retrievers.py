"""The retrievers with the real things: a static model, BM25, a collection of vectors."""

from __future__ import annotations

import numpy as np
import pytest

import embedworks as ew
from embedworks.data import RowSet, chunk_documents, make_pairs, read_documents
from embedworks.index import BM25Index, ExactIndex
from embedworks.negatives import Corpus, DenseRetriever, Miner, NegativeRule, SearchRetriever

pytestmark = pytest.mark.filterwarnings("ignore::embedworks.errors.DataWarning")


@pytest.fixture(scope="module")
def library(documents):
    chunks = list(chunk_documents(read_documents(documents)))
    corpus = Corpus(
        [c.text for c in chunks],
        ids=[c.chunk_id for c in chunks],
        groups=[c.doc_id for c in chunks],
    )
    texts = {c.chunk_id: c.text for c in chunks}
    pairs = list(make_pairs(chunks, seed=0))[:60]
    rows = RowSet.from_columns([p.anchor for p in pairs], [texts[p.chunk_id] for p in pairs])
    return rows, corpus, {c.text: c.doc_id for c in chunks}


def test_words_and_vectors_together(library):
    rows, corpus, owner = library
    model = ew.load("static")
    bm25 = SearchRetriever(BM25Index.build(corpus.inputs), name="bm25")
    miner = Miner(
        [bm25, DenseRetriever(model)],
        rules=[NegativeRule("relative", 0.05, scorer="dense"), NegativeRule("document", 0.95)],
        count=4,
        teacher="dense",
    )
    mined = miner.mine(rows, corpus)
    assert mined.report.found_by["bm25"] > 10
    assert mined.report.found_by["dense"] > 10
    for row in mined.rows:
        assert owner[row.positive] not in {owner[n] for n in row.negatives}
        assert all(score < 0.95 * row.teacher_scores[0] + 1e-6 for score in row.teacher_scores[1:])
        texts = [row.anchor, row.positive, *row.negatives]
        query = model.encode_query(texts[:1])[0]
        np.testing.assert_allclose(model.encode_document(texts[1:]) @ query, row.teacher_scores,
                                   atol=1e-5)  # fmt: skip
    assert mined.rows.fingerprint() == miner.mine(rows, corpus).rows.fingerprint()


def test_an_index_of_vectors_equals_the_dense_retriever(library):
    rows, corpus, _ = library
    model = ew.load("static")
    index = ExactIndex(model.encode_document(corpus.inputs))
    search = SearchRetriever(index, encode=model.encode_query)
    options = {"rules": [NegativeRule("absolute", 0.1)], "count": 3, "window": (1, 30)}
    by_index = Miner([search], **options).mine(rows, corpus)
    by_model = Miner([model], **options).mine(rows, corpus)
    both = sorted(set(by_index.kept.tolist()) & set(by_model.kept.tolist()))
    assert len(both) > 30
    first = dict(zip(by_index.kept.tolist(), by_index.rows, strict=True))
    second = dict(zip(by_model.kept.tolist(), by_model.rows, strict=True))
    assert all(first[i].negatives == second[i].negatives for i in both)


@pytest.mark.slow
def test_a_sentence_transformers_cross_encoder_rescores(tmp_path):
    transformers = pytest.importorskip("transformers")
    cross = pytest.importorskip("sentence_transformers.cross_encoder")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *[f"w{i}" for i in range(12)]]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    config = transformers.BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, num_labels=1,
    )  # fmt: skip
    model = transformers.BertForSequenceClassification(config)
    model.save_pretrained(tmp_path)
    transformers.BertTokenizer(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path)
    rescorer = cross.CrossEncoder(str(tmp_path), device="cpu")
    texts = [f"w{i} w{(5 * i) % 12}" for i in range(12)]
    rows = RowSet.from_columns([f"w{i}" for i in range(6)], texts[:6])

    class Bags:
        def encode(self, items):
            return np.array([[w in t.split() for w in words[5:]] + [0.1] for t in items], float)

    miner = Miner([Bags()], rules=[], rescorer=rescorer, teacher="rescorer", count=3,
                  cache=tmp_path / "cache")  # fmt: skip
    mined = miner.mine(rows, Corpus(texts))
    row = mined.rows[0]
    pairs = [(row.anchor, text) for text in (row.positive, *row.negatives)]
    np.testing.assert_allclose(rescorer.predict(pairs), row.teacher_scores, atol=1e-5)
    assert list(row.teacher_scores[1:]) == sorted(row.teacher_scores[1:], reverse=True)
    assert any((tmp_path / "cache" / "pairs").iterdir())
