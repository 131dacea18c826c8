"""The entries of qzhou at a very small scale, CoSENT against a loop, and the shuffled mask."""

from __future__ import annotations

import math

import pytest
from reproductions.tiny_entries import run_tiny

from embedworks.reproductions import ClassWorld, class_rows
from embedworks.reproductions.papers.qzhou import ENTRIES, _classes_of, cosent

torch = pytest.importorskip("torch")


def test_cosent_equals_a_loop():
    rng = torch.Generator().manual_seed(0)
    a, b = (
        torch.nn.functional.normalize(torch.randn(7, 4, generator=rng, dtype=torch.float64))
        for _ in range(2)
    )
    grades = torch.tensor([0.0, 1.0, 1.0, 5.0, 3.0, 0.0, 2.5])
    cosines = [float((x * y).sum()) for x, y in zip(a, b)]
    total = 1.0
    for i in range(7):
        for k in range(7):
            if grades[i] > grades[k]:
                total += math.exp((cosines[k] - cosines[i]) / 0.1)
    assert float(cosent(a, b, grades, 0.1)) == pytest.approx(math.log(total))
    assert float(cosent(a, b, torch.ones(7), 0.1)) == 0.0  # nothing to order


def test_shuffled_classes_keep_their_numbers():
    world = ClassWorld(
        "letters",
        tuple((f"{c} {n}", c) for c in "ab" for n in range(8)),
        (),
        (),
        {"a": "a", "b": "b"},
    )
    rows = list(class_rows(world, 16, negatives=2, seed=0))
    true, fake = _classes_of(world, None)(rows), _classes_of(world, 3)(rows)
    for name in ("classes", "negative_classes"):
        assert true[name].shape == fake[name].shape
        assert sorted(true[name].flatten().tolist()) == sorted(fake[name].flatten().tolist())
        assert not torch.equal(true[name], fake[name])


def test_the_mask_entry_runs(data_root, tmp_path):
    tiny = {"texts": 40, "negatives": 2, "batch": 12, "steps": 3, "dim": 16}
    assert run_tiny(ENTRIES[0], tiny, tmp_path).seeds == (0, 1)


def test_the_graded_entry_runs(data_root, tmp_path):
    tiny = {"batch": 12, "steps": 3, "dim": 16, "temperature": 0.05}
    assert run_tiny(ENTRIES[1], tiny, tmp_path).seeds == (0, 1)
