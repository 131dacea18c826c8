"""`words`: what word vectors are asked: similarity, analogies, categories, outliers, definitions.

The bundled static model was distilled on WordNet: its figure on `wordnet-definitions` is that of a
model that has seen the answers.
"""

from __future__ import annotations

import re

from embedworks.evaluation._suites.core import function_name, library_functions, sample, source
from embedworks.evaluation.kinds.retrieval import RetrievalTask
from embedworks.evaluation.kinds.word_outliers import OutlierTask, outlier_groups
from embedworks.evaluation.kinds.words import AnalogyTask, WordCategoryTask, WordSimilarityTask
from embedworks.evaluation.sets.public_data import DataFolder
from embedworks.evaluation.suites import SUITES, Suite

__all__ = ["analogies", "categories", "definitions", "function_names", "outliers", "similarity"]

_SIMILARITY = (
    "men", "simlex999", "wordsim353", "rg65", "mturk-771", "semeval17", "yp-130",
)  # fmt: skip
_NAMES = {"rg65": "rg-65"}  # as the data folder writes the English part


def similarity(data: DataFolder, name: str) -> WordSimilarityTask:
    """Return an English word similarity set."""
    rows = data.records(
        "word_similarity.parquet",
        ["word1", "word2", "similarity"],
        where={"dataset": _NAMES.get(name, name), "lang": "en"},
    )
    return WordSimilarityTask(
        name, [(row["word1"], row["word2"], float(row["similarity"])) for row in rows]
    )


def analogies(data: DataFolder) -> AnalogyTask:
    """Return Google's analogies; answers come from all their words and those of the other sets."""
    rows = data.records(
        "word_analogies.parquet",
        ["category", "a", "b", "c", "d"],
        where={"dataset": "google-analogies"},
    )
    vocabulary = data.records("word_similarity.parquet", ["word1"], where={"lang": "en"})
    return AnalogyTask(
        "google-analogies",
        [tuple(row[part].strip() for part in "abcd") for row in rows],
        categories=[row["category"] for row in rows],
        vocabulary=sorted({row["word1"] for row in vocabulary}),
    )


def categories(data: DataFolder, name: str) -> WordCategoryTask:
    """Return words to be clustered by category: ``battig`` (56) or ``bless`` (17)."""
    return WordCategoryTask(name, _members(data, name))


def outliers(data: DataFolder, name: str) -> OutlierTask:
    """Return drawn groups of six words of a category with one of another."""
    return OutlierTask(f"{name}-outliers", outlier_groups(_members(data, name), size=6, groups=300))


def _members(data: DataFolder, name: str) -> dict[str, list[str]]:
    rows = data.records("word_categories.parquet", ["category", "word"], where={"dataset": name})
    members: dict[str, dict[str, None]] = {}
    for row in rows:
        members.setdefault(row["category"], {})[row["word"].strip()] = None
    return {category: list(words) for category, words in members.items()}


def definitions(data: DataFolder, *, synsets: int = 4000, asked: int = 1000) -> RetrievalTask:
    """Return WordNet's definitions, asked of the words of a sample of synsets."""
    rows = data.records("wordnet_synsets.parquet", ["synset_id", "lemmas", "definition"])
    kept = sample([row for row in rows if row["lemmas"] and row["definition"]], synsets, "synsets")
    corpus = {lemma: lemma for row in kept for lemma in row["lemmas"]}
    queries = sample(kept, asked, "definitions")
    return RetrievalTask(
        "wordnet-definitions",
        {row["synset_id"]: row["definition"] for row in queries},
        corpus,
        {row["synset_id"]: dict.fromkeys(row["lemmas"], 1) for row in queries},
        metrics=("mrr@10", "recall@10", "success@1"),
    )


def function_names(data: DataFolder, *, functions: int = 600) -> RetrievalTask:
    """Return first sentences of the standard library's docstrings, asked of function names."""
    found = library_functions(functions)
    names = [" ".join(re.findall(r"[A-Za-z][a-z]*|\d+", function_name(f))) for f in found]
    qrels = {f"q{row}": {name: 1} for row, name in enumerate(names) if name}
    return RetrievalTask(
        "library-names",
        {query: found[int(query[1:])].summary for query in qrels},
        {name: name for name in names if name},
        qrels,
        metrics=("mrr@10", "recall@10", "success@1"),
    )


SUITES.add(
    "words",
    Suite(
        "words",
        (
            *(
                source(name, similarity, "word_similarity.parquet", name=name)
                for name in _SIMILARITY
            ),
            source(
                "google-analogies", analogies, "word_analogies.parquet", "word_similarity.parquet"
            ),
            *(
                source(name, categories, "word_categories.parquet", name=name)
                for name in ("bless", "battig")
            ),
            source("bless-outliers", outliers, "word_categories.parquet", name="bless"),
            source("wordnet-definitions", definitions, "wordnet_synsets.parquet"),
            source("library-names", function_names),
        ),
    ),
    summary="Word similarity, analogies, categories, outliers, and words for definitions.",
)
