"""Every index that takes filters keeps the same promises, whatever its structure."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from embedworks import index as rooms
from embedworks.errors import (
    DataWarning,
    FormatError,
    InputError,
    NonFiniteError,
    NotFoundError,
    ShapeError,
)
from embedworks.index import VectorIndex, evaluate
from embedworks.index.protocol import read_index, write_index

ROWS, DIM = 1200, 12

LABEL = ["kind = 'a'", "kind IN ('b', 'e')", "kind = 'a' OR kind = 'c'"]
TAGS = ["tags CONTAINS 'x'", "tags CONTAINS 'y' OR tags CONTAINS 'z'"]
NOT_A_UNION = ("tags CONTAINS 'x' AND tags CONTAINS 'y'", "NOT tags CONTAINS 'x'", "year > 5")
RANGE = ["year < 300", "year >= 250 AND year < 700", "year BETWEEN 10 AND 14", "NOT year > 40"]
NO_RANGE = ("year < 3 OR year > 700", "kind = 'a'", "year < 500 AND kind = 'a'")
EVERY = [*LABEL, *RANGE, "tags CONTAINS 'x' AND tags CONTAINS 'y'", "year IS NULL",
         "kind != 'a' AND year < 600", "tags CONTAINS 'x' OR year > 900"]  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One index, small enough to build in a moment, with filters it serves and refuses."""

    kind: str
    settings: dict[str, Any] = field(default_factory=dict)
    serves: tuple[str | None, ...] = (None, *EVERY)
    nobody: str = "kind = 'w'"
    refuses: tuple[str, ...] = ()
    damaged: str = "links"  # a file of the structure
    wide: int = 64  # ef
    recall: float = 0.9  # at that ef


CASES = [
    Case("AcornIndex", {"links": 12, "gamma": 8}),
    Case("AcornIndex", {"links": 12, "gamma": 1}),
    Case(
        "FilteredVamanaIndex",
        {"column": "kind", "exact_below": 40, "links": 20},
        serves=(None, *LABEL, "kind IS NULL", "kind != 'a' AND NOT kind = 'b'"),
        refuses=("year > 5", "kind = 'a' AND year < 10"),
    ),
    Case(
        "FilteredVamanaIndex",
        {"column": "tags", "exact_below": 40},
        serves=(None, *TAGS),
        nobody="tags CONTAINS 'w'",
        refuses=NOT_A_UNION,
    ),
    Case(
        "StitchedVamanaIndex",
        {"column": "tags", "exact_below": 40},
        serves=(None, *TAGS),
        nobody="tags CONTAINS 'w'",
        refuses=NOT_A_UNION,
    ),
    Case(
        "PartitionIndex",
        {"columns": ["kind", "year"], "ef": 300, "exact_below": 40},
        damaged="splits",
        wide=300,
    ),
    Case(
        "SegmentGraphIndex",
        {"column": "year", "exact_below": 40, "candidates": 200},
        serves=(None, *RANGE, "year IS NULL"),
        nobody="year > 5000",
        refuses=NO_RANGE,
        damaged="targets",
    ),
    Case(
        "RangeTreeIndex",
        {"column": "year", "exact_below": 40},
        serves=(None, *RANGE, "year IS NULL"),
        nobody="year > 5000",
        refuses=NO_RANGE,
        damaged="levels",
    ),
    Case(
        "UngIndex",
        {"column": "tags", "exact_below": 40},
        serves=(None, *TAGS, *NOT_A_UNION[:2], "tags IS NULL"),
        nobody="tags CONTAINS 'w'",
        refuses=("year > 5", "tags CONTAINS 'x' AND year > 5"),
    ),
    Case(
        "UngIndex",
        {"column": "kind", "exact_below": 40},
        serves=(None, *LABEL, "kind IS NULL"),
        refuses=("year > 5",),
    ),
    Case("FilteredIndex", {"graph_from": 500, "ef_construction": 40}),
]


def clustered(rows, seed):
    centres = np.random.default_rng(7).normal(size=(15, DIM))
    rng = np.random.default_rng(seed)
    return (centres[rng.integers(0, 15, rows)] + 0.6 * rng.normal(size=(rows, DIM))).astype("f4")


def attributes(rows, seed):
    rng = np.random.default_rng(seed)
    year = [None if y > 980 else int(y) for y in rng.integers(0, 1000, rows)]
    tags = [[t for t in "xyz" if rng.random() < 0.4] for _ in range(rows)]
    kind = [None if k == "f" else str(k) for k in rng.choice(list("aaaabbcdef"), rows)]
    return pa.table({
        "year": pa.array(year, pa.int64()),
        "tags": pa.array(tags, pa.list_(pa.string())),
        "kind": pa.array(kind, pa.string()),
    })  # fmt: skip


def made(case, vectors, table, **more):
    return getattr(rooms, case.kind).build(vectors, table, **case.settings, **more)


@pytest.fixture(scope="module", params=CASES, ids=lambda c: f"{c.kind}-{c.settings}")
def case(request):
    return request.param


@pytest.fixture(scope="module")
def data():
    vectors = clustered(ROWS, 0)
    vectors[ROWS - 20 :] = vectors[:20]  # ties
    return vectors, attributes(ROWS, 1)


@pytest.fixture(scope="module")
def index(case, data):
    return made(case, *data)


def check(index, vectors, table, queries, k, where, removed=(), similarity="cosine", **options):
    """Compare with brute force in float64; returns the recall."""
    found = index.search(queries, k, where=where, **options)
    mask = np.ones(len(vectors), bool) if where is None else evaluate(where, table)
    mask[list(removed)] = False
    unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)  # noqa: E731
    rows, wanted = vectors.astype(float), queries.astype(float)
    truth = unit(wanted) @ unit(rows).T if similarity == "cosine" else wanted @ rows.T
    hits = total = 0
    for number, (got, scores) in enumerate(zip(found.rows, found.scores, strict=True)):
        assert got.dtype == np.int64
        assert scores.dtype == np.float32
        assert len(got) == len(set(got.tolist())) == min(k, mask.sum())
        assert mask[got].all()
        np.testing.assert_allclose(scores, truth[number, got], rtol=1e-4, atol=1e-5)
        assert (np.diff(scores) <= 0).all()
        same = np.flatnonzero(np.diff(scores) == 0)
        assert (got[same] < got[same + 1]).all()
        best = np.sort(np.where(mask, truth[number], -np.inf))[::-1][: len(got)]
        hits += int((truth[number, got] >= best[-1] - 1e-6).sum()) if len(got) else 0
        total += len(got)
    return hits / total if total else 1.0


def wide(case):
    """Options of a search that walks wherever the index would consider it."""
    return {"plan": "graph"} if case.kind == "FilteredIndex" else {"ef": case.wide}


def test_results_pass_the_filter_and_are_all_there(case, index, data):
    queries = clustered(6, 2)
    for where in case.serves:
        for k in (1, 10, 2 * ROWS):
            recall = check(index, *data, queries, k, where)
            assert recall > 0.5 or k == 1
    assert [len(rows) for rows in index.search(queries, 5, where=case.nobody).rows] == [0] * 6
    assert index.search(queries[:0], 5).rows == []


def test_walks_find_the_nearest(case, index, data):
    queries = clustered(60, 3)
    for where in case.serves:
        assert check(index, *data, queries, 10, where, **wide(case)) >= case.recall, where
    walked = index.search(queries[:1], 10, where=case.serves[0], **wide(case)).plans[0]
    assert walked not in ("exact", "empty")
    assert "then" not in walked


def random_filter(case, rng, depth=2):
    """A filter of the kind that the index serves, at random."""
    column = case.settings.get("column")
    if column is None and depth and rng.random() < 0.6:
        parts = [random_filter(case, rng, depth - 1) for _ in range(rng.integers(2, 4))]
        joined = f" {rng.choice(['AND', 'OR'])} ".join(f"({part})" for part in parts)
        return f"NOT ({joined})" if rng.random() < 0.3 else joined
    column = column or rng.choice(["year", "kind", "tags"])
    if column == "year":
        low, high = sorted(rng.integers(-50, 1050, 2).tolist())
        return str(
            rng.choice(
                [
                    f"year BETWEEN {low} AND {high}",
                    f"year > {low}",
                    f"NOT year < {high}",
                    f"year >= {low} AND year < {high}",
                ]
            )
        )
    if column == "kind":
        values = rng.choice(list("abcdez"), rng.integers(1, 4), replace=False)
        return f"kind IN ({', '.join(repr(str(v)) for v in values)})"
    tags = rng.choice(list("xyzw"), rng.integers(1, 3), replace=False)
    return " OR ".join(f"tags CONTAINS '{tag}'" for tag in tags)


def test_random_filters_keep_the_promises(case, index, data):
    rng = np.random.default_rng(21)
    for _ in range(40):
        where = random_filter(case, rng)
        k = int(rng.choice([1, 10, 300]))
        assert check(index, *data, clustered(2, int(rng.integers(99))), k, where) >= 0.5, where


def test_filters_it_cannot_serve_are_refused(case, index):
    for where in case.refuses:
        with pytest.raises(InputError, match=r"serves .* serve every filter"):
            index.search(clustered(1, 2), 5, where=where)


def test_each_query_may_have_a_filter_of_its_own(case, index, data):
    queries = clustered(4, 4)
    where = [case.serves[-1], case.nobody, None, case.serves[-1]]
    together = index.search(queries, 7, where=where)
    for number, one in enumerate(where):
        alone = index.search(queries[number : number + 1], 7, where=one)
        np.testing.assert_array_equal(together.rows[number], alone.rows[0])
    assert len(together) == 4


def test_equal_builds_give_equal_results(case, index, data):
    again = made(case, *data)
    queries = clustered(5, 5)
    for where in case.serves[:4]:
        one, other = (i.search(queries, 8, where=where, **plan(case)) for i in (index, again))
        for left, right in zip(one.rows, other.rows, strict=True):
            np.testing.assert_array_equal(left, right)


def plan(case):
    """A plan that does not depend on times measured on this machine."""
    return {"plan": "graph"} if case.kind == "FilteredIndex" else {}


def test_rows_are_added_and_removed_and_kept_on_disk(case, data, tmp_path):
    vectors, table = data
    index = made(case, vectors, table)
    more, others = clustered(150, 8), attributes(150, 9)
    assert index.add(more, others).tolist() == list(range(ROWS, ROWS + 150))
    gone = np.arange(0, ROWS + 150, 5)
    assert index.remove(gone) == len(gone)
    assert index.remove(gone[:3]) == 0
    assert len(index) == ROWS + 150 - len(gone)
    everything = np.concatenate([vectors, more]), pa.concat_tables([table, others])
    queries = np.concatenate([more[:5], clustered(5, 10)])
    for where in case.serves:
        for k in (10, 3000):
            assert check(index, *everything, queries, k, where, removed=gone) > 0.8
    index.save(tmp_path / "index")
    again = type(index).load(tmp_path / "index")
    assert isinstance(again, VectorIndex)
    assert len(again) == len(index)
    for where in case.serves:
        one, other = (i.search(queries, 8, where=where, **plan(case)) for i in (index, again))
        for left, right in zip(one.rows, other.rows, strict=True):
            np.testing.assert_array_equal(left, right)
    assert all(size >= 0 for size in again.memory().values())
    assert again.memory()["vectors"] == 4 * DIM * (ROWS + 150)
    made_when_asked = {"attribute orders", "lists", "graph"}  # in part: which plans ran decides
    before, after = index.memory(), again.memory()
    assert before.keys() == after.keys()
    assert all(before[part] == after[part] for part in before.keys() - made_when_asked)
    (tmp_path / "index" / f"{case.damaged}.npy").write_bytes(b"x")
    with pytest.raises(FormatError, match="damaged"):
        type(index).load(tmp_path / "index")
    with pytest.raises(NotFoundError):
        type(index).load(tmp_path / "nowhere")


def test_numbers_out_of_range_in_a_file_are_found(case, index, tmp_path):
    if case.kind == "FilteredIndex":
        return
    index.save(tmp_path / "index")
    settings, arrays = read_index(tmp_path / "index", index.FORMAT)
    wide = {"alive": arrays["alive"].astype(np.int64)}
    write_index(tmp_path / "index", index.FORMAT, settings, arrays | wide)
    with pytest.raises(FormatError, match="damaged"):
        type(index).load(tmp_path / "index")
    for wrong in (10**6, -7):
        index.save(tmp_path / "index")
        settings, arrays = read_index(tmp_path / "index", index.FORMAT)
        for name, array in arrays.items():
            if array.dtype not in (np.int32, np.int64) or not array.size:
                continue
            changed = array.copy()  # kernels would read outside their arrays
            changed.flat[array.size // 2] = wrong
            write_index(tmp_path / "index", index.FORMAT, settings, arrays | {name: changed})
            with pytest.raises(FormatError, match="damaged"):
                type(index).load(tmp_path / "index")
            write_index(tmp_path / "index", index.FORMAT, settings, arrays | {name: array[:-1]})
            if name not in ("starts", "order", "parents", "levels"):  # a shorter one may be sound
                with pytest.raises(FormatError, match="damaged"):
                    type(index).load(tmp_path / "index")


def test_removing_nearly_all_leaves_the_rest_findable(case, data):
    vectors, table = data
    index = made(case, vectors, table)
    gone = np.setdiff1d(np.arange(ROWS), np.arange(3, ROWS, 97))
    index.remove(gone)
    for where in case.serves:
        assert check(index, vectors, table, clustered(3, 6), 10, where, removed=gone) > 0.9


@pytest.mark.parametrize("rows", [0, 1, 3, 40])
def test_small_and_empty_indexes_work(case, rows):
    vectors, table = clustered(rows, 11), attributes(rows, 12)
    index = made(case, vectors, table)
    for where in case.serves:
        check(index, vectors, table, clustered(2, 13), 5, where)
    index.add(clustered(4, 14), attributes(4, 15))
    vectors = np.concatenate([vectors, clustered(4, 14)])
    table = pa.concat_tables([table, attributes(4, 15)])
    for where in case.serves:
        assert check(index, vectors, table, clustered(2, 13), 50, where) == 1.0


def test_dot_products_rank_by_length_too(case, data):
    vectors = data[0] * np.random.default_rng(0).uniform(0.5, 2.0, (ROWS, 1)).astype("f4")
    index = made(case, vectors, data[1], similarity="dot")
    for where in case.serves:
        options = {"similarity": "dot", **wide(case)}
        assert check(index, vectors, data[1], clustered(30, 3), 10, where, **options) >= 0.85


def test_the_explanation_names_plan_filter_and_rows(case, index, data):
    for where in case.serves:
        told = str(index.explain(10, where=where))
        assert "rows match" in told
        assert "->" in told or case.kind == "FilteredIndex"
        assert where is None or f"filter: {where}" in told
    assert "empty" in str(index.explain(3, where=case.nobody))


def test_mistakes_are_explained(case, index, data):
    vectors, table = data
    query = vectors[:1]
    with pytest.raises(InputError, match="Did you mean 'year'"):
        index.search(query, 3, where="yeer = 1")
    if case.kind != "FilteredIndex":
        with pytest.raises(InputError, match="ef must be"):
            index.search(query, 3, ef=0)
    with pytest.raises(InputError, match="k must be"):
        index.search(query, 0)
    with pytest.raises(ShapeError, match="dimensions"):
        index.search(query[:, :3], 3)
    with pytest.raises(InputError, match="zero vector"):
        index.search(np.zeros((1, DIM)), 3)
    with pytest.raises(ShapeError, match="as many filters"):
        index.search(query, 3, where=[None, None])
    with pytest.raises(ShapeError, match="as many rows"):
        made(case, vectors, table.slice(0, 3))
    with pytest.raises(NonFiniteError):
        made(case, vectors * np.nan, table)
    with pytest.raises(InputError, match="rows must be in"):
        index.remove([ROWS])
    with pytest.raises(InputError, match="give those of the new rows"):
        index.add(vectors)


def test_results_do_not_touch_their_input(case, data):
    vectors, queries = data[0].copy(), clustered(2, 1)
    before = vectors.copy(), queries.copy()
    index = made(case, vectors, data[1])
    index.search(queries, 3)
    np.testing.assert_array_equal(vectors, before[0])
    np.testing.assert_array_equal(queries, before[1])


def test_every_index_with_filters_is_here():
    source = Path(rooms.__file__).parent
    built = {
        path.stem
        for path in (source / "filtered").glob("[!_]*.py")
        if "_walked import" in path.read_text(encoding="utf-8")
    }
    covered = {getattr(rooms, case.kind).__module__.rpartition(".")[2] for case in CASES}
    assert built <= covered


# Indexes that take a mask of rows, made from a filter by `evaluate` or an `AttributeTable`.

MASKED = {
    "ExactIndex": lambda vectors, folder: rooms.ExactIndex(vectors),
    **{
        f"QuantizedIndex-{codes}": lambda vectors, folder, codes=codes: rooms.QuantizedIndex(
            vectors, codes=codes
        )
        for codes in ("int8", "binary", "product", "opq")
    },
    "TwoTierIndex": lambda vectors, folder: rooms.TwoTierIndex.build(folder, vectors, codes="int8"),
    **{
        kind: lambda vectors, folder, kind=kind: getattr(rooms, kind)(tokens_of(vectors))
        for kind in ("MaxSimIndex", "MuveraIndex", "PlaidIndex")
    },
}


def tokens_of(vectors):
    """Documents of three tokens, each made of a vector's neighbours in the array."""
    return [np.stack([vectors[r], vectors[r - 1], vectors[r - 2]]) for r in range(len(vectors))]


@pytest.fixture(scope="module", params=MASKED)
def masked(request, tmp_path_factory):
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(300, 16)).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)  # few vectors for 256 codewords
        return MASKED[request.param](vectors, tmp_path_factory.mktemp("index") / "index"), vectors


@pytest.mark.parametrize("where", ["year < 300", "kind IN ('b', 'e')", "year = 7", "year > 5000"])
def test_indexes_with_masks_find_what_matches_and_no_more(masked, where):
    index, vectors = masked
    table = attributes(300, 1)
    mask = evaluate(where, table)
    several = type(index).__name__ in ("MaxSimIndex", "MuveraIndex", "PlaidIndex")
    queries = [vectors[:2], vectors[5:6]] if several else vectors[:2]
    for k in (1, 7, 400):
        more = {"candidates": 500} if hasattr(index, "coarse") else {}
        ids, scores = index.search(queries, k, mask=mask, **more)
        assert ids.shape == scores.shape == (2, min(k, mask.sum()))
        assert mask[ids].all()
        assert all(len(set(rows)) == len(rows) for rows in ids.tolist())
        assert (np.diff(scores, axis=1) <= 0).all()
    everything = index.search(queries, 3)[0]
    same = index.search(queries, 3, mask=np.ones(300, dtype=bool))[0]
    np.testing.assert_array_equal(everything, same)
