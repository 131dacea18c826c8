"""BM25 against a slow loop and bm25s, and its files."""

from __future__ import annotations

import json
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedworks.errors import FormatError, InputError, NotFoundError, ShapeError
from embedworks.index.analysis import FUNCTION_MARK, Analyzer
from embedworks.index.bm25 import BM25Index

TEXTS = ["open a file", "close the socket", "file modes and file handles", "", "the the"]


def slow_scores(texts, query, analyzer, k1, b):
    """Score every text by the formula, one term at a time, in float64."""
    bags = [Counter(analyzer.all_terms(text)) for text in texts]
    lengths = [sum(n for t, n in bag.items() if t[0] != FUNCTION_MARK) for bag in bags]
    mean = max(1.0, sum(lengths) / len(lengths))
    scores = []
    for bag, length in zip(bags, lengths, strict=True):
        score = 0.0
        for term in analyzer.terms(query):
            df = sum(term in other for other in bags)
            if bag[term]:
                idf = math.log(1 + (len(texts) - df + 0.5) / (df + 0.5))
                norm = k1 * (1 - b + b * length / mean)
                score += idf * bag[term] * (k1 + 1) / (bag[term] + norm)
        scores.append(score)
    return scores


WORDS = ["file", "files", "open", "the", "is", "socket", "os.path", "readLine", "a"]
text = st.lists(st.sampled_from(WORDS), max_size=8).map(" ".join)


@given(
    texts=st.lists(text, min_size=1, max_size=12),
    query=text,
    k=st.integers(1, 15),
    k1=st.sampled_from([0.0, 0.9, 1.2]),
    b=st.sampled_from([0.0, 0.75, 1.0]),
    seed=st.integers(0, 100),
    masked=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_equals_the_formula(texts, query, k, k1, b, seed, masked):
    index = BM25Index.build(texts, k1=k1, b=b)
    mask = np.random.default_rng(seed).random(len(texts)) < 0.5 if masked else None
    ids, scores = index.search([query], k, mask=mask)[0]
    expected = slow_scores(texts, query, index.analyzer, k1, b)
    np.testing.assert_allclose(index.row_scores(index.query_terms(query)), expected, rtol=1e-5)
    allowed = [i for i, s in enumerate(expected) if s > 0 and (mask is None or mask[i])]
    assert len(ids) == min(k, len(allowed))
    assert set(ids.tolist()) <= set(allowed)
    pairs = list(zip(-scores, ids, strict=True))
    assert pairs == sorted(pairs)
    np.testing.assert_allclose(
        scores, sorted((expected[i] for i in allowed), reverse=True)[:k], rtol=1e-5
    )


def test_equals_bm25s():
    bm25s = pytest.importorskip("bm25s")
    rng = np.random.default_rng(0)
    words = [f"w{n}" for n in range(50)]
    texts = [" ".join(rng.choice(words, rng.integers(3, 30))) for _ in range(80)]
    analyzer = Analyzer(stemmer="none", stop_words=False)
    ours = BM25Index.build(texts, analyzer=analyzer, k1=1.5, b=0.7)
    peer = bm25s.BM25(method="lucene", k1=1.5, b=0.7)
    # A word such as "w1" is a name with parts here; give the peer the same terms.
    peer.index([analyzer.terms(text) for text in texts], show_progress=False)
    for query in ("w3 w10 w49", "w7"):
        theirs = peer.get_scores(analyzer.terms(query))
        scores = ours.row_scores(ours.query_terms(query))
        # Lucene's formula leaves out the constant factor k1 + 1.
        np.testing.assert_allclose(scores, theirs * 2.5, rtol=1e-4)


def test_titles_count_as_text():
    index = BM25Index.build(["one", "two"], titles=["alpha", "beta"])
    assert index.search(["beta"], 5)[0][0].tolist() == [1]
    with pytest.raises(ShapeError, match="2 titles, got 1"):
        BM25Index.build(["one", "two"], titles=["alpha"])


def test_no_shared_term_is_no_match():
    index = BM25Index.build(TEXTS)
    for ids, scores in index.search(["zebra", "", "..."], 3):
        assert len(ids) == len(scores) == 0


def test_query_of_function_words_only():
    index = BM25Index.build(TEXTS)
    assert index.search(["the"], 5)[0][0].tolist() == [4, 1]
    assert index.search(["the file"], 5)[0][0].tolist() == [2, 0]


def test_profiles_leave_out_function_words():
    index = BM25Index.build(TEXTS)
    names = list(index.vocabulary)
    terms, scores = index.row_profile(2)
    assert {names[t] for t in terms} == {"file", "mode", "handl"}
    assert (scores > 0).all()
    assert len(index.row_profile(4)[0]) == 0


@given(
    old=st.lists(st.tuples(text, text), max_size=8),
    kept=st.lists(st.integers(0, 7), max_size=8, unique=True),
    new=st.lists(st.tuples(text, text), max_size=4),
    seed=st.integers(0, 9),
)
@settings(max_examples=60, deadline=None)
def test_an_index_made_from_an_older_one_is_the_same(old, kept, new, seed):
    older = BM25Index.build([t for t, _ in old], titles=[title for _, title in old])
    kept = [row for row in kept if row < len(old)]
    rows = [*((old[row], row) for row in kept), *((pair, -1) for pair in new)]
    np.random.default_rng(seed).shuffle(rows)
    texts, titles = [pair[0] for pair, _ in rows], [pair[1] for pair, _ in rows]
    places = np.array([row for _, row in rows], dtype=np.int64)
    quick = BM25Index.build(texts, titles=titles, previous=(older, places))
    fresh = BM25Index.build(texts, titles=titles)
    assert list(quick.vocabulary) == list(fresh.vocabulary)
    for name, array in fresh.arrays.items():
        np.testing.assert_array_equal(quick.arrays[name], array, err_msg=name)


def test_vocabulary_finds_every_term_and_no_other():
    index = BM25Index.build(["the \ud800 z\u00e9ro zero \U0001f40d1 ab a ba abc \uffee" * 2])
    names = list(index.vocabulary)
    assert names == sorted(names)
    assert [index.vocabulary[name] for name in names] == list(range(len(names)))
    for absent in ("", "aa", "zz", "\U0010ffff", "abcd"):
        assert index.vocabulary.get(absent) is None


def test_bad_input():
    index = BM25Index.build(TEXTS)
    with pytest.raises(InputError, match="list of strings"):
        index.search("file", 3)
    with pytest.raises(ShapeError, match="mask"):
        index.search(["file"], 3, mask=np.ones(2, bool))
    with pytest.raises(InputError, match="k1"):
        BM25Index.build(TEXTS, k1=-1)
    with pytest.raises(InputError, match="b must"):
        BM25Index.build(TEXTS, b=2)
    with pytest.raises(ShapeError, match="previous rows"):
        BM25Index.build(TEXTS, previous=(index, np.zeros(2, np.int64)))
    with pytest.raises(InputError, match="another analyzer"):
        BM25Index.build(
            TEXTS, previous=(index, np.zeros(5, np.int64)), analyzer=Analyzer(stemmer="none")
        )


@pytest.mark.parametrize("texts", [TEXTS, [], ["", ""]])
@pytest.mark.parametrize("mmap", [True, False])
def test_save_and_load(tmp_path, texts, mmap):
    index = BM25Index.build(texts)
    index.save(tmp_path / "index")
    again = BM25Index.load(tmp_path / "index", mmap=mmap, verify=True)
    assert len(again) == len(texts)
    assert again.memory() == index.memory()
    queries = ["file", "the", "open socket"]
    for left, right in zip(index.search(queries, 5), again.search(queries, 5), strict=True):
        np.testing.assert_array_equal(left[0], right[0])
        np.testing.assert_array_equal(left[1], right[1])


def test_damaged_files_are_refused(tmp_path):
    folder = tmp_path / "index"
    BM25Index.build(TEXTS).save(folder)
    names = sorted(path.name for path in folder.iterdir())
    for name in names:
        path = folder / name
        whole = path.read_bytes()
        for damage in (whole[: len(whole) // 2], whole + b"x", b""):
            path.write_bytes(damage)
            with pytest.raises(FormatError):
                BM25Index.load(folder)
        path.unlink()
        with pytest.raises(NotFoundError):
            BM25Index.load(folder)
        path.write_bytes(whole)
    flipped = bytearray((folder / "impacts.npy").read_bytes())
    flipped[-1] ^= 1
    (folder / "impacts.npy").write_bytes(flipped)
    BM25Index.load(folder)
    with pytest.raises(FormatError, match="checksum"):
        BM25Index.load(folder, verify=True)


@pytest.mark.parametrize(
    "change",
    [
        {"format_version": 1},
        {"rows": 7},
        {"terms": 1},
        {"files": []},
        {"files": {"../x": {"bytes": 1}}},
        {"analyzer": {"stemer": "none"}},
        {"k1": None},
    ],
)
def test_changed_descriptions_are_refused(tmp_path, change):
    BM25Index.build(TEXTS).save(tmp_path / "index")
    about = tmp_path / "index" / "bm25.json"
    about.write_text(json.dumps({**json.loads(about.read_text()), **change}))
    with pytest.raises(FormatError):
        BM25Index.load(tmp_path / "index")
