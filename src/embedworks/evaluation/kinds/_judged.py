"""Checks of judgements and of rankings, so that no figure comes from data that cannot tell."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from embedworks.errors import DataWarning, EmptyInputError, InputError

if TYPE_CHECKING:
    from embedworks.evaluation.kinds.retrieval import Qrels, Run

__all__ = ["check_told_apart", "usable_judgements"]


def usable_judgements(
    name: str, queries: Mapping[str, str], documents: Collection[str], qrels: Qrels
) -> dict[str, Mapping[str, int]]:
    """Return the judgements of known queries; warn, with counts, of what cannot be met.

    Raises:
        EmptyInputError: When no judged query is known, or none has a relevant document.
        InputError: When no judged document is known.
    """
    known = {query: docs for query, docs in qrels.items() if query in queries}
    if not known:
        raise EmptyInputError(
            f"Task {name!r}: none of its {len(qrels)} judged queries is among its "
            f"{len(queries)} queries: do both files use the same query ids?"
        )
    if not any(value > 0 for docs in known.values() for value in docs.values()):
        raise EmptyInputError(
            f"Task {name!r}: none of its {len(known)} judged queries has a relevant document, with "
            "a relevance of 1 or more: nothing to score."
        )
    there = documents if isinstance(documents, Mapping) else set(documents)
    total = sum(len(docs) for docs in known.values())
    absent = [doc for docs in known.values() for doc in docs if doc not in there]
    if len(absent) == total:
        raise InputError(
            f"Task {name!r}: none of the {total} judged documents is in the corpus (the first is "
            f"{absent[0]!r}): do both files use the same document ids?"
        )
    findings = []
    if len(known) < len(qrels):
        findings.append(f"judgements of {len(qrels) - len(known)} unknown queries are left out")
    if absent:
        findings.append(
            f"{len(absent)} of {total} judgements name documents that are not in the corpus "
            f"(the first is {absent[0]!r}): no system can find them"
        )
    if findings:
        message = f"Task {name!r}: {'; '.join(findings)}."
        warnings.warn(DataWarning(message), stacklevel=4)
    return known


def check_told_apart(
    run: Run,
    corpus: Mapping[str, str],
    candidates: Mapping[str, Sequence[str]] | None,
    depth: int,
    *,
    system: str,
) -> None:
    """Refuse rankings in which every query has different documents all at one score.

    Raises:
        InputError: When that is so; the order is then that of the ids.
    """
    several = False
    for query, found in run.items():
        whole = corpus if candidates is None else candidates.get(query, ())
        if len(found) < min(depth, len(whole)):
            return
        scores = list(found.values())
        if scores and max(scores) - min(scores) > 1e-6 * max(1.0, abs(max(scores))):
            return
        several = several or len({corpus[doc] for doc in whole}) > 1
    if several:
        raise InputError(
            f"{system} gives all documents the same similarity, whatever the query: any order "
            "would be as good as its own. Are its vectors all the same, or zero?"
        )
