"""Labelled data sets in contrastive form: one converter per kind of label.

Every converter takes records (a list of dicts, a pyarrow table, or the path of a file), the
names of their columns, and returns rows together with an account of every record.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from embedworks._core.registry import Registry, did_you_mean
from embedworks._core.validation import check_k
from embedworks.data._conversion.classes import GuidedSampling
from embedworks.data._conversion.labels import binary_labels, class_examples, class_names
from embedworks.data._conversion.pairs import claim_evidence, graded_pairs, nli
from embedworks.data._conversion.records import (
    Collector,
    ConversionReport,
    Converted,
    RecordSource,
    read_records,
)
from embedworks.data.rows import Row, RowInput, content_key
from embedworks.errors import InputError, SettingsError

__all__ = [
    "CONVERTERS",
    "ConversionReport",
    "GuidedSampling",
    "binary_labels",
    "check_converter",
    "claim_evidence",
    "class_examples",
    "class_names",
    "convert",
    "graded_pairs",
    "multiple_choice",
    "nli",
    "question_answer",
    "read_records",
    "title_body",
]

#: Converters by name, for recipes. Each is called with records and keyword options.
CONVERTERS: Registry[Callable[..., Converted]] = Registry("converters")

CONVERTERS.add(
    "class_examples",
    class_examples,
    summary="A text of the same class as positive, texts of others as negatives.",
)
CONVERTERS.add(
    "class_names",
    class_names,
    summary="The name of the class as positive, names of others as negatives.",
)
CONVERTERS.add(
    "binary_labels",
    binary_labels,
    summary="The right one of two label texts as positive, the other as negative.",
)
CONVERTERS.add(
    "nli",
    nli,
    summary="Entailed hypotheses as positives, contradictions as negatives; or scores 2/1/0.",
)
CONVERTERS.add(
    "graded_pairs",
    graded_pairs,
    summary="Pairs with their score, or the pairs above a score as positives.",
)
CONVERTERS.add(
    "claim_evidence",
    claim_evidence,
    summary="Supporting evidence as positive, refuting evidence as negative.",
)


def check_converter(name: str, options: Mapping[str, Any]) -> Callable[..., Converted]:
    """Return a converter whose options all exist, without running it.

    Raises:
        UnknownNameError: When there is no such converter.
        SettingsError: When an option is not one of its keywords.

    Example:
        >>> check_converter("nli", {"frm": "scores"})
        Traceback (most recent call last):
        ...
        embedworks.errors.SettingsError: converter 'nli' has no option 'frm'. Did you mean 'form'?
    """
    converter = CONVERTERS[name]
    known = [p for p in inspect.signature(converter).parameters if p != "records"]
    for option in options:
        if option not in known:
            raise SettingsError(
                f"converter {name!r} has no option {option!r}. {did_you_mean(option, known)}"
            )
    return converter


def convert(
    records: RecordSource, converter: str, *, where: Mapping[str, Any] | None = None, **options: Any
) -> Converted:
    """Run a converter by name.

    Args:
        records: List of dicts, pyarrow table, or path of a Parquet, JSONL, CSV or TSV file.
        converter: A name in ``CONVERTERS``.
        where: Column -> the value, or list of values, a record must have to be read at all.
        options: Keywords of the converter.

    Raises:
        UnknownNameError: When there is no such converter.
        SettingsError: When an option is not one of its keywords.

    Example:
        >>> records = [{"q": "1 + 1?", "a": "2", "part": "x"}, {"q": "2 + 2?", "a": "4"}]
        >>> rows, report = convert(
        ...     records, "question_answer", where={"part": "x"}, question="q", answer="a"
        ... )
        >>> rows[0].positive, report.records
        ('2', 1)
    """
    run = check_converter(converter, options)
    return run(read_records(records, where=where) if where else records, **options)


@CONVERTERS.register(
    "multiple_choice",
    summary="The right answer of a question as positive, wrong ones as negatives.",
)
def multiple_choice(
    records: RecordSource,
    *,
    question: str = "question",
    choices: str = "choices",
    answer: str = "answer",
    source: str = "default",
    source_column: str | None = None,
    num_negatives: int | None = None,
    fewer: str = "keep",
    seed: int = 0,
) -> Converted:
    """Pair every question with its right answer; the wrong answers are the negatives.

    A question with several right answers gives a row for each. A wrong answer that reads like
    a right one is left out and counted.

    Args:
        records: Where the records come from.
        question: Column of the question.
        choices: Column with the list of answers.
        answer: Column of the right one: its position from 0, a list of positions, its letter,
            or its text.
        source: Source name of the rows.
        source_column: Column that names each record's source instead.
        num_negatives: Most wrong answers of a row; None takes all.
        fewer: "keep", "repeat" or "drop" a row for which there are not that many.
        seed: Seed of the draws.

    Raises:
        InputError: When an answer points outside the choices; names the record.

    Example:
        >>> records = [{"question": "2 + 2?", "choices": ["3", "4", "5"], "answer": 1}]
        >>> rows, _ = multiple_choice(records)
        >>> rows[0].positive, rows[0].negatives
        ('4', ('3', '5'))
    """
    columns = [question, choices, answer]
    found = Collector(
        "multiple_choice", records, columns, source=source, source_column=source_column
    )
    for number, record in enumerate(found.records):
        asked = found.input(number, question)
        answers = found.inputs(number, choices, keep_empty=True)
        right = _right_answers(number, record[answer], answers)
        if asked is None:
            continue
        if not right:
            found.skip(number, f"no {answer}")
            continue
        if not all(answers[i] for i in right):
            found.skip(number, "empty right answer")
            continue
        keys = {content_key(answers[i]) for i in right}
        wrong = [a for i, a in enumerate(answers) if i not in right and a]
        kept = {content_key(a): a for a in wrong if content_key(a) not in keys}
        found.note("wrong answers that are repeated or equal a right one", len(wrong) - len(kept))
        for place in right:
            row = Row(
                anchor=asked,
                positive=answers[place],
                negatives=tuple(kept.values()),
                source=found.source_of(number),
            )
            found.add(number, row)
    return found.finish(num_negatives=num_negatives, fewer=fewer, seed=seed)


def _right_answers(number: int, value: Any, choices: list[RowInput]) -> list[int]:
    """Return the positions an answer means: positions, a choice's text, or its letter."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return []
    if isinstance(value, str):
        if value in choices:
            return [choices.index(value)]
        letter = value.strip().upper()
        if len(letter) == 1 and 0 <= ord(letter) - ord("A") < len(choices):
            return [ord(letter) - ord("A")]
        raise InputError(f"record {number}: answer {value!r:.60} is none of its choices.")
    places = list(value) if hasattr(value, "__iter__") else [value]
    for place in places:
        whole = isinstance(place, int) and not isinstance(place, bool)
        if not whole or not 0 <= place < len(choices):
            raise InputError(
                f"record {number}: answer {place!r:.60} is not a position in its "
                f"{len(choices)} choices, counted from 0."
            )
    return list(dict.fromkeys(places))


@CONVERTERS.register("question_answer", summary="Questions with their answers or passages.")
def question_answer(
    records: RecordSource,
    *,
    question: str = "question",
    answer: str = "answer",
    negatives: str | None = None,
    positive_id: str | None = None,
    source: str = "default",
    source_column: str | None = None,
    num_negatives: int | None = None,
    fewer: str = "keep",
    seed: int = 0,
) -> Converted:
    """Pair every question with its answer, solution or passage.

    Args:
        records: Where the records come from.
        question: Column of the question.
        answer: Column of what answers it; a list gives one row for each item.
        negatives: Column with hard negatives, one or a list, where the data set has them.
        positive_id: Column with the id of the answer's document, so that questions about one
            document are not each other's negatives.
        source: Source name of the rows.
        source_column: Column that names each record's source instead.
        num_negatives: Most negatives of a row; None takes all.
        fewer: "keep", "repeat" or "drop" a row for which there are not that many.
        seed: Seed of the draws.

    Raises:
        InputError: When a value is neither a text nor a dict; names the record.

    Example:
        >>> records = [{"question": "Who?", "context": "Ada did.", "passage": 7}]
        >>> rows, _ = question_answer(records, answer="context", positive_id="passage")
        >>> rows[0].positive_id
        '7'
    """
    columns = [question, answer, negatives, positive_id]
    found = Collector(
        "question_answer", records, columns, source=source, source_column=source_column
    )
    for number, record in enumerate(found.records):
        asked = found.input(number, question)
        answers = found.inputs(number, answer)
        if asked is None:
            continue
        if not answers:
            found.skip(number, f"empty {answer}")
        against = () if negatives is None else tuple(found.inputs(number, negatives))
        document = None if positive_id is None else record[positive_id]
        for given in answers:
            row = Row(
                anchor=asked,
                positive=given,
                negatives=against,
                source=found.source_of(number),
                positive_id=None if document is None else str(document),
            )
            found.add(number, row)
    return found.finish(num_negatives=num_negatives, fewer=fewer, seed=seed)


@CONVERTERS.register("title_body", summary="Titles with the texts below them.")
def title_body(
    records: RecordSource,
    *,
    title: str = "title",
    body: str = "body",
    positive_id: str | None = None,
    max_chars: int | None = None,
    source: str = "default",
    source_column: str | None = None,
) -> Converted:
    r"""Pair every title with its body, without the title where the body begins with it.

    Args:
        records: Where the records come from.
        title: Column of the title.
        body: Column of the body or abstract.
        positive_id: Column with the id of the document.
        max_chars: Longest body, cut at white space and counted; None cuts nothing.
        source: Source name of the rows.
        source_column: Column that names each record's source instead.

    Raises:
        InputError: When a value is not a text; names the record.

    Example:
        >>> rows, report = title_body([{"title": "Tea", "body": "Tea\nA drink."}])
        >>> rows[0].positive, report.notes
        ('A drink.', {'bodies that began with the title': 1})
    """
    columns = [title, body, positive_id]
    found = Collector("title_body", records, columns, source=source, source_column=source_column)
    if max_chars is not None:
        check_k(max_chars)
    for number, record in enumerate(found.records):
        head, text = found.input(number, title), found.input(number, body)
        if head is None or text is None:
            continue
        if not isinstance(head, str) or not isinstance(text, str):
            raise InputError(f"record {number}: a title and its body must be texts.")
        rest = _without_title(head, text)
        if rest != text:
            found.note("bodies that began with the title")
        if not rest:
            found.skip(number, "body is the title")
            continue
        if max_chars is not None and len(rest) > max_chars:
            found.note("bodies shortened")
            rest = _shortened(rest, max_chars)
        document = None if positive_id is None else record[positive_id]
        row = Row(
            anchor=head,
            positive=rest,
            source=found.source_of(number),
            positive_id=None if document is None else str(document),
        )
        found.add(number, row)
    return found.finish()


def _without_title(title: str, body: str) -> str:
    """Return the body without a first line or sentence that repeats the title."""
    start, rest = body.lstrip(), title.strip()
    if not start.startswith(rest):
        return body
    after = start[len(rest) :]
    if after and after[0] not in "\n.:":
        return body
    return after.lstrip("\n.: \t\r")


def _shortened(text: str, max_chars: int) -> str:
    cut = text[: max_chars + 1]
    space = max(cut.rfind(" "), cut.rfind("\n"))
    return cut[:space].rstrip() if space > max_chars // 2 else text[:max_chars].rstrip()
