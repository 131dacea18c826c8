"""The focal entry: its probabilities, its shortened steps, and a run at a very small scale."""

from __future__ import annotations

import pytest
from reproductions.tiny_entries import run_tiny

from embedworks.reproductions import StaticStudent
from embedworks.reproductions.papers.kalm_v2 import (
    ENTRIES,
    _shorter_steps,
    positive_probability,
)

torch = pytest.importorskip("torch")


def test_probabilities_are_those_of_the_loss():
    from embedworks.losses import BatchInfo, ContrastiveLoss

    draw = torch.Generator().manual_seed(0)

    def unit(*shape):
        return torch.nn.functional.normalize(torch.randn(*shape, generator=draw), dim=-1)

    query, document, negatives = unit(6, 8), unit(6, 8), unit(6, 3, 8)
    info = BatchInfo(
        query_keys=torch.tensor([1, 2, 3, 4, 5, 1]),  # two rows ask the same
        document_keys=torch.tensor([11, 12, 13, 14, 12, 16]),  # two have the same answer
        negative_keys=torch.randint(11, 30, (6, 3), generator=draw),  # some are positives
        negatives_present=torch.ones(6, 3, dtype=torch.bool),
    )
    loss = ContrastiveLoss(None, "infonce", temperature=0.1)
    total = float(loss.contrast(query, document, negatives, info))
    found = positive_probability(query, document, negatives, info, temperature=0.1)
    assert float(found.mean()) == pytest.approx(loss.statistics["probability"], rel=1e-4)
    assert float(-found.log().mean()) == pytest.approx(total, rel=1e-4)


def test_steps_are_shortened_by_the_last_factor():
    student = StaticStudent(["red pear", "green apple"], dim=4)
    before = student.table.detach().clone()
    factors = [0.25]
    shorten = _shorter_steps(student, factors)
    with torch.no_grad():
        student.table += 1.0
    shorten(1, 0.0)
    assert torch.allclose(student.table, before + 0.25, atol=1e-6)
    factors.append(1.0)
    with torch.no_grad():
        student.table += 1.0
    shorten(2, 0.0)
    assert torch.allclose(student.table, before + 1.25, atol=1e-6)


@pytest.mark.slow
def test_the_entry_runs(tmp_path):
    tiny = {"rows": 60, "negatives": 2, "batch": 12, "steps": 5}
    assert run_tiny(ENTRIES[0], tiny, tmp_path).seeds == (0, 1)
