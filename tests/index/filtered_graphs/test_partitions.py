"""Partitions: what is split off, what is skipped, and that nothing is lost by skipping."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest

from embedworks.errors import InputError, UnknownNameError
from embedworks.index import PartitionIndex, evaluate
from embedworks.index.filtered.partitions import _split


def slow_split(values, buckets):
    left, parts, used = list(range(len(values))), [], []
    while left and len(used) < buckets:
        counts = Counter(v for row in left for v in values[row] if v >= 0 and v not in used)
        if not counts:
            break
        best = max(counts, key=lambda v: (counts[v], -v))
        used.append(best)
        parts.append([row for row in left if best in values[row]])
        left = [row for row in left if best not in values[row]]
    return [*parts, left], used


def test_the_most_frequent_values_are_split_off():
    rng = np.random.default_rng(0)
    for buckets in (0, 1, 3, 20):
        values = np.stack([rng.integers(-1, 4, 60), rng.integers(3, 9, 60)], axis=1)
        values[:, 1] += 1
        places, chosen, sizes = _split(values, buckets)
        parts, used = slow_split(values.tolist(), buckets)
        assert chosen == used
        assert [p.tolist() for p in np.split(places, np.cumsum(sizes)[:-1])] == parts


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(1)
    kind = [None if k == "d" else str(k) for k in rng.choice(list("aaabbcd"), 900)]
    size = [float("nan") if s > 28 else float(s) for s in rng.integers(0, 30, 900)]
    return rng.normal(size=(900, 6)), pa.table({"kind": kind, "size": size})


def test_skipped_buckets_hold_nothing_that_passes(data):
    vectors, table = data
    index = PartitionIndex.build(vectors, table, columns=["kind", "size"], clusters=9, buckets=4,
                                 exact_below=0)  # fmt: skip
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    for where in [
        "kind = 'a'",
        "kind = 'c' AND size = 7",
        "kind IN ('a', 'b') AND size < 3",
        "kind = 'a' OR kind IS NULL",
        "kind IS NULL AND size > 20",
        "NOT kind = 'a' AND (size > 20 OR kind = 'b')",
        "size >= 28 AND NOT size < 28",
    ]:
        mask = evaluate(where, table)
        found = index.search(vectors[:5], 900, where=where, ef=900)
        one = index.search(vectors[:5], min(3, mask.sum() - 1), where=where, ef=900)
        for query, rows, few in zip(unit, found.rows, one.rows, strict=False):
            expected = np.flatnonzero(mask)[np.argsort(-(unit[mask] @ query), kind="stable")]
            np.testing.assert_array_equal(rows, expected)
            np.testing.assert_array_equal(few, expected[: len(few)])
        assert set(one.plans) == {"partitions"}


def test_a_value_that_only_some_rows_have_ends_a_cluster(data):
    vectors, table = data
    index = PartitionIndex.build(vectors, table, columns=["kind"])
    for where, allowed, only in [
        ("kind = 'b'", [0, 1, 0], [0, 1, 0]),
        ("kind = 'b' AND size < 5", [0, 1, 0], [0, 1, 0]),
        ("kind = 'b' OR kind IS NULL", [0, 1, 0], [0, 0, 0]),
        ("kind != 'b'", [1, 0, 1], [0, 0, 0]),
        ("kind = 'b' OR size < 5", [1, 1, 1], [0, 0, 0]),
    ]:
        route = index._ready(where).route
        assert (route[0].tolist(), route[1].tolist()) == (allowed, only), where


def test_more_scored_rows_find_more(data):
    vectors, table = data
    index = PartitionIndex.build(vectors, table, columns=["kind"], exact_below=0)
    mask = evaluate("kind = 'a'", table)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    queries = np.random.default_rng(2).normal(size=(40, 6))
    truth = np.flatnonzero(mask)[np.argsort(-(queries @ unit[mask].T), axis=1)[:, :10]]
    recalls = []
    for ef in (10, 60, 400):
        found = index.search(queries, 10, where="kind = 'a'", ef=ef).rows
        recalls.append(np.mean([len(np.intersect1d(*p)) for p in zip(found, truth, strict=True)]))
    assert recalls[0] < recalls[1] < recalls[2]
    assert recalls[2] == 10


def test_columns_of_sets_and_unknown_ones_are_refused(data):
    tags = pa.table({"tags": [["a", "b"], ["a"]]})
    with pytest.raises(InputError, match="holds sets"):
        PartitionIndex.build(np.eye(2), tags, columns=["tags"])
    with pytest.raises(UnknownNameError, match="column"):
        PartitionIndex.build(*data, columns=["knd"])
    with pytest.raises(InputError, match="clusters"):
        PartitionIndex.build(*data, clusters=-1)
