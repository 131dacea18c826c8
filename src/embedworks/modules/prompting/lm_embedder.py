"""A causal language model as an embedder without training: the sentence-transformers module."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from sentence_transformers.base.modules import Transformer
from torch import Tensor

from embedworks._core.validation import check_in_range
from embedworks.errors import DataWarning, EmptyInputError, InputError
from embedworks.modules.bidirectional import attends_both_ways
from embedworks.modules.layers import layer_stack
from embedworks.modules.poolings import POOLINGS
from embedworks.modules.prompting.assembly import PromptTokenizer, PromptTokens
from embedworks.modules.prompting.steering import (
    changed_inputs,
    last_states,
    prepend_last,
    steer_last,
)
from embedworks.modules.prompting.templates import (
    PROMPT_TEMPLATES,
    PromptTemplate,
    as_sentence,
)

__all__ = ["LMEmbedder"]

_OWN = (
    "template", "pooling", "layer", "prepend_layers", "steer_layer", "steer_strength",
)  # fmt: skip


class LMEmbedder(Transformer):
    """Vectors from a causal language model by a prompt, without training.

    Texts are put into the prompts of a template, the model reads them, and the states that the
    template names are pooled; vectors of several prompts are averaged. Padding may be on either
    side, and positions are counted without it. Trains like any other first module.

    Args:
        model_name_or_path: A causal language model of transformers, with its output layer.
        template: Name in `PROMPT_TEMPLATES`, a `PromptTemplate`, or its ``to_dict()``.
        pooling: Name in `POOLINGS` of one without weights; None takes the template's.
        layer: Which states: 0 the token vectors, 1 to L the layers, and negative ones from the
            end. The last are those behind the final norm.
        prepend_layers: (first, end): layers before which the last state is written to the
            template's ``{prepend}``. None takes 1 to a quarter of the layers.
        steer_layer: Layer before which a template with an auxiliary prompt steers; None takes half
            of the layers.
        steer_strength: How far: ``a + strength (a - b)``; 0 is the template without it.
        options: What sentence-transformers' ``Transformer`` takes, such as ``max_seq_length``.

    Raises:
        InputError: When the model is no causal language model, a layer does not exist, or the
            template does not fit.
        UnknownNameError: When there is no such template or pooling.

    Example:
        >>> from embedworks.models import new_language_model, prompted_model, train_tokenizer
        >>> tokenizer = train_tokenizer(["a file means data", "a folder"], vocab_size=280)
        >>> lm = new_language_model("gpt2", tokenizer, dim=16, layers=2, heads=2, max_tokens=96)
        >>> prompted_model(lm, tokenizer, template="prompteol").encode(["a file"]).shape
        (1, 16)
    """

    config_keys: ClassVar[list[str]] = [*Transformer.config_keys, *_OWN]

    def __init__(
        self,
        model_name_or_path: str,
        *,
        template: str | PromptTemplate | Mapping[str, Any] = "prompteol",
        pooling: str | None = None,
        layer: int = -1,
        prepend_layers: Sequence[int] | None = None,
        steer_layer: int | None = None,
        steer_strength: float = 0.5,
        **options: Any,
    ) -> None:
        options.setdefault("transformer_task", "text-generation")
        try:
            super().__init__(model_name_or_path, **options)
        except ValueError as error:
            if "Unrecognized configuration class" not in str(error):
                raise
            raise InputError(
                f"{model_name_or_path} is no causal language model: prompts need one that reads "
                "from left to right and says what comes next."
            ) from error
        self._check_causal(model_name_or_path)
        self._layers = layer_stack(self.body).layers
        if isinstance(template, str):
            template = PROMPT_TEMPLATES[template]
        elif isinstance(template, Mapping):
            template = PromptTemplate.from_dict(template)
        self.template = template
        self.pooling = template.pooling if pooling is None else pooling
        self._pool = POOLINGS[self.pooling](self.get_embedding_dimension())
        if any(True for _ in self._pool.parameters()):
            raise InputError(
                f"the pooling {self.pooling!r} has weights to train: take one without."
            )
        count = len(self._layers)
        check_in_range(layer, name="layer", low=-count - 1, high=count)
        self.layer = layer
        self._set_steering(prepend_layers, steer_layer, steer_strength)
        #: Texts so far of which the model did not read the end.
        self.truncated_texts = 0
        self._rooms: dict[tuple[str, int], PromptTokenizer] = {}
        self._prompts_fit()

    def _set_steering(
        self, prepend_layers: Sequence[int] | None, layer: int | None, strength: float
    ) -> None:
        count = len(self._layers)
        if self.template.prepends:
            window = tuple(prepend_layers or (min(1, count - 1), max(2, count // 4 + 1)))
            if len(window) != 2 or not 0 <= window[0] < window[1] or window[0] >= count:
                raise InputError(
                    f"prepend_layers are (first, end) with 0 <= first < end and first below the "
                    f"{count} layers, got {window}."
                )
            prepend_layers = (window[0], min(window[1], count))
        elif prepend_layers is not None:
            raise InputError("prepend_layers goes with a template that has {prepend}.")
        if self.template.auxiliary:
            layer = count // 2 if layer is None else layer
            check_in_range(layer, name="steer_layer", low=0, high=count - 1)
        elif layer is not None:
            raise InputError("steer_layer goes with a template that has an auxiliary prompt.")
        check_in_range(strength, name="steer_strength", low=0.0)
        self.prepend_layers = None if prepend_layers is None else list(prepend_layers)
        self.steer_layer = layer
        self.steer_strength = strength

    def _check_causal(self, name: str) -> None:
        switched = getattr(self.config, "is_causal", None) is False
        if not switched and attends_both_ways(self.body):
            raise InputError(
                f"{name} ({self.config.model_type}) reads both ways: it is an encoder. Take a "
                "causal language model; one with its mask taken off on purpose says so in its "
                "configuration (is_causal: false)."
            )

    def _prompts_fit(self) -> None:
        """Tokenise every prompt once, so that what does not fit is said at once."""
        for prompt in (*self.template.prompts, *filter(None, [self.template.auxiliary])):
            self._tokenizer_of(prompt)

    @property
    def body(self) -> Any:
        """The transformers model without its output layer."""
        return self.model.base_model

    @property
    def head(self) -> Any:
        """The output layer, from states to scores of tokens.

        Raises:
            InputError: When the model's files have none, so that it would be random.
        """
        named = [str(n) for n in getattr(self.config, "architectures", None) or ()]
        tied = bool(getattr(self.config, "tie_word_embeddings", False))
        if not tied and not any("CausalLM" in n or "LMHead" in n for n in named):
            raise InputError(
                f"the model's files are of {named}: they have no output layer, and this needs one. "
                "Save the language model (...ForCausalLM), not its body."
            )
        return self.model.get_output_embeddings()

    @property
    def room(self) -> int:
        """Most tokens of a prompt with its text."""
        limit = self.max_seq_length
        return 512 if limit is None else min(limit, 1_000_000)

    def _tokenizer_of(self, prompt: str) -> PromptTokenizer:
        key = (prompt, self.room)
        if key not in self._rooms:
            self._rooms[key] = PromptTokenizer(self.tokenizer, prompt, self.room)
        return self._rooms[key]

    def preprocess(self, inputs: Any, prompt: str | None = None, **_: Any) -> dict[str, Any]:
        """Return features: tokens of every text in every prompt.

        Tensors are (B, T), or (B, P, T) for P > 1 prompts; ``pooling_mask`` is 1 for tokens of
        the vector, ``prepend_mask`` at the place to be overwritten.

        Args:
            inputs: Texts.
            prompt: Goes in front of each text, inside the template.

        Raises:
            InputError: When an input is not a text, or there is no token to pad with.
            EmptyInputError: When a text is empty and the prompt has no token either.
        """
        items = [f"{prompt or ''}{text}" if isinstance(text, str) else text for text in inputs]
        for place, text in enumerate(items):
            if not isinstance(text, str):
                raise InputError(
                    f"prompts take texts; input {place} is a {type(text).__name__}: {text!r:.60}."
                )
        if self.template.sentence:
            items = [as_sentence(text) for text in items]
        by_prompt = [self._tokenizer_of(p)(items) for p in self.template.prompts]
        self._count_cut(by_prompt, len(items))
        features = self._padded([row for rows in zip(*by_prompt, strict=True) for row in rows])
        if len(by_prompt) > 1:
            shape = (len(items), len(by_prompt), -1)
            features = {name: value.reshape(shape) for name, value in features.items()}
        if self.template.auxiliary and self.steer_strength:
            aside = self._padded(self._tokenizer_of(self.template.auxiliary)(items))
            features |= {"steer_ids": aside["input_ids"], "steer_mask": aside["attention_mask"]}
        return {**features, "modality": "text"}

    def _count_cut(self, by_prompt: list[list[PromptTokens]], count: int) -> None:
        cut = sum(any(row.cut for row in rows) for rows in zip(*by_prompt, strict=True))
        if cut and not self.truncated_texts:
            warnings.warn(
                f"{cut} of {count} texts do not fit into the prompt: of its {self.room} tokens "
                f"{min(self._tokenizer_of(p).text_room for p in self.template.prompts)} are left "
                "for a text, and the end of longer ones is not read. Further ones are counted in "
                "truncated_texts, without a word.",
                DataWarning,
                stacklevel=4,
            )
        self.truncated_texts += cut

    def _padded(self, rows: Sequence[PromptTokens]) -> dict[str, Tensor]:
        pad = self.tokenizer.pad_token_id
        pad = self.tokenizer.eos_token_id if pad is None else pad
        if pad is None:
            raise InputError("the tokenizer has neither a pad nor an end token: set pad_token.")
        width = max((len(row.ids) for row in rows), default=0)
        ids = torch.full((len(rows), width), pad)
        real, pooled, prepend = (torch.zeros_like(ids) for _ in range(3))
        whole = self.pooling == "last-token"
        for place, row in enumerate(rows):
            if not row.ids:
                raise EmptyInputError(
                    f"text {place} is empty and its prompt has no tokens: leave it out."
                )
            start = width - len(row.ids) if self.tokenizer.padding_side == "left" else 0
            at = slice(start, start + len(row.ids))
            ids[place, at] = torch.tensor(row.ids)
            real[place, at] = 1
            pooled[place, at] = 1 if whole else torch.tensor(row.text).long()
            if row.prepend >= 0:
                prepend[place, start + row.prepend] = 1
        found = {"input_ids": ids, "attention_mask": real, "pooling_mask": pooled}
        return {**found, "prepend_mask": prepend} if self.template.prepends else found

    def forward(self, features: dict[str, Any], **_: Any) -> dict[str, Any]:
        """Write ``sentence_embedding`` (B, D), for one prompt ``token_embeddings`` as well."""
        shape = features["input_ids"].shape
        flat = {
            name: features[name].reshape(-1, shape[-1])
            for name in ("input_ids", "attention_mask", "pooling_mask", "prepend_mask")
            if name in features
        }
        real, pooled = flat["attention_mask"].bool(), flat["pooling_mask"].bool()
        away = None
        if "steer_ids" in features:
            away = self._before(features["steer_ids"], features["steer_mask"].bool())
            away = away.repeat_interleave(len(real) // len(away), dim=0)
        changes = self._changes(real, flat.get("prepend_mask"), away)
        with changed_inputs(self._layers, changes):
            states = self._read(flat["input_ids"], real, self.layer)
        made = {"token_embeddings": states, "attention_mask": real, "pooling_mask": pooled}
        vectors: Tensor = self._pool(made)["sentence_embedding"]
        if len(shape) == 3:
            vectors = vectors.reshape(shape[0], shape[1], -1).mean(dim=1)
        else:
            features["token_embeddings"] = states
        features["sentence_embedding"] = vectors
        return features

    def _changes(self, real: Tensor, places: Tensor | None, away: Tensor | None) -> dict[int, Any]:
        """Return what is done before which layer."""
        changes: dict[int, Any] = {}
        if places is not None and self.prepend_layers is not None:
            there = places.bool()
            for layer in range(*self.prepend_layers):
                changes[layer] = lambda states: prepend_last(states, real, there)
        if away is not None and self.steer_layer is not None:
            earlier, gone = changes.get(self.steer_layer), away

            def steered(states: Tensor) -> Tensor:
                before = states if earlier is None else earlier(states)
                return steer_last(before, real, gone, self.steer_strength)

            changes[self.steer_layer] = steered
        return changes

    def _before(self, ids: Tensor, real: Tensor) -> Tensor:
        """Return the last states that the steered layer would read, (B, D)."""
        seen: list[Tensor] = []

        def look(states: Tensor) -> Tensor:
            seen.append(last_states(states, real))
            return states

        assert self.steer_layer is not None
        with changed_inputs(self._layers, {self.steer_layer: look}):
            self._read(ids, real, -1)
        return seen[0]

    def _read(self, ids: Tensor, real: Tensor, layer: int) -> Tensor:
        """Return the states (B, T, D) of a layer; positions are counted without padding."""
        positions = (real.cumsum(dim=1) - 1).clamp(min=0)
        body, options = self.body, {}
        if "position_ids" in inspect.signature(body.forward).parameters:
            options["position_ids"] = positions
        count = len(self._layers)
        last = layer in (-1, count)
        found = body(
            input_ids=ids,
            attention_mask=real.long(),
            output_hidden_states=not last,
            use_cache=False,
            return_dict=True,
            **options,
        )
        states: Tensor = found.last_hidden_state if last else found.hidden_states[layer]
        return states

    def get_config_dict(self) -> dict[str, Any]:
        """Return what a folder keeps; the template as a whole, so that names may change."""
        found: dict[str, Any] = super().get_config_dict()
        return {**found, "template": self.template.to_dict()}
