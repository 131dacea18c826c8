import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embedworks.data import Row, RowSet, content_key
from embedworks.errors import EmptyInputError, FormatError, InputError, NotFoundError, ShapeError

ROWS = [
    Row("a", "b", ("c", "d"), source="one", teacher_scores=(0.9, 0.2, 0.1), positive_id="doc-1"),
    Row({"text": "q", "image": "cat.png"}, "b", source="two", label="x", provenance="made here"),
    Row("s1", "s2", source="two", score=3.5),
]


def test_rows_survive_the_disk(tmp_path):
    rows = RowSet(ROWS)
    rows.save(tmp_path / "rows.parquet")
    again = RowSet.load(tmp_path / "rows.parquet")
    assert list(again) == ROWS
    assert again.fingerprint() == rows.fingerprint()
    assert rows.sources == {"one": 1, "two": 2}
    assert rows.max_negatives == 2


def test_fingerprint_sees_every_field_and_the_order():
    prints = {RowSet(ROWS).fingerprint(), RowSet(ROWS[::-1]).fingerprint()}
    prints.add(RowSet([Row("a", "b")]).fingerprint())
    prints.add(RowSet([Row("a", "b", label="x")]).fingerprint())
    prints.add(RowSet([Row("a", "b", source="x")]).fingerprint())
    assert len(prints) == 5


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (Row("", "b"), "anchor is empty"),
        (Row("a", " \n"), "positive is empty"),
        (Row("a", "b", ("c", "")), "negative 2 is empty"),
        (Row("a", "b", score=float("nan")), "score is nan"),
        (Row("a", "b", ("c",), teacher_scores=(1.0,)), "1 teacher scores"),
        (Row("a", "b", teacher_scores=(float("inf"),)), "not finite"),
    ],
)
def test_an_unusable_row_is_named(row, message):
    with pytest.raises(InputError, match=f"row 1.*{message}"):
        RowSet([ROWS[0], row])


def test_wide_columns_of_other_tools_are_read(tmp_path):
    table = pa.table(
        {"anchor": ["a", "b"], "positive": ["c", "d"], "negative_1": ["e", None], "label": [1, 2]}
    )
    pq.write_table(table, tmp_path / "pairs.parquet")
    rows = RowSet.load(tmp_path / "pairs.parquet")
    assert [row.negatives for row in rows] == [("e",), ()]
    assert [row.label for row in rows] == ["1", "2"]
    assert rows.sources == {"pairs": 2}


def test_unreadable_files_are_named(tmp_path):
    with pytest.raises(NotFoundError, match="does not exist"):
        RowSet.load(tmp_path / "none.parquet")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 half")
    with pytest.raises(FormatError, match="Parquet"):
        RowSet.load(tmp_path / "broken.parquet")
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "other.parquet")
    with pytest.raises(FormatError, match="no column 'anchor'"):
        RowSet.load(tmp_path / "other.parquet")
    with pytest.raises(EmptyInputError):
        RowSet([]).save(tmp_path / "empty.parquet")
    with pytest.raises(InputError, match="store paths"):
        RowSet([Row({"image": np.zeros(2)}, "b")]).save(tmp_path / "array.parquet")


def test_columns_become_rows():
    rows = RowSet.from_columns(["a", "b"], ["c", "d"], ["e", "f"], source="s")
    assert rows[1] == Row("b", "d", ("f",), source="s")
    with pytest.raises(ShapeError, match=r"\[2, 1\]"):
        RowSet.from_columns(["a", "b"], ["c"])


def test_content_keys_tell_contents_apart():
    values = ["a", "b", {"text": "a"}, {"text": "a", "image": b"\0"}, {"image": np.zeros(2)}]
    values += [{"image": np.zeros(3)}, {"frames": ["a", "b"]}, {"frames": ["ab"]}]
    keys = [content_key(value) for value in values]
    assert len(set(keys)) == len(values)
    assert all(0 <= key < 2**63 for key in keys)
    with pytest.raises(InputError, match="object"):
        content_key({"x": object()})
