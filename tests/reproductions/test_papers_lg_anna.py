"""The margin entry: what mining does to the planted relatives, and a very small run."""

from __future__ import annotations

import pytest
from reproductions.tiny_entries import run_tiny

from embedworks.data import Row, content_key
from embedworks.reproductions import stdlib_retrieval
from embedworks.reproductions.papers.lg_anna import ENTRIES, false_negative_share, mine

pytest.importorskip("torch")


@pytest.fixture(scope="module")
def world():
    return stdlib_retrieval(150, siblings=0.9, copies=4, queries=20, seed=0)


def test_every_way_gives_every_row_as_many_negatives(world):
    share = {}
    for how in ("naive", "random", "oracle", "absolute", "relative", "adaptive", "document"):
        rows = mine(world, how, count=3, seed=0)
        assert len(rows) == len(world.train)
        assert {len(row.negatives) for row in rows} == {3}
        assert all(row.positive not in row.negatives for row in rows)
        share[how] = false_negative_share(world, rows)
    assert share["oracle"] == 0.0
    assert share["naive"] > 0.2
    assert max(share[how] for how in ("absolute", "relative", "adaptive")) < share["naive"]
    assert share["random"] < share["naive"]


def test_the_share_is_counted_as_by_hand(world):
    first = world.train[0]
    family = world.family_of_query[content_key(first.anchor)]
    relatives = [r.positive for r in world.train if world.family(r) == family]
    strangers = [r.positive for r in world.train if world.family(r) != family]
    rows = [
        Row(first.anchor, first.positive, (relatives[-1], *strangers[:2])),
        Row(first.anchor, first.positive, tuple(strangers[2:3])),
    ]
    assert false_negative_share(world, rows) == pytest.approx(1 / 4)


@pytest.mark.slow
def test_the_entry_runs(tmp_path):
    tiny = {"rows": 60, "negatives": 2, "batch": 12, "steps": 3}
    assert run_tiny(ENTRIES[0], tiny, tmp_path).seeds == (0, 1)
