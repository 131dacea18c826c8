"""`privacy`: what a linear attacker reads off vectors.

Membership is not here: it needs to know what the model was trained on. Make a
`embedworks.evaluation.MembershipTask` of your own training and held-out rows.
"""

from __future__ import annotations

from embedworks.evaluation.kinds.leakage import AttributeInferenceTask, InversionTask
from embedworks.evaluation.sets._stdlib_functions import stdlib_functions
from embedworks.evaluation.suites import SUITES, Suite, TaskSource

__all__ = ["age_of_the_subject", "invert_docstrings"]

_CUES = {
    "child": (
        "kindergarten", "playground", "school bus", "colouring book", "tricycle", "nursery rhymes",
        "homework", "toy train",
    ),
    "adult": (
        "mortgage", "office party", "business trip", "tax return", "commute", "job interview",
        "staff meeting", "salary",
    ),
    "old": (
        "pension", "walking stick", "grandchildren", "hearing aid", "retirement home",
        "great-grandson", "rheumatism", "wheelchair",
    ),
}  # fmt: skip
_FRAMES = (
    "A note from Tuesday: we talked about the {} for a while.",
    "They phoned this morning and mentioned the {}.",
    "There was some trouble with the {} last week.",
    "The {} came up again, and nothing was decided.",
    "Everything is fine, apart from the {}.",
    "The letter says a lot about the {} and little else.",
    "We should ask about the {} next time.",
    "The neighbour told us a story about the {}.",
    "Most of the day went by with the {}.",
    "In the end the {} was not so important.",
)


def invert_docstrings(count: int = 3000) -> InversionTask:
    """Return the inversion of first sentences of the standard library's docstrings."""
    summaries = dict.fromkeys(function.summary for function in stdlib_functions(limit=2 * count))
    long = [text for text in summaries if len(text.split()) >= 4]
    return InversionTask("invert-docstrings", long[:count])


def age_of_the_subject() -> AttributeInferenceTask:
    """Return notes that never tell somebody's age, and an attacker who has seen other topics.

    The topics of the notes that are attacked are not among those the attacker learns from, so
    it has to know what goes with which age.
    """
    rows = [
        (frame.format(cue), age, cue)
        for age, cues in _CUES.items()
        for cue in cues
        for frame in _FRAMES
    ]
    return AttributeInferenceTask(
        "attribute-age",
        [text for text, _, _ in rows],
        [age for _, age, _ in rows],
        groups=[cue for _, _, cue in rows],
    )


SUITES.add(
    "privacy",
    Suite(
        "privacy",
        (
            TaskSource("invert-docstrings", lambda data: invert_docstrings()),
            TaskSource("attribute-age", lambda data: age_of_the_subject()),
        ),
    ),
    summary="Which words and attributes a linear attacker reads off vectors.",
)
