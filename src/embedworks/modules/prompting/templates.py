"""Prompts that make a causal language model gather a text in one state, as data.

The ideas are the papers'; the wording is ours, but for PromptEOL's published sentence, which the
others build on. Knows no tokenizer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from embedworks._core.registry import Registry, did_you_mean
from embedworks.errors import InputError

__all__ = ["PROMPT_TEMPLATES", "PromptTemplate", "as_sentence"]

_SLOTS = ("text", "prepend", "eos")
_SLOT = re.compile(r"\{(\w*)\}")


def as_sentence(text: str) -> str:
    """Return a text that can stand between double quotes: none inside, and a full stop behind.

    Example:
        >>> as_sentence('He said "no" twice')
        "He said 'no' twice."
    """
    bare = " ".join(text.split()).replace('"', "'")
    return bare if not bare or bare[-1] in ".?!'" else bare + "."


@dataclass(frozen=True)
class PromptTemplate:
    """How a text is shown to a language model, and which states make its vector.

    Args:
        prompts: One or more prompts, the vectors of which are averaged. ``{text}`` is the text;
            where it comes twice, the last copy counts. ``{prepend}`` is a place that the layers
            fill with the last state (token prepending), ``{eos}`` the end token.
        pooling: ``"last-token"`` takes the state of the last token, ``"mean"`` and
            ``"weighted-mean"`` those of the last copy of the text.
        auxiliary: A prompt about what is not wanted; the state is moved away from its (contrastive
            prompting). Empty for none.
        sentence: Whether the text is made a sentence that fits between quotes, see `as_sentence`.
        paper: Where the idea is from.

    Raises:
        InputError: When a prompt has no ``{text}``, or a slot is not known.

    Example:
        >>> PromptTemplate(("{text} In a word:",)).copies
        1
        >>> PromptTemplate(("Word:",))
        Traceback (most recent call last):
        ...
        embedworks.errors.InputError: the prompt 'Word:' has no {text}: say where the text goes.
    """

    prompts: tuple[str, ...]
    pooling: str = "last-token"
    auxiliary: str = ""
    sentence: bool = False
    paper: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.prompts, tuple) or not self.prompts:
            raise InputError(f"prompts must be a tuple of prompts, got {self.prompts!r}.")
        for prompt in (*self.prompts, *filter(None, [self.auxiliary])):
            slots = _SLOT.findall(prompt)
            for slot in slots:
                if slot not in _SLOTS:
                    raise InputError(
                        f"the prompt {prompt!r} has a slot {{{slot}}}. "
                        f"{did_you_mean(slot, list(_SLOTS))}"
                    )
            if "text" not in slots:
                raise InputError(f"the prompt {prompt!r} has no {{text}}: say where the text goes.")
            if slots.count("prepend") > 1:
                raise InputError(f"the prompt {prompt!r} has {{prepend}} more than once.")

    @property
    def copies(self) -> int:
        """Most copies of the text in one prompt."""
        return max(prompt.count("{text}") for prompt in self.prompts)

    @property
    def prepends(self) -> bool:
        """Whether a prompt has a place for token prepending."""
        return any("{prepend}" in prompt for prompt in self.prompts)

    def demonstrated(self, examples: tuple[tuple[str, str], ...]) -> PromptTemplate:
        """Return a template that shows texts with their words before the text (PromptEOL).

        Args:
            examples: (text, word) pairs.

        Raises:
            InputError: When a prompt does not end where a word would follow.

        Example:
            >>> base = PromptTemplate(('"{text}" means:"',))
            >>> base.demonstrated((("It rains.", "weather"),)).prompts
            ('"It rains." means:"weather". "{text}" means:"',)
        """
        if not examples:
            return self
        shown = []
        for prompt in self.prompts:
            if not prompt.endswith('"') or prompt.count("{text}") != 1:
                raise InputError(
                    f"examples need a prompt that ends with an open quote, got {prompt!r}."
                )
            filled = [
                prompt.replace("{prepend}", "").replace("{text}", _bare(text, self.sentence))
                + f'{_bare(word, False)}". '
                for text, word in examples
            ]
            shown.append("".join(filled) + prompt)
        return PromptTemplate(**{**asdict(self), "prompts": tuple(shown)})

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that `from_dict` reads back exactly."""
        return {**asdict(self), "prompts": list(self.prompts)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read what `to_dict` gave.

        Raises:
            InputError: When there is an unknown key.
        """
        known = list(cls.__dataclass_fields__)
        for key in values:
            if key not in known:
                raise InputError(f"a template has no {key!r}. {did_you_mean(key, known)}")
        return cls(**{**values, "prompts": tuple(values.get("prompts", ()))})


def _bare(text: str, sentence: bool) -> str:
    made = as_sentence(text) if sentence else text
    return made.replace("{", "(").replace("}", ")")


def pieces(prompt: str) -> list[tuple[str, str]]:
    """Split a prompt into ("", literal) and (slot, "") pieces.

    Example:
        >>> pieces('Say "{text}"')
        [('', 'Say "'), ('text', ''), ('', '"')]
    """
    found: list[tuple[str, str]] = []
    for place, part in enumerate(_SLOT.split(prompt)):
        if place % 2:
            found.append((part, ""))
        elif part:
            found.append(("", part))
    return found


_EOL = 'This sentence : "{text}" means in one word:"'

_META = (
    'Here is a text: "{text}" Name the topic it belongs to in one word:"',
    'Here is a text: "{text}" A fact-checker files it under this one word:"',
    'Here is a text: "{text}" Its mood in one word:"',
    'Here is a text: "{text}" The feeling of whoever wrote it in one word:"',
    'Here is a text: "{text}" Said again as briefly as can be, in one word:"',
    'Here is a text: "{text}" What it means, by a synonym of one word:"',
    'Here is a text: "{text}" The fact that matters most in one word:"',
    'Here is a text: "{text}" The thing or person it is about in one word:"',
)

#: Templates by name.
PROMPT_TEMPLATES: Registry[PromptTemplate] = Registry("prompt templates")


def _add(name: str, summary: str, *prompts: str, **options: Any) -> None:
    PROMPT_TEMPLATES.add(name, PromptTemplate(prompts, **options), summary=summary)


_add("last", "The text alone, the state of its last token.", "{text}")
_add("eos", "The text and the end token, the state of that.", "{text}{eos}")
_add("mean", "The text alone, the mean of its states.", "{text}", pooling="mean")
_add(
    "weighted-mean", "The text alone, later states count more.", "{text}", pooling="weighted-mean",
    paper="Muennighoff 2022, SGPT, arXiv 2202.08904",
)  # fmt: skip
_add(
    "prompteol", "What the sentence means in one word.", _EOL, sentence=True,
    paper="Jiang et al. 2023, PromptEOL, arXiv 2307.16645",
)  # fmt: skip
_add(
    "metaeol", "Eight questions about the text, their vectors averaged.", *_META, sentence=True,
    paper="Lei et al. 2024, MetaEOL, arXiv 2402.18458",
)  # fmt: skip
_add(
    "pretended-cot", "PromptEOL after a claim of having thought.",
    'After thinking step by step , this sentence : "{text}" means in one word:"', sentence=True,
    paper="Zhang et al. 2024, Pretended CoT, arXiv 2404.03921",
)  # fmt: skip
_add(
    "knowledge", "PromptEOL after a hint at what carries meaning.",
    "What a sentence says lies mostly in who acts and in what is done, while words that describe "
    'add detail. With this in mind , this sentence : "{text}" means in one word:"', sentence=True,
    paper="Zhang et al. 2024, Knowledge Enhancement, arXiv 2404.03921",
)  # fmt: skip
_add(
    "echo", "The text twice; the mean over the second copy, which has read the first.",
    "Say this again: {text}\nAgain: {text}", pooling="mean",
    paper="Springer et al. 2024, Echo embeddings, arXiv 2402.15449",
)  # fmt: skip
_add(
    "echo-last", "The text twice; the last state.", "Say this again: {text}\nAgain: {text}",
    paper="Springer et al. 2024, Echo embeddings, arXiv 2402.15449",
)  # fmt: skip
_add(
    "token-prepending", "PromptEOL with the last state put before the text in early layers.",
    'This sentence : "{prepend}{text}" means in one word:"', sentence=True,
    paper="Fu et al. 2024, Token Prepending, arXiv 2412.11556",
)  # fmt: skip
_add(
    "contrastive", "PromptEOL, moved away from what an empty question gives.", _EOL, sentence=True,
    auxiliary='What does not matter in this sentence : "{text}" is in one word:"',
    paper="Cheng et al. 2025, Contrastive Prompting, arXiv 2505.12831",
)  # fmt: skip
_add(
    "promptreps", "One word to find the text by; its state, or what it says next.",
    'Passage: "{text}" A searcher would find this passage by one word:"', sentence=True,
    paper="Zhuang et al. 2024, PromptReps, arXiv 2404.18424",
)  # fmt: skip
