"""Weights dealt out at random, schedules, and a very small run from end to end."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from embedworks.losses import BatchInfo, ContrastiveLoss, Schedule, objective
from embedworks.reproductions import ReproductionResult, reproduce
from embedworks.reproductions.papers.peg import ENTRIES, ShuffledWeights, dealt_anew

(ENTRY,) = ENTRIES
RISING = {"kind": "linear", "start": 0.0, "end": 5.0, "to": 0.8}


def _batch(rows=7, width=2, seed=0):
    draw = torch.Generator().manual_seed(seed)
    query, document = (torch.randn(rows, 6, generator=draw) for _ in range(2))
    negatives = torch.randn(rows, width, 6, generator=draw) if width else None
    fields = {
        "query_keys": torch.randint(0, 6, (rows,), generator=draw),
        "document_keys": torch.randint(3, 12, (rows,), generator=draw),
    }
    if width:
        fields["negative_keys"] = torch.randint(3, 15, (rows, width), generator=draw)
        fields["negatives_present"] = torch.rand(rows, width, generator=draw) < 0.8
        fields["negative_keys"].masked_fill_(~fields["negatives_present"], -1)
    return query, document, negatives, BatchInfo(**fields)


@pytest.mark.parametrize("width", [0, 2])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("progress", [0.0, 0.5])
def test_unshuffled_weights_are_the_library_s(width, seed, progress):
    query, document, negatives, info = _batch(width=width, seed=seed)
    ours = ShuffledWeights(0.1, RISING, shuffle=False, seed=0)
    weights = {"kind": "progressive", "strength": RISING}
    theirs = ContrastiveLoss(None, objective("peg", temperature=0.1, negative_weights=weights))
    found = []
    for one, call in ((ours, ours), (theirs, theirs.contrast)):
        one.set_progress(progress)
        leaf = query.clone().requires_grad_()
        loss = call(leaf, document, negatives, info)
        loss.backward()
        found.append((float(loss.detach()), leaf.grad))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    assert torch.allclose(found[0][1], found[1][1], atol=1e-5)


def test_dealing_anew_keeps_each_row_s_values():
    draw = torch.Generator().manual_seed(0)
    values = torch.randn(20, 15, generator=draw)
    allowed = torch.rand(20, 15, generator=draw) < 0.6
    dealt = dealt_anew(values, allowed, draw)
    moved = 0
    for row in range(20):
        before, after = values[row][allowed[row]], dealt[row][allowed[row]]
        assert torch.equal(before.sort().values, after.sort().values)
        assert not dealt[row][~allowed[row]].any()
        moved += int((before != after).sum())
    assert moved > allowed.sum() / 2


def test_every_value_is_as_likely_at_every_place():
    draw = torch.Generator().manual_seed(0)
    values = torch.tensor([[1.0, 2.0, 3.0, 9.0]]).repeat(6000, 1)
    allowed = torch.tensor([[True, True, True, False]]).repeat(6000, 1)
    dealt = dealt_anew(values, allowed, draw)
    for place in range(3):
        for value in (1.0, 2.0, 3.0):
            assert float((dealt[:, place] == value).float().mean()) == pytest.approx(
                1 / 3, abs=0.03
            )


def test_hard_to_easy_is_easy_to_hard_backwards():
    there = Schedule.from_dict(ENTRY.arm("easy to hard, 30%")["strength"])
    back = Schedule.from_dict(ENTRY.arm("hard to easy, 30%")["strength"])
    for progress in (0.0, 0.1, 0.2, 0.5, 0.8, 0.95, 1.0):
        assert there.at(progress) == pytest.approx(back.at(1 - progress))


def test_a_very_small_run(tmp_path):
    settings = {"rows": 60, "batch": 12, "steps": 2, "dim": 8, "negatives": 1}
    tuning = replace(ENTRY.tuning, grid={"lr": (1e-3,), "temperature": (0.05,)})
    small = replace(
        ENTRY,
        arms=ENTRY.arms[:5],
        secondary=(),
        scales={"mini": settings},
        seeds=2,
        tuning=tuning,
    )
    result = reproduce(small, out=tmp_path, device="cpu")
    loaded = ReproductionResult.load(tmp_path / "peg-mini.json")
    assert loaded == result
    assert (tmp_path / "peg.md").is_file()
    assert [arm.name for arm in result.arms] == [arm.name for arm in ENTRY.arms[:5]]
