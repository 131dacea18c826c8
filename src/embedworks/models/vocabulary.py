"""Which tokens a vector points at: read a model's vectors through its vocabulary.

Works for any model with a matrix of tokens: an output layer, or the input table where both are one
or none is there. Tokens in front of a vector say what it is about, also when they are not in the
text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from embedworks._core.validation import check_k, check_texts, check_vectors
from embedworks.errors import EmptyInputError, InputError, ShapeError

__all__ = ["AlignmentReport", "VocabLens", "usable_tokens", "vocabulary_matrix"]

_MARKS = ("Ġ", "▁")  # Ġ of byte-level BPE and the underline of SentencePiece: a space before


def vocabulary_matrix(model: Any) -> np.ndarray:
    """Return the matrix that turns vectors into scores of tokens, float32 (V, D).

    The output layer where the transformer has one, else its table of input tokens.

    Args:
        model: A ``SentenceTransformer``, a transformers model, or a `StaticModel`.

    Raises:
        InputError: When the model has no table of tokens.
    """
    table = getattr(model, "table", None)
    if isinstance(table, np.ndarray):
        return np.asarray(table, dtype=np.float32)
    try:
        body = model[0].auto_model
    except (TypeError, KeyError, IndexError, AttributeError):
        body = model
    for name in ("get_output_embeddings", "get_input_embeddings"):
        layer = getattr(body, name, lambda: None)()
        if layer is not None:
            found: np.ndarray = layer.weight.detach().float().cpu().numpy()
            return found
    raise InputError(f"a {type(model).__name__} has no table of tokens to read vectors through.")


def usable_tokens(tokenizer: Any) -> np.ndarray:
    """Return which tokens say something, bool (V,).

    Left out: special tokens, pieces that continue a word (``##ing``), and tokens without a
    letter: punctuation, numbers, white space, single bytes.

    Args:
        tokenizer: A tokenizer of transformers.
    """
    special = set(tokenizer.all_special_ids)
    names = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    found = np.zeros(len(names), dtype=bool)
    for place, name in enumerate(names):
        if place in special or name is None or name.startswith("##"):
            continue
        bare = name.lstrip("".join(_MARKS))
        found[place] = any(c.isalpha() for c in bare) and not bare.startswith(("<0x", "[unused"))
    return found


@dataclass(frozen=True)
class AlignmentReport:
    """How far the tokens that vectors point at are those of their texts.

    Paper: Nie et al. 2025, arXiv 2406.17378, section 3.
    """

    k: int
    hit_at_k: float
    """Share of texts with at least one of their tokens among the first k."""
    local: float
    """Mean share of a text's tokens found among as many first ones."""
    overall: float
    """Share of the distinct tokens of all texts that were found for some text that has them."""
    texts: int
    skipped: int
    """Texts without a usable token, which are not counted."""


class VocabLens:
    """Read vectors of a model through its vocabulary.

    Args:
        model: A ``SentenceTransformer`` over a transformer.
        head: Matrix (V, D) in place of the model's own.
        background: Texts whose mean scores are subtracted. Vectors of many encoders share a large
            common part, which points at the same tokens whatever the text is.

    Raises:
        ShapeError: When vectors are not as wide as the matrix, or it has another number of tokens
            than the tokenizer.

    Example:
        >>> from transformers import AutoModel
        >>> VocabLens(AutoModel)
        Traceback (most recent call last):
        ...
        embedworks.errors.InputError: a type has no tokenizer: expected a SentenceTransformer.
    """

    def __init__(
        self, model: Any, head: np.ndarray | None = None, *, background: Sequence[str] = ()
    ) -> None:
        tokenizer = getattr(model, "tokenizer", None)
        if tokenizer is None or not hasattr(tokenizer, "convert_ids_to_tokens"):
            raise InputError(
                f"a {type(model).__name__} has no tokenizer: expected a SentenceTransformer."
            )
        self.model = model
        self.tokenizer = tokenizer
        self.head = check_vectors(vocabulary_matrix(model) if head is None else head, name="head")
        if len(self.head) < len(tokenizer):
            raise ShapeError(
                f"the head has {len(self.head)} tokens, the tokenizer {len(tokenizer)}: they do "
                "not belong together."
            )
        self.head = self.head[: len(tokenizer)]  # tables are often padded
        self.usable = usable_tokens(tokenizer)
        self._common: np.ndarray | float = 0.0
        if background:
            self._common = self.scores(self._encode(list(background))).mean(axis=0)

    def _encode(self, texts: list[str]) -> np.ndarray:
        return np.asarray(self.model.encode(texts), dtype=np.float32)

    def scores(self, vectors: np.ndarray) -> np.ndarray:
        """Return the score of every token, float32 (N, V).

        Raises:
            ShapeError: When vectors have another dimension than the matrix.
        """
        checked = check_vectors(vectors, name="vectors")
        if checked.shape[1] != self.head.shape[1]:
            raise ShapeError(
                f"vectors have {checked.shape[1]} dimensions, the head {self.head.shape[1]}: it "
                "reads vectors of the transformer's own width."
            )
        return np.asarray(checked @ self.head.T - self._common, dtype=np.float32)

    def decode(self, vectors: np.ndarray, k: int = 10) -> list[list[tuple[str, float]]]:
        """Return the first k usable tokens of each vector with their scores."""
        scores = self.scores(vectors)
        return [
            [(self._name(int(i)), float(row[i])) for i in self._first(row, check_k(k))]
            for row in scores
        ]

    def top_tokens(self, text: str, k: int = 10) -> list[tuple[str, float]]:
        """Return the first k usable tokens of a text's vector with their scores."""
        return self.decode(self._encode([text]), k)[0]

    def _first(self, scores: np.ndarray, k: int) -> np.ndarray:
        masked = np.where(self.usable, scores, -np.inf)
        count = min(k, int(self.usable.sum()))
        return np.argsort(-masked, kind="stable")[:count]

    def _name(self, token: int) -> str:
        return str(self.tokenizer.convert_ids_to_tokens(token)).lstrip("".join(_MARKS))

    def alignment(self, texts: Sequence[str], k: int = 10) -> AlignmentReport:
        """Measure how far vectors point at their texts' own tokens.

        Raises:
            EmptyInputError: When no text has a usable token.
        """
        items = check_texts(texts)
        own = [
            {
                int(i)
                for i in self.tokenizer(text, truncation=True)["input_ids"]
                if self.usable[int(i)]
            }
            for text in items
        ]
        kept = [place for place, tokens in enumerate(own) if tokens]
        if not kept:
            raise EmptyInputError("no text has a token that says something.")
        scores = self.scores(self._encode([items[place] for place in kept]))
        hits, shares, found = 0, 0.0, set()
        for place, row in zip(kept, scores, strict=True):
            tokens = own[place]
            order = self._first(row, max(check_k(k), len(tokens))).tolist()
            hits += bool(tokens & set(order[:k]))
            local = tokens & set(order[: len(tokens)])
            shares += len(local) / len(tokens)
            found |= local
        every = set().union(*own)
        return AlignmentReport(
            k, hits / len(kept), shares / len(kept), len(found) / len(every), len(kept),
            len(items) - len(kept),
        )  # fmt: skip
