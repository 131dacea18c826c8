"""Fixtures of the merging room: model folders that differ a little."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file


@pytest.fixture
def varied(tmp_path):
    """Copy a model folder and move all its weights; return the copy."""

    def _varied(source: Path, name: str, seed: int = 0, size: float = 0.02) -> Path:
        target = tmp_path / name
        shutil.copytree(source, target)
        rng = np.random.default_rng(seed)
        for path in target.rglob("model.safetensors"):
            tensors = {
                key: value + size * rng.normal(size=value.shape).astype(value.dtype)
                for key, value in load_file(path).items()
            }
            save_file(tensors, path, metadata={"format": "pt"})
        return target

    return _varied
