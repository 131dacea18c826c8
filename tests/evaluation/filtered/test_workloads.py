"""Do drawn filters pass what they should, and lie where they should?"""

from __future__ import annotations

import datetime

import numpy as np
import pyarrow as pa
import pytest

from embedworks.errors import EmptyInputError, InputError, ShapeError, UnknownNameError
from embedworks.evaluation.filtered.ground_truth import filter_correlation
from embedworks.evaluation.filtered.workloads import filtered_workload
from embedworks.evaluation.filtered.worlds import (
    FilteredData,
    hold_out_queries,
    synthetic_filtered_data,
)
from embedworks.index import evaluate, parse_where


@pytest.fixture(scope="module")
def drawn():
    data = synthetic_filtered_data(20_000, 16, 24, seed=1)
    return filtered_workload(data, shares=(0.5, 0.1, 0.01, 0.001))


def test_every_filter_passes_about_its_share(drawn):
    assert len(drawn.cells) + len(drawn.skipped) == 4 * 4 + 4 * 2 * 2
    for cell in drawn.cells:
        assert len(cell.wheres) == 24
        for where in cell.wheres:
            share = evaluate(where, drawn.data.table).mean()
            assert cell.share / 1.6 <= share <= cell.share * 1.6, (cell.name, str(where))
            assert str(parse_where(str(where))) == str(where)


def test_kinds_are_what_they_say(drawn):
    signs = {"exact": " = ", "range": " BETWEEN ", "set": " CONTAINS "}
    for cell in drawn.cells:
        texts = [str(where) for where in cell.wheres]
        if cell.kind == "combined":
            assert all(any(w in text for w in (" AND ", " OR ")) for text in texts)
        else:
            assert all(signs[cell.kind] in text for text in texts)


def test_filters_differ_between_queries(drawn):
    ranges = next(cell for cell in drawn.cells if cell.name == "range 1 %")
    assert len(set(map(str, ranges.wheres))) == 24


def test_correlation_has_its_sign(drawn):
    data = drawn.data

    def measured(name):
        cell = next(cell for cell in drawn.cells if cell.name == name)
        return np.mean(
            [
                filter_correlation(data.vectors, query, evaluate(where, data.table))
                for query, where in zip(data.queries, cell.wheres, strict=True)
            ]
        )

    for kind in ("range", "set", "combined"):
        assert measured(f"{kind} 1 % positive") > 0.02
        assert measured(f"{kind} 1 % negative") < -0.02


def test_columns_without_near_rows_give_no_positive_cell():
    rng = np.random.default_rng(0)
    flags = pa.table({"flag": ["yes" if i < 100 else None for i in range(1000)]})
    vectors = np.where(np.arange(1000)[:, None] < 100, -1.0, 1.0) + rng.normal(size=(1000, 8)) / 9
    data = FilteredData.of(vectors, flags, np.ones((4, 8)))
    drawn = filtered_workload(data, kinds=["exact"], shares=[0.1])
    assert [cell.correlation for cell in drawn.cells] == ["none", "negative"]
    assert "few rows near" in drawn.skipped["exact 10 % positive"]


def test_synthetic_shares():
    table = synthetic_filtered_data(10_000, 4, 1).table
    assert evaluate("tags CONTAINS '0.1-0'", table).sum() == 1000
    assert sorted(table.column("number").to_pylist()) == list(range(10_000))
    assert 0.47 < evaluate("kind = 'a'", table).mean() < 0.53


def test_same_seed_same_filters():
    data = synthetic_filtered_data(2000, 8, 5)
    first, again, other = (filtered_workload(data, shares=[0.1], seed=s) for s in (0, 0, 1))
    assert first.cells == again.cells
    assert first.cells != other.cells


def test_dates_missing_values_and_nan():
    rng = np.random.default_rng(0)
    day = [datetime.date(2020, 1, 1) + datetime.timedelta(days=int(d)) for d in range(400)]
    number = [None if i % 3 == 0 else float("nan") if i % 7 == 0 else i / 2 for i in range(400)]
    table = pa.table({"day": day, "number": number, "flag": [i % 2 == 0 for i in range(400)]})
    data = FilteredData.of(rng.normal(size=(400, 4)), table, rng.normal(size=(6, 4)))
    drawn = filtered_workload(data, shares=[0.5, 0.1], correlations=["none"])
    assert "set 10 %" in drawn.skipped
    assert drawn.skipped["set 10 %"] == "no column has such values"
    texts = {str(where) for cell in drawn.cells for where in cell.wheres}
    assert any(text.startswith("day BETWEEN '2020") for text in texts)
    assert not any("nan" in text for text in texts)


def test_held_out_rows_are_not_searched():
    vectors = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    data = hold_out_queries(vectors, pa.table({"row": range(30)}), 5, seed=2)
    assert len(data.queries) == 5
    kept = data.table.column("row").to_pylist()
    assert len(kept) == 25
    assert np.allclose(np.linalg.norm(data.vectors, axis=1), 1)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    assert np.allclose(data.vectors, unit[kept])


def test_mistakes_are_named():
    data = synthetic_filtered_data(100, 4, 2)
    with pytest.raises(UnknownNameError, match="range"):
        filtered_workload(data, kinds=["rnge"])
    with pytest.raises(InputError, match="share"):
        filtered_workload(data, shares=[0.0])
    with pytest.raises(EmptyInputError, match="less than one row"):
        filtered_workload(data, shares=[0.0001])
    with pytest.raises(ShapeError):
        FilteredData.of(data.vectors[:50], data.table, data.queries)
    with pytest.raises(InputError, match="zero"):
        FilteredData.of(np.zeros((100, 4)), data.table, data.queries)
    with pytest.raises(InputError, match="held-out"):
        hold_out_queries(data.vectors, data.table, 100)
