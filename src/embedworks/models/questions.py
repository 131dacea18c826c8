"""Vectors whose dimensions are answers to questions: each can be read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from embedworks._core.progress import progress
from embedworks._core.validation import check_in_range, check_texts
from embedworks.errors import EmptyInputError, InputError, NonFiniteError, ShapeError

__all__ = ["QuestionEmbedder"]


class QuestionEmbedder:
    """Embed texts by the answers that a judge gives to a list of yes-or-no questions.

    Dimension i is the score of question i on the text: the judge's own, or 1 and 0. It is a model
    like any other, to be evaluated and indexed, and `answers` says what a vector says. One text
    costs as many readings as there are questions.

    Args:
        questions: Q different questions.
        judge: Anything with ``predict(pairs)``, such as what `load_reranker` gives or a cross-
            encoder for inference between sentences with one output; called with
            ``(question, text)``.
        threshold: Scores above it are 1, others 0; None keeps the scores.
        batch_size: Texts judged in one call.

    Raises:
        EmptyInputError: When there are no questions, or one is empty.
        InputError: When a question occurs twice, or the judge has no ``predict``.

    Paper: Benara et al. 2024, QA-Emb, arXiv 2405.16714: a large language model as the judge, and
    questions that a language model wrote; here both are yours.

    Example:
        >>> class Judge:
        ...     def predict(self, pairs):
        ...         return [float(q.split()[-1].strip("?") in t) for q, t in pairs]
        >>> model = QuestionEmbedder(["Is it about tea?", "Is it about rye?"], Judge())
        >>> model.encode(["green tea", "rye bread"])
        array([[1., 0.],
               [0., 1.]], dtype=float32)
        >>> model.answers("green tea", k=1)
        [('Is it about tea?', 1.0)]
    """

    def __init__(
        self,
        questions: Sequence[str],
        judge: Any,
        *,
        threshold: float | None = None,
        batch_size: int = 64,
    ) -> None:
        self.questions = tuple(check_texts(list(questions), name="questions"))
        if not self.questions:
            raise EmptyInputError("there are no questions.")
        for place, question in enumerate(self.questions):
            if not question.strip():
                raise EmptyInputError(f"question {place} is empty.")
            if question in self.questions[:place]:
                raise InputError(f"the question {question!r} is given twice.")
        if not callable(getattr(judge, "predict", None)):
            raise InputError(
                f"the judge needs predict(pairs), as a CrossEncoder has it; a "
                f"{type(judge).__name__} has none."
            )
        check_in_range(batch_size, name="batch_size", low=1)
        self.judge = judge
        self.threshold = threshold
        self.batch_size = batch_size

    def get_embedding_dimension(self) -> int:
        """Return the number of questions."""
        return len(self.questions)

    def encode(self, texts: Any, *, show_progress: bool | None = None, **_: Any) -> np.ndarray:
        """Return the scores of texts, float32 (N, Q), or (Q,) for one text.

        Raises:
            ShapeError: When the judge does not give one score per pair.
            NonFiniteError: When a score is NaN or infinite.
        """
        if isinstance(texts, str):
            row: np.ndarray = self.encode([texts])[0]
            return row
        items = check_texts(list(texts))
        found = np.empty((len(items), len(self.questions)), dtype=np.float32)
        with progress("Judging", len(items), enabled=show_progress) as bar:
            for start in range(0, len(items), self.batch_size):
                batch = items[start : start + self.batch_size]
                pairs = [(question, text) for text in batch for question in self.questions]
                scores = np.asarray(self.judge.predict(pairs), dtype=np.float32)
                if scores.size != len(pairs):
                    raise ShapeError(
                        f"{type(self.judge).__name__}.predict returned shape {scores.shape} for "
                        f"{len(pairs)} pairs: a judge gives one score per pair."
                    )
                if not np.isfinite(scores).all():
                    bad = int(np.flatnonzero(~np.isfinite(scores.ravel()))[0])
                    raise NonFiniteError(f"the judge gave NaN or infinity for {pairs[bad]}.")
                found[start : start + len(batch)] = scores.reshape(len(batch), -1)
                bar.advance(len(batch))
        if self.threshold is None:
            return found
        return (found > self.threshold).astype(np.float32)

    def encode_query(self, texts: Any, **options: Any) -> np.ndarray:
        """As `encode`."""
        return self.encode(texts, **options)

    def encode_document(self, texts: Any, **options: Any) -> np.ndarray:
        """As `encode`."""
        return self.encode(texts, **options)

    def answers(self, text: str, k: int | None = None) -> list[tuple[str, float]]:
        """Return the questions with a text's scores, highest first, at most k."""
        scores = self.encode([text])[0]
        order = np.argsort(-scores, kind="stable")[:k]
        return [(self.questions[int(place)], float(scores[place])) for place in order]
