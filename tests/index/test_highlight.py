"""Finding the passage to show."""

from __future__ import annotations

import time

from hypothesis import given
from hypothesis import strategies as st

from embedworks.index.analysis import Analyzer
from embedworks.index.highlight import best_passage

ANALYZER = Analyzer()
text = st.text("ab. \n!filesopen", max_size=200)


@given(text, st.lists(st.sampled_from(["file", "open", "a"]), max_size=3), st.integers(5, 60))
def test_invariants(body, terms, length):
    found = best_passage(body, terms, analyzer=ANALYZER, max_length=length)
    assert len(found.text) <= length
    assert body[found.start : found.start + len(found.text)] == found.text
    assert found.text == found.text.strip()
    for start, end in found.spans:
        assert 0 <= start < end <= len(found.text)
        assert set(ANALYZER.word_terms(found.text[start:end])) & set(terms)


def slow_best(body, terms, length):
    """Count distinct terms in every window of whole sentences."""
    sentences = [s + "." for s in body.split(".")[:-1]]
    best = 0
    for first in range(len(sentences)):
        for last in range(first, len(sentences)):
            window = "".join(sentences[first : last + 1])
            if len(window) <= length:
                best = max(best, len(set(ANALYZER.all_terms(window)) & set(terms)))
    return best


@given(
    st.lists(st.sampled_from(["file", "open", "socket", "x", "yes"]), min_size=1, max_size=30),
    st.lists(st.booleans(), min_size=30, max_size=30),
)
def test_has_as_many_terms_as_any_window(words, stops):
    body = " ".join(w + ("." if stop else "") for w, stop in zip(words, stops)) + "."
    body = body.replace("..", ".")
    sentences = [s for s in body.split(".") if s]
    if max(map(len, sentences)) > 35:
        return
    terms = ["file", "open", "socket"]
    found = best_passage(body, terms, analyzer=ANALYZER, max_length=40)
    assert len(set(ANALYZER.all_terms(found.text)) & set(terms)) >= slow_best(body, terms, 40)


def test_white_space_after_a_passage_takes_no_room():
    body = "file file file socket yes yes yes. open. file."
    found = best_passage(body, ["file", "open", "socket"], analyzer=ANALYZER, max_length=40)
    assert found.text == "file file file socket yes yes yes. open."


def test_sentence_boundaries_are_kept():
    body = "Rain falls. Sockets are closed by close(). Files are opened by open(). Bye."
    found = best_passage(body, ["file", "open"], analyzer=ANALYZER, max_length=30)
    assert found.text == "Files are opened by open()."
    assert [found.text[a:b] for a, b in found.spans] == ["Files", "opened", "open"]


def test_without_a_match_the_beginning_is_shown():
    assert best_passage("One. Two.", ["zebra"], analyzer=ANALYZER, max_length=5).text == "One."
    assert best_passage("", ["zebra"], analyzer=ANALYZER).text == ""
    assert best_passage(" \n ", [], analyzer=ANALYZER).text == ""


def test_one_very_long_line_is_quick():
    body = "word file " * 20_000
    begin = time.perf_counter()
    found = best_passage(body, ["file"], analyzer=ANALYZER)
    assert time.perf_counter() - begin < 10
    assert len(found.spans) >= 25
