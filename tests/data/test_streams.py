"""Streams: mixing, exact resuming from counts, and sources that misbehave."""

from __future__ import annotations

import json
from collections import Counter
from itertools import islice

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedworks.data import Row, RowSet, StreamMixture, StreamSource
from embedworks.errors import (
    DuplicateIdError,
    EmptyInputError,
    FormatError,
    InputError,
    NotFoundError,
    UnknownNameError,
)


def counting(name, count, opened=None):
    def read(start):
        if opened is not None:
            opened.append(start)
        return (Row(f"{name}-{i}", "x") for i in range(start, count))

    return StreamSource(name, read)


def anchors(batch):
    return [row.anchor for row in batch]


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.integers(1, 20), min_size=1, max_size=3),
    st.sampled_from([1, 2, 4]),
    st.integers(1, 12),
    st.integers(0, 25),
)
def test_a_saved_state_gives_the_same_batches(counts, run, buffer, steps):
    def mixture(**changes):
        sources = [counting(f"s{i}", count) for i, count in enumerate(counts)]
        options = {"batch_size": 4, "sub_batch_size": run, "buffer": buffer, "seed": 5}
        return StreamMixture(sources, **{**options, **changes})

    one = mixture()
    for _ in range(steps):
        next(one)
    state = json.loads(json.dumps(one.state_dict()))
    after = [anchors(batch) for batch in islice(one, 6)]
    two = mixture()
    two.load_state_dict(state)
    assert two.state_dict() == state
    assert [anchors(batch) for batch in islice(two, 6)] == after
    fresh = [anchors(batch) for batch in islice(mixture(), steps + 6)]
    assert fresh[steps:] == after
    for batch in fresh:
        names = [anchor.split("-")[0] for anchor in batch]
        assert all(len(set(names[i : i + run])) == 1 for i in range(0, 4, run))
    for rank in range(2):
        part = [anchors(batch) for batch in islice(mixture(rank=rank, world_size=2), 5)]
        assert part == [batch[rank::2] for batch in (fresh + after)[:5]]


def test_every_pass_gives_every_row_once_in_another_order():
    mixture = StreamMixture([counting("a", 12)], batch_size=4, buffer=5)
    passes = [[a for batch in islice(mixture, 3) for a in anchors(batch)] for _ in range(2)]
    for one in passes:
        assert sorted(one) == sorted(f"a-{i}" for i in range(12))
    assert passes[0] != passes[1]
    assert mixture.passes == {"a": 1}


def test_weights_are_kept():
    mixture = StreamMixture(
        [counting("a", 50), counting("b", 50)],
        batch_size=10,
        weights={"a": 3.0, "b": 1.0},
        buffer=20,
    )
    drawn = Counter(row.source for batch in islice(mixture, 800) for row in batch)
    assert drawn["a"] / 8000 == pytest.approx(0.75, abs=3 * (0.75 * 0.25 / 8000) ** 0.5)


def test_files_are_read_from_a_position(tmp_path):
    rows = RowSet(
        Row(f"a{i}", {"text": f"b{i}"}, (f"c{i}",), score=i / 2, positive_id=f"d{i}", label="l")
        for i in range(25)
    )
    rows.save(tmp_path / "big.parquet")
    table = pq.read_table(tmp_path / "big.parquet")
    pq.write_table(table, tmp_path / "big.parquet", row_group_size=4)
    lines = [
        {"anchor": r.anchor, "positive": r.positive, "negative_1": r.negatives[0],
         "score": r.score, "positive_id": r.positive_id, "label": r.label}
        for r in rows
    ]  # fmt: skip
    text = "\n\n".join(json.dumps(line) for line in lines)
    (tmp_path / "big.jsonl").write_text(text)
    for ending in ("parquet", "jsonl"):
        source = StreamSource.from_file(tmp_path / f"big.{ending}")
        for start in (0, 3, 4, 24, 25, 40):
            assert list(source.open(start)) == list(rows.with_source("big"))[start:]
        named = StreamSource.from_file(tmp_path / f"big.{ending}", name="n")
        batch = next(StreamMixture([named], batch_size=3, buffer=4))
        assert {row.source for row in batch} == {"n"}


def test_iterators_without_positions_work():
    source = StreamSource.from_iterator("a", lambda: iter([Row("x", "y"), Row("z", "y")]))
    assert anchors(source.open(1)) == ["z"]


def test_resuming_reads_no_more_than_it_must():
    opened: list[int] = []
    mixture = StreamMixture([counting("a", 10_000)], batch_size=10, buffer=5)
    for _ in range(500):
        next(mixture)
    again = StreamMixture([counting("a", 10_000, opened)], batch_size=10, buffer=5)
    again.load_state_dict(mixture.state_dict())
    assert anchors(next(again)) == anchors(next(mixture))
    assert len(opened) == 1
    assert opened[0] > 4000


def test_sources_that_misbehave_are_named(tmp_path):
    with pytest.raises(EmptyInputError, match="'a' has no rows"):
        next(StreamMixture([counting("a", 0)], batch_size=1))
    bad = StreamSource("a", lambda start: iter([Row("x", "y"), Row("", "y")][start:]))
    with pytest.raises(InputError, match="'a', row 1: anchor is empty"):
        next(StreamMixture([bad], batch_size=2))
    path = tmp_path / "rows.jsonl"
    path.write_text('{"anchor": "a", "positive": "b"}\n')
    mixture = StreamMixture([StreamSource.from_file(path)], batch_size=1)
    next(mixture)
    path.unlink()
    with pytest.raises(NotFoundError, match="any more"):
        next(mixture)
    with pytest.raises(NotFoundError, match="does not exist"):
        StreamSource.from_file(path)
    with pytest.raises(InputError, match=r"\.jsonl, \.ndjson, \.parquet"):
        StreamSource.from_file(tmp_path / "rows.csv")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"anchor": "a"', "line 1 is not valid JSON"),
        ("[1]", "line 1 is not a JSON object"),
        ('{"text": "a"}', "no 'anchor'"),
        ('{"anchor": 3, "positive": "b"}', "row 0: .*int"),
        ('{"anchor": "a", "positive": "b", "score": "high"}', "row 0: .*high"),
    ],
)
def test_lines_that_are_no_rows_are_named(tmp_path, text, message):
    path = tmp_path / "rows.jsonl"
    path.write_text(text)
    with pytest.raises(FormatError, match=message):
        next(StreamMixture([StreamSource.from_file(path)], batch_size=1))


def test_parquet_that_is_none_is_named(tmp_path):
    path = tmp_path / "rows.parquet"
    path.write_bytes(b"PAR1 half")
    with pytest.raises(FormatError, match="Parquet"):
        next(StreamMixture([StreamSource.from_file(path)], batch_size=1))


def test_mixtures_that_make_no_sense_are_refused():
    sources = [counting("news", 3), counting("qa", 3)]
    for weights, error, message in (
        ({"news": 1.0, "qa": 0.0}, InputError, "'qa' is 0.0"),
        ({"news": 1.0, "qaa": 1.0}, UnknownNameError, "Did you mean 'qa'"),
        ({"news": 1.0}, InputError, "not .*'qa'"),
        ({"news": 1.0, "qa": float("nan")}, InputError, "nan"),
    ):
        with pytest.raises(error, match=message):
            StreamMixture(sources, batch_size=2, weights=weights)
    with pytest.raises(DuplicateIdError):
        StreamMixture([sources[0], sources[0]], batch_size=2)
    with pytest.raises(EmptyInputError):
        StreamMixture([], batch_size=2)
    with pytest.raises(InputError, match="buffer"):
        StreamMixture(sources, batch_size=2, buffer=0)
    with pytest.raises(InputError, match="multiple"):
        StreamMixture(sources, batch_size=3, sub_batch_size=2)
    with pytest.raises(InputError, match="rank"):
        StreamMixture(sources, batch_size=2, world_size=2, rank=2)


def test_states_that_do_not_fit_are_refused():
    mixture = StreamMixture([counting("a", 9)], batch_size=2, buffer=4)
    next(mixture)
    state = mixture.state_dict()
    other = StreamMixture([counting("a", 9)], batch_size=2, buffer=4, seed=1)
    with pytest.raises(FormatError, match="seed 0"):
        other.load_state_dict(state)
    with pytest.raises(FormatError, match="version"):
        mixture.load_state_dict({})
    with pytest.raises(FormatError, match="damaged"):
        mixture.load_state_dict({**state, "streams": [{}]})
    with pytest.raises(FormatError, match="contradicts"):
        wrong = {**state["streams"][0], "given": 99}
        mixture.load_state_dict({**state, "streams": [wrong]})
    shrunk = StreamMixture([counting("a", 3)], batch_size=2, buffer=4)
    with pytest.raises(FormatError, match="has 3 now"):
        shrunk.load_state_dict(state)
