"""The distillation entry: its control, and a run at a very small scale."""

from __future__ import annotations

import pytest
from reproductions.tiny_entries import run_tiny

from embedworks.data import Row
from embedworks.reproductions.papers.kalm_v2_distill import ENTRIES, strangers

torch = pytest.importorskip("torch")


def test_strangers_move_queries_and_documents_alike():
    rows = [Row(f"q{i}", f"d{i}") for i in range(9)]

    def annotate(batch):
        numbers = torch.arange(float(len(batch)))[:, None]
        return {"teacher_query": numbers, "teacher_document": numbers + 100}

    found = strangers(annotate, seed=0)(rows)
    assert torch.equal(found["teacher_query"] + 100, found["teacher_document"])
    moved = found["teacher_query"].flatten()
    assert sorted(moved.tolist()) == list(range(9))
    assert not torch.equal(moved, torch.arange(9.0))


@pytest.mark.slow
def test_the_entry_runs(tmp_path):
    tiny = {"rows": 60, "batch": 12, "steps": 3, "teacher": "static"}
    assert run_tiny(ENTRIES[0], tiny, tmp_path).seeds == (0, 1)
