"""The entry of class_examples_or_names at a very small scale, and its rows."""

from __future__ import annotations

import pytest
from reproductions.tiny_entries import run_tiny

from embedworks.reproductions import ClassWorld
from embedworks.reproductions.papers.class_examples_or_names import ENTRIES, _rows, _seen

WORLD = ClassWorld(
    "shapes",
    tuple((f"{c} {n}", c) for c in "abcdef" for n in range(4)),
    (("a 9", "a"),),
    (("a 8", "a"),),
    {c: f"name {c}" for c in "abcdef"},
)


def test_rows_of_every_form_have_the_same_queries_and_only_seen_classes():
    seen = _seen(WORLD)
    assert len(seen) == 4
    settings = {"negatives": 2}
    forms = {f: _rows(WORLD, f, settings, 0) for f in ("examples", "names", "both", "exchanged")}
    queries = [row.anchor for row in forms["examples"]]
    assert {text[0] for text in queries} == set(seen)
    for rows in forms.values():
        assert [row.anchor for row in rows] == queries
    for row in forms["names"]:
        assert row.positive == f"name {row.anchor[0]}"
    for row in forms["exchanged"]:
        assert row.positive.startswith("name ")
    own = [row.positive[5:] == row.anchor[0] for row in forms["exchanged"]]
    assert not all(own)
    named = [row.positive.startswith("name ") for row in forms["both"]]
    assert sum(named) == len(named) // 2


@pytest.mark.slow
def test_the_entry_runs(data_root, tmp_path):
    tiny = {"per_class": 8, "negatives": 2, "batch": 12, "steps": 3, "dim": 16}
    assert run_tiny(ENTRIES[0], tiny, tmp_path).seeds == (0, 1)
