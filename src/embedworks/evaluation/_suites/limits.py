"""`limits`: every combination of documents is asked for, in the plainest words."""

from __future__ import annotations

from embedworks.evaluation.kinds.retrieval import RetrievalTask
from embedworks.evaluation.limits.limit_data import (
    LIMIT_PATTERNS,
    LimitPattern,
    load_limit,
    make_limit,
    make_limit_patterns,
)
from embedworks.evaluation.suites import SUITES, Suite, TaskSource

__all__ = ["shared_texts"]


def shared_texts(pattern: LimitPattern) -> RetrievalTask:
    """Return one pattern's questions over the 182 documents that all four patterns share.

    Example:
        >>> task = shared_texts("dense")
        >>> len(task.corpus), len(task.queries)
        (182, 91)
    """
    return make_limit_patterns(182, 91, seed=0)[pattern]


SUITES.add(
    "limits",
    Suite(
        "limits",
        (
            TaskSource(
                "limit-small",
                load_limit,
                tuple(f"limit_small_{part}.parquet" for part in ("corpus", "queries", "qrels")),
            ),
            TaskSource("limit-dense-46-1000", lambda data: make_limit(46, 1000, seed=0)),
            *(
                TaskSource(
                    f"limit-{pattern}-182-91",
                    lambda data, pattern=pattern: shared_texts(pattern),  # type: ignore[misc]
                )
                for pattern in LIMIT_PATTERNS
            ),
        ),
    ),
    summary="Minutes: LIMIT, which asks for every pair of documents, and its easier patterns.",
)
