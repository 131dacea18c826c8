"""The similarity mask beside the loss, its controls, and a very small run from end to end."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from embedworks.losses import BatchInfo, ContrastiveLoss, objective
from embedworks.reproductions import (
    ReproductionResult,
    StaticStudent,
    batch_fields,
    reproduce,
    stdlib_retrieval,
)
from embedworks.reproductions.papers.rzenembed import ENTRIES, SimilarityMask, mask_fields

(ENTRY,) = ENTRIES


@pytest.fixture(scope="module")
def world():
    return stdlib_retrieval(80, siblings=0.5, copies=3, queries=20, seed=3)


@pytest.fixture(scope="module")
def student(world):
    return StaticStudent(world.texts(), dim=32)


@pytest.fixture(scope="module")
def batch(world):
    return sorted(world.train, key=world.family)[:24]


def _watch(world, student, kind, *, threshold=0.8, steps=1):
    return SimilarityMask(world, student, threshold=threshold, kind=kind, steps=steps, seed=0)


def test_any_mask_can_be_given_to_the_loss():
    rng = np.random.default_rng(0)
    mask = torch.from_numpy(rng.random((9, 9)) < 0.4)
    query, document = torch.randn(2, 9, 5, generator=torch.Generator().manual_seed(0))
    settings = objective("infonce", masks={"guide": {"margin": 0.0}})
    got = ContrastiveLoss(None, settings).contrast(
        query, document, None, BatchInfo(**mask_fields(mask))
    )
    unit = [torch.nn.functional.normalize(x, dim=1) for x in (query, document)]
    struck = mask & ~torch.eye(9, dtype=torch.bool)
    scores = (unit[0] @ unit[1].T / 0.05).masked_fill(struck, float("-inf"))
    want = torch.nn.functional.cross_entropy(scores, torch.arange(9))
    assert float(got) == pytest.approx(float(want), rel=1e-5)


def test_the_counted_mask_is_that_of_the_loss(student, batch):
    query = student.encode([row.anchor for row in batch]).detach()
    document = student.encode([row.positive for row in batch]).detach()
    info = BatchInfo(**batch_fields(batch))
    own = objective("infonce", masks={"similar_to_positive": 0.8})
    struck = (document @ document.T > 0.8) & ~torch.eye(len(batch), dtype=torch.bool)
    assert struck.any()
    given = objective("infonce", masks={"guide": {"margin": 0.0}})
    fields = replace(info, **mask_fields(struck))
    losses = [
        float(ContrastiveLoss(None, settings).contrast(query, document, None, facts))
        for settings, facts in ((own, info), (given, fields))
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_controls_drop_as_many_or_the_true_ones(world, student, batch):
    watches = {
        kind: _watch(world, student, kind) for kind in ("similar", "random", "oracle", "none")
    }
    fields = {kind: watch.annotate(batch) for kind, watch in watches.items()}
    found = {kind: watch.metrics(planted=True) for kind, watch in watches.items()}
    assert found["random"]["dropped per 1000"] == found["similar"]["dropped per 1000"] > 0
    assert found["random"]["mask precision"] < 0.5 < found["similar"]["mask precision"]
    assert found["oracle"]["mask precision"] == found["oracle"]["mask recall"] == 1.0
    assert found["none"]["dropped per 1000"] == 0.0
    assert not fields["similar"]
    assert set(fields["oracle"]) == {"guide_query", "guide_document"}


def test_only_the_second_half_is_counted(world, student, batch):
    watch = _watch(world, student, "similar", steps=4)
    for step in range(4):
        watch.annotate(batch)
        assert watch.entries == max(0, step - 1) * len(batch) * (len(batch) - 1)


def test_a_very_small_run(tmp_path):
    settings = {"rows": 60, "batch": 12, "steps": 2, "dim": 8, "copies": 3}
    tuning = replace(ENTRY.tuning, grid={"lr": (1e-3,), "temperature": (0.05,)})
    compared = {name for one in ENTRY.comparisons[:4] for name in one.contrast}
    small = replace(
        ENTRY,
        arms=tuple(arm for arm in ENTRY.arms if arm.name in compared),
        secondary=(),
        scales={"mini": settings},
        seeds=2,
        tuning=tuning,
    )
    result = reproduce(small, out=tmp_path, device="cpu")
    loaded = ReproductionResult.load(tmp_path / "rzenembed-mini.json")
    assert loaded == result
    assert (tmp_path / "rzenembed.md").is_file()
    assert {arm.name for arm in result.arms} == compared
