"""A collection with a graph: the same answers as one that scans, whatever has changed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
import warnings
from dataclasses import replace

import numpy as np
import pytest

from embedworks.errors import (
    DataWarning,
    DuplicateIdError,
    FormatError,
    InputError,
    NonFiniteError,
    QuerySyntaxError,
    ShapeError,
    UnknownNameError,
)
from embedworks.index import _planned, check_collection
from embedworks.index._planned import PlannedDense
from embedworks.index._saved_arrays import save_arrays
from embedworks.index._structures import Structures
from embedworks.index.collection import Collection
from embedworks.index.exact import ExactIndex
from embedworks.index.filtered import lists as filtered_lists
from embedworks.index.filtered.graph import Graph
from embedworks.index.filtered.lists import InvertedLists, quantize
from embedworks.index.filtered.planner import Calibration
from embedworks.index.filtering import evaluate

pytest.importorskip("lancedb")
ROWS, DIM = 2_400, 24
TARGET = 0.95
KINDS = ("paper", "note", "mail")


def clustered(count, seed):
    """Unit vectors around 40 centres that are the same for every seed."""
    centres = np.random.default_rng(0).standard_normal((40, DIM))
    rng = np.random.default_rng(seed)
    vectors = centres[rng.integers(0, 40, count)] + 0.7 * rng.standard_normal((count, DIM))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def make_rows(names, seed=0):
    rng = np.random.default_rng(seed)
    return [
        {
            "chunk_id": name,
            "text": f"row {name}",
            "attributes": {"year": int(rng.integers(2000, 2020)), "sort": str(rng.choice(KINDS))},
        }
        for name in names
    ]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    path = tmp_path_factory.mktemp("planned") / "c"
    names = [f"c{n}" for n in range(ROWS)]
    Collection.create(path, make_rows(names), clustered(ROWS, 1), index="planned")
    return path


@pytest.fixture
def path(built, tmp_path):
    return shutil.copytree(built, tmp_path / "c")


def graph_of(collection):
    return collection._snapshot().planned


def some_filter(rng):
    low, high = sorted(rng.integers(1999, 2021, 2).tolist())
    kind = rng.choice(KINDS)
    return str(
        rng.choice(
            [
                f"year BETWEEN {low} AND {high}",
                f"sort = '{kind}'",
                f"sort != '{kind}' AND year >= {low}",
                f"year = {low} OR (sort = '{kind}' AND NOT year < {high})",
                f"chunk_id LIKE 'c{rng.integers(1, 10)}%'",
            ]
        )
    )


def check_against_scan(path, *, searches=12, seed=0):
    """Compare with the same collection opened to scan; returns the plans taken."""
    planned = Collection.open(path)
    scanned = Collection.open(path, index="exact")
    assert graph_of(planned) is not None
    assert graph_of(scanned) is None
    rng, plans, recalls = np.random.default_rng(seed), set(), []
    queries = clustered(20, 99)
    for number in range(searches):
        where = some_filter(rng) if number else None
        k = int(rng.choice([1, 10, 50]))
        mask = np.ones(len(planned), dtype=bool) if where is None else evaluate(where, planned.rows)
        wanted = min(k, int(mask.sum()))
        # Before the search: the planner learns from it.
        plan = graph_of(planned).choices(len(queries), k, mask)[0].plan
        plans.add(plan)
        found = planned.search_many(vectors=queries, mode="dense", k=k, where=where)
        truth = scanned.search_many(vectors=queries, mode="dense", k=k, where=where)
        for row in range(len(queries)):
            ids, scores = found.rows[row], found.scores[row]
            assert len(ids) == len(set(ids.tolist())) == wanted
            assert mask[ids].all()
            np.testing.assert_array_equal(np.lexsort((ids, -scores)), np.arange(wanted))
            if plan == "exact":
                assert found.chunk_ids[row] == truth.chunk_ids[row]
                np.testing.assert_array_equal(scores, truth.scores[row])
            elif wanted:
                same = set(found.chunk_ids[row]) & set(truth.chunk_ids[row])
                recalls.append(len(same) / wanted)
    assert not recalls or np.mean(recalls) >= TARGET
    return plans


def test_answers_are_those_of_a_scan(built):
    assert check_against_scan(built, searches=30)


def scans_cost(monkeypatch, microseconds):
    """Make the planner believe that every exact search costs this much."""
    monkeypatch.setattr(Calibration, "exact", lambda *_, **__: microseconds)


def walked(collection, plan, queries, k):
    """Return the rows that one plan finds among all."""
    graph = graph_of(collection)
    choice = next(choice for choice in graph.choices(1, k, None) if choice.plan == plan)
    return graph._walk(queries, k, graph._ready(graph._passing(None)), choice)


@pytest.mark.parametrize(("scan", "plans"), [(1e-3, {"exact"}), (1e6, {"lists", "codes"})])
def test_answers_do_not_depend_on_what_scans_cost(built, monkeypatch, scan, plans):
    scans_cost(monkeypatch, scan)
    assert check_against_scan(built, searches=30) >= plans


@pytest.mark.parametrize("plan", ["codes", "lists", "graph", "two-hop"])
def test_every_plan_finds_what_a_scan_finds(path, monkeypatch, plan):
    collection = Collection.open(path)
    collection.add(make_rows([f"n{n}" for n in range(150)], 3), clustered(150, 3))
    collection.remove([f"c{n}" for n in range(0, ROWS, 16)])
    monkeypatch.setattr(_planned, "_PLANS", (plan,))
    scans_cost(monkeypatch, 1e6)
    taken = check_against_scan(path, searches=20, seed=6)
    assert plan in taken
    assert taken <= {plan, "exact"}


def test_filters_that_point_away_from_the_query(built, monkeypatch):
    scans_cost(monkeypatch, 1e6)
    collection = Collection.open(built)
    planned, exact = graph_of(collection), ExactIndex(collection.vectors)
    hits = total = 0
    for query in clustered(20, 31):
        scores = collection.vectors @ query
        mask = scores < np.quantile(scores, 0.4)
        truth = exact.search(query[None], 10, mask=mask)[0][0]
        rows = planned.search(query[None], 10, mask)[0][0]
        assert mask[rows].all()
        hits, total = hits + len(np.intersect1d(rows, truth)), total + len(truth)
    assert hits / total >= TARGET


def test_a_process_scans_until_loading_the_other_plans_pays(built, monkeypatch):
    collection, query = Collection.open(built), clustered(1, 2)[0]
    exact = Collection.open(built, index="exact").search(vector=query, mode="dense")
    scans_cost(monkeypatch, 4e5)
    monkeypatch.setattr(_planned, "_lost", [])
    monkeypatch.setattr(_planned, "_is_loaded", lambda: False)
    for _ in range(2):
        assert collection.search(vector=query, mode="dense") == exact
        graph = graph_of(collection)
        assert graph._scans_once_more(0, graph.choices(1, 10, None))
    told = collection.explain(vector=query, mode="dense", k=5)
    assert any("scan once more" in step for step in told.plan)
    assert not graph._scans_once_more(1, graph.choices(1, 10, None))


@pytest.mark.parametrize("limit", [{"_KEPT_FILTERS": 2}, {"_KEPT_ROWS": 2 * ROWS}])
def test_only_so_many_filters_are_kept_and_each_keeps_its_rows(built, monkeypatch, limit):
    for name, value in limit.items():
        monkeypatch.setattr(_planned, name, value)
    scans_cost(monkeypatch, 1e6)
    collection, query = Collection.open(built), clustered(1, 2)[0]
    for _ in range(2):
        for year in range(2003, 2008):
            where = f"year >= {year}"
            hits = collection.search(vector=query, mode="dense", where=where)
            assert len(hits) == 10
            assert min(hit.attributes["year"] for hit in hits) >= year
            kept = graph_of(collection)._kept
            assert len(kept) <= 2
            assert all(entry.ready is not None for entry in kept.values())
    for more in range(100):  # other numbers of results are priced apart
        collection.search(vector=query, mode="dense", where=where, k=10 + more)
    assert all(len(e.choices) <= _planned._KEPT_CHOICES for e in kept.values())


def test_opening_and_a_first_search_load_no_compiled_code(built):
    code = (
        "import sys, numpy as np\n"
        "from embedworks.index import Collection\n"
        "collection = Collection.open(sys.argv[1])\n"
        f"hits = collection.search(vector=np.ones({DIM}), mode='dense', where='year > 2001')\n"
        "assert len(hits) == 10\n"
        "print('graph' in collection.memory(), 'numba' in sys.modules)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(built)], capture_output=True, text=True, check=True
    )
    assert run.stdout.split() == ["True", "False"]


def test_what_was_built_is_read_and_not_made_again(path, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("built again")

    for target in (Graph, InvertedLists):
        monkeypatch.setattr(target, "build", refuse)
    monkeypatch.setattr(filtered_lists, "quantize", refuse)
    collection = Collection.open(path)
    collection.add(make_rows(["n1"]), clustered(1, 3))
    for opened in (collection, Collection.open(path)):
        built = graph_of(opened).built
        for array in (built.lists.codes, built.graph.links):
            assert isinstance(array.base, np.memmap) or isinstance(array, np.memmap)
        assert all(rows is not None for rows in walked(opened, "lists", clustered(3, 2), 5))


def test_changes_time_travel_and_compaction(path):
    collection = Collection.open(path)
    first = collection.version
    added = [f"n{n}" for n in range(150)]
    collection.add(make_rows(added, 3), clustered(150, 3))
    collection.remove([f"c{n}" for n in range(0, ROWS, 16)])
    check_against_scan(path, seed=1)
    assert graph_of(Collection.open(path)).late >= 150
    assert graph_of(Collection.open(path)).removed >= ROWS // 16
    collection.update({"year": 1999}, where="year = 2003")  # rows move to the end
    collection.upsert(make_rows(["c1", "n1", "new"], 4), clustered(3, 4))
    check_against_scan(path, seed=2)
    nearest = collection.search(vector=clustered(3, 4)[0], mode="dense", k=1)
    assert nearest[0].chunk_id == "c1"
    assert collection.count("year = 1999") > 50
    older = Collection.open(path, version=first)  # rows that were removed are back: it scans
    assert graph_of(older) is None
    hits = older.search(vector=clustered(ROWS, 1)[16], mode="dense", k=1)
    assert hits[0].chunk_id == "c16"
    collection.restore(first)
    check_against_scan(path, seed=4)
    collection.remove([f"c{n}" for n in range(0, ROWS, 8)])
    collection.compact()
    graph = graph_of(collection)
    assert (graph.late, graph.removed) == (0, 0)
    check_against_scan(path, seed=5)
    collection.verify()


def test_a_graph_too_much_has_changed_under_is_dropped_and_built_again(path):
    collection = Collection.open(path)
    collection.remove([f"c{n}" for n in range(ROWS // 3)])
    assert graph_of(collection) is None
    query = clustered(1, 9)[0]
    assert len(collection.search(vector=query, mode="dense", k=5)) == 5
    collection = Collection.open(path, index="planned")
    assert graph_of(collection) is None  # below 2,000 rows
    collection.add(make_rows([f"n{n}" for n in range(ROWS // 2)]), clustered(ROWS // 2, 5))
    collection.prepare()
    assert graph_of(collection).late == 0
    check_against_scan(path)


def test_recall_holds_at_the_most_change_that_is_taken_over(path):
    share = _planned._MOST_CHANGED
    gone = np.random.default_rng(7).permutation(ROWS)[: int(share / (1 + share) * ROWS)]
    collection = Collection.open(path)
    collection.remove([f"c{n}" for n in gone])
    assert graph_of(collection).removed == len(gone)
    queries = clustered(100, 11)
    scan = Collection.open(path, index="exact")
    truth = scan.search_many(vectors=queries, mode="dense").chunk_ids
    found = walked(collection, "graph", queries, 10)
    ids = np.array(collection.rows["chunk_id"].to_pylist())
    hits = [len(set(ids[a]) & set(b)) for a, b in zip(found, truth, strict=True)]
    assert np.mean(hits) / 10 >= TARGET


def test_who_gets_a_graph(tmp_path, monkeypatch):
    few = make_rows([f"c{n}" for n in range(30)])
    collection = Collection.create(tmp_path / "few", few, clustered(30, 0), index="planned")
    assert graph_of(collection) is None
    assert (collection.index, collection.metadata) == ("planned", {"index": "planned"})
    monkeypatch.setattr(_planned, "_PAYS_FROM", 2_000 * DIM)
    many = make_rows([f"c{n}" for n in range(2_000)])
    for index, expected in (("auto", True), ("exact", False)):
        made = Collection.create(tmp_path / index, many, clustered(2_000, 0), index=index)
        assert (graph_of(made) is not None) == expected
        assert made.index == Collection.open(tmp_path / index).index == index
    with pytest.raises(UnknownNameError, match="Did you mean 'planned'"):
        Collection.open(tmp_path / "few", index="planed")
    with pytest.raises(UnknownNameError, match="index"):
        Collection.create(tmp_path / "x", few, clustered(30, 0), index="graph")


def test_vectors_are_shared_when_they_have_unit_length(built, path):
    collection = Collection.open(built)
    collection.search(vector=clustered(1, 2)[0], mode="dense")
    graph = graph_of(collection)
    assert np.shares_memory(graph._plans.vectors, collection.vectors)
    assert "unit vectors" not in collection.memory()
    assert collection.memory()["graph"] > 0
    longer = 3.0 * clustered(ROWS, 1)
    longer[5] = 0.0
    with pytest.warns(DataWarning, match="zero"):
        Collection.create(
            path, make_rows([f"c{n}" for n in range(ROWS)]), longer, index="planned", overwrite=True
        )
    check_against_scan(path)
    copied = Collection.open(path)
    copied.search(vector=longer[0], mode="dense")
    assert copied.memory()["unit vectors"] == copied.memory()["vectors"]


def test_zero_queries_and_explanations(built):
    collection = Collection.open(built)
    with pytest.warns(DataWarning, match="zero vector"):
        hits = collection.search(vector=np.zeros(DIM), mode="dense", k=3)
    assert [hit.score for hit in hits] == [0.0, 0.0, 0.0]
    told = collection.explain(vector=clustered(1, 2)[0], mode="dense", where="year >= 2001")
    assert told.plan[0].startswith("planner: ")
    assert "not " in told.plan[0]
    assert told.plan[0].count(" us") >= 2
    rare = collection.explain(vector=clustered(1, 2)[0], mode="dense", where="chunk_id = 'c7'")
    assert rare.plan[0].startswith("planner: exact")
    assert "copy out 1 of 2,400" in rare.plan[1]
    none = collection.explain(vector=clustered(1, 2)[0], mode="dense", where="year = 1900")
    assert none.matching == 0


@pytest.mark.parametrize("index", ["exact", "planned"])
def test_bad_and_extreme_searches_are_the_same_with_and_without_a_graph(built, index):
    collection = Collection.open(built, index=index)
    query = clustered(1, 2)[0]
    for arguments, error, message in [
        ({"vector": np.full(DIM, np.nan)}, NonFiniteError, "NaN"),
        ({"vector": np.ones(DIM - 1)}, ShapeError, "another model"),
        ({"vector": query, "k": 0}, InputError, "k must be"),
        ({"vector": query, "k": -3}, InputError, "k must be"),
        ({"vector": query, "where": "yeer = 2001"}, QuerySyntaxError, "'year'"),
        ({"vector": query, "where": "year = 'often'"}, QuerySyntaxError, "year"),
        ({"vector": query, "where": "sort > 3"}, QuerySyntaxError, "sort"),
    ]:
        with pytest.raises(error, match=message):
            collection.search(mode="dense", **arguments)
    assert collection.search(vector=query, mode="dense", where="year = 1900") == []
    few = "year = 2004 AND chunk_id LIKE 'c1%'"
    count = collection.count(few)
    assert 0 < count < 100
    for k, where, expected in ((10 * ROWS, None, ROWS), (count + 1, few, count)):
        hits = collection.search(vector=query, mode="dense", k=k, where=where)
        assert len(hits) == len({hit.chunk_id for hit in hits}) == expected
    assert len(collection.search("row", vector=query, k=10 * ROWS)) == ROWS
    assert collection.search_many(vectors=np.empty((0, DIM)), mode="dense").rows == []


def test_bad_rows_are_refused_and_the_graph_stays(path):
    collection = Collection.open(path)
    rows = make_rows(["x", "y"])
    for bad, vectors, error, message in [
        (rows, np.full((2, DIM), np.nan), NonFiniteError, "NaN"),
        (rows, np.ones((2, DIM + 1)), ShapeError, "another model"),
        (rows, np.ones((1, DIM)), ShapeError, "2 rows need 2"),
        ([rows[0], rows[0]], np.ones((2, DIM)), DuplicateIdError, "'x'"),
        (make_rows(["c1"]), np.ones((1, DIM)), DuplicateIdError, "'c1'"),
    ]:
        for change in (collection.add, collection.upsert):
            if change == collection.upsert and "c1" in message:
                continue  # which is what upsert is for
            with pytest.raises(error, match=message):
                change(bad, vectors)
    with pytest.raises(DuplicateIdError, match="'x'"):
        Collection.create(path, [rows[0], rows[0]], np.ones((2, DIM)), overwrite=True)
    assert Collection.open(path).version == collection.version == 1
    assert graph_of(Collection.open(path)).late == 0


@pytest.mark.parametrize(
    "damage", ["header", "newer", "short", "missing", "numbers", "starts", "twice", "rows"]
)
def test_a_damaged_graph_costs_speed_and_nothing_else(path, damage):
    folder = next(path.glob("cache/v*/graph"))
    links = folder / "links.npy"
    query = clustered(1, 2)[0]
    expected = Collection.open(path, index="exact").search(vector=query, mode="dense")
    if damage == "header":
        (folder / "index.json").write_text('{"version": 1')
    elif damage == "newer":
        header = json.loads((folder / "index.json").read_text())
        (folder / "index.json").write_text(json.dumps(header | {"version": 99}))
    elif damage == "short":
        links.write_bytes(links.read_bytes()[:5000])
    elif damage == "missing":
        links.unlink()
    elif damage == "numbers":  # the right size, and names rows that are not there
        np.save(links, np.full_like(np.load(links), 10**9))
    elif damage == "starts":  # neighbours that would begin outside the links
        starts = np.load(folder / "link_starts.npy")
        starts[5] = 10**12
        np.save(folder / "link_starts.npy", starts)
    elif damage == "twice":  # a row that is in two lists, and one that is in none
        order = np.load(folder / "list_order.npy")
        order[0] = order[1]
        np.save(folder / "list_order.npy", order)
    else:
        header = json.loads((folder / "index.json").read_text())
        header["settings"]["rows"] = 7
        (folder / "index.json").write_text(json.dumps(header))
    with pytest.warns(DataWarning, match="Searches scan"):
        hits = Collection.open(path, index="auto").search(vector=query, mode="dense")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        assert [hit.chunk_id for hit in hits] == [hit.chunk_id for hit in expected]
        assert not check_collection(path).is_sound
        with pytest.raises(FormatError):
            Collection.open(path, index="auto").verify()
        assert check_collection(path, repair=True).is_sound
    check_against_scan(path, searches=3)


def test_a_graph_of_an_older_release_is_built_again(path):
    query = clustered(1, 2)[0]
    expected = Collection.open(path, index="exact").search(vector=query, mode="dense")
    folder = next(path.glob("cache/v*/graph"))
    settings = json.loads((folder / "index.json").read_text())["settings"]
    arrays = {file.stem: np.load(file) for file in folder.glob("*.npy")}
    arrays |= {  # links by row in a table, levels above, and codes by row
        "links": np.zeros((ROWS, 32), dtype=np.int32),
        "upper_place": np.full(ROWS, -1, dtype=np.int32),
        "upper_links": np.empty((0, 0, 16), dtype=np.int32),
        "codes": arrays["list_codes"],
        "scales": arrays["list_scales"],
        "starts": arrays.pop("list_starts"),
    }
    del arrays["link_starts"]
    save_arrays(folder, "collection graph", settings | {"entry": 0}, arrays, version=1)
    with pytest.warns(DataWarning, match="has version 1, this release reads 2: build it again"):
        collection = Collection.open(path, index="auto")
    assert collection.search(vector=query, mode="dense") == expected
    assert graph_of(collection) is None
    with pytest.warns(DataWarning, match="version 1"):
        Collection.open(path, index="planned").prepare()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert graph_of(Collection.open(path)).late == 0
    check_against_scan(path, searches=3)


def test_a_graph_that_cannot_be_written_is_used_in_memory(path):
    folder = next(path.glob("cache/v*"))
    shutil.rmtree(folder / "graph")
    (path / ".cache.lock").unlink(missing_ok=True)
    (path / ".cache.lock").mkdir()  # in the way
    with pytest.warns(DataWarning, match="could not be written"):
        collection = Collection.open(path, index="planned")
    assert graph_of(collection) is not None
    assert len(collection.search(vector=clustered(1, 2)[0], mode="dense")) == 10


def test_readers_beside_a_writer(path):
    errors, done = [], threading.Event()

    def read():
        try:
            while not done.is_set():
                collection = Collection.open(path)
                found = collection.search_many(vectors=clustered(3, 1), mode="dense", k=7)
                assert all(len(rows) == 7 for rows in found.rows)
                known = set(collection.rows["chunk_id"].to_pylist())
                assert all(set(ids) <= known for ids in found.chunk_ids)
        except Exception as error:
            errors.append(error)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    writer = Collection.open(path)
    for number in range(6):
        writer.add(make_rows([f"w{number}"]), clustered(1, number))
        writer.remove([f"c{number}"])
        writer.prepare()
    done.set()
    for reader in readers:
        reader.join()
    assert not errors
    check_against_scan(path, searches=4)


@pytest.mark.parametrize("shuffled", [False, True])
def test_lists_of_the_rows_that_stay_equal_their_loop(shuffled):
    rng = np.random.default_rng(3)
    vectors = clustered(300, 3)
    built = Structures.build(vectors)
    rows = np.flatnonzero(rng.random(300) < 0.6)
    rows = rng.permutation(rows) if shuffled else rows
    kept = built.kept(rows)
    kept.check(DIM)
    number = {old: new for new, old in enumerate(rows.tolist())}
    for place in range(len(built.lists.centroids)):
        old = built.lists.order[built.lists.starts[place] : built.lists.starts[place + 1]]
        new = kept.lists.order[kept.lists.starts[place] : kept.lists.starts[place + 1]]
        assert new.tolist() == [number[row] for row in old.tolist() if row in number]
    codes, scales = quantize(vectors[rows][kept.lists.order])
    np.testing.assert_array_equal(kept.lists.codes, codes)
    np.testing.assert_array_equal(kept.lists.scales, scales)
    stay = np.isin(built.lists.order, rows)
    graph = built.graph.kept(stay)
    np.testing.assert_array_equal(kept.graph.starts, graph.starts)
    np.testing.assert_array_equal(kept.graph.links, graph.links)
    # Rows in another order are the same places.
    again = built.kept(rng.permutation(300))
    assert again.graph is built.graph
    np.testing.assert_array_equal(again.lists.codes, built.lists.codes)


@pytest.mark.parametrize("part", ["starts", "order", "codes", "scales"])
def test_structures_that_do_not_fit_are_refused(part):
    built = Structures.build(clustered(300, 3))
    short = replace(built.lists, **{part: getattr(built.lists, part)[:-1]})
    with pytest.raises(FormatError, match="inverted lists"):
        replace(built, lists=short).check(DIM)
    with pytest.raises(FormatError, match="inverted lists"):
        built.check(DIM + 1)


def test_a_taken_over_graph_is_the_same_when_nothing_changed():
    vectors = clustered(2_000, 0)
    made = PlannedDense.build(ExactIndex(vectors), show_progress=False)
    again = made.taken_over(ExactIndex(vectors.copy()), np.arange(2_000))
    assert again.built is made.built
    assert made.taken_over(ExactIndex(vectors[:, :5].copy()), np.arange(2_000)) is None
