"""The entry of batch_composition at a very small scale."""

from __future__ import annotations

import pytest
from reproductions.tiny_entries import run_tiny

from embedworks.reproductions.papers.batch_composition import ENTRIES


@pytest.mark.slow
def test_the_entry_runs(data_root, tmp_path):
    tiny = {"rows": 60, "steps": 4, "batch": 12, "dim": 16, "documents": 40, "queries": 20}
    assert run_tiny(ENTRIES[0], tiny, tmp_path).seeds == (0, 1)
