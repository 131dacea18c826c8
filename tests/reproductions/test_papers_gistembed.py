"""The guide's masks, and a very small run from end to end."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from embedworks.losses import BatchInfo, ContrastiveLoss, objective
from embedworks.reproductions import (
    FrozenVectors,
    ReproductionResult,
    batch_fields,
    frozen_fields,
    reproduce,
    stdlib_retrieval,
)
from embedworks.reproductions.papers.gistembed import (
    ENTRIES,
    MaskWatch,
    family_ids,
    guided_away,
    strangers_guide,
)

ENTRY, TUNED = ENTRIES


@pytest.fixture(scope="module")
def world():
    return stdlib_retrieval(80, siblings=0.5, copies=3, queries=20, seed=3)


@pytest.fixture(scope="module")
def guide():
    return frozen_fields(FrozenVectors("static"))


@pytest.fixture(scope="module")
def batch(world):
    return sorted(world.train, key=world.family)[:24]


@pytest.mark.slow
def test_a_random_mask_drops_as_many_in_the_same_pattern(world, guide, batch):
    own = guide(batch)
    other = strangers_guide(guide, seed=0)(batch)
    meant = guided_away(own["guide_query"], own["guide_document"])
    dealt = guided_away(other["guide_query"], other["guide_document"])
    assert meant.any()
    assert not bool((meant == dealt).all())
    assert meant.sum(dim=1).sort().values.tolist() == dealt.sum(dim=1).sort().values.tolist()
    assert meant.sum(dim=0).sort().values.tolist() == dealt.sum(dim=0).sort().values.tolist()


@pytest.mark.parametrize("margin", [0.0, 0.1])
def test_counted_masks_are_those_of_the_loss(guide, batch, margin):
    fields = guide(batch)
    rng = torch.Generator().manual_seed(0)
    query, document = (torch.randn(len(batch), 8, generator=rng) for _ in range(2))
    settings = objective(
        "infonce", masks={"guide": {"margin": margin, "kind": "relative"}, "duplicates": False}
    )
    got = ContrastiveLoss(None, settings).contrast(query, document, None, BatchInfo(**fields))
    dropped = guided_away(fields["guide_query"], fields["guide_document"], relative_margin=margin)
    unit = [torch.nn.functional.normalize(x, dim=1) for x in (query, document)]
    scores = (unit[0] @ unit[1].T / 0.05).masked_fill(dropped, float("-inf"))
    want = torch.nn.functional.cross_entropy(scores, torch.arange(len(batch)))
    assert float(got) == pytest.approx(float(want), rel=1e-5)


def test_the_oracle_drops_siblings_and_nothing_else(world, batch):
    ids = family_ids(world)(batch)["positive_ids"]
    truth = world.answers(batch, [row.positive for row in batch])
    assert truth.sum() > len(batch)
    assert np.array_equal((ids[:, None] == ids[None, :]).numpy(), truth)
    watch = MaskWatch(world, family_ids(world))
    watch.annotate(batch)
    found = watch.metrics(planted=True)
    assert found["mask precision"] == found["mask recall"] == 1.0
    assert found["dropped per 100"] == found["false negatives per 100"] > 0


def test_a_guide_that_knows_the_truth_is_the_oracle(world, batch):
    """With a perfect guide the mask drops no more than the oracle, and of each pair one side."""
    truth = world.answers(batch, [row.positive for row in batch])
    ids = family_ids(world)(batch)["positive_ids"]
    families = torch.unique(ids, return_inverse=True)[1]
    rng = torch.Generator().manual_seed(1)
    base = torch.eye(int(families.max()) + 1)[families]
    perfect = {
        "guide_query": base,
        "guide_document": torch.nn.functional.normalize(
            base + 0.1 * torch.rand(base.shape, generator=rng), dim=1
        ),
    }
    dropped = guided_away(perfect["guide_query"], perfect["guide_document"]).numpy()
    others = truth & ~np.eye(len(batch), dtype=bool)
    assert not (dropped & ~others).any()
    assert dropped.sum() * 2 == others.sum()
    settings = {"margin": 0.05, "kind": "relative"}
    fields = {k: v for k, v in batch_fields(batch).items() if k != "positive_ids"}
    vectors = torch.randn(2, len(batch), 8, generator=rng)
    losses = [
        ContrastiveLoss(None, objective("gist", masks=masks)).contrast(
            vectors[0], vectors[1], None, BatchInfo(**fields, **extra)
        )
        for masks, extra in (
            ({"guide": settings}, perfect),
            ({"guide": None, "same_id": True}, {"positive_ids": ids}),
        )
    ]
    assert float(losses[0]) == pytest.approx(float(losses[1]), rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("entry", [ENTRY, TUNED])
def test_a_very_small_run(entry, tmp_path):
    settings = {"rows": 60, "batch": 12, "steps": 2, "dim": 8, "temperature": 0.05}
    small = replace(
        entry,
        arms=entry.arms[:5],
        secondary=(),
        scales={"mini": settings},
        seeds=2,
        tuning=replace(entry.tuning, grid={"lr": (1e-3,)}),
        run=lambda arm, seed, given, context: entry.run(arm, seed, given, _unguided(context)),
    )
    result = reproduce(small, out=tmp_path, device="cpu")
    assert ReproductionResult.load(tmp_path / f"{entry.slug}-mini.json") == result
    assert (tmp_path / f"{entry.slug}.md").is_file()
    counted = {arm.name: "mask precision" in arm.metrics for arm in result.arms}
    assert counted["guide, 40%"]
    assert not counted["guide, 0%"]
    assert not counted["no mask, 40%"]


def _unguided(context):
    """Put the static model in the guide's place: MiniLM is too slow for a test."""
    context.once(("guide",), lambda: FrozenVectors("static"))
    return context
