"""Read reasoning data sets: the public files, and folders and tables as RAR-b lays them out."""

from __future__ import annotations

import ast
import csv
from pathlib import Path
from typing import Any

from embedworks._core.seeding import generator
from embedworks._core.validation import check_choice, check_in_range
from embedworks.errors import EmptyInputError, FormatError, NotFoundError
from embedworks.evaluation.kinds.reasoning import (
    MultipleChoice,
    Pool,
    ReasoningTask,
    multiple_choice_to_retrieval,
    questions_to_solutions,
)
from embedworks.evaluation.sets.own_data import load_collection
from embedworks.evaluation.sets.public_data import DataFolder

__all__ = [
    "MCR_DATASETS",
    "load_choice_csv",
    "load_reasoning_folder",
    "math_solutions",
    "multiple_choice_data",
]

#: Data sets in ``reasoning_mcr.parquet`` -> the skill they ask for.
MCR_DATASETS = {
    "alphanli": "commonsense",
    "arc-challenge": "science",
    "physicaliqa": "commonsense",
    "tempreason-l2-pure": "time",
    "winogrande": "coreference",
}

_MAX_FILE = 2 << 30
_MAX_CELL = 100_000


def multiple_choice_data(
    data: DataFolder, dataset: str, pool: Pool = "all", *, limit: int | None = None, seed: int = 0
) -> ReasoningTask:
    """Return one data set of ``reasoning_mcr.parquet`` as a task.

    Args:
        data: Where the public data is.
        dataset: One of `MCR_DATASETS`.
        pool: ``"all"`` or ``"own"``, as in `multiple_choice_to_retrieval`.
        limit: Most questions; a sample is drawn and the details say so. The corpus is that of
            the drawn questions.
        seed: Seed of the sample.

    Raises:
        NotFoundError: When the file is not there.
        UnknownNameError: When there is no such data set.

    Example:
        >>> multiple_choice_data(DataFolder(), "winogrnde")
        Traceback (most recent call last):
        ...
        embedworks.errors.UnknownNameError: dataset 'winogrnde' is not known. Did you mean
        'winogrande'?
    """
    check_choice(dataset, MCR_DATASETS, name="dataset")
    rows = data.records(
        "reasoning_mcr.parquet",
        ["instruction", "query", "choices", "labels"],
        where={"dataset": dataset},
    )
    chosen, drawn = _sample(rows, limit, seed)
    examples = [
        MultipleChoice(row["query"], tuple(row["choices"]), tuple(row["labels"])) for row in chosen
    ]
    return multiple_choice_to_retrieval(
        examples,
        pool,
        name=dataset if pool == "all" else f"{dataset}-choice",
        instruction=rows[0]["instruction"],
        facts={"skill": MCR_DATASETS[dataset], **drawn},
    )


def math_solutions(data: DataFolder, *, limit: int | None = None, seed: int = 0) -> ReasoningTask:
    """Return ``gsm8k.parquet`` as a task: a word problem is asked, written solutions are ranked.

    Args:
        data: Where the public data is.
        limit: Most problems; a sample is drawn and the details say so.
        seed: Seed of the sample.

    Raises:
        NotFoundError: When the file is not there.

    Example:
        >>> math_solutions(DataFolder("no-such-folder"))
        Traceback (most recent call last):
        ...
        embedworks.errors.NotFoundError: gsm8k.parquet is needed and is not in ...
    """
    rows = data.records("gsm8k.parquet", ["question", "answer"])
    chosen, drawn = _sample(rows, limit, seed)
    return questions_to_solutions(
        "gsm8k",
        [(row["question"], row["answer"]) for row in chosen],
        instruction="Given a word problem in mathematics, find the solution that answers it.",
        facts={"skill": "mathematics", **drawn},
    )


def load_choice_csv(path: str | Path) -> list[MultipleChoice]:
    r"""Read multiple-choice questions from a CSV file with a list of options in each row.

    The columns are ``queries``, ``documents`` (a Python or JSON list of strings) and ``labels``
    (the position of the right option, or a list of positions); others are ignored. Lists are
    read as literals and never run as code.

    Args:
        path: A UTF-8 CSV file with a header.

    Raises:
        NotFoundError: When there is no such file.
        FormatError: When the file, a list or a label cannot be read, or is unreasonably large.
        EmptyInputError: When it has no rows.
        InputError: When an example is not usable (see `MultipleChoice`).

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "mcr.csv"
        >>> _ = path.write_text('queries,documents,labels\nsky?,"[\'red\', \'blue\']",1\n')
        >>> load_choice_csv(path)[0].right
        ('blue',)
    """
    path = Path(path)
    _check_file(path)
    examples = []
    try:
        with open(path, encoding="utf-8-sig", newline="") as handle:
            rows = csv.DictReader(handle, strict=True)
            missing = {"queries", "documents", "labels"} - set(rows.fieldnames or [])
            if missing:
                raise FormatError(
                    f"{path} needs the columns queries, documents and labels; it has no "
                    f"{', '.join(sorted(missing))}."
                )
            for number, row in enumerate(rows, 1):
                where = f"{path}, row {number}"
                options = _literal(row["documents"], f"{where}: documents")
                labels = _literal(row["labels"], f"{where}: labels")
                if not isinstance(options, (list, tuple)):
                    raise FormatError(f"{where}: documents must be a list, got {options!r:.60}.")
                several = isinstance(labels, (list, tuple))
                answers = tuple(labels) if several else (labels,)
                examples.append(MultipleChoice(row["queries"] or "", tuple(options), answers))
    except (csv.Error, UnicodeDecodeError) as error:
        raise FormatError(f"{path} is not a readable UTF-8 CSV file: {error}") from error
    if not examples:
        raise EmptyInputError(f"{path} has no questions.")
    return examples


def load_reasoning_folder(
    path: str | Path, *, split: str = "test", name: str | None = None
) -> ReasoningTask:
    r"""Read a folder of ``queries.jsonl``, ``corpus.jsonl`` and ``qrels/<split>.tsv``.

    The layout of BEIR, with an optional ``instruction.txt`` that holds the instruction. A title
    of a document is put before its text. The task has the metrics of the full setting.

    Args:
        path: The folder.
        split: Which judgements.
        name: Name of the task; the folder's by default.

    Raises:
        NotFoundError: When the folder or one of its files is not there.
        FormatError: When a file cannot be read.
        DuplicateIdError: When an id occurs twice.
        EmptyInputError: When there are no queries, documents or judgements.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> (folder / "qrels").mkdir()
        >>> _ = (folder / "queries.jsonl").write_text('{"_id": "q", "text": "why?"}')
        >>> _ = (folder / "corpus.jsonl").write_text('{"_id": "d", "text": "because"}')
        >>> _ = (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\td\t1\n")
        >>> load_reasoning_folder(folder, name="toy").qrels
        {'q': {'d': 1}}
    """
    folder = Path(path)
    if not folder.is_dir():
        raise NotFoundError(f"{folder} is not a folder.")
    note = folder / "instruction.txt"
    task = load_collection(
        folder / "corpus.jsonl",
        folder / "queries.jsonl",
        folder / "qrels" / f"{split}.tsv",
        name=name or folder.name,
        instruction=(_text_of(note).strip() or None) if note.is_file() else None,
    )
    return ReasoningTask(
        task.name,
        {query: text for query, text in task.queries.items() if query in task.qrels},
        task.corpus,
        task.qrels,
        metrics=("ndcg@10", "recall@10"),
        instruction=task.instruction,
        facts={"setting": "full", "split": split},
    )


def _sample(
    rows: list[dict[str, Any]], limit: int | None, seed: int
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return at most ``limit`` rows in their order, and what to say of it."""
    if limit is None or limit >= len(rows):
        return rows, {}
    check_in_range(limit, name="limit", low=1)
    chosen = generator(seed, "reasoning sample").permutation(len(rows))[:limit]
    return [rows[i] for i in sorted(chosen.tolist())], {"sampled": [limit, len(rows)]}


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise NotFoundError(f"{path} does not exist or is not a file.")
    size = path.stat().st_size
    if size > _MAX_FILE:
        raise FormatError(f"{path} has {size:,} bytes; more than {_MAX_FILE:,} are not read.")


def _literal(cell: str | None, where: str) -> Any:
    if cell is None or not cell.strip():
        raise FormatError(f"{where} is empty.")
    if len(cell) > _MAX_CELL:
        raise FormatError(f"{where} has {len(cell):,} characters, at most {_MAX_CELL:,} are read.")
    try:
        return ast.literal_eval(cell.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        raise FormatError(f"{where} is no list or number: {cell!r:.60}.") from error


def _text_of(path: Path) -> str:
    _check_file(path)
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise FormatError(f"{path} is not UTF-8: {error}") from error
