"""Where a transformer keeps its layers, and what a model would say after fewer of them.

Layers are found by the names transformers' classes use, and the finding is proven on the model
itself: the last layer's output, through the final norm, must be the model's output. Knows no
losses.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from embedworks.errors import InputError, ShapeError

__all__ = ["LayerStack", "check_layers", "layer_stack", "pooled_layers"]

_OWNERS = ("encoder", "transformer", "decoder")
_LISTS = ("layer", "layers", "h", "block", "blocks")
_NORMS = ("norm", "final_norm", "ln_f", "final_layer_norm", "final_layernorm")


@dataclass(frozen=True)
class LayerStack:
    """A transformer's layers.

    Attributes:
        owner: The module that holds them.
        name: Under which attribute.
        final_norm: What is applied after the last layer, or None.
    """

    owner: nn.Module
    name: str
    final_norm: nn.Module | None

    @property
    def layers(self) -> nn.ModuleList:
        """The layers, first to last."""
        found: nn.ModuleList = getattr(self.owner, self.name)
        return found

    def __len__(self) -> int:
        return len(self.layers)


def layer_stack(body: nn.Module) -> LayerStack:
    """Find the layers of a transformers model.

    Args:
        body: Such as ``model[0].auto_model`` of a sentence-transformers model.

    Raises:
        InputError: When there is no list of layers under a name that is known.

    Example:
        >>> from transformers import LlamaConfig, LlamaModel
        >>> config = LlamaConfig(vocab_size=9, hidden_size=8, intermediate_size=8,
        ...                      num_hidden_layers=3, num_attention_heads=2)
        >>> len(layer_stack(LlamaModel(config)))
        3
    """
    inside = [m for name in _OWNERS if isinstance(m := getattr(body, name, None), nn.Module)]
    for owner in (*inside, body):
        for name in _LISTS:
            if isinstance(getattr(owner, name, None), nn.ModuleList):
                return LayerStack(owner, name, _final_norm(owner))
    raise InputError(
        f"{type(body).__name__} has no list of layers that could be cut: they are looked for as "
        f"{', '.join(_LISTS)} in the model or its {', '.join(_OWNERS)}."
    )


def _final_norm(owner: nn.Module) -> nn.Module | None:
    return next(
        (m for name in _NORMS if isinstance(m := getattr(owner, name, None), nn.Module)), None
    )


def check_layers(model: Any) -> LayerStack:
    """Find the layers of a sentence-transformers model, and prove it on a text.

    Raises:
        InputError: When the model is not a transformer, when its layers are not found, or when
            its output is not its last layer's through the final norm; also for modules that mix
            layers themselves, which leave nothing to cut.
    """
    body = getattr(_first(model), "auto_model", None)
    if not isinstance(body, nn.Module):
        raise InputError(
            f"a {type(model).__name__} without a transformer has no layers: expected a "
            "SentenceTransformer whose first module is a Transformer."
        )
    for module in list(model)[1:]:
        if (
            getattr(module, "mixes_layers", False)
            or type(module).__name__ == "WeightedLayerPooling"
        ):
            raise InputError(
                f"{type(module).__name__} reads all layers: a model with it cannot be cut to some."
            )
    stack = layer_stack(body)
    seen: list[Tensor] = []
    handle = stack.layers[-1].register_forward_hook(
        lambda _module, _inputs, output: seen.append(
            output[0] if isinstance(output, tuple) else output
        )
    )
    was_training = model.training
    model.eval()
    try:
        features = model.preprocess(["How many layers has it?"])
        features = {
            name: value.to(model.device) if isinstance(value, Tensor) else value
            for name, value in features.items()
        }
        with torch.no_grad():
            found = _first(model)(features)["token_embeddings"]
            last = seen[-1] if stack.final_norm is None else stack.final_norm(seen[-1])
    finally:
        handle.remove()
        model.train(was_training)
    if last.shape != found.shape or not torch.allclose(last, found, atol=1e-4, rtol=1e-3):
        raise InputError(
            f"the layers of {type(body).__name__} are not understood: its output is not that of "
            "its last layer"
            + ("." if stack.final_norm is None else f" through {type(stack.final_norm).__name__}.")
        )
    return stack


def pooled_layers(
    model: Any, features: dict[str, Any], layers: Sequence[int], *, normalize: bool = False
) -> list[Tensor]:
    """Return what the model would give after fewer layers, from one pass.

    Final norm, pooling and every later module are applied to each layer's states, so that layer n
    equals a model cut to n layers.

    Args:
        model: A ``SentenceTransformer``, or one wrapped for several devices.
        features: As its ``preprocess`` gives them; not changed.
        layers: Layer numbers, 1 for the first.
        normalize: Whether a closing ``Normalize`` is applied too.

    Returns:
        Per layer, float (B, D).

    Raises:
        InputError: When a layer does not exist; says how many there are.
    """
    inner = getattr(model, "module", model)
    body = _first(inner).auto_model
    stack = layer_stack(body)
    bad = [layer for layer in layers if not 1 <= layer <= len(stack)]
    if bad or not layers:
        raise InputError(f"the model has layers 1 to {len(stack)}, asked for {list(layers)}.")
    with _all_states(body.config):
        output = model(dict(features))
    states = output["all_layer_embeddings"]
    if len(states) != len(stack) + 1:
        raise ShapeError(
            f"{type(body).__name__} gave {len(states)} states for {len(stack)} layers: expected "
            "the embeddings and one state per layer."
        )
    modules = list(inner)[1:]
    if modules and not normalize and type(modules[-1]).__name__ == "Normalize":
        modules.pop()
    found = []
    for layer in layers:
        tokens = states[layer]
        # The last state has been through the norm already.
        if layer < len(stack) and stack.final_norm is not None:
            tokens = stack.final_norm(tokens)
        view = {**features, "token_embeddings": tokens}
        for name in ("attention_mask", "prompt_length"):
            if name in output:
                view[name] = output[name]
        for module in modules:
            view = module(view)
        found.append(view["sentence_embedding"])
    return found


@contextmanager
def _all_states(config: Any) -> Iterator[None]:
    before = config.output_hidden_states
    config.output_hidden_states = True
    try:
        yield
    finally:
        config.output_hidden_states = before


def _first(model: Any) -> Any:
    try:
        return model[0]
    except (TypeError, KeyError, IndexError):
        return None
