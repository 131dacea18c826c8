"""Sentence boundaries by example, and in linear time."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedworks.data import sentences


def cut(text: str) -> list[str]:
    return [text[a:b] for a, b in sentences(text)]


@pytest.mark.parametrize(
    "expected",
    [
        ["See e.g. section 2.1, i.e. the start.", "Then stop."],
        ["Dr. Smith met J. R. Jones at 5 p.m. in Rome.", "They left."],
        ["It costs 3.50 dollars.", "Really?", "Yes!", "Good."],
        ['He said "stop."', "Then he left (at last).", "[1] said so."],
        ["We waited... and waited.", "Nothing."],
        ["Use numpy, scipy, etc. for this.", "Or not."],
        ["Smith et al. Showed it."[:12], "Showed it."],
        ["the first result is given .", "the second follows .", "no capitals here"],
        ["lower case ends plainly.", "and goes on."],
        ["First paragraph", "second paragraph"],
        ["Items:", "- one", "- two", "1. three"],
        ["私は学生です。", "今日は暑い！", "本当？"],
        ["Das kostet 3 Euro.", "Élan begins with an accent."],
        ["no punctuation at all in this text"],
        ["Version 2.0.1 of file.txt is at www.example.org today.", "OK."],
    ],
)
def test_examples(expected: list[str]) -> None:
    separators = {"First paragraph": "\n\n", "Items:": "\n", "- one": "\n", "- two": "\n"}
    text = "".join(part + separators.get(part, " ") for part in expected).strip()
    assert cut(text) == expected


def test_empty_texts_have_no_sentence() -> None:
    assert sentences("") == sentences(" \n\t ") == []


@given(st.text(alphabet=st.sampled_from('aB .!?\n"(1-。e.g'), max_size=80))
def test_spans_are_ordered_trimmed_and_complete(text: str) -> None:
    spans = sentences(text)
    assert "".join("".join(text[a:b].split()) for a, b in spans) == "".join(text.split())
    assert all(a < b and text[a:b] == text[a:b].strip() for a, b in spans)
    assert all(first[1] <= second[0] for first, second in pairwise(spans))


@pytest.mark.parametrize("unit", [".", "a. ", '?"', "\n", "\n - x", " ", "e.g. ", "1. "])
def test_linear_time(unit: str) -> None:
    text = unit * (400_000 // len(unit)) + "a"
    begin = time.process_time()
    sentences(text)
    assert time.process_time() - begin < 6
