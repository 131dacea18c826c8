"""The cache: nothing computed twice, nothing stale, nothing lost when a run is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

from embedworks.data import RowSet, content_key
from embedworks.errors import FormatError, InputError
from embedworks.models.vectors import VectorStore
from embedworks.negatives import Corpus, DenseRetriever, Miner, Rescorer, SearchRetriever


class Hashed:
    """A deterministic encoder that counts the texts it encodes."""

    def __init__(self, salt=""):
        self.salt = salt
        self.encoded = 0

    def encode(self, texts):
        self.encoded += len(texts)
        seeds = [content_key(self.salt + text) for text in texts]
        return np.stack([np.random.default_rng(s).normal(size=8) for s in seeds])


def rows_of(count):
    return RowSet.from_columns([f"q{i}" for i in range(count)], [f"d{i}" for i in range(count)])


def mine(model, rows, cache, **options):
    retriever = DenseRetriever(model, fingerprint=options.pop("fingerprint", "hashed"))
    return Miner([retriever], rules=[], cache=cache, count=3, **options).mine(rows)


def test_a_second_run_encodes_nothing_and_finds_the_same(tmp_path):
    rows = rows_of(30)
    first, second = Hashed(), Hashed()
    expected = mine(Hashed(), rows, None).rows.fingerprint()
    assert mine(first, rows, tmp_path).rows.fingerprint() == expected
    assert first.encoded == 60
    assert mine(second, rows, tmp_path).rows.fingerprint() == expected
    assert second.encoded == 0
    # Other rules need no new encoding; more rows only that of the new ones.
    assert mine(second, rows, tmp_path, window=(5, 9)).rows.fingerprint() != expected
    assert second.encoded == 0
    larger = rows_of(40)
    assert (
        mine(second, larger, tmp_path).rows.fingerprint()
        == mine(Hashed(), larger, None).rows.fingerprint()
    )
    assert second.encoded == 20


def test_another_model_never_meets_old_results(tmp_path):
    rows = rows_of(30)
    mine(Hashed(), rows, tmp_path)
    other = Hashed("other")
    fresh = mine(Hashed("other"), rows, None).rows.fingerprint()
    assert mine(other, rows, tmp_path, fingerprint="other").rows.fingerprint() == fresh
    assert other.encoded == 60
    # Without a name of its own, a model is known by the vectors it gives.
    plain = Miner([DenseRetriever(Hashed("other"))], rules=[], cache=tmp_path, count=3)
    assert plain.mine(rows).rows.fingerprint() == fresh
    # Another corpus, another order of rows: other candidates.
    mixed = RowSet(list(rows)[::-1])
    assert (
        mine(Hashed(), mixed, tmp_path).rows.fingerprint()
        == mine(Hashed(), mixed, None).rows.fingerprint()
    )


def test_pair_scores_are_cached_by_content(tmp_path):
    class Cross:
        asked = 0

        def predict(self, pairs):
            self.asked += len(pairs)
            return [float(content_key(" ".join(pair)) % 1000) for pair in pairs]

    def mined(model):
        rescorer = Rescorer(model, fingerprint="cross")
        retriever = DenseRetriever(Hashed(), fingerprint="hashed")
        miner = Miner(
            [retriever], rules=[], rescorer=rescorer, teacher="rescorer", cache=tmp_path,
            window=(1, 5),
        )  # fmt: skip
        return miner.mine(rows_of(20)).rows.fingerprint()

    first, second = Cross(), Cross()
    assert mined(first) == mined(second)
    assert (first.asked, second.asked) == (20 * 6, 0)


def test_an_index_is_only_cached_under_a_name(tmp_path):
    class Index:
        asked = 0

        def search(self, queries, k):
            self.asked += 1
            return [(list(range(5)), [5.0, 4, 3, 2, 1])] * len(queries)

    index = Index()
    for expected, name in ((1, None), (2, None), (3, "v1"), (3, "v1"), (4, "v2")):
        retriever = SearchRetriever(index, fingerprint=name)
        Miner([retriever], rules=[], cache=tmp_path).mine(rows_of(8))
        assert index.asked == expected


def test_damaged_files_are_named(tmp_path):
    rows = rows_of(10)
    mine(Hashed(), rows, tmp_path)
    candidates = next((tmp_path / "candidates").iterdir())
    candidates.write_bytes(candidates.read_bytes()[:20])
    with pytest.raises(FormatError, match="damaged"):
        mine(Hashed(), rows, tmp_path)
    candidates.unlink()
    vectors = next(tmp_path.glob("vectors-*/done/vectors.npy"))
    vectors.write_bytes(vectors.read_bytes()[:150])
    with pytest.raises(FormatError, match="delete them"):
        mine(Hashed(), rows, tmp_path)


def test_a_model_that_changes_its_dimension_is_refused(tmp_path):
    store = VectorStore(tmp_path, "one")
    keys = np.array([1, 2], dtype=np.int64)
    store.add(["a", "b"], keys, Hashed().encode)

    with pytest.raises(InputError, match="dimensions"):
        store.add(["c"], keys[:1] + 7, lambda texts: np.ones((len(texts), 9)))
    assert len(VectorStore(tmp_path, "one").keys) == 2


CHILD = """
    import sys, time
    import numpy as np
    from embedworks.data import RowSet, content_key
    from embedworks.negatives import DenseRetriever, Miner

    class Slow:
        def encode(self, texts):
            with open(sys.argv[2], "a") as log:
                log.write(f"{len(texts)}\\n")
            if float(sys.argv[3]):
                time.sleep(float(sys.argv[3]))
            seeds = [content_key(text) for text in texts]
            return np.stack([np.random.default_rng(s).normal(size=8) for s in seeds])

    rows = RowSet.from_columns(*([f"{k}{i}" for i in range(5000)] for k in "qd"))
    retriever = DenseRetriever(Slow(), fingerprint="slow")
    mined = Miner([retriever], rules=[], cache=sys.argv[1] or None, count=3).mine(rows)
    print(mined.rows.fingerprint())
"""


def test_a_killed_run_continues(tmp_path):
    script = tmp_path / "child.py"
    script.write_text(textwrap.dedent(CHILD))
    log, cache = tmp_path / "log", tmp_path / "cache"

    def start(cache: Path | str, pause: float) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, str(script), str(cache), str(log), str(pause)],
            stdout=subprocess.PIPE,
            text=True,
        )

    child = start(cache, 0.4)
    deadline = time.monotonic() + 60
    while not list(cache.glob("vectors-*/part-*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(child.pid, signal.SIGKILL)
    child.communicate()
    assert child.returncode == -signal.SIGKILL
    saved = len(list(cache.glob("vectors-*/part-*.safetensors")))
    assert 1 <= saved < 6
    log.unlink()
    resumed, _ = start(cache, 0).communicate()
    encoded = sum(map(int, log.read_text().split()))
    assert encoded == 10_000 - 2048 * saved
    fresh, _ = start("", 0).communicate()
    assert resumed == fresh
    assert len(resumed.strip()) == 64
    assert not list(cache.glob("vectors-*/part-*"))


def test_corpus_ids_are_unique_by_default():
    corpus = Corpus(["a", "b", "a"])
    assert len(set(corpus.ids)) == 3
