"""Labels of rows, and the graphs whose links follow them."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest

from embedworks.errors import InputError, UnknownNameError
from embedworks.index import AttributeTable, FilteredVamanaIndex, StitchedVamanaIndex
from embedworks.index.filtered._labels import Labels, is_union_of_labels
from embedworks.index.where import parse_where

SETS = [["b", "a", "b"], None, [], ["c"], ["a", "c"]]
VALUES = [3.5, None, float("nan"), 3.5, -1.0]


def test_labels_are_read_from_sets_and_from_single_values():
    sets = Labels.of(AttributeTable.from_columns({"tags": SETS}), "tags")
    own = [sets.labels[a:b].tolist() for a, b in pairwise(sets.offsets)]
    assert own == [[0, 1], [], [], [2], [0, 2]]
    assert [rows.tolist() for rows in sets.members()] == [[0, 4], [0], [3, 4]]
    values = Labels.of(AttributeTable.from_columns({"x": VALUES}), "x")
    assert [rows.tolist() for rows in values.members()] == [[4], [0, 3]]
    with pytest.raises(UnknownNameError, match="column"):
        Labels.of(AttributeTable.from_columns({"x": VALUES}), "y")


def test_starts_have_their_label_and_are_spread():
    rng = np.random.default_rng(0)
    tags = [[str(t) for t in rng.choice(10, 4, replace=False)] for _ in range(300)]
    labels = Labels.of(AttributeTable.from_columns({"tags": tags}), "tags")
    starts = labels.starts(seed=1)
    for label, start in enumerate(starts):
        assert label in labels.labels[labels.offsets[start] : labels.offsets[start + 1]]
    assert len(set(starts.tolist())) == 10


def test_unions_of_labels_are_recognised():
    table = AttributeTable.from_columns({"tags": SETS, "x": VALUES})
    for text, column, served in [
        ("tags CONTAINS 'a'", "tags", True),
        ("tags CONTAINS 'a' OR (tags CONTAINS 'b' OR tags CONTAINS 'c')", "tags", True),
        ("tags CONTAINS 'a' AND tags CONTAINS 'b'", "tags", False),
        ("NOT tags CONTAINS 'a'", "tags", False),
        ("x IN (1, 2) OR x > 4", "x", True),
        ("NOT (x = 1 AND x < 4)", "x", True),
        ("x = 1 OR tags CONTAINS 'a'", "x", False),
        ("x = 1", "tags", False),
    ]:
        assert is_union_of_labels(parse_where(text), table, column) is served, text


@pytest.mark.parametrize("kind", [FilteredVamanaIndex, StitchedVamanaIndex])
def test_links_join_rows_that_share_a_label(kind):
    rng = np.random.default_rng(2)
    tags = [rng.choice(8, rng.integers(0, 4), replace=False).tolist() for _ in range(600)]
    vectors = rng.normal(size=(600, 8))
    index = kind.build(vectors, pa.table({"tags": tags}), column="tags", links=16)
    for row, others in enumerate(index.links):
        assert all(set(tags[row]) & set(tags[other]) for other in others if other >= 0)
        assert tags[row] or (others == -1).all()


def test_rows_without_a_label_are_scanned():
    vectors = np.random.default_rng(3).normal(size=(300, 4))
    kinds = [None if row % 3 == 0 else "ab"[row % 2] for row in range(300)]
    rows = pa.table({"kind": kinds})
    index = FilteredVamanaIndex.build(vectors, rows, column="kind", exact_below=0)
    assert index.search(vectors[:1], 1).rows[0].tolist() == [0]
    assert index.search(vectors[:1], 1, where="kind IS NULL").plans == ["exact"]
    assert "filtered-vamana" in str(index.explain(5))


def test_numbers_out_of_range_are_refused():
    rows = pa.table({"kind": ["a", "b"]})
    for kind in (FilteredVamanaIndex, StitchedVamanaIndex):
        for wrong in ({"alpha": 0.5}, {"links": 1}, {"ef": 0}, {"exact_below": -1}):
            with pytest.raises(InputError, match="must be in"):
                kind.build(np.eye(2), rows, column="kind", **wrong)
