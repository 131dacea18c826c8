"""Tables of one's own: which columns they have, what kind of task that makes, and the task."""

from __future__ import annotations

import json
import math
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from embedworks._core.registry import did_you_mean
from embedworks._core.seeding import generator
from embedworks._core.validation import check_choice
from embedworks.data import Row
from embedworks.errors import DataWarning, EmptyInputError, InputError
from embedworks.evaluation.kinds.retrieval import RetrievalTask
from embedworks.evaluation.kinds.sts import StsTask
from embedworks.evaluation.sets.judgements import as_relevance

if TYPE_CHECKING:
    from embedworks.evaluation.tasks import Task

__all__ = ["KINDS", "OwnTable", "table_tasks", "text_columns"]

#: What a column is for -> the names by which it is known, best first.
_NAMES: dict[str, tuple[str, ...]] = {
    "query": ("query", "anchor", "question"),
    "document": ("document", "positive", "passage", "answer"),
    "negative": ("negatives", "negative"),
    "relevance": ("relevance", "label", "score"),
    "sentence1": ("sentence1", "sentence_1", "text1", "text_a"),
    "sentence2": ("sentence2", "sentence_2", "text2", "text_b"),
    "score": ("score", "similarity"),
    "label": ("label", "labels", "class"),
    "text": ("text", "sentence"),
    "split": ("split",),
    "question": ("question", "query"),
    "choices": ("choices", "options"),
    "answer": ("answer", "label"),
}

#: Columns of numbers.
_NUMBERS = ("score", "relevance")
#: Values of a split column that mean the texts to learn from.
_TRAIN = ("train", "training")
_YES = {"1", "1.0", "true", "yes"}
_NO = {"0", "0.0", "false", "no"}


@dataclass(frozen=True)
class OwnTable:
    """Records with the names of their columns."""

    source: str
    """Where they come from, for messages."""
    columns: Sequence[str]
    records: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class _Kind:
    """A kind of table: the columns it needs and may have, and what is made of it."""

    needs: tuple[str, ...]
    may_have: tuple[str, ...]
    make: Callable[[_Reading], list[Task]]


@dataclass
class _Reading:
    """One table being read as one kind: its columns by purpose, and what was left out."""

    table: OwnTable
    name: str
    kind: str
    named: Mapping[str, str]
    instruction: str | None
    excluded: Counter[str] = field(default_factory=Counter)

    def text(self, record: Mapping[str, Any], role: str, row: int) -> str | None:
        """Return a text of a record; None, counted, where it is empty."""
        value = record.get(self.named[role])
        if value is None or (isinstance(value, str) and not value.strip()):
            self.excluded[f"empty {self.named[role]}"] += 1
            return None
        if isinstance(value, (list, tuple, Mapping)):
            raise self.wrong(role, row, "a text", value)
        return str(value)

    def value(self, record: Mapping[str, Any], role: str) -> Any:
        """Return a value of a record; None, counted, where there is none."""
        value = record.get(self.named[role])
        if value is None or value != value or (isinstance(value, str) and not value.strip()):
            self.excluded[f"no {self.named[role]}"] += 1
            return None
        return value

    def wrong(self, role: str, row: int, expected: str, value: Any) -> InputError:
        return InputError(
            f"{self.table.source}: {self.named[role]} in row {row} must be {expected}, got "
            f"{type(value).__name__} {value!r:.60}."
        )

    def finish(self, kept: int) -> None:
        """Warn of what was left out.

        Raises:
            EmptyInputError: When nothing is left.
        """
        reasons = ", ".join(f"{count} with {why}" for why, count in self.excluded.items())
        if not kept:
            raise EmptyInputError(
                f"{self.table.source}: none of its {len(self.table.records)} rows can be used for "
                f"{self.kind}{f' ({reasons})' if reasons else ''}."
            )
        if reasons:
            message = f"{self.table.source}: rows left out: {reasons}."
            warnings.warn(DataWarning(message), stacklevel=2)


def text_columns(columns: Mapping[str, str]) -> frozenset[str]:
    """Return the names of columns that hold texts or ids: "007" must stay "007" there."""
    known = {name for role, names in _NAMES.items() if role not in _NUMBERS for name in names}
    known |= {f"negative_{place}" for place in range(1, 100)}
    known |= {column for role, column in columns.items() if role not in _NUMBERS}
    return frozenset(known - {"score", "relevance"})


def table_tasks(
    table: OwnTable,
    name: str,
    *,
    kind: str | None,
    columns: Mapping[str, str],
    instruction: str | None,
) -> list[Task]:
    """Make the tasks that a table is for.

    Raises:
        InputError: When its columns fit no kind, or several and ``kind`` does not say which.
        UnknownNameError: When the kind is not known.
    """
    for role, column in columns.items():
        check_choice(role, _NAMES, name="column purpose")
        if column not in table.columns:
            raise InputError(
                f"{table.source} has no column {column!r} for {role}. "
                f"{did_you_mean(column, list(table.columns))}"
            )
    if kind is None:
        kind = _kind_of(table, columns)
    else:
        check_choice(kind, KINDS, name="kind of table")
    found = _named(KINDS[kind], table, columns)
    missing = [role for role in KINDS[kind].needs if role not in found]
    if missing:
        raise InputError(
            f"{table.source} cannot be read as {kind}, which needs {_shape(kind)}: it has no "
            f"{' and no '.join(missing)}. Its columns: {_list(table.columns)}. {_HOW_TO_NAME}"
        )
    reading = _Reading(table, name, kind, found, instruction)
    return KINDS[kind].make(reading)


_HOW_TO_NAME = (
    "Say which column is which: columns={'query': 'my column'}, on the command line "
    "--column query='my column'."
)


def _kind_of(table: OwnTable, columns: Mapping[str, str]) -> str:
    fits = [
        kind
        for kind, one in KINDS.items()
        if all(role in _named(one, table, columns) for role in one.needs)
    ]
    if "multiple-choice" in fits:  # question and answer alone would be a ranking
        return "multiple-choice"
    if "reranking" in fits:
        fits.remove("reranking" if not _has_wrong(table, columns) else "retrieval")
    if "classification" in fits:
        fits = ["labelled-texts", *(k for k in fits if k not in _OF_LABELLED)]
    if len(fits) == 1:
        return fits[0]
    if fits:
        options = "; ".join(f"{kind}: {_shape(kind)}" for kind in fits)
        raise InputError(
            f"{table.source} could be several things ({options}). Say which one: "
            f"kind={fits[0]!r}, on the command line --kind {fits[0]}."
        )
    known = "; ".join(f"{kind}: {_shape(kind)}" for kind in KINDS if kind != "labelled-texts")
    raise InputError(
        f"{table.source} has the columns {_list(table.columns)}, which fit no kind of task. "
        f"Known are {known}. {_HOW_TO_NAME}"
    )


def _named(kind: _Kind, table: OwnTable, columns: Mapping[str, str]) -> dict[str, str]:
    """Return purpose -> column, for the purposes of a kind that the table has columns for."""
    found: dict[str, str] = {}
    taken = set(columns.values())
    for role in (*kind.needs, *kind.may_have):
        if role in columns:
            found[role] = columns[role]
            continue
        free = [n for n in _NAMES[role] if n in table.columns and n not in taken]
        if role == "negative":
            free += [n for n in sorted(table.columns) if n.startswith("negative_")]
        if free:
            found[role] = free[0]
            taken.add(free[0])
    return found


def _has_wrong(table: OwnTable, columns: Mapping[str, str]) -> bool:
    """Tell whether queries come with documents that do not answer them."""
    found = _named(KINDS["reranking"], table, columns)
    if "negative" in found:
        return True
    relevance = found.get("relevance")
    return relevance is not None and any(
        str(record.get(relevance)).strip().casefold() in _NO for record in table.records
    )


def _shape(kind: str) -> str:
    optional = "".join(f" [{role}]" for role in KINDS[kind].may_have)
    return ", ".join(KINDS[kind].needs) + optional


def _list(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names)) or "none"


def _ranking(reading: _Reading) -> list[Task]:
    relevance, graded = reading.named.get("relevance"), Counter[str]()
    negative = reading.named.get("negative")
    queries: dict[str, str] = {}
    documents: dict[str, str] = {}
    qrels: dict[str, dict[str, int]] = {}
    for row, record in enumerate(reading.table.records, 1):
        asked, answer = (reading.text(record, role, row) for role in ("query", "document"))
        if asked is None or answer is None:
            continue
        value: Any = 1
        if relevance is not None and (value := reading.value(record, "relevance")) is None:
            continue
        grade = as_relevance(_as_number(value), reading.table.source, row)
        judged = qrels.setdefault(queries.setdefault(asked, f"q{len(queries) + 1}"), {})
        document = documents.setdefault(answer, f"d{len(documents) + 1}")
        graded["same pair again"] += document in judged
        judged[document] = max(grade, judged.get(document, 0))
        for wrong in _negatives(record, negative):
            judged.setdefault(documents.setdefault(wrong, f"d{len(documents) + 1}"), 0)
    if graded["same pair again"]:
        count = graded["same pair again"]
        message = f"{reading.table.source}: {count} pairs occur again and count once."
        warnings.warn(DataWarning(message), stacklevel=2)
    reading.finish(len(queries))
    candidates = None
    if reading.kind == "reranking":
        if all(min(judged.values()) > 0 for judged in qrels.values()):
            raise InputError(
                f"{reading.table.source} has right documents only: ranked among themselves, every "
                "system would be right. Add wrong ones (negative..., or relevance 0), or read it "
                "as retrieval."
            )
        candidates = {query: list(judged) for query, judged in qrels.items()}
    task = RetrievalTask(
        reading.name,
        {query: text for text, query in queries.items()},
        {document: text for text, document in documents.items()},
        qrels,
        instruction=reading.instruction,
        candidates=candidates,
    )
    return [task]


def _negatives(record: Mapping[str, Any], column: str | None) -> list[str]:
    if column is None:
        return []
    own = {name: value for name, value in record.items() if name.startswith("negative")}
    value = record.get(column)
    own["negatives"] = value if isinstance(value, (list, tuple)) else [value] if value else []
    if column in own and column != "negatives":
        del own[column]
    row = Row.from_record({**own, "anchor": "a", "positive": "p"})
    return [text for text in map(str, row.negatives) if text.strip()]


def _as_number(value: Any) -> Any:
    word = str(value).strip().casefold()
    return 1 if word in _YES else 0 if word in _NO else value


def _sts(reading: _Reading) -> list[Task]:
    pairs = []
    for row, record in enumerate(reading.table.records, 1):
        one, two = (reading.text(record, role, row) for role in ("sentence1", "sentence2"))
        score = reading.value(record, "score")
        if one is None or two is None or score is None:
            continue
        try:
            number = float(score)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise reading.wrong("score", row, "a number", score)
        pairs.append((one, two, number))
    reading.finish(len(pairs))
    return [StsTask(reading.name, pairs, instruction=reading.instruction)]


def _pairs(reading: _Reading) -> list[Task]:
    from embedworks.evaluation.kinds.pair_tasks import PairClassificationTask

    pairs = []
    for row, record in enumerate(reading.table.records, 1):
        one, two = (reading.text(record, role, row) for role in ("sentence1", "sentence2"))
        label = reading.value(record, "label")
        if one is None or two is None or label is None:
            continue
        word = str(label).strip().casefold()
        if word not in _YES | _NO:
            raise reading.wrong("label", row, "1 or 0, true or false, yes or no", label)
        pairs.append((one, two, int(word in _YES)))
    reading.finish(len(pairs))
    return [PairClassificationTask(reading.name, pairs, instruction=reading.instruction)]


def _labelled(reading: _Reading) -> list[Task]:
    found: dict[bool, list[tuple[str, str]]] = {True: [], False: []}
    for row, record in enumerate(reading.table.records, 1):
        text, label = reading.text(record, "text", row), reading.value(record, "label")
        if text is None or label is None:
            continue
        split = record.get(reading.named["split"]) if "split" in reading.named else None
        found[str(split).casefold() in _TRAIN].append((text, str(label)))
    reading.finish(len(found[True]) + len(found[False]))
    return _label_tasks(reading, found[True], found[False])


def _choices(reading: _Reading) -> list[Task]:
    from embedworks.evaluation.kinds.reasoning import MultipleChoice, multiple_choice_to_retrieval

    examples = []
    for row, record in enumerate(reading.table.records, 1):
        asked = reading.text(record, "question", row)
        choices, answer = reading.value(record, "choices"), reading.value(record, "answer")
        if asked is None or choices is None or answer is None:
            continue
        if isinstance(choices, str):
            try:
                choices = json.loads(choices)
            except ValueError:
                choices = None
        if not isinstance(choices, (list, tuple)) or not choices:
            raise reading.wrong("choices", row, "a list (in CSV: a JSON list)", record)
        options = tuple(str(choice) for choice in choices)
        right = _right_option(answer, options)
        if right is None:
            raise reading.wrong("answer", row, "a choice, its letter or place from 0", answer)
        examples.append(MultipleChoice(asked, options, (right,)))
    reading.finish(len(examples))
    how = reading.instruction
    return [
        multiple_choice_to_retrieval(examples, "all", name=reading.name, instruction=how),
        multiple_choice_to_retrieval(examples, "own", name=f"{reading.name}-own", instruction=how),
    ]


def _right_option(answer: Any, options: Sequence[str]) -> int | None:
    """Return the place of the right option, given by its text, letter or place."""
    word = str(answer).strip()
    if not isinstance(answer, int) and word in options:
        return options.index(word)
    place = -1
    if word.isdecimal():
        place = int(word)
    elif len(word) == 1 and word.isalpha():
        place = ord(word.upper()) - ord("A")
    return place if 0 <= place < len(options) else None


def _label_tasks(
    reading: _Reading, train: list[tuple[str, str]], test: list[tuple[str, str]]
) -> list[Task]:
    from embedworks.evaluation.kinds.label_tasks import ClassificationTask, ClusteringTask

    both = reading.kind == "labelled-texts"
    how = reading.instruction
    tasks: list[Task] = []
    if reading.kind in ("classification", "labelled-texts"):
        learnt, judged = (train, test) if train and test else _halves(train + test)
        name = f"{reading.name}-classification" if both else reading.name
        tasks.append(ClassificationTask(name, learnt, judged, instruction=how))
    if reading.kind in ("clustering", "labelled-texts"):
        rows = list(dict.fromkeys(test or train))
        name = f"{reading.name}-clustering" if both else reading.name
        texts, labels = [text for text, _ in rows], [label for _, label in rows]
        tasks.append(ClusteringTask(name, texts, labels, instruction=how))
    return tasks


def _halves(
    rows: Sequence[tuple[str, str]],
) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Divide labelled texts that come without a split, half of each label on each side."""
    order = generator(0, "halves of labelled texts").permutation(len(rows))
    of_label: dict[str, list[tuple[str, str]]] = {}
    for text, label in dict.fromkeys(rows[place] for place in order.tolist()):
        of_label.setdefault(label, []).append((text, label))
    train = [row for own in of_label.values() for row in own[: (len(own) + 1) // 2]]
    test = [row for own in of_label.values() for row in own[(len(own) + 1) // 2 :]]
    return train, test


#: Kinds that texts with labels are good for.
_OF_LABELLED = ("classification", "clustering", "labelled-texts")

#: What a table may be, by the columns it has.
KINDS: dict[str, _Kind] = {
    "retrieval": _Kind(("query", "document"), ("negative", "relevance"), _ranking),
    "reranking": _Kind(("query", "document"), ("negative", "relevance"), _ranking),
    "sts": _Kind(("sentence1", "sentence2", "score"), (), _sts),
    "pair-classification": _Kind(("sentence1", "sentence2", "label"), (), _pairs),
    "classification": _Kind(("text", "label"), ("split",), _labelled),
    "clustering": _Kind(("text", "label"), ("split",), _labelled),
    "labelled-texts": _Kind(("text", "label"), ("split",), _labelled),
    "multiple-choice": _Kind(("question", "choices", "answer"), (), _choices),
}
