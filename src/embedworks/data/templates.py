"""Instructions: what is put before a text to say which task its vector is for.

A template spells the prefix, a prompt binds a template to an instruction, and a table of
prompts by source travels with the recipe and the model. Every formatted text tells where its
prefix ends in characters, so that pooling can leave the prefix out by the offsets of the joint
tokenisation; tokens of the prefix alone may differ from its tokens inside the whole text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from typing import Any, Self

from embedworks._core.registry import Registry, did_you_mean
from embedworks._core.validation import check_choice
from embedworks.data._few_shot import (
    Example,
    FewShotLimits,
    Formatted,
    build_prefix,
    draw_examples,
    fit_query,
    leak_key,
)
from embedworks.data.rows import Row, RowInput
from embedworks.errors import InputError, SettingsError, UnknownNameError

__all__ = [
    "TEMPLATES",
    "Example",
    "FewShotLimits",
    "FewShotTemplate",
    "Formatted",
    "FormattedRow",
    "InstructionTemplate",
    "TaskPrompt",
    "TaskPrompts",
    "draw_examples",
]

_PLACEHOLDER = re.compile(r"\{(\w*)\}")
_SIDES = ("query", "document")


def _checked(cls: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values if every key is a field of the class."""
    if not isinstance(values, Mapping):
        raise SettingsError(f"{cls.__name__} needs a mapping, got {values!r:.60}.")
    known = [f.name for f in fields(cls)]
    for key in values:
        if key not in known:
            raise SettingsError(
                f"{cls.__name__}: {key!r} is not a setting here. {did_you_mean(key, known)}"
            )
    for f in fields(cls):
        if f.name not in values and f.default is MISSING and f.default_factory is MISSING:
            raise SettingsError(f"{cls.__name__} needs {f.name!r}, got {sorted(values)}.")
    return dict(values)


@dataclass(frozen=True)
class InstructionTemplate:
    r"""How an instruction and a text are joined, for queries and for documents.

    ``{instruction}`` and ``{text}`` are replaced as they are; braces inside a text mean
    nothing. Spaces count: a model trained on one spelling is measurably worse with another.

    Args:
        query: Template of queries; ends with ``{text}``.
        document: Template of documents; ends with ``{text}``.
        symmetric: Whether documents are formatted as queries too, as for similarity tasks.

    Raises:
        SettingsError: When a template does not end with its only ``{text}`` or has an unknown
            placeholder.

    Example:
        >>> template = InstructionTemplate()
        >>> template.format("what is tea", "Find a passage").text
        'Instruct: Find a passage\nQuery: what is tea'
        >>> template.format("Tea is a drink.", "Find a passage", side="document").text
        'Tea is a drink.'
    """

    query: str = "Instruct: {instruction}\nQuery: {text}"
    document: str = "{text}"
    symmetric: bool = False

    def __post_init__(self) -> None:
        for name, template in (("query", self.query), ("document", self.document)):
            found = _PLACEHOLDER.findall(template)
            for placeholder in found:
                if placeholder not in ("instruction", "text"):
                    raise SettingsError(
                        f"{name} template {template!r}: {{{placeholder}}} means nothing here. "
                        "Known: {instruction} and {text}."
                    )
            if found.count("text") != 1 or not template.endswith("{text}"):
                raise SettingsError(
                    f"{name} template {template!r} must end with its only {{text}}: only what "
                    "comes before a text can be left out of its pooling."
                )

    def prefix(self, instruction: str | None, side: str = "query") -> str:
        """Return what is put before a text.

        Raises:
            InputError: When the template needs an instruction and there is none.
        """
        check_choice(side, _SIDES, name="side")
        template = self.query if side == "query" or self.symmetric else self.document
        prefix = template[: -len("{text}")]
        if "{instruction}" not in prefix:
            return prefix
        if instruction is None or not instruction.strip():
            raise InputError(
                f"the template {template!r} needs an instruction, got {instruction!r}: say in one "
                "sentence what the task is."
            )
        return prefix.replace("{instruction}", instruction)

    def format(self, text: str, instruction: str | None, side: str = "query") -> Formatted:
        """Return the text behind its prefix, and where the prefix ends."""
        prefix = self.prefix(instruction, side)
        return Formatted(prefix + text, (0, len(prefix)))

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values that `from_dict` reads back exactly."""
        return {"query": self.query, "document": self.document, "symmetric": self.symmetric}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> InstructionTemplate:
        """Read the output of `to_dict`.

        Raises:
            SettingsError: When a key is unknown or a template is not usable.
        """
        return cls(**_checked(cls, values))


#: Published spellings by name.
TEMPLATES: Registry[InstructionTemplate] = Registry("templates")

TEMPLATES.add(
    "plain", InstructionTemplate(query="{text}"), summary="Texts as they are, no instruction."
)
TEMPLATES.add(
    "nv-embed", InstructionTemplate(), summary="Instruct: ...\\nQuery: ... on queries only."
)
TEMPLATES.add("nemotron", InstructionTemplate(), summary="As nv-embed: Instruct: ...\\nQuery: ...")
TEMPLATES.add("lg-anna", InstructionTemplate(), summary="As nv-embed; made for few-shot queries.")
TEMPLATES.add(
    "kalm",
    InstructionTemplate(query="Instruct: {instruction} \n Query: {text}"),
    summary="Instruct: ... \\n Query: ... with a space on both sides of the line break.",
)
TEMPLATES.add(
    "qzhou",
    InstructionTemplate(query="Instruct: {instruction}\nQuery:{text}"),
    summary="Instruct: ...\\nQuery:... without a space after the colon.",
)

TEMPLATES.add(
    "prepend",
    InstructionTemplate(query="{instruction} {text}"),
    summary="The instruction, a space, the query.",
)
TEMPLATES.add(
    "bge",
    InstructionTemplate(query="{instruction}{text}"),
    summary="The instruction right before the query, without a space of its own.",
)
TEMPLATES.add("e5-instruct", InstructionTemplate(), summary="As nv-embed; e5-mistral's too.")


@dataclass(frozen=True)
class TaskPrompt:
    r"""The template and instruction of one task.

    Args:
        instruction: What the task is, in one sentence; None where the template needs none.
        template: How it is spelled; a name in ``TEMPLATES`` is looked up.
        symmetric: Overrides the template's own choice; None keeps it.

    Example:
        >>> prompt = TaskPrompt("Find a duplicate question", "qzhou", symmetric=True)
        >>> prompt.format("how?", side="document").text
        'Instruct: Find a duplicate question\nQuery:how?'
    """

    instruction: str | None = None
    template: InstructionTemplate | str = field(default_factory=InstructionTemplate)
    symmetric: bool | None = None

    def __post_init__(self) -> None:
        template = self.spelling
        if self.symmetric is not None:
            template = replace(template, symmetric=self.symmetric)
        object.__setattr__(self, "template", template)
        object.__setattr__(self, "symmetric", None)
        template.prefix(self.instruction)

    @property
    def spelling(self) -> InstructionTemplate:
        """The template itself, where it was given by name too."""
        return TEMPLATES[self.template] if isinstance(self.template, str) else self.template

    def format(self, text: str, side: str = "query") -> Formatted:
        """Return the text behind its prefix, and where the prefix ends."""
        return self.spelling.format(text, self.instruction, side)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values that `from_dict` reads back exactly; the template is spelled out."""
        return {"instruction": self.instruction, "template": self.spelling.to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read the output of `to_dict`.

        Raises:
            SettingsError: When a key is unknown or a template is not usable.
        """
        checked = _checked(cls, values)
        if isinstance(checked.get("template"), Mapping):
            checked["template"] = InstructionTemplate.from_dict(checked["template"])
        return cls(**checked)


@dataclass(frozen=True)
class FewShotTemplate(TaskPrompt):
    r"""A task with examples that are put before every query.

    The query becomes ``example 1 + ... + example k + instruction + query``; an example is a
    formatted query, the response marker and the response. Documents stay as they are, so a
    corpus needs no new vectors. The prefix is the same for every query, which lets a causal
    model compute it once.

    Tokens are counted by a callable of the caller. Examples are shortened to their own limits
    and added while ``min_query_tokens`` remain; the query is shortened to what is left.

    Args:
        examples: Queries of the task with what they should find, best first.
        k: How many of them are used; None uses all.
        response_marker: Between an example's query and its response.
        separator: After every example.
        limits: Budgets in tokens.

    Raises:
        InputError: When an example is empty or ``k`` exceeds their number.

    Paper: Choi et al. 2025, arXiv 2506.07438. The marker and the limits are not published there;
    the limits follow the open in-context code of the field.

    Example:
        >>> prompt = FewShotTemplate("Find the capital", examples=(Example("Italy", "Rome"),))
        >>> prompt.format_query("Peru", count_tokens=lambda text: len(text.split())).text
        'Instruct: Find the capital\nQuery: Italy\nResponse: Rome\n\nInstruct: Find the
        capital\nQuery: Peru'
    """

    examples: tuple[Example, ...] = ()
    k: int | None = None
    response_marker: str = "\nResponse: "
    separator: str = "\n\n"
    limits: FewShotLimits = field(default_factory=FewShotLimits)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "examples", tuple(self.examples))
        if self.k is not None and not 0 <= self.k <= len(self.examples):
            raise InputError(
                f"k must be between 0 and {len(self.examples)} examples, got {self.k}."
            )

    def format_query(
        self,
        text: str,
        *,
        count_tokens: Callable[[str], int],
        truncate: Callable[[str, int], str] | None = None,
        examples: Sequence[Example] | None = None,
    ) -> Formatted:
        """Return a query behind the examples and the instruction.

        Args:
            text: The query.
            count_tokens: Number of tokens of a text, special tokens left out.
            truncate: Returns a text's beginning of at most that many tokens; None cuts nothing
                and raises where a cut would be needed.
            examples: Examples in place of the prompt's own, as drawn by `draw_examples`.

        Raises:
            InputError: When an example's query is the query itself: it would give it away.
            BudgetError: When the instruction, or the first example, leaves too few tokens for
                the query, or something is too long and ``truncate`` is None; has the counts.
        """
        chosen = self.examples[: self.k] if examples is None else tuple(examples)
        key = leak_key(text)
        for place, example in enumerate(chosen):
            if leak_key(example.query) == key:
                raise InputError(
                    f"example {place} is the query itself ({text!r:.60}): its response would give "
                    "the answer away. Choose another example for this query."
                )
        zero_shot = self.spelling.prefix(self.instruction)
        shots = build_prefix(
            chosen, zero_shot, self.response_marker, self.separator, self.limits,
            count_tokens, truncate,
        )  # fmt: skip
        return fit_query(text, shots, self.limits, count_tokens, truncate)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values that `from_dict` reads back exactly."""
        return {
            **super().to_dict(),
            "examples": [e.to_dict() for e in self.examples],
            "k": self.k,
            "response_marker": self.response_marker,
            "separator": self.separator,
            "limits": self.limits.to_dict(),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read the output of `to_dict`.

        Raises:
            SettingsError: When a key is unknown or a template is not usable.
        """
        checked = _checked(cls, values)
        checked["examples"] = tuple(
            Example(**_checked(Example, e)) for e in checked.get("examples", ())
        )
        if "limits" in checked:
            checked["limits"] = FewShotLimits(**_checked(FewShotLimits, checked["limits"]))
        return super().from_dict(checked)


@dataclass(frozen=True)
class FormattedRow:
    """A row with its instructions, and where the prefix of each text ends.

    Attributes:
        row: The formatted row.
        anchor_prefix: Characters ``(start, stop)`` of the anchor that are prefix.
        positive_prefix: The same of the positive.
        negative_prefixes: The same of every negative.
        truncated: Whether the query had to be shortened.
        examples_left_out: Few-shot examples for which there was no room.
    """

    row: Row
    anchor_prefix: tuple[int, int]
    positive_prefix: tuple[int, int]
    negative_prefixes: tuple[tuple[int, int], ...]
    truncated: bool = False
    examples_left_out: int = 0


@dataclass(frozen=True)
class TaskPrompts:
    r"""The prompt of every source, saved with the recipe and with the model.

    Args:
        prompts: Source -> its prompt.
        default: Prompt of sources that are not named; None makes such a source an error.

    Example:
        >>> prompts = TaskPrompts({"qa": TaskPrompt("Find the answer")})
        >>> prompts.apply(Row("why?", "because", source="qa")).anchor
        'Instruct: Find the answer\nQuery: why?'
        >>> TaskPrompts.from_dict(prompts.to_dict()) == prompts
        True
    """

    prompts: Mapping[str, TaskPrompt]
    default: TaskPrompt | None = None

    def __getitem__(self, source: str) -> TaskPrompt:
        found = self.prompts.get(source, self.default)
        if found is None:
            raise UnknownNameError(
                f"source {source!r} has no prompt. {did_you_mean(source, list(self.prompts))}"
            )
        return found

    def apply(
        self,
        row: Row,
        *,
        count_tokens: Callable[[str], int] | None = None,
        truncate: Callable[[str, int], str] | None = None,
        examples: Sequence[Example] | None = None,
    ) -> Row:
        """Return the row with its instructions put in; see `apply_with_spans`."""
        return self.apply_with_spans(
            row, count_tokens=count_tokens, truncate=truncate, examples=examples
        ).row

    def apply_with_spans(
        self,
        row: Row,
        *,
        count_tokens: Callable[[str], int] | None = None,
        truncate: Callable[[str, int], str] | None = None,
        examples: Sequence[Example] | None = None,
    ) -> FormattedRow:
        """Return the row with its instructions put in, and where each prefix ends.

        In a dict input the text under ``"text"`` is formatted.

        Args:
            row: The row; its source chooses the prompt.
            count_tokens: Needed by few-shot prompts.
            truncate: Used by few-shot prompts.
            examples: Examples in place of a few-shot prompt's own.

        Raises:
            UnknownNameError: When the source has no prompt.
            InputError: When a few-shot prompt gets no ``count_tokens``, or another prompt gets
                examples.
        """
        prompt = self[row.source]
        if isinstance(prompt, FewShotTemplate):
            if count_tokens is None:
                raise InputError(
                    f"the few-shot prompt of source {row.source!r} needs count_tokens to keep its "
                    "budget."
                )
            query = prompt.format_query(
                _text_of(row.anchor),
                count_tokens=count_tokens,
                truncate=truncate,
                examples=examples,
            )
        elif examples:
            raise InputError(f"the prompt of source {row.source!r} takes no examples.")
        else:
            query = prompt.format(_text_of(row.anchor))
        documents = [prompt.format(_text_of(d), "document") for d in (row.positive, *row.negatives)]
        positive, *negatives = (
            _with_text(value, formatted.text)
            for value, formatted in zip((row.positive, *row.negatives), documents, strict=True)
        )
        return FormattedRow(
            row=replace(
                row,
                anchor=_with_text(row.anchor, query.text),
                positive=positive,
                negatives=tuple(negatives),
            ),
            anchor_prefix=query.prefix,
            positive_prefix=documents[0].prefix,
            negative_prefixes=tuple(d.prefix for d in documents[1:]),
            truncated=query.truncated,
            examples_left_out=query.examples_left_out,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values that `from_dict` reads back exactly."""
        return {
            "prompts": {source: prompt.to_dict() for source, prompt in self.prompts.items()},
            "default": None if self.default is None else self.default.to_dict(),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TaskPrompts:
        """Read the output of `to_dict`; a template may be given by name.

        Raises:
            SettingsError: When a key is unknown or a template is not usable.
        """
        values = _checked(cls, values)
        default = values.get("default")
        return cls(
            {source: _read_prompt(prompt) for source, prompt in values["prompts"].items()},
            None if default is None else _read_prompt(default),
        )


def _read_prompt(values: Mapping[str, Any]) -> TaskPrompt:
    few_shot = isinstance(values, Mapping) and "examples" in values
    return (FewShotTemplate if few_shot else TaskPrompt).from_dict(values)


def _text_of(value: RowInput) -> str:
    return value if isinstance(value, str) else str(value.get("text") or "")


def _with_text(value: RowInput, text: str) -> RowInput:
    if isinstance(value, str):
        return text
    return {**value, "text": text} if text or "text" in value else value
