"""Changed sentences differ where they say they do, and a very small run."""

from __future__ import annotations

from dataclasses import replace

import pytest

from embedworks import load
from embedworks.data import Row, RowSet
from embedworks.reproductions import GradedWorld, ReproductionResult, reproduce
from embedworks.reproductions.papers import survey_attribution
from embedworks.reproductions.papers.survey_attribution import ENTRIES, changed_pairs

(ENTRY,) = ENTRIES
SENTENCES = [
    "The train leaves at 9 in the evening.",
    "About 250 people came to the market.",
    "He bought 2 books and 3 pens today.",
    "A dog runs across the green field.",
    "Five words without any digits here.",
    "In 1997 the old bridge fell down.",
]


@pytest.mark.parametrize("kind", ["number", "word"])
def test_one_word_is_changed_and_nothing_else(kind):
    pairs = changed_pairs(SENTENCES, kind, 10, seed=0)
    assert len(pairs) == (3 if kind == "number" else 6)
    for pair in pairs:
        before, after = pair.text.split(), pair.changed.split()
        different = [i for i, (a, b) in enumerate(zip(before, after, strict=True)) if a != b]
        assert different == [pair.place]
        if kind == "number":
            assert pair.words[pair.place].isdecimal()
            assert len(after[pair.place].strip(".")) == len(before[pair.place].strip("."))


def test_pairs_are_those_of_the_seed():
    assert changed_pairs(SENTENCES, "word", 3, seed=1) == changed_pairs(
        SENTENCES, "word", 3, seed=1
    )
    assert changed_pairs(SENTENCES, "word", 6, seed=1) != changed_pairs(
        SENTENCES, "word", 6, seed=2
    )


def test_a_very_small_run(tmp_path, monkeypatch, transformer_folder):
    rows = RowSet(Row(text, text, score=5.0) for text in SENTENCES)
    test = tuple((text, text, 5.0) for text in SENTENCES)
    monkeypatch.setattr(
        survey_attribution, "stsb_graded", lambda: GradedWorld("toy", rows, (), test)
    )
    path = str(transformer_folder)
    monkeypatch.setattr(
        survey_attribution, "load", lambda name, **options: load(path if name == "minilm" else name)
    )
    small = replace(ENTRY, scales={"mini": {"number": 3, "word": 3, "steps": 2}}, seeds=2)
    result = reproduce(small, out=tmp_path, device="cpu")
    assert ReproductionResult.load(tmp_path / "survey-text-embedding-llm-mini.json") == result
    arms = {arm.name: arm.metrics for arm in result.arms}
    assert arms["leave one out, static"]["number blamed"].mean >= 0.5
    assert "number agreement" in arms["integrated gradients"]
    assert "number agreement" not in arms["leave one out"]
