"""Tasks from one's own files: what they are is told by their names and columns.

Nothing is guessed: what could be two things is refused with both named.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedworks._core.extras import require_extra
from embedworks._core.registry import did_you_mean
from embedworks.data.tables import Table, read_delimited, read_jsonl, read_parquet
from embedworks.errors import (
    DataWarning,
    DuplicateIdError,
    EmptyInputError,
    FormatError,
    InputError,
    NotFoundError,
)
from embedworks.evaluation.kinds.retrieval import RetrievalTask
from embedworks.evaluation.sets._own_tables import KINDS, OwnTable, table_tasks, text_columns
from embedworks.evaluation.sets.judgements import load_qrels, load_queries

if TYPE_CHECKING:
    from embedworks.evaluation.tasks import Task

__all__ = ["load_collection", "load_tasks"]

_SUFFIXES = (".parquet", ".jsonl", ".csv", ".tsv")
_DOCUMENT_IDS = ("doc_id", "_id", "id", "document_id", "corpus_id", "corpus-id")
_TEXTS = ("text", "document", "passage", "body", "contents")
_QUERY_IDS = ("query_id", "_id", "id", "qid", "query-id")
_QUERY_TEXTS = ("text", "query", "question")
_QREL_QUERIES = ("query_id", "query-id", "qid")
_QREL_DOCUMENTS = ("doc_id", "corpus-id", "corpus_id", "document_id", "pid")
_QREL_VALUES = ("relevance", "score", "label")
_SPLITS = ("train", "training", "test", "dev", "validation", "val")


def load_tasks(
    path: str | Path,
    *,
    kind: str | None = None,
    name: str | None = None,
    columns: Mapping[str, str] | None = None,
    split: str | None = None,
    instruction: str | None = None,
) -> list[Task]:
    r"""Make tasks from one's own data.

    What ``path`` may be:

    - a folder with ``corpus``, ``queries`` and ``qrels`` in Parquet, JSONL, CSV or TSV, or with
      the judgements in ``qrels/<split>.tsv`` as in BEIR: a retrieval task;
    - one table, whose columns tell its kind: ``query, document`` (also ``anchor, positive``, with
      ``negative...`` or ``relevance``) for retrieval, or reranking where wrong documents are given
      too; ``sentence1, sentence2, score`` for similarity; ``sentence1, sentence2, label`` for pair
      classification; ``text, label`` (and ``split``) for classification and clustering;
      ``question, choices, answer`` for multiple choice;
    - a folder with ``train`` and ``test`` tables, or one written by ``Dataset.save_to_disk``;
    - a folder of any of these: all their tasks.

    Rows that cannot be used are left out with a counted `DataWarning`.

    Args:
        path: File or folder.
        kind: What the tables are, where the columns leave it open: a kind of
            `embedworks.evaluation.TASK_KINDS`, or ``"multiple-choice"``.
        name: Name of the task; by default that of the file or folder.
        columns: Purpose -> column, where columns have other names: ``{"query": "title"}``.
        split: Which judgements, or which part of a data set with several; by default ``test``.
        instruction: What the task is, for systems that read instructions.

    Raises:
        NotFoundError: When there is no such file or folder.
        InputError: When it is not clear what the data is; says what was found and how to say it.
        FormatError: When a file cannot be read.
        EmptyInputError: When nothing can be used.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "faq.csv"
        >>> _ = path.write_text("query,document\nlost key,Ask the porter.\nopen when,At nine.\n")
        >>> [(task.name, task.kind) for task in load_tasks(path)]
        [('faq', 'retrieval')]
    """
    source = Path(path)
    if not source.exists():
        raise NotFoundError(f"{source} does not exist. {_near(source)}".rstrip())
    options: dict[str, Any] = {
        "kind": kind, "columns": dict(columns or {}), "instruction": instruction,
    }  # fmt: skip
    title = name or (source.stem if source.is_file() else source.resolve().name)
    if source.is_file():
        return table_tasks(_read(source, options["columns"]), title, **options)
    if (tasks := _folder_tasks(source, title, split, options)) is not None:
        return tasks
    found = []
    for child in sorted(source.iterdir()):
        own = f"{name}-{child.stem}" if name else child.stem
        if child.is_file() and child.suffix.lower() in _SUFFIXES:
            found += table_tasks(_read(child, options["columns"]), own, **options)
        elif child.is_dir() and not child.name.startswith("."):
            found += _folder_tasks(child, own, split, options) or []
    if not found:
        raise InputError(_nothing_in(source))
    return found


def load_collection(
    corpus: str | Path,
    queries: str | Path,
    qrels: str | Path,
    *,
    name: str,
    instruction: str | None = None,
) -> RetrievalTask:
    r"""Make a retrieval task of three files: documents, queries and judgements.

    Documents have an id (``doc_id``, ``_id`` or ``id``), a ``text`` and perhaps a ``title``, which
    is put before the text; queries have an id and a text; judgements have ``query_id``, ``doc_id``
    and ``relevance``, or BEIR's names. Documents without text stay, counted in a `DataWarning`.

    Args:
        corpus: Documents: Parquet, JSONL, CSV or TSV, as all three.
        queries: Queries.
        qrels: Judgements.
        name: Name of the task.
        instruction: What the task is, for systems that read instructions.

    Raises:
        NotFoundError: When a file does not exist.
        InputError: When a column is missing or a value is not usable.
        DuplicateIdError: When an id occurs twice.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "c.jsonl").write_text('{"_id": "d", "title": "Tea", "text": "Boil."}\n')
        >>> _ = (folder / "q.csv").write_text("query_id,text\n1,how to make tea\n")
        >>> _ = (folder / "r.tsv").write_text("query-id\tcorpus-id\tscore\n1\td\t1\n")
        >>> load_collection(folder / "c.jsonl", folder / "q.csv", folder / "r.tsv", name="x").corpus
        {'d': 'Tea Boil.'}
    """
    asked, judged = Path(queries), Path(qrels)
    named = _pick(asked, _QUERY_IDS, "an id"), _pick(asked, _QUERY_TEXTS, "a text")
    values = (
        _pick(judged, _QREL_QUERIES, "the query's id"),
        _pick(judged, _QREL_DOCUMENTS, "the document's id"),
        _pick(judged, _QREL_VALUES, "the relevance"),
    )
    return RetrievalTask(
        name,
        load_queries(asked, columns=named),
        _documents(Path(corpus)),
        load_qrels(judged, columns=values),
        instruction=instruction,
    )


def _folder_tasks(
    folder: Path, name: str, split: str | None, options: Mapping[str, Any]
) -> list[Task] | None:
    """Return the tasks of a folder that is one data set, or None when it is none."""
    names = {child.name for child in folder.iterdir()}
    if names & {"dataset_dict.json", "dataset_info.json"}:
        return _table_parts(_read_saved(folder), folder, name, split, options)
    tables = _tables(folder)
    if "corpus" in tables or "queries" in tables:
        return [_collection(folder, tables, name, split, options)]
    if tables and set(tables) <= set(_SPLITS):
        parts = {part: _read(path, options["columns"]) for part, path in tables.items()}
        return _table_parts(parts, folder, name, split, options)
    return None


def _tables(folder: Path) -> dict[str, Path]:
    """Return the tables of a folder by their stem.

    Raises:
        InputError: When two have one stem.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if not path.is_file() or path.suffix.lower() not in _SUFFIXES:
            continue
        if path.stem in found:
            raise InputError(
                f"{folder} has {found[path.stem].name} and {path.name}: which one is meant? Give "
                "the file itself, or move the other away."
            )
        found[path.stem] = path
    return found


def _collection(
    folder: Path,
    tables: Mapping[str, Path],
    name: str,
    split: str | None,
    options: Mapping[str, Any],
) -> RetrievalTask:
    judged = _tables(folder / "qrels") if (folder / "qrels").is_dir() else {}
    if "qrels" in tables:
        judged = {"": tables["qrels"]} if not judged else {**judged, "qrels": tables["qrels"]}
    absent = [part for part in ("corpus", "queries") if part not in tables]
    absent += [] if judged else ["qrels"]
    if absent:
        raise InputError(
            f"{folder} looks like a collection and has no {' and no '.join(absent)}: it needs "
            "corpus, queries and qrels (or qrels/test.tsv), each in .parquet, .jsonl, .csv or "
            f".tsv. It has: {', '.join(sorted(path.name for path in folder.iterdir()))}."
        )
    if options["kind"] not in (None, "retrieval"):
        raise InputError(
            f"{folder} has corpus, queries and qrels, which make a retrieval task and no "
            f"{options['kind']}."
        )
    if options["columns"]:
        raise InputError(
            f"{folder} is a collection of three files, in which no columns can be named: its "
            "documents need doc_id and text, its queries query_id and text, its judgements "
            "query_id, doc_id and relevance."
        )
    chosen = _choose(judged, split, f"{folder / 'qrels'} has judgements")
    return load_collection(
        tables["corpus"],
        tables["queries"],
        judged[chosen],
        name=name,
        instruction=options["instruction"],
    )


def _choose(parts: Mapping[str, Any], split: str | None, what: str) -> str:
    if split is None and len(parts) == 1:
        return next(iter(parts))
    wanted = split or "test"
    if wanted not in parts:
        raise InputError(
            f"{what} for {', '.join(map(repr, parts))} and not for {wanted!r}. Say which: "
            f"split={next(iter(parts))!r}, on the command line --split {next(iter(parts))}."
        )
    return wanted


def _table_parts(
    parts: Mapping[str, OwnTable],
    folder: Path,
    name: str,
    split: str | None,
    options: Mapping[str, Any],
) -> list[Task]:
    """Make the tasks of a data set in parts: labelled texts use all, other kinds one part."""
    first = next(iter(parts.values()))
    label = options["columns"].get("label", "label")
    texts = options["columns"].get("text", "text")
    if len(parts) > 1 and split is None and {texts, label} <= set(first.columns):
        train = next((parts[part] for part in ("train", "training") if part in parts), None)
        test = parts[_choose(parts, split, f"{folder} has rows")]
        sides = (("train", train or test), ("test", test))
        rows = [{**record, "split": side} for side, table in sides for record in table.records]
        joined = OwnTable(str(folder), [*first.columns, "split"], rows)
        return table_tasks(joined, name, **options)
    return table_tasks(parts[_choose(parts, split, f"{folder} has rows")], name, **options)


def _open(path: Path, columns: Mapping[str, str]) -> Table:
    """Open a table; texts and ids of CSV files stay text.

    Raises:
        FormatError: When it cannot be read.
        InputError: When its suffix is not known.
    """
    suffix = path.suffix.lower()
    if suffix not in _SUFFIXES:
        raise InputError(
            f"{path} must end in one of {', '.join(_SUFFIXES)}. "
            f"{did_you_mean(suffix, list(_SUFFIXES))}"
        )
    reader = {".parquet": read_parquet, ".jsonl": read_jsonl}.get(suffix, read_delimited)
    return reader(path, text_columns(columns) | {*_DOCUMENT_IDS, *_TEXTS, "title"})


def _read(path: Path, columns: Mapping[str, str]) -> OwnTable:
    """Read a table whole.

    Raises:
        EmptyInputError: When it has no rows; otherwise as `_open`.
    """
    table = _open(path, columns)
    records = [record for _, record in table.rows]
    if table.damaged:
        message = (
            f"{path}: damaged rows are left out: {len(table.damaged)}, the first is row "
            f"{table.damaged[0]}."
        )
        warnings.warn(DataWarning(message), stacklevel=3)
    if not records:
        raise EmptyInputError(f"{path} has no rows.")
    return OwnTable(str(path), table.columns, records)


def _read_saved(folder: Path) -> dict[str, OwnTable]:
    """Read a folder that the datasets library saved; numbers of classes become their names."""
    datasets = require_extra("datasets", extra="train", purpose=f"read {folder}")
    try:
        loaded = datasets.load_from_disk(str(folder))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FormatError(f"{folder} is not a readable data set ({error}).") from error
    parts = dict(loaded) if isinstance(loaded, Mapping) else {"": loaded}
    found = {}
    for part, data in parts.items():
        records = data.to_list()
        for column, feature in data.features.items():
            if hasattr(feature, "int2str"):
                for record in records:
                    value = record[column]
                    if value is not None and value >= 0:
                        record[column] = feature.int2str(value)
        found[str(part)] = OwnTable(f"{folder} ({part or 'all'})", data.column_names, records)
    return found


def _documents(path: Path) -> dict[str, str]:
    table = _read(path, {})
    identity = _first(table.columns, _DOCUMENT_IDS, path, "an id")
    text = _first(table.columns, _TEXTS, path, "a text")
    found: dict[str, str] = {}
    empty = 0
    for row, record in enumerate(table.records, 1):
        value = record.get(identity)
        if not isinstance(value, str | int) or isinstance(value, bool) or value == "":
            raise InputError(f"{path}: {identity} in row {row} must be text or an integer.")
        whole = " ".join(str(x).strip() for x in (record.get("title"), record.get(text)) if x)
        if str(value) in found:
            raise DuplicateIdError(f"{path}: {identity} {str(value)!r} occurs again in row {row}.")
        found[str(value)] = whole
        empty += not whole.strip()
    if empty:
        message = (
            f"{path}: {empty} of {len(found)} documents have no text. They stay in the corpus, as "
            "in published figures, and no system can be right about them."
        )
        warnings.warn(DataWarning(message), stacklevel=4)
    return found


def _pick(path: Path, names: Sequence[str], what: str) -> str:
    """Return which of the names a file has as a column."""
    if not path.is_file():
        raise NotFoundError(f"{path} does not exist or is not a file.")
    return _first(_open(path, {}).columns, names, path, what)


def _first(columns: Sequence[str], names: Sequence[str], path: Path, what: str) -> str:
    found = next((name for name in names if name in columns), None)
    if found is None:
        raise InputError(
            f"{path} needs {what} in a column named {', '.join(names[:-1])} or {names[-1]}; it "
            f"has {', '.join(map(repr, columns)) or 'none'}."
        )
    return found


def _nothing_in(folder: Path) -> str:
    names = sorted(child.name for child in folder.iterdir())
    shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    return (
        f"{folder} holds no data set: {shown or 'it is empty'}. A data set is corpus, queries and "
        f"qrels, or tables ({', '.join(_SUFFIXES)}) of one of the kinds "
        f"{', '.join(kind for kind in KINDS if kind != 'labelled-texts')}. For documents without "
        "labels make tasks: generate_tasks(...), on the command line --generate."
    )


def _near(path: Path) -> str:
    parent = path.parent
    names = [child.name for child in parent.iterdir()] if parent.is_dir() else []
    return did_you_mean(path.name, names) if names else ""
