"""The settings of the model that a plan trains: its base, adapters, lengths and prompts."""

from __future__ import annotations

from typing import Annotated, Self

import pydantic
from pydantic import Field

from embedworks._core.settings import Settings
from embedworks.data.templates import (
    TEMPLATES,
    Example,
    FewShotLimits,
    FewShotTemplate,
    InstructionTemplate,
    TaskPrompt,
    TaskPrompts,
)

__all__ = ["LoraSettings", "ModelSettings", "PromptSettings"]

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


class LoraSettings(Settings):
    """Low-rank adapters in place of training all weights; merged into the model after the stage."""

    rank: Count = 16
    alpha: Positive = 32.0
    dropout: Share = 0.0
    targets: str | tuple[str, ...] = "all-linear"
    """Names of linear layers, or ``all-linear``."""


class PromptSettings(Settings):
    """The instruction of a source. See `embedworks.data.TaskPrompts`."""

    instruction: str | None = None
    template: str = "nv-embed"
    """Name in `TEMPLATES`."""
    symmetric: bool = False
    """Whether documents carry the instruction too, as for similarity."""
    examples: tuple[tuple[str, str], ...] = ()
    """(query, response) pairs put before every query."""
    drawn_examples: Annotated[int, Field(ge=0)] = 0
    """Most examples drawn for each query from the rest of its batch, in place of ``examples``."""

    @pydantic.model_validator(mode="after")
    def _usable(self) -> Self:
        if self.examples and self.drawn_examples:
            raise ValueError("give examples or drawn_examples, not both")
        self.build()
        return self

    def build(self, room: int | None = None) -> TaskPrompt:
        """Return the prompt.

        Args:
            room: Tokens that a query with its examples may have; a quarter of it stays for the
                query, and examples are shortened to fit.
        """
        template = TEMPLATES[self.template]
        if self.symmetric:
            template = InstructionTemplate.from_dict({**template.to_dict(), "symmetric": True})
        if not self.examples and not self.drawn_examples:
            return TaskPrompt(self.instruction, template)
        examples = tuple(Example(query, response) for query, response in self.examples)
        limits = FewShotLimits()
        if room is not None:
            limits = FewShotLimits(
                query=max(1, min(limits.query, room // 8)),
                response=max(1, min(limits.response, room // 4)),
                total=max(2, room),
                min_query_tokens=max(1, min(limits.min_query_tokens, room // 4)),
            )
        return FewShotTemplate(self.instruction, template, examples=examples, limits=limits)


class ModelSettings(Settings):
    """The model that is trained."""

    base: str = "minilm"
    """``minilm``, ``static``, a folder, or a hub name."""
    max_tokens: Count | None = None
    """Longest text while training; None takes the model's own limit, which saving restores."""
    max_query_tokens: Count | None = None
    """Longest anchor while training, where it is shorter than ``max_tokens``."""
    lora: LoraSettings | None = None
    prompts: dict[str, PromptSettings] = Field(default_factory=dict)
    """Source -> its instruction. ``"*"`` stands for the rest; without it they have none."""

    def task_prompts(self, *, special_tokens: int = 2) -> TaskPrompts | None:
        """Return the prompts by source, or None when there are none.

        Args:
            special_tokens: How many the tokenizer adds to a text.
        """
        if not self.prompts:
            return None
        limit = self.max_query_tokens or self.max_tokens
        room = None if limit is None else limit - special_tokens
        named = {n: prompt.build(room) for n, prompt in self.prompts.items() if n != "*"}
        rest = self.prompts.get("*", PromptSettings(template="plain"))
        return TaskPrompts(named, rest.build(room))
