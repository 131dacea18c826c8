"""Leakage of whole sentences: a language model is trained to write texts from their vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import Field

from embedworks._core.extras import require_extra
from embedworks._core.seeding import generator
from embedworks._core.settings import Settings
from embedworks._core.validation import check_texts, normalize_rows
from embedworks.errors import EmptyInputError, InputError
from embedworks.evaluation.kinds.text_overlap import sentence_bleu, word_f1
from embedworks.evaluation.outcomes import Failure, Resampling, Score, TaskResult, shorten

if TYPE_CHECKING:
    from embedworks.evaluation.systems import System

__all__ = ["SentenceAttack", "SentenceInversionTask"]

Count = Annotated[int, Field(ge=1)]


class SentenceAttack(Settings):
    """How much an attacker spends.

    Example:
        >>> SentenceAttack(steps=100, corrections=2).dim
        128
    """

    vocabulary: Annotated[int, Field(ge=261)] = 4000
    """Tokens of the attacker's language model."""
    dim: Count = 128
    """Its dimensions."""
    layers: Count = 2
    heads: Count = 4
    slots: Count = 4
    """Soft tokens a vector becomes."""
    steps: Count = 1000
    """Steps of training, of the decoder and again of the corrector."""
    batch_size: Count = 64
    learning_rate: Annotated[float, Field(gt=0.0)] = 1e-3
    max_tokens: Count = 32
    """Where texts are cut."""
    beams: Count = 4
    corrections: Annotated[int, Field(ge=0)] = 0
    """Steps of correction; none needs no corrector."""
    device: str = "cpu"


class SentenceInversionTask:
    """Can whole sentences be written from vectors by somebody who has vectors of others?

    A small language model learns from vectors and their texts, and writes the texts of vectors it
    never saw, corrected step by step if asked to. ``word_f1`` (the main figure) is the mean F1 of
    the words. Two guesses that read nothing stand beside it: ``nearest_f1`` takes the training
    text with the nearest vector, ``other_f1`` scores what was written for one vector against the
    text of another, which is what style and common words give. ``over_best_baseline`` is what
    reading adds to the better of both. ``bleu``, ``exact`` and ``cosine`` (of the written text's
    vector to the vector) go with it. Higher is more leakage.

    Guesses are embedded by the system itself, so under a defence (`PrivacyTransform.of`) the
    attacker trains on and compares with changed vectors.

    Args:
        name: Name for tables.
        texts: 100 texts or more; equal ones are taken once, so none is in both parts.
        attack: What the attacker spends.
        test_share: Share of the texts that is attacked.
        seed: Seed of the parts and of training.
        instruction: What the task is, for systems that read instructions.

    Raises:
        EmptyInputError: When there are fewer than 100 different texts.
        InputError: When all texts would be test texts.

    Paper: Morris et al. 2023, arXiv 2310.06816.

    Example:
        >>> texts = [f"{a} {b}" for a in range(10) for b in range(10)]
        >>> SentenceInversionTask("toy", texts).sizes
        {'train': 80, 'test': 20}
    """

    kind = "leakage"
    metric = "word_f1"

    def __init__(
        self,
        name: str,
        texts: Sequence[str],
        *,
        attack: SentenceAttack | None = None,
        test_share: float = 0.2,
        seed: int = 0,
        instruction: str | None = None,
    ) -> None:
        self.name = name
        self.attack = attack or SentenceAttack()
        self.seed = seed
        self.instruction = instruction
        given = list(dict.fromkeys(check_texts(texts, name=f"texts of task {name!r}")))
        self._left_out = len(texts) - len(given)
        if len(given) < 100:
            raise EmptyInputError(
                f"Task {name!r} needs 100 different texts, got {len(given)}: an attacker that "
                "learns from fewer reads nothing, which says nothing."
            )
        test = round(test_share * len(given))
        if not 2 <= test <= len(given) // 2:
            raise InputError(
                f"test_share {test_share} makes {test} of {len(given)} texts test texts; there "
                "must be at least 2 and at most a half."
            )
        order = generator(seed, "sentence inversion parts").permutation(len(given))
        self._texts = [given[i] for i in order]
        self.sizes = {"train": len(given) - test, "test": test}

    def texts(self) -> list[str]:
        """Return the texts the task encodes first; written texts are encoded too."""
        return list(self._texts)

    def run(self, system: System, resampling: Resampling) -> TaskResult:
        """Train the attacker and attack the test texts.

        Raises:
            InputError: When all texts have the same vector.
            MissingExtraError: When transformers is not installed.
        """
        require_extra("transformers", extra="train", purpose="invert vectors")
        raw = system.encode(self._texts, instruction=self.instruction)
        if np.ptp(raw, axis=0).max() == 0:
            raise InputError(f"{system.name} gives all {len(raw)} texts the same vector.")
        vectors = normalize_rows(raw).astype(np.float32)
        cut = self.sizes["train"]
        train, test = self._texts[:cut], self._texts[cut:]
        written, cosines = self._write(system, vectors[:cut], vectors[cut:], train)
        near = (vectors[cut:] @ vectors[:cut].T).argmax(axis=1)
        decoded = _each(word_f1, written, test)
        nearest = _each(word_f1, [train[i] for i in near], test)
        other = _each(word_f1, [*written[1:], written[0]], test)
        best = nearest if nearest.mean() >= other.mean() else other
        values = {
            self.metric: decoded,
            "over_best_baseline": decoded - best,
            "nearest_f1": nearest,
            "other_f1": other,
            "bleu": _each(sentence_bleu, written, test),
            "exact": np.array(
                [float(a.strip() == b.strip()) for a, b in zip(written, test, strict=True)]
            ),
            "cosine": cosines.astype(np.float64),
        }
        return TaskResult(
            task=self.name,
            kind=self.kind,
            metric=self.metric,
            scores={name: Score.of_values(found, resampling) for name, found in values.items()},
            items=tuple(str(i) for i in range(len(test))),
            excluded={"repeated texts": self._left_out} if self._left_out else {},
            failures=tuple(
                Failure(
                    item=str(i),
                    text=shorten(test[i]),
                    score=float(decoded[i]),
                    expected=("no word can be read",),
                    found=(shorten(written[i]),),
                )
                for i in np.argsort(-decoded, kind="stable")[:10].tolist()
                if decoded[i] > 0
            ),
            details={
                "sizes": dict(self.sizes),
                "attack": self.attack.to_dict(),
                "instruction": self.instruction,
            },
        )

    def _write(
        self, system: System, known: np.ndarray, secret: np.ndarray, train: list[str]
    ) -> tuple[list[str], np.ndarray]:
        """Return texts for secret vectors, and the cosine of each to its vector."""
        from embedworks.models import (
            VectorDecoderSettings,
            invert_vectors,
            new_language_model,
            train_tokenizer,
            train_vector_corrector,
            train_vector_decoder,
        )

        spent = self.attack
        tokenizer = train_tokenizer(train, vocab_size=spent.vocabulary)
        lm = new_language_model(
            "llama", tokenizer, dim=spent.dim, layers=spent.layers, heads=spent.heads,
            max_tokens=2 * spent.max_tokens + 3 * spent.slots, seed=self.seed,
        ).to(spent.device)  # fmt: skip
        settings = VectorDecoderSettings(
            slots=spent.slots,
            steps=spent.steps,
            batch_size=spent.batch_size,
            learning_rate=spent.learning_rate,
            max_tokens=spent.max_tokens,
            seed=self.seed,
        )
        model = _Through(system, self.instruction)
        decoder = train_vector_decoder(model, train, lm, tokenizer, settings, vectors=known).decoder
        corrector = None
        if spent.corrections:
            corrector = train_vector_corrector(
                decoder, model, train, settings, vectors=known
            ).decoder
        found = invert_vectors(
            secret, decoder, model, corrector=corrector, steps=spent.corrections,
            width=spent.beams, beams=spent.beams, max_tokens=spent.max_tokens,
        )  # fmt: skip
        return list(found.texts), found.cosines[-1]


class _Through:
    """A system as a model, so that guesses meet its prompts and defences."""

    def __init__(self, system: System, instruction: str | None) -> None:
        self.system, self.instruction = system, instruction

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        return self.system.encode(texts, instruction=self.instruction)


def _each(measure: Any, found: Sequence[str], wanted: Sequence[str]) -> np.ndarray:
    return np.array([measure(a, b) for a, b in zip(found, wanted, strict=True)])
