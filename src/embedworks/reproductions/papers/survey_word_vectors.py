"""Surveys on word vectors: the ladder from counts over trained word vectors to a transformer."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from embedworks.errors import DataWarning
from embedworks.evaluation import SUITES, DataFolder, RetrievalTask, spearman
from embedworks.models import CountModel, StaticModel, fit_sif, fit_usif
from embedworks.reproductions import (
    Arm,
    Comparison,
    Context,
    FrozenVectors,
    Outcome,
    Reproduction,
    graded_items,
    retrieval_outcome,
    stsb_graded,
)

__all__ = ["ENTRIES", "draw_texts", "training_texts", "word_correlation", "word_pairs"]

Encode = Callable[[Sequence[str]], np.ndarray]

_WORD_SETS = ("men", "simlex999", "wordsim353")


def training_texts() -> list[str]:
    """Return texts to train word vectors on: abstracts, dictionary entries, old books and speeches.

    Raises:
        NotFoundError: When a file of the data folder is not there.
    """
    papers = DataFolder().records(
        "acl_abstracts.parquet", ("title", "abstract", "language", "split")
    )
    entries = DataFolder().records("wordnet_synsets.parquet", ("lemmas", "definition", "examples"))
    books = DataFolder().records("long_docs_public_domain.parquet", ("text", "lang"))
    return [
        *(
            f"{row['title']}. {row['abstract']}"
            for row in papers
            if row["split"] == "train" and row["language"] == "eng"
        ),
        *(
            " ".join([*row["lemmas"], row["definition"], *(row["examples"] or ())])
            for row in entries
        ),
        *(part for row in books if row["lang"] == "en" for part in row["text"].split("\n\n")),
    ]


def draw_texts(texts: Sequence[str], words: int, *, seed: int) -> list[str]:
    """Return some of the texts in a drawn order, about so many words in all.

    Args:
        texts: Texts to draw from, each at most once.
        words: White-space separated words wanted.
        seed: Of the order.

    Example:
        >>> sorted(draw_texts(["a b", "c d", "e f"], 3, seed=0)) != ["a b", "c d", "e f"]
        True
    """
    order = np.random.default_rng([seed, 7]).permutation(len(texts))
    chosen: list[str] = []
    total = 0
    for place in order:
        if total >= words:
            break
        chosen.append(texts[int(place)])
        total += len(chosen[-1].split())
    return chosen


def word_pairs() -> dict[str, list[tuple[str, str, float]]]:
    """Return pairs of English words with people's judgement, by the name of the set."""
    found: dict[str, list[tuple[str, str, float]]] = defaultdict(list)
    columns = ("dataset", "lang", "word1", "word2", "similarity")
    for row in DataFolder().records("word_similarity.parquet", columns):
        if row["lang"] == "en" and row["dataset"] in _WORD_SETS:
            found[row["dataset"]].append((row["word1"], row["word2"], float(row["similarity"])))
    return dict(found)


def word_correlation(
    encode: Encode, sets: Mapping[str, Sequence[tuple[str, str, float]]]
) -> tuple[float, float]:
    """Return the mean over sets of Spearman's correlation, and the share of pairs known.

    A pair with an unknown word has the similarity 0. A system that finds all pairs alike (counts
    find two different words unrelated) has the correlation 0.

    Args:
        encode: Gives unit vectors, zero for unknown words.
        sets: Name -> (word, word, score).
    """
    scores, known, total = [], 0, 0
    for pairs in sets.values():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DataWarning)  # unknown words are counted here
            first, second = encode([a for a, _, _ in pairs]), encode([b for _, b, _ in pairs])
        cosines = (first * second).sum(axis=1)
        known += int((first.any(axis=1) & second.any(axis=1)).sum())
        total += len(pairs)
        alike = np.ptp(cosines) < 1e-9
        scores.append(0.0 if alike else spearman(cosines, [score for _, _, score in pairs]))
    return float(np.mean(scores)), known / total


class _Rung:
    """Vectors of texts by whatever the arm names."""

    def __init__(self, encode: Encode) -> None:
        self.encode = encode

    def vectors(self, texts: Sequence[str]) -> np.ndarray:
        """Return vectors; a text without a known word has a drawn one, near to nothing."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DataWarning)
            found = self.encode(texts).copy()
        drawn = np.random.default_rng(11).normal(size=found.shape[1])
        found[~found.any(axis=1)] = drawn / np.linalg.norm(drawn)
        return found


def _base(arm: Arm, seed: int, settings: Mapping[str, Any], context: Context) -> Any:
    """Return the arm's model before sentence weights; trained once per seed."""
    kind, dim = arm["model"], settings["dim"]

    def corpus() -> list[str]:
        texts = context.once(("all texts",), training_texts)
        return draw_texts(texts, settings["words"], seed=seed)

    def make() -> Any:
        from embedworks.models import GloVe, train_word_vectors

        texts = context.once(("texts",), corpus)
        if kind == "tf-idf":
            return CountModel.fit(texts, max_words=settings["count_words"], min_texts=2)
        if kind == "lsa":
            width = settings["count_words"]
            return CountModel.fit(
                texts, topics="lsa", dim=dim, max_words=width, min_texts=2, seed=seed
            )
        method = GloVe(x_max=settings["x_max"]) if kind == "glove" else kind
        return train_word_vectors(
            texts, method, dim=dim, window=settings["window"], min_count=settings["min_count"],
            seed=seed, show_progress=False,
        )  # fmt: skip

    return context.once(("model", kind), make)


def _student(
    arm: Arm, fit: Sequence[str], seed: int, settings: Mapping[str, Any], context: Context
) -> _Rung:
    if arm["model"] in ("static", "minilm"):
        name = settings[arm["model"]]
        frozen = context.once(
            ("frozen", name), lambda: FrozenVectors(name, cache=context.cache, device="cpu")
        )
        return _Rung(frozen)
    model = _base(arm, seed, settings, context)
    if arm["weights"] == "sif":
        model = fit_sif(_words(model), fit)
    elif arm["weights"] == "usif":
        model = fit_usif(_words(model), fit)
    return _Rung(model.encode)


def _words(model: Any) -> StaticModel:
    return model if isinstance(model, StaticModel) else model.as_static()


def _collections() -> list[RetrievalTask]:
    tasks, missing = SUITES["core"].tasks(only=["cranfield", "vaswani"])
    found = [task for task in tasks if isinstance(task, RetrievalTask)]
    if missing:
        warnings.warn(f"Left out: {missing}", DataWarning, stacklevel=2)
    return found


def _run(arm: Arm, seed: int, settings: Mapping[str, Any], context: Context) -> Outcome:
    world = context.once(("sts",), stsb_graded)
    rows = world.train
    fit = list(dict.fromkeys(str(text) for row in rows for text in (row.anchor, row.positive)))
    student = _student(arm, fit, seed, settings, context)
    correlation, coverage = word_correlation(student.encode, context.once(("words",), word_pairs))
    outcome = Outcome(
        {"word spearman": correlation, "word coverage": coverage},
        {"sts spearman": graded_items(student, world.test)},
    )
    for task in context.once(("collections",), _collections):
        documents = [str(text) for text in task.corpus.values()]
        searcher = _student(arm, documents, seed, settings, context)
        found = retrieval_outcome(searcher, task, metrics=("ndcg@10",))
        outcome = outcome | found.prefixed(f"{task.name} ")
    return outcome


def _arm(name: str, summary: str, model: str, weights: str = "mean") -> Arm:
    return Arm(name, summary, {"model": model, "weights": weights})


_STS = "sts spearman"

ENTRIES = (
    Reproduction(
        slug="survey-word-vectors-to-multimodal",
        paper="From Word Vectors to Multimodal Embeddings: Techniques, Applications, and Future "
        "Directions For Large Language Models",
        arxiv="2411.05036",
        claim="On sentence similarity there is a ladder: the mean of trained word vectors, the "
        "same weighted by SIF, static vectors distilled from a transformer, the transformer.",
        falsifier="SIF is worse than the plain mean of the same skip-gram vectors, or distilled "
        "static vectors are worse than skip-gram with SIF, on STS-B.",
        arms=(
            _arm("tf-idf", "weighted counts of words", "tf-idf"),
            _arm("lsa", "the counts, by truncated SVD", "lsa"),
            _arm("ppmi", "mean of word vectors from PPMI and an SVD", "ppmi"),
            _arm("skip-gram", "mean of word2vec's skip-gram vectors", "skipgram"),
            _arm("cbow", "mean of word2vec's CBOW vectors", "cbow"),
            _arm("glove", "mean of GloVe vectors", "glove"),
            _arm("fasttext", "mean of fastText vectors, with letter groups", "fasttext"),
            _arm("skip-gram sif", "skip-gram, weighted by SIF", "skipgram", "sif"),
            _arm("skip-gram usif", "skip-gram, weighted by uSIF", "skipgram", "usif"),
            _arm("glove sif", "GloVe, weighted by SIF", "glove", "sif"),
            _arm("distilled", "the bundled static model", "static"),
            _arm("transformer", "all-MiniLM-L6-v2", "minilm"),
        ),
        decisive=Comparison.between("skip-gram sif", "skip-gram", _STS),
        conditions=(
            Comparison.between("distilled", "skip-gram sif", _STS),
            Comparison.between("glove sif", "glove", _STS, falsifies=False),
            Comparison.between("transformer", "distilled", _STS, falsifies=False),
        ),
        secondary=(
            Comparison.between("skip-gram usif", "skip-gram sif", _STS),
            Comparison.between("skip-gram", "tf-idf", _STS),
            Comparison.between("skip-gram", "lsa", _STS),
            Comparison.between("skip-gram", "ppmi", "word spearman"),
            Comparison.between("skip-gram", "glove", "word spearman"),
            Comparison.between("fasttext", "skip-gram", "word spearman"),
            Comparison.between("skip-gram sif", "tf-idf", "cranfield ndcg@10"),
            Comparison.between("distilled", "tf-idf", "cranfield ndcg@10"),
            Comparison.between("distilled", "tf-idf", "vaswani ndcg@10"),
            Comparison.between("transformer", "tf-idf", "vaswani ndcg@10"),
        ),
        run=_run,
        seeds=3,
        scales={
            "mini": {
                "words": 2_000_000, "dim": 100, "window": 5, "min_count": 5, "x_max": 10.0,
                "count_words": 8000, "static": "static", "minilm": "minilm",
            }
        },
        setup="Everything that is trained here reads the same 2 million words, drawn anew by each "
        "seed from abstracts of papers on computational linguistics, entries of a dictionary, and "
        "old books and speeches, and gives 100 dimensions (tf-idf: 8,000 words). No method was "
        "tuned; each has its published defaults (GloVe: x_max 10, for a small corpus). SIF and "
        "uSIF are fitted on the training sentences of STS-B, and for retrieval on the documents. "
        "Scores: STS-B's development pairs; MEN, SimLex-999 and WordSim-353 (an unknown word "
        "makes a similarity of 0); Cranfield and Vaswani.",
        limits="The two upper rungs were trained by others on far more text, so the step from "
        "trained word vectors to them is one of data as well as of method. 2 million words "
        "are few for word vectors. Seeds share the test pairs, so intervals speak of these.",
    ),
)  # fmt: skip
