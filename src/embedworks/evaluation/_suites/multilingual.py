"""`multilingual`: similarity, translations and questions across languages, in minutes."""

from __future__ import annotations

import unicodedata

from embedworks._core.seeding import generator
from embedworks.evaluation._suites.core import questions, sample, source, sts_benchmark
from embedworks.evaluation.kinds.bitext import BitextTask
from embedworks.evaluation.kinds.label_tasks import ClusteringTask
from embedworks.evaluation.sets.public_data import DataFolder
from embedworks.evaluation.suites import SUITES, Suite

__all__ = ["language_clusters", "script_clusters", "translations"]

_STS = ("de", "es", "fr", "it", "nl", "pt", "zh")
_BITEXT = (
    "deu", "fra", "spa", "rus", "tur", "cmn", "hin", "ara", "ell", "vie", "afr", "bre",
)  # fmt: skip
_QUESTIONS = ("de", "es", "ru", "tr", "zh", "hi", "ro")
#: Languages of eleven scripts, near relatives among them.
_DECLARED = (
    "eng", "deu", "nld", "dan", "swe", "fra", "spa", "ita", "por_PT", "cat", "pol", "ces", "rus",
    "ukr", "ell_monotonic", "tur", "fin", "hun", "arb", "pes_1", "heb", "hin", "ben", "tam", "tha",
    "kat", "jpn", "kor", "cmn_hans", "vie",
)  # fmt: skip
_SCRIPTS = (
    "LATIN", "GREEK", "CYRILLIC", "ARMENIAN", "HEBREW", "ARABIC", "DEVANAGARI", "BENGALI",
    "TAMIL", "THAI", "GEORGIAN", "HANGUL", "HIRAGANA", "ETHIOPIC",
)  # fmt: skip


def translations(data: DataFolder, language: str, *, pairs: int = 300) -> BitextTask:
    """Return Tatoeba's sentences in a language and their English translations."""
    rows = data.records("tatoeba_bitext.parquet", ["text", "eng"], where={"lang": language})
    kept = sample(rows, pairs, "tatoeba", language)
    return BitextTask(f"tatoeba-{language}-eng", [(row["text"], row["eng"]) for row in kept])


def language_clusters(data: DataFolder, *, paragraphs: int = 20) -> ClusteringTask:
    """Return paragraphs of the Declaration of Human Rights, to be clustered by language.

    Tells how much of the language the vectors hold. The texts are translations of each other, so
    a model that puts translations together does worse here: read it beside the bitext tasks.
    """
    rows = data.records("udhr_paragraphs.parquet", ["lang", "text"], where={"lang": _DECLARED})
    of_language: dict[str, list[str]] = {}
    for row in rows:
        of_language.setdefault(row["lang"], []).append(row["text"])
    kept = [
        (text, language)
        for language, texts in of_language.items()
        for text in sample(texts, paragraphs, "udhr", language)
    ]
    return ClusteringTask("udhr-languages", [t for t, _ in kept], [name for _, name in kept])


def script_clusters(data: DataFolder, *, texts: int = 30) -> ClusteringTask:
    """Return made-up words, to be clustered by their script.

    Tells whether the tokenizer sees a script at all: letters it does not know look all the same.
    """
    made, labels = [], []
    for script, letters in _letters().items():
        rng = generator(0, "scripts", script)
        for _ in range(texts):
            words = [rng.choice(letters, size=rng.integers(3, 8)).tolist() for _ in range(4)]
            made.append(" ".join("".join(word) for word in words))
            labels.append(script.lower())
    return ClusteringTask("unicode-scripts", made, labels)


def _letters(count: int = 40) -> dict[str, list[str]]:
    """Return the first small or caseless letters of each script in the order of Unicode."""
    found: dict[str, list[str]] = {script: [] for script in _SCRIPTS}
    for code in range(0x41, 0xAC00 + count):
        letter = chr(code)
        script = unicodedata.name(letter, "").split(" ")[0]
        if (
            script in found
            and unicodedata.category(letter) in ("Ll", "Lo")
            and len(found[script]) < count
        ):
            found[script].append(letter)
    return found


SUITES.add(
    "multilingual",
    Suite(
        "multilingual",
        (
            *(
                source(
                    f"stsb-{language}-dev",
                    sts_benchmark,
                    "stsb_multi.parquet",
                    language=language,
                    pairs=500,
                )
                for language in _STS
            ),
            *(
                source(
                    f"tatoeba-{language}-eng",
                    translations,
                    "tatoeba_bitext.parquet",
                    language=language,
                )
                for language in _BITEXT
            ),
            *(
                source(
                    f"xquad-{language}-en",
                    questions,
                    "xquad.parquet",
                    language=language,
                    count=300,
                )
                for language in _QUESTIONS
            ),
            source("udhr-languages", language_clusters, "udhr_paragraphs.parquet"),
            source("unicode-scripts", script_clusters),
        ),
    ),
    summary="Similarity, translations and questions in and across some twenty languages.",
)
