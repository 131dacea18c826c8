"""Answers to questions as vectors: planted labels come back; searched and evaluated as a model."""

from __future__ import annotations

import numpy as np
import pytest

from embedworks.errors import EmptyInputError, InputError, NonFiniteError, ShapeError
from embedworks.evaluation import EncoderSystem, RetrievalTask, evaluate_systems
from embedworks.index import ExactIndex
from embedworks.models import Encoder, QuestionEmbedder

TOPICS = ["tea", "rye", "oat", "fig"]
QUESTIONS = [f"Does it name {topic}?" for topic in TOPICS]


class WordJudge:
    """Says yes to the topic in the question, a little louder the earlier it is named."""

    def predict(self, pairs):
        scores = []
        for question, text in pairs:
            place = text.find(question.split()[-1].rstrip("?"))
            scores.append(0.0 if place < 0 else 1.0 - 0.001 * place)
        return scores


@pytest.fixture
def model():
    return QuestionEmbedder(QUESTIONS, WordJudge(), threshold=0.5, batch_size=3)


def test_planted_labels_come_back_whatever_the_batch(model):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, (20, 4))
    texts = [" ".join(["a", *(t for t, y in zip(TOPICS, row, strict=True) if y)]) for row in labels]
    np.testing.assert_array_equal(model.encode(texts), labels)
    assert isinstance(model, Encoder)
    assert model.encode("a fig").tolist() == [0, 0, 0, 1]
    assert model.encode([]).shape == (0, 4)


def test_it_is_indexed_evaluated_and_explained(model):
    corpus = {topic: f"this is about {topic}" for topic in TOPICS}
    index = ExactIndex(model.encode_document(list(corpus.values())))
    ids, _ = index.search(model.encode_query(["oat, please"]), 1)
    assert TOPICS[int(ids[0][0])] == "oat"
    task = RetrievalTask(
        "topics", {t: f"{t}?" for t in TOPICS}, corpus, {t: {t: 1} for t in TOPICS}
    )
    result = evaluate_systems([EncoderSystem(model, name="questions")], [task])
    assert result[0].tasks["topics"].scores["ndcg@10"].values == (1.0,) * 4
    scored = QuestionEmbedder(QUESTIONS, WordJudge())
    assert [q for q, _ in scored.answers("rye with fig", k=2)] == [QUESTIONS[1], QUESTIONS[3]]


@pytest.mark.slow
def test_a_cross_encoder_is_a_judge(transformer_folder):
    from sentence_transformers import CrossEncoder

    judge = CrossEncoder(str(transformer_folder), num_labels=1, device="cpu")
    vectors = QuestionEmbedder(QUESTIONS, judge).encode(["a fig", "a tea"])
    assert vectors.shape == (2, 4)


@pytest.mark.parametrize(
    ("scores", "error", "message"),
    [
        (lambda n: np.zeros((n, 3)), ShapeError, "one score per pair"),
        (lambda n: [float("nan")] * n, NonFiniteError, "NaN or infinity for"),
    ],
)
def test_judges_that_do_not_judge(scores, error, message):
    class Judge:
        def predict(self, pairs):
            return scores(len(pairs))

    with pytest.raises(error, match=message):
        QuestionEmbedder(QUESTIONS, Judge()).encode(["a"])


def test_what_is_refused():
    with pytest.raises(EmptyInputError, match="no questions"):
        QuestionEmbedder([], WordJudge())
    with pytest.raises(EmptyInputError, match="question 1 is empty"):
        QuestionEmbedder(["a?", " "], WordJudge())
    with pytest.raises(InputError, match="given twice"):
        QuestionEmbedder(["a?", "a?"], WordJudge())
    with pytest.raises(InputError, match="has none"):
        QuestionEmbedder(["a?"], object())
