"""Vectors of words, and which of them a system knows at all."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from embedworks._core.validation import normalize_rows

if TYPE_CHECKING:
    from embedworks.evaluation.systems import System

__all__ = ["KnownWords", "encode_words"]


@dataclass(frozen=True)
class KnownWords:
    """Vectors of different words."""

    place: dict[str, int]
    """Word -> row."""
    vectors: np.ndarray
    """Vectors of length 1, float32 (V, D)."""
    known: np.ndarray
    """Which the model knows, bool (V,)."""
    in_pieces: int | None
    """How many known words the tokenizer cuts in pieces; None when it cannot be told."""

    def coverage(self) -> dict[str, Any]:
        return {
            "words": len(self.known),
            "known_words": int(self.known.sum()),
            "coverage": float(self.known.mean()),
            "words_in_pieces": self.in_pieces,
            "unknown_examples": [word for word, row in self.place.items() if not self.known[row]][
                :10
            ],
        }


def encode_words(system: System, words: Sequence[str], instruction: str | None) -> KnownWords:
    """Encode different words and tell which are known."""
    different = list(dict.fromkeys(words))
    with warnings.catch_warnings():
        # Unknown words are expected here, and counted.
        warnings.filterwarnings("ignore", message=".*no token this model knows")
        vectors = normalize_rows(system.encode(different, instruction=instruction))
    known = np.asarray(vectors.any(axis=1))
    pieces = _pieces(system, different)
    in_pieces = None
    if pieces is not None:
        lengths, unknown = pieces
        known = known & ~unknown
        in_pieces = int((known & (lengths > 1)).sum())
    return KnownWords({word: row for row, word in enumerate(different)}, vectors, known, in_pieces)


def _pieces(system: System, words: Sequence[str]) -> tuple[np.ndarray, np.ndarray] | None:
    """Return how many tokens each word is, and which are nothing but unknown tokens."""
    tokenizer: Any = getattr(getattr(system, "model", None), "tokenizer", None)
    tokenizer = getattr(tokenizer, "backend_tokenizer", tokenizer)
    if not hasattr(tokenizer, "encode_batch"):
        return None
    unknown_token = getattr(tokenizer.model, "unk_token", None)
    found = tokenizer.encode_batch(list(words), add_special_tokens=False)
    lengths = np.array([len(item.ids) for item in found])
    unknown = np.array([all(token == unknown_token for token in item.tokens) for item in found])
    return lengths, unknown
