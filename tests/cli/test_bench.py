"""The command `bench filtered`, through the real program entry, on generated and own data."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

from embedworks.evaluation import FilteredReport

QUICK = ("--queries", "6", "--rounds", "1", "--method", "planner", "--method", "numpy exact")


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """Vectors and attributes on disk."""
    folder = tmp_path_factory.mktemp("own")
    rng = np.random.default_rng(0)
    np.save(folder / "vectors.npy", rng.normal(size=(600, 8)).astype(np.float16))
    table = pa.table(
        {
            "year": rng.integers(1990, 2020, 600),
            "venue": [["A", "B"] if i % 2 else ["C"] for i in range(600)],
            "size": [{"pages": i} for i in range(600)],
        }
    )
    pyarrow.parquet.write_table(table, folder / "attributes.parquet")
    pyarrow.csv.write_csv(table.select(["year"]), folder / "attributes.csv")
    return folder


def test_help(call):
    for command in (("bench",), ("bench", "filtered")):
        code, out, _ = call(*command, "--help")
        assert code == 0
    assert "--json" in out


def test_generated_data_in_a_table(call, tmp_path):
    code, out, _ = call("bench", "filtered", "--rows", 2000, "--dim", 8, "--kind", "range",
                        "--share", "0.1", *QUICK, "--out", tmp_path)  # fmt: skip
    assert code == 0
    for part in ("filters", "numpy", "planner", "worst of best", "1.000"):
        assert part in out
    record = json.loads((tmp_path / "filtered.json").read_text())
    assert record["cells"][0]["name"] == "range 10 %"
    for name in ("filtered-speeds.svg", "filtered-curves.svg"):
        assert (tmp_path / name).read_text().startswith("<svg")


def test_own_data_and_filters(call, own, tmp_path):
    mixture = tmp_path / "filters.txt"
    mixture.write_text("year > 2010\n\nvenue CONTAINS 'C'\n")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        code, out, err = call(
            "bench", "filtered", own / "vectors.npy", "-a", own / "attributes.parquet",
            "--where", "year = 2000", "--filters", mixture, *QUICK, "--json",
        )  # fmt: skip
    assert code == 0
    assert "left out: size" in err
    report = FilteredReport.from_dict(json.loads(out))
    assert report.settings["rows"] == 594
    assert [cell.name for cell in report.cells] == ["year = 2000", "2 filters"]
    assert report.cells[1].filters == 2
    assert all(p.recall == 1.0 for cell in report.cells for p in cell.points)


def test_drawn_filters_on_a_csv_with_own_queries(call, own, tmp_path):
    np.save(tmp_path / "queries.npy", np.random.default_rng(1).normal(size=(5, 8)))
    code, out, _ = call("bench", "filtered", own / "vectors.npy", "-a", own / "attributes.csv",
                        "--share", "0.1", *QUICK[2:], "--queries", tmp_path / "queries.npy",
                        "--json")  # fmt: skip
    assert code == 0
    record = json.loads(out)
    assert (record["settings"]["rows"], record["settings"]["queries"]) == (600, 5)
    assert "set 10 %" in record["skipped_cells"]


def test_mistakes_are_named(call, own, tmp_path):
    def fails(*arguments):
        code, _, err = call("bench", "filtered", *arguments)
        assert code == 2
        return err

    vectors, table = own / "vectors.npy", own / "attributes.parquet"
    flat = own / "attributes.csv"
    assert "--attributes" in fails(vectors)
    assert "need the vectors" in fails("-a", table)
    assert "no file" in fails(own / "nothing.npy", "-a", table)
    assert "No 'fais Flat'" in fails("--rows", 100, "--share", 0.5, "--method", "fais Flat")
    assert "yeer" in fails(vectors, "-a", flat, "--where", "yeer = 1")
    assert "Did you mean 'year'" in fails(vectors, "-a", table, "--column", "yeer")
    (own / "broken.npy").write_bytes(b"\x93NUMPY no")
    assert "broken.npy" in fails(own / "broken.npy", "-a", table)
    (own / "broken.parquet").write_bytes(b"PAR1")
    assert "broken.parquet" in fails(vectors, "-a", own / "broken.parquet")
    assert ".parquet, .csv, .jsonl" in fails(vectors, "-a", vectors)
    assert "held-out" in fails(vectors, "-a", flat, "--queries", 600)
