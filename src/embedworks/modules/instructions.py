"""Leave instruction tokens out of the vector: a mask from the offsets of the joint text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from sentence_transformers.base.modules import Transformer
from torch import Tensor

from embedworks.errors import InputError

__all__ = ["InstructedTransformer", "instruction_mask"]


def instruction_mask(offsets: Tensor, attention_mask: Tensor, lengths: Sequence[int]) -> Tensor:
    """Return which tokens to pool: real ones that are not of the instruction.

    A token is the instruction's if it ends within it; one that straddles the end belongs to the
    text. Special tokens in front of the text (such as [CLS]) go with an instruction, those behind
    it stay.

    Args:
        offsets: int tensor (B, T, 2), where each token's characters begin and end in the whole
            text; (0, 0) for special tokens and padding.
        attention_mask: int tensor (B, T).
        lengths: Characters of each row's instruction; 0 for none.

    Returns:
        int64 tensor (B, T), 1 for tokens to pool.

    Example:
        >>> offsets = torch.tensor([[[0, 0], [0, 4], [4, 7], [7, 9], [0, 0]]])
        >>> instruction_mask(offsets, torch.ones(1, 5), [5]).tolist()
        [[0, 0, 1, 1, 1]]
    """
    limits = torch.tensor(list(lengths), device=offsets.device)[:, None]
    end, has_text = offsets[..., 1], offsets[..., 1] > offsets[..., 0]
    instructed = has_text & (end <= limits)
    before = has_text.cumsum(dim=1) == 0
    left_out = (instructed | before) & (limits > 0)
    return attention_mask.long() * (~left_out)


class InstructedTransformer(Transformer):
    """A transformer that tells poolings which tokens are the prompt's.

    With a prompt (``encode(..., prompt=...)``, ``prompt_name``, ``encode_query``) the features
    get ``pooling_mask``, made from the offsets of prompt and text tokenised together: tokens that
    merge across the boundary, special tokens and left padding are all where they belong, which
    counting the prompt's tokens alone cannot know. Attention is unchanged. Poolings of
    `embedworks.modules` obey the mask; sentence-transformers' own do not see it.

    Takes what ``Transformer`` takes, and saves and loads as it does.

    Raises:
        InputError: When the tokenizer cannot give offsets, which only fast ones can.
    """

    def preprocess(self, inputs: Any, prompt: str | None = None, **options: Any) -> dict[str, Any]:
        """Return features, with ``pooling_mask`` where there is a prompt."""
        features: dict[str, Any] = super().preprocess(inputs, prompt=prompt, **options)
        if not prompt or "input_ids" not in features:
            return features
        tokenizer = self.tokenizer
        if not getattr(tokenizer, "is_fast", False):
            raise InputError(
                "instruction masks need offsets, which only fast tokenizers give: load the model "
                "with a fast tokenizer (tokenizer.json)."
            )
        found = tokenizer(
            [prompt + text for text in inputs],
            padding=True,
            truncation=True,
            max_length=self.max_seq_length,
            return_offsets_mapping=True,
            return_tensors="pt",
        )
        if found["input_ids"].shape != features["input_ids"].shape or not torch.equal(
            found["input_ids"], features["input_ids"].cpu()
        ):
            raise InputError(
                "the texts were tokenised otherwise than prompt and text together: leave out "
                "options that change the tokens."
            )
        mask = instruction_mask(
            found["offset_mapping"], found["attention_mask"], [len(prompt)] * len(inputs)
        )
        features["pooling_mask"] = mask.to(features["input_ids"].device)
        return features

    def forward(self, features: dict[str, Any], **options: Any) -> dict[str, Any]:
        """Run the transformer; the mask goes around it."""
        mask = features.get("pooling_mask")
        plain = {name: value for name, value in features.items() if name != "pooling_mask"}
        output: dict[str, Any] = super().forward(plain, **options)
        if mask is not None:
            output["pooling_mask"] = mask
        return output
