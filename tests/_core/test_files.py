from __future__ import annotations

import subprocess
import sys

import pytest

from embedworks._core import files
from embedworks.errors import FormatError, NotFoundError, StorageError


def test_a_failed_write_leaves_the_old_file(tmp_path):
    target = tmp_path / "a.txt"
    files.write_text(target, "old")
    with pytest.raises(RuntimeError, match="stop"), files.atomic_path(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError("stop")
    assert target.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_failed_folder_leaves_the_old_folder(tmp_path):
    target = tmp_path / "model"
    with files.atomic_directory(target) as folder:
        (folder / "weights").write_text("old")
    with pytest.raises(RuntimeError, match="stop"), files.atomic_directory(target) as folder:
        (folder / "weights").write_text("half")
        raise RuntimeError("stop")
    assert (target / "weights").read_text() == "old"
    with files.atomic_directory(target) as folder:
        (folder / "weights").write_text("new")
    assert (target / "weights").read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_a_full_disk_is_a_storage_error_and_the_old_file_stays(tmp_path):
    """The file-size limit of a child process stands in for a full disk: same error path."""
    code = """
import resource, signal, sys
from pathlib import Path
from embedworks._core.files import write_text
from embedworks.errors import StorageError
target = Path(sys.argv[1])
write_text(target, "old")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_text(target, "x" * 100_000)
except StorageError as error:
    assert str(target) in str(error), error
    assert target.read_text() == "old"
    print("refused")
"""
    result = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a.txt")], capture_output=True, text=True
    )
    assert result.stdout.strip() == "refused", result.stderr


def test_enospc_says_that_the_disk_is_full(tmp_path):
    with pytest.raises(StorageError, match="disk is full"), files.storage_errors(tmp_path / "x"):
        raise OSError(28, "No space left on device")


def test_half_written_json_is_a_format_error(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"a": 1')
    with pytest.raises(FormatError, match="half written"):
        files.read_json(path)
    with pytest.raises(NotFoundError):
        files.read_json(tmp_path / "b.json")


def test_json_round_trip_refuses_nan(tmp_path):
    files.write_json(tmp_path / "a.json", {"name": "é", "values": [1, 2.5, None]})
    assert files.read_json(tmp_path / "a.json") == {"name": "é", "values": [1, 2.5, None]}
    with pytest.raises(ValueError, match="JSON compliant"):
        files.write_json(tmp_path / "b.json", float("nan"))
    assert not (tmp_path / "b.json").exists()


def test_hashes_depend_on_where_texts_end(tmp_path):
    assert files.sha256_of_text("ab", "c") != files.sha256_of_text("a", "bc")
    (tmp_path / "a").write_bytes(b"abc")
    assert files.sha256_of_file(tmp_path / "a").startswith("ba7816bf")
    with pytest.raises(NotFoundError):
        files.sha256_of_file(tmp_path / "missing")
