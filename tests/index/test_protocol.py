"""Indexes on disk: what is written is read; what is damaged is told."""

from __future__ import annotations

import json

import numpy as np
import pytest

from embedworks.errors import FormatError, NotFoundError
from embedworks.index.protocol import read_index, write_index

ARRAYS = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "none": np.empty((0, 4), np.int32)}


def test_arrays_and_settings_come_back(tmp_path):
    write_index(tmp_path / "index", "toy", {"k": 3}, ARRAYS)
    for mapped in ((), ("a", "none")):
        settings, arrays = read_index(tmp_path / "index", "toy", mapped=mapped)
        assert settings == {"k": 3}
        for name, array in ARRAYS.items():
            np.testing.assert_array_equal(arrays[name], array)
            assert arrays[name].dtype == array.dtype


def test_damage_is_found(tmp_path):
    folder = tmp_path / "index"

    def broken(change, error=FormatError, match=""):
        write_index(folder, "toy", {}, ARRAYS)
        change()
        with pytest.raises(error, match=match):
            read_index(folder, "toy")

    def header(**changes):
        about = json.loads((folder / "index.json").read_text())
        (folder / "index.json").write_text(json.dumps(about | changes))

    values = folder / "a.npy"
    broken(lambda: np.save(values, ARRAYS["a"] + 1), match="checksum")
    broken(lambda: np.save(values, ARRAYS["a"].T), match="expects")
    broken(lambda: values.write_bytes(values.read_bytes()[:-2]), match="damaged")
    broken(values.unlink, NotFoundError, match="missing")
    broken(lambda: header(version=99), match="format version 99")
    broken(lambda: header(format="other"), match="no toy index but 'other'")
    broken(lambda: header(arrays={"a": {}}), match="damaged")
    outside = {"../a": {"shape": [1], "dtype": "<f4", "crc32": 0}}
    broken(lambda: header(arrays=outside), match="outside its folder")
    (folder / "index.json").unlink()
    with pytest.raises(NotFoundError):
        read_index(folder, "toy")
