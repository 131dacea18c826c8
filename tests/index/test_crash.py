"""Killed and starved writers: what was there before, or what comes after, never a mixture."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from embedworks.errors import NotFoundError
from embedworks.index.collection import Collection

pytest.importorskip("lancedb")

# Each version has `10 + version` rows (creates) or two more rows (adds), and every row says
# which version wrote it, so that a mixture would show.
WRITER = """
import sys
import numpy as np
from embedworks.index import Collection

path, job, start = sys.argv[1], sys.argv[2], int(sys.argv[3])

def rows(count, tag):
    return [{"chunk_id": f"{tag}-{n}", "text": f"file tag{tag}", "tag": tag} for n in range(count)]

import lancedb  # imported before "ready": kills should hit the writing
print("ready", flush=True)
for version in range(start, start + 10_000):
    tag = f"v{version}"
    if job == "create":
        count = 10 + version % 7
        vectors = np.full((count, 4), version + 1.0)
        Collection.create(path, rows(count, tag), vectors, metadata={"tag": tag}, overwrite=True)
    else:
        collection = Collection.open(path)
        collection.add(rows(2, tag), np.full((2, 4), version + 1.0))
"""


def start(path, job, first):
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), job, str(first)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline().strip() == "ready", process.stderr.read()
    return process


def kill(process):
    process.send_signal(signal.SIGKILL)
    _, errors = process.communicate()
    assert process.returncode == -signal.SIGKILL, errors


def check_whole(path, job):
    """Open, search and compare every row with what its writer meant; return the last version."""
    collection = Collection.open(path)
    tags = collection.rows.column("tag").to_pylist()
    versions = [int(tag[1:]) for tag in tags]
    np.testing.assert_array_equal(collection.vectors[:, 0], np.array(versions) + 1.0)
    if job == "create":
        assert len(set(tags)) == 1
        assert len(collection) == 10 + versions[0] % 7
        assert collection.metadata == {"tag": tags[0]}
    else:
        assert all(tags.count(tag) == 2 for tag in set(tags) - {"v0"})
        assert sorted(set(versions)) == list(range(max(versions) + 1))
    hits = collection.search(f"tag{tags[-1]}", mode="bm25", k=1000)
    assert {hit.attributes["tag"] for hit in hits} == {tags[-1]}
    assert len(collection.search(vector=np.ones(4), mode="dense", k=1000)) == len(collection)
    collection.verify()
    return max(versions)


def crash(path, job, kills, seed):
    """Kill a writer again and again; each one goes on where the last one was stopped."""
    rng = np.random.default_rng(seed)
    last, progress = 0, 0
    if job == "add":
        rows = [{"chunk_id": "v0-0", "text": "file tagv0", "tag": "v0"}]
        Collection.create(path, rows, np.ones((1, 4)))
    for _ in range(kills):
        process = start(path, job, last + 1)
        time.sleep(float(rng.uniform(0.0, 0.4)))
        kill(process)
        try:
            found = check_whole(path, job)
        except NotFoundError:  # killed before the very first version
            assert job == "create"
            assert last == 0
            continue
        assert found >= last
        progress += found > last
        last = found
    return progress


@pytest.mark.parametrize(("job", "kills"), [("create", 2), ("add", 1)])
def test_killed_writer(tmp_path, job, kills):
    crash(tmp_path / "c", job, kills=kills, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("job", ["create", "add"])
def test_writer_killed_twenty_times(tmp_path, job):
    assert crash(tmp_path / "c", job, kills=20, seed=1) >= 5


STARVED = """
import resource, signal, sys
import numpy as np
from embedworks.errors import StorageError
from embedworks.index import Collection

path = sys.argv[1]
collection = Collection.open(path)
rng = np.random.default_rng(0)
rows = [{"chunk_id": f"n{n}", "text": "zebra " * 50} for n in range(3000)]
vectors = rng.standard_normal((3000, collection.dim))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
# First not even the table can be written, then the table but not its cache.
for limit in (8_000, 250_000):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    for write in (
        lambda: collection.add(rows, vectors),
        lambda: Collection.create(path, rows, vectors, overwrite=True),
    ):
        try:
            write()
        except StorageError as error:
            print("refused:", str(error).replace(chr(10), " "))
        else:
            print("written")
    if limit == 8_000:
        seen = Collection.open(path)
        print("version", seen.version, "rows", len(seen), seen.verify()["rows"])
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs POSIX resource limits")
def test_full_disk(tmp_path):
    rows = [{"chunk_id": f"c{n}", "text": f"file {n}"} for n in range(20)]
    Collection.create(tmp_path / "c", rows, np.random.default_rng(0).standard_normal((20, 16)))
    run = subprocess.run(
        [sys.executable, "-c", STARVED, str(tmp_path / "c")],
        capture_output=True,
        text=True,
        check=True,
    )
    added, created, kept, *cache_only = run.stdout.splitlines()
    for line in (added, created):
        assert line.startswith("refused:")
        assert "too large" in line
        assert "intact" in line
    assert kept == "version 1 rows 20 20"
    assert cache_only == ["written", "written"]
    assert "its cache could not be written" in run.stderr
    collection = Collection.open(tmp_path / "c")
    assert len(collection) == 3000
    collection.verify()
