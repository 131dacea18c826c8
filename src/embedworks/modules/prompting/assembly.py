"""From a prompt and a text to tokens: which are the text's, and what is cut when room is short."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from embedworks.errors import InputError
from embedworks.modules.prompting.templates import pieces

__all__ = ["PromptTokenizer", "PromptTokens"]


@dataclass(frozen=True)
class PromptTokens:
    """One text in one prompt.

    Attributes:
        ids: Tokens, special ones in front included.
        text: Per token, whether it belongs to the last copy of the text.
        prepend: Place of the token to be overwritten, or -1.
        cut: Whether the text was shortened.
    """

    ids: list[int]
    text: list[bool]
    prepend: int
    cut: bool


class PromptTokenizer:
    """Put texts into one prompt and tokenise both together.

    Joint tokens are what the model would see of the whole string; which of them are the text's is
    told by offsets. A text that is too long is cut at its end, each copy alike, so that what
    comes behind it in the prompt always stays.

    Args:
        tokenizer: A fast tokenizer of transformers. Its special tokens in front of a text go in
            front of the prompt; those behind a text are left out: the prompt says how it ends.
        prompt: See `PromptTemplate`.
        room: Most tokens of a row.

    Raises:
        InputError: When the tokenizer gives no offsets, lacks a token that the prompt asks for, or
            the prompt leaves no room for a text.
    """

    def __init__(self, tokenizer: Any, prompt: str, room: int) -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise InputError(
                "prompts need offsets, which only fast tokenizers give: load the model with a fast "
                "tokenizer (tokenizer.json)."
            )
        self.tokenizer = tokenizer
        self.prompt = prompt
        self.room = room
        self._pieces = pieces(prompt)
        probe = tokenizer("a", return_special_tokens_mask=True)
        marks = probe["special_tokens_mask"]
        front = marks.index(0) if 0 in marks else 0
        self.front: list[int] = list(probe["input_ids"][:front])
        for slot, role in (("eos", "eos_token"), ("prepend", "pad_token")):
            if f"{{{slot}}}" in prompt and getattr(tokenizer, role, None) is None:
                raise InputError(
                    f"the prompt {prompt!r} has {{{slot}}}, but the tokenizer has no {role}."
                )
        fixed = len(self._row("", cut=False).ids)
        copies = prompt.count("{text}")
        #: Tokens that each copy of the text may have.
        self.text_room = (room - fixed) // copies
        if self.text_room < 1:
            raise InputError(
                f"the prompt {prompt!r} takes {fixed} tokens and the model reads {room}: nothing "
                "is left for a text. Take a shorter prompt, or raise max_seq_length."
            )

    def __call__(self, texts: Sequence[str]) -> list[PromptTokens]:
        """Return the tokens of each text in the prompt."""
        found = [self._row(text, cut=False) for text in texts]
        for place, row in enumerate(found):
            if len(row.ids) > self.room:
                found[place] = self._shortened(texts[place])
        return found

    def _shortened(self, text: str) -> PromptTokens:
        """Return the row of the longest beginning of a text that fits."""
        offsets = self._coded(text)["offset_mapping"]
        keep = min(self.text_room, len(offsets))
        while True:
            row = self._row(text[: offsets[keep - 1][1]] if keep else "", cut=True)
            if len(row.ids) <= self.room or keep == 0:
                return row
            # Pieces merge otherwise at the border than alone: give up a few more tokens.
            keep = max(0, keep - max(1, (len(row.ids) - self.room) // 2))

    def _row(self, text: str, *, cut: bool) -> PromptTokens:
        parts: list[str] = []
        length, span, hole = 0, (0, 0), -1
        for slot, literal in self._pieces:
            part = literal
            if slot == "text":
                part, span = text, (length, length + len(text))
            elif slot == "eos":
                part = str(self.tokenizer.eos_token)
            elif slot == "prepend":
                part, hole = str(self.tokenizer.pad_token), length
            parts.append(part)
            length += len(part)
        coded = self._coded("".join(parts))
        front = len(self.front)
        offsets = coded["offset_mapping"]
        inside = [start < span[1] and end > span[0] for start, end in offsets]
        prepend = next(
            (n for n, (start, end) in enumerate(offsets) if start <= hole < end), -1 - front
        )
        return PromptTokens(
            [*self.front, *coded["input_ids"]], [False] * front + inside, prepend + front, cut
        )

    def _coded(self, text: str) -> Any:
        # Not verbose: that a text is too long is this class's own business.
        return self.tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
