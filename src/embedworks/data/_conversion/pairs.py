"""Converters of judged pairs of texts: inference, graded similarity, evidence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from embedworks._core.validation import check_choice, check_in_range
from embedworks.data._conversion.records import Collector, Converted, RecordSource
from embedworks.data.rows import Row, RowInput, content_key
from embedworks.errors import InputError

__all__ = ["claim_evidence", "graded_pairs", "nli"]

_NLI_NAMES = {
    "entailment": "entailment", "neutral": "neutral", "contradiction": "contradiction",
}  # fmt: skip
_NLI_SCORES = {"entailment": 2.0, "neutral": 1.0, "contradiction": 0.0}
_CLAIM_NAMES = {
    "support": "support", "supports": "support", "supported": "support",
    "refute": "refute", "refutes": "refute", "refuted": "refute", "contradict": "refute",
    "not enough info": "neutral", "nei": "neutral", "neutral": "neutral",
}  # fmt: skip
_NO_LABEL = ("-", "-1")


def _read_labels(
    found: Collector, column: str, labels: Mapping[Any, str] | None, known: Mapping[str, str]
) -> dict[int, str]:
    """Return the meaning of every record's label; records without a label are skipped."""
    table = dict(known)
    if labels is not None:
        for key, meaning in labels.items():
            check_choice(meaning, sorted(set(known.values())), name=f"meaning of label {key!r}")
        table = {str(key).casefold(): meaning for key, meaning in labels.items()}
    result = {}
    for number in range(len(found.records)):
        value = found.label(number, column)
        if value is None:
            continue
        if value not in table and value.casefold() not in table and value in _NO_LABEL:
            found.skip(number, f"no {column}")
            continue
        if value.casefold() not in table:
            raise InputError(
                f"record {number}: label {value!r} is not one of {', '.join(sorted(table))}. Give "
                f"labels={{...}} with its meaning ({', '.join(sorted(set(known.values())))})."
            )
        result[number] = table[value.casefold()]
    return result


def nli(
    records: RecordSource,
    *,
    premise: str = "premise",
    hypothesis: str = "hypothesis",
    label: str = "label",
    labels: Mapping[Any, str] | None = None,
    form: str = "triplets",
    symmetric: bool = False,
    source: str = "default",
    num_negatives: int | None = None,
    fewer: str = "keep",
    seed: int = 0,
) -> Converted:
    """Turn premises with hypotheses into triplets, or into pairs with graded scores.

    Args:
        records: Where the records come from.
        premise: Column of the first text.
        hypothesis: Column of the second text.
        label: Column of the label; empty, "-" and -1 mean none was agreed upon.
        labels: Label -> "entailment", "neutral" or "contradiction"; None expects those words.
            Numbers differ between data sets and must be given.
        form: "triplets": every entailed hypothesis is a positive of its premise, hypotheses that
            contradict it are negatives, neutral ones are left out. "scores": every record is a
            pair with score 2, 1 or 0.
        symmetric: With scores, give every pair in both orders.
        source: Source name of the rows.
        num_negatives: Most contradictions of a row; None takes all.
        fewer: "keep", "repeat" or "drop" a row for which there are not that many.
        seed: Seed of the draws.

    Raises:
        InputError: When a label has an unknown meaning; names the record.

    Paper: Yu et al. 2025, arXiv 2508.21632 (scores 2/1/0).

    Example:
        >>> records = [
        ...     {"premise": "A man plays.", "hypothesis": "Someone plays.", "label": "entailment"},
        ...     {"premise": "A man plays.", "hypothesis": "Nobody.", "label": "contradiction"},
        ... ]
        >>> nli(records)[0][0].negatives
        ('Nobody.',)
        >>> [row.score for row in nli(records, form="scores")[0]]
        [2.0, 0.0]
    """
    check_choice(form, ["triplets", "scores"], name="form")
    found = Collector("nli", records, [premise, hypothesis, label], source=source)
    meanings = _read_labels(found, label, labels, _NLI_NAMES)
    if form == "triplets":
        if symmetric:
            raise InputError("symmetric=True needs form='scores': triplets have a direction.")
        kinds = _Kinds("entailment", "contradiction", "neutral")
        _group(found, premise, hypothesis, meanings, kinds, source)
        return found.finish(num_negatives=num_negatives, fewer=fewer, seed=seed)
    if num_negatives is not None:
        raise InputError("num_negatives needs form='triplets': scored pairs have no negatives.")
    for number, meaning in meanings.items():
        _add_pair(found, number, premise, hypothesis, _NLI_SCORES[meaning], symmetric, source)
    return found.finish()


class _Kinds(NamedTuple):
    positive: str
    negative: str
    neither: str


def _group(
    found: Collector, head: str, tail: str, meanings: Mapping[int, str], kinds: _Kinds, source: str
) -> None:
    """Join records of one head: positive tails give rows, negative tails are their negatives."""
    groups: dict[int, dict[str, list[tuple[int, RowInput]]]] = {}
    for number, meaning in meanings.items():
        first, second = found.input(number, head), found.input(number, tail)
        if first is None or second is None:
            continue
        if meaning == kinds.neither:
            found.skip(number, kinds.neither)
            continue
        group = groups.setdefault(content_key(first), {kinds.positive: [], kinds.negative: []})
        group[meaning].append((number, second))
    for group in groups.values():
        positives = {content_key(value) for _, value in group[kinds.positive]}
        negatives: dict[int, tuple[int, RowInput]] = {}
        for number, value in group[kinds.negative]:
            key = content_key(value)
            if key in positives:
                found.skip(number, f"{kinds.negative} that is also {kinds.positive}")
            elif key in negatives:
                found.skip(number, "duplicate")
            else:
                negatives[key] = (number, value)
                reason = f"more {kinds.negative} than wanted"
                found.skip(number, reason if positives else f"{kinds.negative} without positive")
        for number, value in group[kinds.positive]:
            row = Row(
                anchor=found.records[number][head],
                positive=value,
                negatives=tuple(text for _, text in negatives.values()),
                source=source,
            )
            found.add(number, row, negatives_from=[n for n, _ in negatives.values()])


def _add_pair(
    found: Collector,
    number: int,
    first: str,
    second: str,
    score: float | None,
    symmetric: bool,
    source: str,
) -> None:
    a, b = found.input(number, first), found.input(number, second)
    if a is None or b is None:
        return
    scored = score is not None
    found.add(number, Row(a, b, source=source, score=score), same_text_allowed=scored)
    if symmetric and content_key(a) != content_key(b):
        found.add(number, Row(b, a, source=source, score=score), same_text_allowed=scored)


def graded_pairs(
    records: RecordSource,
    *,
    first: str = "sentence1",
    second: str = "sentence2",
    score: str = "score",
    threshold: float | None = None,
    symmetric: bool = True,
    score_range: tuple[float, float] | None = None,
    source: str = "default",
    source_column: str | None = None,
) -> Converted:
    """Turn scored pairs into rows with scores, or into positives where the score is high enough.

    Args:
        records: Where the records come from.
        first: Column of one text.
        second: Column of the other text.
        score: Column of the score; 0 and 1 for pairs that are merely alike or not.
        threshold: None keeps every pair with its score, for objectives that learn the order of
            scores. A number keeps the pairs with that score or more, without the score, as
            positives for a contrastive objective (4 of 5 for STS in NV-Embed).
        symmetric: Give every pair in both orders.
        score_range: Lowest and highest score that may occur; a score outside is an error, so
            that two scales are not mixed unseen.
        source: Source name of the rows.
        source_column: Column that names each record's source instead.

    Raises:
        InputError: When a score is not a number or outside ``score_range``; names the record.

    Paper: Lee et al. 2024, arXiv 2405.17428 (threshold 4); Yu et al. 2025, arXiv 2508.21632
    (scores kept, both orders).

    Example:
        >>> records = [{"sentence1": "a cat", "sentence2": "the cat", "score": 4.5}]
        >>> rows, _ = graded_pairs(records, threshold=4)
        >>> [(row.anchor, row.positive, row.score) for row in rows]
        [('a cat', 'the cat', None), ('the cat', 'a cat', None)]
    """
    found = Collector(
        "graded_pairs", records, [first, second, score], source=source, source_column=source_column
    )
    if threshold is not None:
        check_in_range(threshold, name="threshold")
    for number in range(len(found.records)):
        value = found.number(number, score)
        if value is None:
            continue
        if score_range is not None and not score_range[0] <= value <= score_range[1]:
            raise InputError(
                f"record {number}: score {value:g} is outside {score_range}. Are two scales mixed?"
            )
        if threshold is not None and value < threshold:
            found.skip(number, "score below threshold")
            continue
        kept = None if threshold is not None else value
        _add_pair(found, number, first, second, kept, symmetric, found.source_of(number))
    return found.finish()


def claim_evidence(
    records: RecordSource,
    *,
    claim: str = "claim",
    evidence: str = "evidence",
    label: str = "label",
    labels: Mapping[Any, str] | None = None,
    source: str = "default",
    num_negatives: int | None = None,
    fewer: str = "keep",
    seed: int = 0,
) -> Converted:
    """Pair every claim with the evidence for it; evidence against it is a negative.

    Args:
        records: Where the records come from, one piece of evidence each.
        claim: Column of the claim.
        evidence: Column of the evidence.
        label: Column of the label.
        labels: Label -> "support", "refute" or "neutral"; None expects the usual words.
        source: Source name of the rows.
        num_negatives: Most negatives of a row; None takes all.
        fewer: "keep", "repeat" or "drop" a row for which there are not that many.
        seed: Seed of the draws.

    Raises:
        InputError: When a label has an unknown meaning; names the record.

    Paper: Yu et al. 2025, arXiv 2508.21632 (data conversion).

    Example:
        >>> records = [
        ...     {"claim": "Water boils.", "evidence": "At 100 C.", "label": "SUPPORTS"},
        ...     {"claim": "Water boils.", "evidence": "Never.", "label": "REFUTES"},
        ... ]
        >>> rows, report = claim_evidence(records)
        >>> rows[0].positive, rows[0].negatives, report.converted
        ('At 100 C.', ('Never.',), 2)
    """
    found = Collector("claim_evidence", records, [claim, evidence, label], source=source)
    meanings = _read_labels(found, label, labels, _CLAIM_NAMES)
    _group(found, claim, evidence, meanings, _Kinds("support", "refute", "neutral"), source)
    return found.finish(num_negatives=num_negatives, fewer=fewer, seed=seed)
