"""Which tasks of the suites the bundled model met in its training.

Its model card lists its training data. Where a task is made of the same texts, its figure says
little about new texts; that is said beside the figure.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from functools import lru_cache

from embedworks.models import load, model_fingerprint

__all__ = ["seen_in_training"]

_PAIRS = (
    "The bundled model was trained on these very pairs: its figure says nothing about new ones."
)
_TEXTS = "The bundled model was trained on some of these texts, though not for this question."

#: Task names -> what to say.
_SEEN = {
    "xquad-en": _PAIRS,
    "xquad-en-article": _PAIRS,
    "wordnet-definitions": _PAIRS,
    "gsm8k": _PAIRS,
    "banking77-intents": _PAIRS,
    "clinc-domains": _TEXTS,
    "xquad-*-en": _TEXTS,
    "tatoeba-*": _TEXTS,
    "udhr-languages": _TEXTS,
    "hidden-passages": _TEXTS,
    "library-*": _TEXTS,
    "stdlib-*": _TEXTS,
    "code-mutants-*": _TEXTS,
    "invert-docstrings": _TEXTS,
}


@lru_cache(maxsize=1)
def _bundled() -> str:
    return model_fingerprint(load("static"))


def seen_in_training(fingerprint: str, task: str) -> str | None:
    """Return what is known of a model having met a task in its training, or None.

    Args:
        fingerprint: The model's, as in `embedworks.evaluation.EncoderSystem`.
        task: Name of a task of the suites.
    """
    known = next((said for name, said in _SEEN.items() if fnmatchcase(task, name)), None)
    return known if known is not None and fingerprint == _bundled() else None
