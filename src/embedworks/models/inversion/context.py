"""What a vector in the place of a text is worth to a language model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from embedworks._core.validation import check_in_range, check_texts, check_vectors, normalize_rows
from embedworks.errors import EmptyInputError, InputError, ShapeError
from embedworks.models.inversion.decoder import (
    VectorDecoder,
    end_token,
    padded_rows,
    target_tokens,
)

__all__ = ["ContextLosses", "context_losses"]


@dataclass(frozen=True)
class ContextLosses:
    """Loss of texts after nothing, after vectors and after the texts the vectors stand for.

    In nats per token; ``exp`` of it is the perplexity.

    Attributes:
        none: After nothing.
        vector: After the soft tokens of the vector.
        text: After the text.
        by_text: Mean loss of each target after nothing, vector and text, float64 (N, 3).
    """

    none: float
    vector: float
    text: float
    by_text: np.ndarray = field(repr=False, compare=False)

    def to_dict(self) -> dict[str, float]:
        """Return a dictionary that JSON can hold, without ``by_text``."""
        return {"none": self.none, "vector": self.vector, "text": self.text}


@torch.inference_mode()
def context_losses(
    decoder: VectorDecoder,
    vectors: np.ndarray,
    texts: Sequence[str],
    targets: Sequence[str],
    *,
    continues: bool = False,
    max_tokens: int = 64,
    batch_size: int = 64,
) -> ContextLosses:
    """Compare a vector with the text it stands for, as what a language model reads first.

    A vector is worth something where its loss is below that of nothing; that of the text is what
    it could be at best, if the language model makes use of texts. Train the decoder with a frozen
    language model: else all three are of the changed one.

    Args:
        decoder: A decoder that reads no guesses; one slot makes a vector one token.
        vectors: Of the texts, (N, D).
        texts: N texts.
        targets: N texts that follow, or the texts themselves.
        continues: Whether a target goes on within its text, so that nothing parts them; else the
            text ends and another begins. What begins a text is the tokenizer's token for that, or
            the end token where it has none.
        max_tokens: Where texts and targets are cut.
        batch_size: Texts at a time.

    Raises:
        InputError: When the decoder is a corrector.
        ShapeError: When numbers differ.
        EmptyInputError: When there are no texts.

    Paper: Cheng et al. 2024, arXiv 2405.13792 (xRAG: one vector as one token of a frozen model).

    Example:
        >>> from embedworks.models import new_language_model, train_tokenizer
        >>> tokenizer = train_tokenizer(["a file", "a folder"], vocab_size=270)
        >>> lm = new_language_model("llama", tokenizer, dim=16, layers=1, heads=2)
        >>> decoder = VectorDecoder(lm, tokenizer, vector_dim=2, slots=1)
        >>> context_losses(decoder, np.eye(2), ["a file", "a folder"], ["is", "has"]).none > 0
        True
    """
    check_in_range(max_tokens, name="max_tokens", low=1)
    check_in_range(batch_size, name="batch_size", low=1)
    if decoder.corrects:
        raise InputError("a corrector reads guesses: give a decoder that reads none.")
    read, told = check_texts(texts), check_texts(targets, name="targets")
    unit = normalize_rows(check_vectors(vectors)).astype(np.float32)
    if not len(read) == len(told) == len(unit):
        raise ShapeError(f"there are {len(unit)} vectors, {len(read)} texts, {len(told)} targets.")
    if not read:
        raise EmptyInputError("there are no texts.")
    decoder.eval()
    end = end_token(decoder.tokenizer)
    before = target_tokens(decoder.tokenizer, read, max_tokens, end=False)
    rows = target_tokens(decoder.tokenizer, told, max_tokens)
    opening = decoder.tokenizer.bos_token_id
    begin = [end if opening is None else int(opening)]
    between = [] if continues else [end] if opening is None else [end, *begin]
    sums: list[np.ndarray] = []
    for start in range(0, len(rows), batch_size):
        part = slice(start, start + batch_size)
        ids = padded_rows(rows[part]).to(decoder.device)
        whole = [np.array([*begin, *row, *between]) for row in before[part]]
        given = torch.from_numpy(unit[part]).to(decoder.device)
        losses = (
            _after(decoder, [np.array(begin)] * len(ids), ids),
            decoder(given, ids),
            _after(decoder, whole, ids),
        )
        sums.append(torch.stack([one.double().sum(dim=1) for one in losses], dim=1).cpu().numpy())
    every = np.concatenate(sums)
    lengths = np.array([len(row) for row in rows])
    none, vector, text = (every.sum(axis=0) / lengths.sum()).tolist()
    return ContextLosses(none, vector, text, every / lengths[:, None])


def _after(decoder: VectorDecoder, before: Sequence[np.ndarray], ids: Tensor) -> Tensor:
    """Return losses (B, T) of tokens after other tokens, as the language model alone tells."""
    first = padded_rows(before, left=True).to(ids.device)
    every = torch.cat([first, ids], dim=1)
    mask = (every >= 0).long()
    logits = decoder.language_model(
        input_ids=every.clamp(min=0),
        attention_mask=mask,
        position_ids=(mask.cumsum(dim=1) - 1).clamp(min=0),
        use_cache=False,
    ).logits[:, first.shape[1] - 1 : -1]
    loss = nn.functional.cross_entropy(
        logits.float().transpose(1, 2), ids.clamp(min=0), reduction="none"
    )
    return loss * (ids >= 0)
