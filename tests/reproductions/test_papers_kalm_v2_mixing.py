"""The mixing entry: its controls, what it watches, and a run at a very small scale."""

from __future__ import annotations

import pytest
from reproductions.tiny_entries import run_tiny

from embedworks.reproductions.papers.kalm_v2_mixing import (
    ENTRIES,
    RandomVectors,
    RepeatedNegatives,
    WatchedMixer,
)

torch = pytest.importorskip("torch")


def unit(*shape, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(*shape, generator=draw), dim=-1)


def test_repeated_negatives_are_different_ones_of_the_row_and_present():
    negatives = unit(5, 4, 8)
    present = torch.ones(5, 4, dtype=torch.bool)
    present[0, 1:] = False
    vectors, usable = RepeatedNegatives(2)(
        negatives, unit(5, 8), unit(5, 8), present, generator=torch.Generator()
    )
    assert usable.tolist() == [[True, False], *[[True, True]] * 4]
    for row in range(5):
        own = [
            next(k for k in range(4) if torch.equal(vectors[row, m], negatives[row, k]))
            for m in range(2)
        ]
        assert len(set(own)) == 2
    assert torch.equal(vectors[0, 0], negatives[0, 0])


def test_random_vectors_are_unit_and_follow_the_generator():
    args = (unit(3, 2, 8), unit(3, 8), unit(3, 8))
    first, usable = RandomVectors(2)(*args, generator=torch.Generator().manual_seed(1))
    again, _ = RandomVectors(2)(*args, generator=torch.Generator().manual_seed(1))
    assert first.shape == (3, 2, 8)
    assert bool(usable.all())
    assert torch.equal(first, again)
    assert torch.allclose(first.norm(dim=-1), torch.ones(3, 2))


def test_hardness_is_counted_as_by_hand():
    query = torch.tensor([[1.0, 0.0]])
    positive = torch.tensor([[0.6, 0.8]])
    negatives = torch.tensor([[[0.0, 1.0], [0.8, 0.6], [0.6, -0.8]]])  # scores 0, 0.8, 0.6

    def mixer(*args, generator):
        vectors = torch.tensor([[[0.7, 0.51**0.5], [1.0, 0.0]]])  # scores 0.7 and 1
        return vectors, torch.tensor([[True, True]])

    watched = WatchedMixer(mixer)
    present = torch.tensor([[True, True, False]])
    watched(negatives, query, positive, present, generator=torch.Generator())
    found = watched.metrics()
    assert found["parents outscored"] == pytest.approx((0.5 + 1.0) / 2)
    assert found["above the positive"] == 1.0


@pytest.mark.slow
def test_the_entry_runs(tmp_path):
    tiny = {"rows": 60, "negatives": 3, "batch": 12, "steps": 3}
    assert run_tiny(ENTRIES[0], tiny, tmp_path).seeds == (0, 1)
