"""Kill a writer at random moments, again and again, and compare what is left with a model.

The writer carries out a list of changes that follows from the seed alone, and says when each has
returned. So the state after every change is known beforehand, and what is found after a kill must
be the state after the last change that returned, or after the one that was under way. Readers
search all the while; each answer must be right for one of the states that were possible then.

Run as a program it prints a JSON summary: ``python tests/references/kill_harness.py --kills 100``.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from embedworks.errors import NotFoundError
from embedworks.index import Collection, _store

DIM = 8
WORDS = ("zebra", "river", "stone", "cloud", "lamp")
State = dict[str, tuple[str, int, float]]  # id -> text, year, first number of its vector


def vector_of(mark: float) -> np.ndarray:
    """A vector that tells its mark, in a direction of its own."""
    rng = np.random.default_rng(int(mark))
    return np.concatenate([[mark], rng.standard_normal(DIM - 1)]).astype(np.float32)


class Script:
    """The changes, by number; change 0 makes the collection."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.states: list[State] = []
        self.changes: list[tuple[str, object]] = []

    def upto(self, number: int) -> None:
        """Work out changes and states up to a number."""
        while len(self.states) <= number:
            place = len(self.states)
            rng = np.random.default_rng((self.seed, place))
            before = self.states[-1] if self.states else {}
            kind = "create" if not place else str(rng.choice(
                ["add", "add", "upsert", "upsert", "remove", "update", "compact", "prepare"]
            ))  # fmt: skip
            state = dict(before)
            argument: object = None
            if kind in ("create", "add", "upsert"):
                names = [f"r{place}-{n}" for n in range(int(rng.integers(1, 30)))]
                if kind == "upsert" and before:
                    names += list(rng.choice(sorted(before), min(8, len(before)), replace=False))
                argument = {
                    name: (str(rng.choice(WORDS)), int(rng.integers(0, 5)), 1000.0 * place + n + 1)
                    for n, name in enumerate(map(str, names))
                }
                state |= argument
            elif kind == "remove":
                argument = int(rng.integers(0, 5))
                state = {i: row for i, row in state.items() if row[1] != argument}
            elif kind == "update":
                argument = str(rng.choice(WORDS)), int(rng.integers(0, 5))
                word, year = argument
                state = {
                    i: (row[0], year if row[0] == word else row[1], row[2])
                    for i, row in state.items()
                }
            self.changes.append((kind, argument))
            self.states.append(state)

    def carry_out(self, number: int, path: Path) -> None:
        """Make one change to the collection at a path."""
        self.upto(number)
        kind, argument = self.changes[number]
        if kind in ("create", "add", "upsert"):
            rows = [
                {"chunk_id": i, "text": text, "year": year}
                for i, (text, year, _) in argument.items()
            ]
            vectors = np.stack([vector_of(mark) for _, _, mark in argument.values()])
            if kind == "create":
                Collection.create(path, rows, vectors)
                return
        collection = Collection.open(path)
        if kind in ("add", "upsert"):
            getattr(collection, kind)(rows, vectors)
        elif kind == "remove":
            collection.remove(where=f"year = {argument}")
        elif kind == "update":
            collection.update({"year": argument[1]}, where=f"text = '{argument[0]}'")
        elif kind == "compact":
            collection.compact(keep=2)
        else:
            collection.prepare()


def content(collection: Collection) -> State:
    """Return what a collection holds, and check that rows, vectors and both indexes agree."""
    rows = collection.rows
    found = {
        i: (text, year, float(vector[0]))
        for i, text, year, vector in zip(
            rows["chunk_id"].to_pylist(), rows["text"].to_pylist(), rows["year"].to_pylist(),
            collection.vectors, strict=True,
        )
    }  # fmt: skip
    assert len(found) == len(rows), "an id occurs twice"
    for (_, _, mark), vector in zip(found.values(), collection.vectors, strict=True):
        np.testing.assert_array_equal(vector, vector_of(mark))
    return found


def check_answers(collection: Collection, state: State) -> None:
    """Search with a word, a vector and a filter; compare with what the state says."""
    for word in WORDS:
        hits = collection.search(word, mode="bm25", k=10_000, where="year < 3")
        expected = {i for i, (text, year, _) in state.items() if text == word and year < 3}
        assert {hit.chunk_id for hit in hits} == expected
    query = vector_of(7)
    hits = collection.search(vector=query, mode="dense", k=10, where="year >= 1")
    allowed = [i for i, row in state.items() if row[1] >= 1]
    assert len(hits) == min(10, len(allowed))
    if allowed:
        vectors = np.stack([vector_of(state[i][2]) for i in allowed]).astype(np.float64)
        cosines = vectors @ query / np.linalg.norm(vectors, axis=1) / np.linalg.norm(query)
        best = np.sort(cosines)[::-1][: len(hits)]
        np.testing.assert_allclose([hit.score for hit in hits], best, atol=1e-5)
        assert {hit.chunk_id for hit in hits} <= set(allowed)


class Reader(threading.Thread):
    """Opens and searches the collection over and over while the writer is alive."""

    def __init__(self, path: Path, script: Script, first: int) -> None:
        super().__init__()
        self.path, self.script, self.first = path, script, first
        self.returned = first  # last change known to have returned
        self.checked = 0
        self.failure: BaseException | None = None
        self.stopped = threading.Event()

    def check(self, collection: Collection, low: int) -> None:
        """Compare what a collection holds and finds with the states from change ``low`` on."""
        state = content(collection)
        high = self.returned + 2  # one under way, and one whose word is under way
        self.script.upto(high)
        matching = [n for n in range(low, high + 1) if self.script.states[n] == state]
        assert matching, f"an answer is of no state between {low} and {high}"
        check_answers(collection, state)
        self.checked += 1

    def run(self) -> None:
        try:
            while not self.stopped.is_set():
                low = self.returned
                collection = Collection.open(self.path)
                try:
                    self.check(collection, low)
                except NotFoundError:  # this reader was slow, and its version was compacted away
                    kept = {one.version for one in collection.versions()}
                    assert collection.version not in kept
        except BaseException as error:
            self.failure = error


def kill_once(path: Path, script: Script, last: int, delay: float) -> tuple[int, int, bool]:
    """Start a writer after change ``last``, kill it after a delay and check what is left.

    Returns:
        The change found, how many answers readers checked, and whether it was one whose return
        the writer had not told yet.
    """
    writer = subprocess.Popen(
        [sys.executable, __file__, "--write", str(path), str(script.seed), str(last + 1)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert writer.stdout.readline().strip() == "ready", writer.stderr.read()
    reader = Reader(path, script, last) if last >= 0 else None
    timer = threading.Timer(delay, writer.send_signal, (signal.SIGKILL,))
    timer.start()
    if reader is not None:
        reader.start()
    returned = last
    for line in writer.stdout:
        returned = int(line)
        if reader is not None:
            reader.returned = returned
    _, errors = writer.communicate()
    assert writer.returncode == -signal.SIGKILL, errors
    if reader is not None:
        reader.stopped.set()
        reader.join()
        if reader.failure is not None:
            raise reader.failure
    script.upto(returned + 1)
    if returned < 0 and not (path / "rows.lance" / "_versions").exists():
        return -1, 0, False
    collection = Collection.open(path)
    state = content(collection)
    possible = [n for n in (returned, returned + 1) if n >= 0 and script.states[n] == state]
    assert possible, (
        f"after change {returned} returned: {len(state)} rows are there, "
        f"{len(script.states[returned])} were committed"
    )
    check_answers(collection, state)
    collection.verify()
    return possible[0], reader.checked if reader is not None else 0, possible[0] > returned


def run(path: Path, kills: int, seed: int, longest: float = 0.6) -> dict[str, object]:
    """Kill a writer many times; returns what happened, or raises at the first wrong state."""
    script, rng = Script(seed), np.random.default_rng(seed)
    last, answers, unannounced, started = -1, 0, 0, time.perf_counter()
    for _ in range(kills):
        found, checked, is_ahead = kill_once(path, script, last, float(rng.uniform(0, longest)))
        last, answers, unannounced = found, answers + checked, unannounced + is_ahead
    collection = Collection.open(path)
    return {
        "kills": kills,
        "changes": last,
        "committed_but_not_yet_told": unannounced,
        "answers_checked_while_writing": answers,
        "rows": len(collection),
        "versions_kept": len(collection.versions()),
        "lost_committed_rows": 0,  # anything else raises
        "seconds": round(time.perf_counter() - started, 1),
    }


def write(path: Path, seed: int, first: int) -> None:
    """Carry out changes until killed, telling each that has returned."""
    import lancedb  # noqa: F401  (kills should hit the writing)

    script = Script(seed)
    _store.INDEXED_ROWS = 50  # so that the ids of such a small table are indexed, too
    print("ready", flush=True)
    number = first
    while True:
        script.carry_out(number, path)
        print(number, flush=True)
        number += 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", nargs=3)
    arguments = parser.parse_args()
    if arguments.write:
        path, seed, first = arguments.write
        write(Path(path), int(seed), int(first))
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(run(Path(folder) / "c", arguments.kills, arguments.seed), indent=2))


if __name__ == "__main__":
    main()
