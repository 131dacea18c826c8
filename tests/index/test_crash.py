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

from references import kill_harness

# Each version has `10 + version` rows, and every row says which version wrote it, so that a
# mixture would show.
WRITER = """
import sys
import numpy as np
from embedworks.index import Collection

path, start = sys.argv[1], int(sys.argv[2])
import lancedb  # imported before "ready": kills should hit the writing
print("ready", flush=True)
for version in range(start, start + 10_000):
    tag, count = f"v{version}", 10 + version % 7
    rows = [{"chunk_id": f"{tag}-{n}", "text": f"file tag{tag}", "tag": tag} for n in range(count)]
    vectors = np.full((count, 4), version + 1.0)
    Collection.create(path, rows, vectors, metadata={"tag": tag}, overwrite=True)
"""


def check_whole(path):
    """Open, search and compare every row with what its writer meant; return the version."""
    collection = Collection.open(path)
    tags = collection.rows.column("tag").to_pylist()
    version = int(tags[0][1:])
    assert set(tags) == {tags[0]}
    assert len(collection) == 10 + version % 7
    assert collection.metadata == {"tag": tags[0]}
    np.testing.assert_array_equal(collection.vectors, version + 1.0)
    assert len(collection.search(f"tag{tags[0]}", mode="bm25", k=99)) == len(collection)
    assert len(collection.search(vector=np.ones(4), mode="dense", k=99)) == len(collection)
    collection.verify()
    return version


def kill_creations(path, kills, seed):
    """Kill a process that makes a collection anew over and over; return how many got ahead."""
    rng = np.random.default_rng(seed)
    last, progress = 0, 0
    for _ in range(kills):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), str(last + 1)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout.readline().strip() == "ready", process.stderr.read()
        time.sleep(float(rng.uniform(0.0, 0.4)))
        process.send_signal(signal.SIGKILL)
        _, errors = process.communicate()
        assert process.returncode == -signal.SIGKILL, errors
        try:
            found = check_whole(path)
        except NotFoundError:  # killed before the very first version
            assert last == 0
            continue
        assert found >= last
        progress += found > last
        last = found
    return progress


def test_killed_while_made_anew(tmp_path):
    kill_creations(tmp_path / "c", kills=2, seed=0)


@pytest.mark.slow
def test_killed_twenty_times_while_made_anew(tmp_path):
    assert kill_creations(tmp_path / "c", kills=20, seed=1) >= 5


def test_killed_writer_loses_no_committed_row(tmp_path):
    done = kill_harness.run(tmp_path / "c", kills=3, seed=2)
    assert done["kills"] == 3


@pytest.mark.slow
def test_writer_killed_a_hundred_times_loses_no_committed_row(tmp_path):
    done = kill_harness.run(tmp_path / "c", kills=100, seed=0)
    assert done["changes"] >= 100
    assert done["answers_checked_while_writing"] >= 100


SECOND = """
import sys
import numpy as np
from embedworks.index import Collection

path, name = sys.argv[1:]
collection = Collection.open(path)
for n in range(5):
    row = {"chunk_id": f"{name}{n}", "text": f"file {name}"}
    collection.add([row], np.full((1, 4), 1.0 + n))
    collection.update({name: n}, where="text = 'file start'")
"""


def test_two_writers_and_a_reader_do_not_lose_each_others_rows(tmp_path):
    """Both write as fast as they can; each change of either is there afterwards."""
    path = tmp_path / "c"
    Collection.create(path, [{"chunk_id": "start", "text": "file start"}], np.ones((1, 4)))
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", SECOND, str(path), name], stderr=subprocess.PIPE, text=True
        )
        for name in ("left", "right")
    ]
    seen = 1
    while any(writer.poll() is None for writer in writers):
        reader = Collection.open(path)
        assert len(reader) >= seen
        assert len(reader.search("file", mode="bm25", k=99)) == len(reader)
        seen = len(reader)
    for writer in writers:
        _, errors = writer.communicate()
        assert writer.returncode == 0, errors
    collection = Collection.open(path)
    expected = {"start", *(f"{name}{n}" for name in ("left", "right") for n in range(5))}
    assert set(collection.rows["chunk_id"].to_pylist()) == expected
    assert collection.count('"left" = 4 AND "right" = 4') == 1
    collection.verify()


def test_the_harness_would_notice_a_lost_row(tmp_path):
    script = kill_harness.Script(seed=0)
    script.carry_out(0, tmp_path / "c")
    collection = Collection.open(tmp_path / "c")
    kill_harness.check_answers(collection, script.states[0])
    assert kill_harness.content(collection) == script.states[0]
    collection.remove([sorted(script.states[0])[0]])
    assert kill_harness.content(collection) != script.states[0]
    with pytest.raises(AssertionError):
        kill_harness.check_answers(collection, script.states[0])


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
changes = {
    "add": lambda: collection.add(rows, vectors),
    "upsert": lambda: collection.upsert(rows, vectors),
    "update": lambda: collection.update({"new": "zebra " * 9999}, where="text LIKE 'file%'"),
    "create": lambda: Collection.create(path, rows, vectors, overwrite=True),
}
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
# First not even the table can be written, then the table but not its cache.
for limit in (8_000, 250_000):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    for name, change in changes.items():
        try:
            change()
        except StorageError as error:
            print(name, "refused:", str(error).replace(chr(10), " "))
        else:
            print(name, "written")
    if limit == 8_000:
        seen = Collection.open(path)
        print("version", seen.version, "rows", len(seen), seen.verify()["rows"])
        changes = {name: changes[name] for name in ("add", "create")}
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
    *refused, kept, added, created = run.stdout.splitlines()
    assert [line.split()[0] for line in refused] == ["add", "upsert", "update", "create"]
    for line in refused:
        assert "refused:" in line
        assert "too large" in line
        assert "intact" in line
    assert kept == "version 1 rows 20 20"
    assert (added, created) == ("add written", "create written")
    assert "its cache could not be written" in run.stderr
    collection = Collection.open(tmp_path / "c")
    assert len(collection) == 3000
    collection.verify()
    collection.compact(keep=1)  # what the refused changes left is removed
    assert len(list((tmp_path / "c" / "rows.lance" / "data").iterdir())) == 1


BUILDER = """
import shutil, sys
from pathlib import Path
import numpy as np
from embedworks.index import Collection

path = Path(sys.argv[1])
collection = Collection.open(path, index="planned")
print("ready", flush=True)
while True:
    row = {"chunk_id": f"n{collection.version}", "text": "file new"}
    collection.add([row], np.eye(1, 8) + collection.version)
    for graph in path.glob("cache/v*/graph"):
        shutil.rmtree(graph)
    collection = Collection.open(path, index="planned")
    print(len(collection), flush=True)
"""


def test_killed_while_a_graph_is_built(tmp_path):
    """Every committed row is there and found; what is on disk is a whole graph or none."""
    path, rng = tmp_path / "c", np.random.default_rng(0)
    rows = [{"chunk_id": f"c{n}", "text": f"file {n}"} for n in range(2_000)]
    Collection.create(path, rows, rng.standard_normal((2_000, 8)), index="planned")
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", BUILDER, str(path)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout.readline().strip() == "ready"
        time.sleep(float(rng.uniform(0.05, 0.8)))
        process.send_signal(signal.SIGKILL)
        told = process.communicate()[0].split()
        collection = Collection.open(path, index="auto")
        assert len(collection) >= int(told[-1] if told else 2_000)
        collection.verify()
        planned = Collection.open(path)
        scanned = Collection.open(path, index="exact")
        queries = rng.standard_normal((20, 8))
        found = planned.search_many(vectors=queries, mode="dense").chunk_ids
        truth = scanned.search_many(vectors=queries, mode="dense").chunk_ids
        hits = [len(set(a) & set(b)) for a, b in zip(found, truth, strict=True)]
        assert np.mean(hits) / 10 >= 0.95
        newest = [i for i in scanned.rows["chunk_id"].to_pylist() if i.startswith("n")]
        assert len(newest) == len(scanned) - 2_000


STARVED_GRAPH = """
import resource, signal, sys
import numpy as np
from embedworks.index import Collection

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
collection = Collection.open(sys.argv[1], index="planned")
found = collection.search(vector=np.ones(8), mode="dense", k=7)
print(len(found), "graph" in collection.memory())
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs POSIX resource limits")
def test_a_disk_without_room_for_a_graph(tmp_path):
    path, rng = tmp_path / "c", np.random.default_rng(0)
    rows = [{"chunk_id": f"c{n}", "text": f"file {n}"} for n in range(2_000)]
    Collection.create(path, rows, rng.standard_normal((2_000, 8)), index="exact")
    run = subprocess.run(
        [sys.executable, "-c", STARVED_GRAPH, str(path)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.split() == ["7", "True"]
    assert "could not be written" in run.stderr
    assert [entry.name for entry in path.glob("cache/v*/*graph*")] == []
    collection = Collection.open(path, index="auto")
    assert "graph" not in collection.memory()
    collection.verify()
