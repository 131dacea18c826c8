"""hnswlib, usearch, LanceDB and Milvus Lite as contestants, where they are installed.

The two databases filter by themselves, with an index on every attribute; their files lie in a
temporary folder. They bring threads of their own: pin the process to a core to compare them.
"""

from __future__ import annotations

import importlib
import re
import tempfile
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from embedworks.errors import InputError
from embedworks.evaluation.filtered.library_methods import filter_after
from embedworks.evaluation.filtered.methods import Answer, BuiltIndex, FilteredMethod
from embedworks.evaluation.filtered.worlds import FilteredData
from embedworks.index.where import And, Between, Compare, Condition, Contains, In, Literal, Not, Or

__all__ = ["METHODS", "peer_expression"]

_PLAIN = re.compile(r"[A-Za-z_]\w*\Z")
_ROW = "row_number_"
_BATCH = 5000


def peer_expression(where: Condition, *, equals: str, contains: str) -> str:
    """Write a filter in the language of a database.

    Args:
        where: A filter of comparisons, BETWEEN, IN, CONTAINS, AND, OR and NOT.
        equals: The sign of equality, ``"="`` or ``"=="``.
        contains: The function that looks for a value in a set.

    Raises:
        InputError: On other filters, and on column names that need quotes.

    Example:
        >>> from embedworks.index import parse_where
        >>> where = parse_where("NOT a = 'x' AND b BETWEEN 1 AND 2")
        >>> peer_expression(where, equals="==", contains="array_contains")
        "((NOT (a == 'x')) AND (b >= 1 AND b <= 2))"
    """
    again = partial(peer_expression, equals=equals, contains=contains)
    if isinstance(where, And | Or):
        return "(" + f" {where.keyword} ".join(again(part) for part in where.parts) + ")"
    if isinstance(where, Not):
        return f"(NOT {again(where.part)})"
    if not isinstance(where, Compare | Between | In | Contains):
        raise InputError(f"{str(where)!r:.100} is not translated for other databases")
    name = where.column
    if not _PLAIN.match(name):
        raise InputError(f"column {name!r} is not translated for other databases")
    if isinstance(where, Between):
        return f"({name} >= {_value(where.low)} AND {name} <= {_value(where.high)})"
    if isinstance(where, Contains):
        return f"{contains}({name}, {_value(where.value)})"
    if isinstance(where, In):
        return "(" + " OR ".join(f"{name} {equals} {_value(v)}" for v in where.values) + ")"
    operator = equals if where.operator == "=" else where.operator
    return f"({name} {operator} {_value(where.value)})"


def _value(value: Literal) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        if "\\" in value:
            raise InputError(f"value {value!r:.60} is not translated for other databases")
        return "'" + value.replace("'", "''") + "'"
    return repr(value)


def _refuses(equals: str, contains: str, built: BuiltIndex, where: Condition) -> str:
    try:
        text = peer_expression(where, equals=equals, contains=contains)
    except InputError as error:
        return str(error)
    return "a quote in a value is not translated" if equals == "==" and "''" in text else ""


def _folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _build_hnswlib(data: FilteredData) -> BuiltIndex:
    hnswlib = importlib.import_module("hnswlib")
    rows, dim = data.vectors.shape
    index = hnswlib.Index(space="ip", dim=dim)
    index.init_index(max_elements=rows, M=16, ef_construction=100, random_seed=0)
    index.set_num_threads(1)
    index.add_items(data.vectors, np.arange(rows), num_threads=1)
    return BuiltIndex(index, int(index.index_file_size()))


def _ask_hnswlib(built: BuiltIndex, data: FilteredData) -> Answer:
    index, attributes = built.index, data.attributes

    def answer(query: np.ndarray, k: int, where: Condition, value: float) -> np.ndarray:
        mask = attributes.compile(where).mask()
        flags: Any = mask.view(bool)
        passes = memoryview(flags).__getitem__  # the fastest Python function that tells
        index.set_ef(int(value))
        with suppress(RuntimeError):  # it raises when it finds fewer than it was asked for
            wanted = min(k, int(np.count_nonzero(mask)))
            found: np.ndarray = index.knn_query(query, wanted, num_threads=1, filter=passes)[0][0]
            return found.astype(np.int64)
        return np.empty(0, dtype=np.int64)

    return answer


def _build_usearch(data: FilteredData) -> BuiltIndex:
    library = importlib.import_module("usearch.index")
    rows, dim = data.vectors.shape
    index = library.Index(ndim=dim, metric="ip", dtype="f32", connectivity=16, expansion_add=100)
    index.add(np.arange(rows), data.vectors, threads=1)
    return BuiltIndex(index, int(index.memory_usage))


def _ask_usearch(built: BuiltIndex, data: FilteredData) -> Answer:
    index = built.index

    def find(query: np.ndarray, wanted: int) -> np.ndarray:
        index.expansion_search = max(16, wanted)
        found: np.ndarray = index.search(query, wanted, threads=1).keys
        return found

    return filter_after(find, data)


def _build_lancedb(data: FilteredData) -> BuiltIndex:
    lancedb, kinds = (importlib.import_module(name) for name in ("lancedb", "lancedb.index"))
    folder = tempfile.TemporaryDirectory(prefix="filtered-")
    dim = data.vectors.shape[1]
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(data.vectors.ravel()), dim)
    full = data.table.append_column(_ROW, pa.array(np.arange(len(vectors))))
    full = full.append_column("vector", vectors)
    table = lancedb.connect(folder.name).create_table("rows", full)
    table.create_index("vector", config=kinds.HnswSq(
        distance_type="cosine", num_partitions=16, m=16, ef_construction=100
    ))  # fmt: skip
    for field in data.table.schema:
        is_set = pa.types.is_list(field.type) or pa.types.is_large_list(field.type)
        table.create_index(field.name, config=kinds.LabelList() if is_set else kinds.BTree())
    return BuiltIndex(table, _folder_bytes(Path(folder.name)), folder.cleanup)


def _ask_lancedb(built: BuiltIndex, data: FilteredData) -> Answer:
    table = built.index

    def answer(query: np.ndarray, k: int, where: Condition, value: float) -> np.ndarray:
        text = peer_expression(where, equals="=", contains="array_has")
        asked = table.search(query).distance_type("cosine").where(text, prefilter=True)
        asked = (
            asked.nprobes(int(value))
            .ef(max(64, 4 * k))
            .refine_factor(4)
            .limit(k)
            .select([_ROW, "_distance"])
        )
        found: np.ndarray = asked.to_arrow().column(_ROW).to_numpy()
        return found

    return answer


def _build_milvus(data: FilteredData) -> BuiltIndex:
    pymilvus = importlib.import_module("pymilvus")
    folder = tempfile.TemporaryDirectory(prefix="filtered-")
    client = pymilvus.MilvusClient(str(Path(folder.name) / "rows.db"))
    kinds = pymilvus.DataType
    schema = client.create_schema(auto_id=False)
    schema.add_field(_ROW, kinds.INT64, is_primary=True)
    schema.add_field("vector", kinds.FLOAT_VECTOR, dim=data.vectors.shape[1])
    for field in data.table.schema:
        if pa.types.is_list(field.type) or pa.types.is_large_list(field.type):
            schema.add_field(field.name, kinds.ARRAY, element_type=_milvus_kind(
                kinds, field.type.value_type), max_capacity=4096, max_length=1000,
                nullable=True)  # fmt: skip
        else:
            kind = _milvus_kind(kinds, field.type)
            extra = {"max_length": 8000} if kind == kinds.VARCHAR else {}
            schema.add_field(field.name, kind, nullable=True, **extra)
    index = client.prepare_index_params()
    index.add_index("vector", index_type="HNSW", metric_type="COSINE",
                    params={"M": 16, "efConstruction": 100})  # fmt: skip
    client.create_collection("rows", schema=schema, index_params=index)
    for start in range(0, len(data.vectors), _BATCH):
        rows = data.table.slice(start, _BATCH).to_pylist()
        vectors = data.vectors[start : start + _BATCH]
        client.insert("rows", [
            {**row, _ROW: start + n, "vector": vector}
            for n, (row, vector) in enumerate(zip(rows, vectors, strict=True))
        ])  # fmt: skip
    client.flush("rows")
    client.load_collection("rows")

    def close() -> None:
        client.close()
        folder.cleanup()

    return BuiltIndex(client, _folder_bytes(Path(folder.name)), close)


def _milvus_kind(kinds: Any, kind: pa.DataType) -> Any:
    if pa.types.is_integer(kind):
        return kinds.INT64
    if pa.types.is_floating(kind):
        return kinds.DOUBLE
    return kinds.BOOL if pa.types.is_boolean(kind) else kinds.VARCHAR


def _ask_milvus(built: BuiltIndex, data: FilteredData) -> Answer:
    client = built.index

    def answer(query: np.ndarray, k: int, where: Condition, value: float) -> np.ndarray:
        text = peer_expression(where, equals="==", contains="array_contains")
        found = client.search(
            "rows", [query], filter=text, limit=k, search_params={"params": {"ef": int(value)}}
        )
        return np.array([hit["id"] if "id" in hit else hit[_ROW] for hit in found[0]], np.int64)

    return answer


METHODS: tuple[FilteredMethod, ...] = (
    FilteredMethod("hnswlib", "M 16, ef_construction 100; its filter calls Python", _build_hnswlib,
                   _ask_hnswlib, "ef", (16.0, 32.0, 64.0, 128.0, 256.0), requires=("hnswlib",)),
    FilteredMethod("usearch, then filter", "connectivity 16, expansion 100; for so many times "
                   "k / share rows, which are filtered: its Python takes no filter",
                   _build_usearch, _ask_usearch, "oversampling", (1.0, 2.0, 4.0, 8.0),
                   requires=("usearch",)),
    FilteredMethod("LanceDB", "IVF_HNSW_SQ, 16 parts, refined 4 times, filter first",
                   _build_lancedb, _ask_lancedb, "nprobes", (1.0, 4.0, 16.0),
                   requires=("lancedb",), refuses=partial(_refuses, "=", "array_has")),
    FilteredMethod("Milvus Lite", "HNSW, M 16, efConstruction 100", _build_milvus, _ask_milvus,
                   "ef", (16.0, 64.0, 256.0), requires=("pymilvus", "milvus_lite"),
                   refuses=partial(_refuses, "==", "array_contains")),
)  # fmt: skip
