"""Let a decoder look both ways, by transformers' own switch, and prove that it does.

The switch is ``config.is_causal = False``, which transformers 5 reads in every forward pass and
saves with the model. An architecture, or another version, that does not read it would stay causal
without a word: so a probe asks the model itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from embedworks.errors import InputError

__all__ = [
    "BIDIRECTIONAL_FAMILIES",
    "attends_both_ways",
    "causal_attention",
    "check_bidirectional",
    "check_generates",
    "make_bidirectional",
]

#: Families of decoders that are tested to obey the switch (transformers' ``model_type``).
BIDIRECTIONAL_FAMILIES = (
    "gemma", "gemma2", "gemma3_text", "gpt2", "gpt_neox", "llama", "mistral", "olmo2", "opt",
    "phi3", "qwen2", "qwen3", "smollm3", "starcoder2",
)  # fmt: skip


def make_bidirectional(model: Any) -> Any:
    """Take the causal mask off a decoder, and prove it; the model is changed and returned.

    Works with eager attention and SDPA, padding on either side; saved models stay bidirectional,
    in plain sentence-transformers and transformers too. Encoders are left as they are.

    Args:
        model: A ``SentenceTransformer`` or a transformers model.

    Raises:
        InputError: When the architecture does not obey; the model is then as it was.

    Example:
        >>> from transformers import LlamaConfig, LlamaModel
        >>> model = LlamaModel(LlamaConfig(vocab_size=99, hidden_size=8, intermediate_size=8,
        ...                                num_hidden_layers=1, num_attention_heads=2))
        >>> attends_both_ways(model), attends_both_ways(make_bidirectional(model))
        (False, True)
    """
    body = _body(model)
    config = body.config
    before = getattr(config, "is_causal", None)
    config.is_causal = False
    try:
        check_bidirectional(model)
    except InputError:
        if before is None:
            del config.is_causal
        else:
            config.is_causal = before
        raise
    return model


@contextmanager
def causal_attention(model: Any) -> Iterator[None]:
    """Put the causal mask on while the block runs, whatever the model's own setting is.

    Args:
        model: A ``SentenceTransformer`` or a transformers model, a decoder.

    Example:
        >>> from transformers import LlamaConfig, LlamaModel
        >>> model = make_bidirectional(
        ...     LlamaModel(LlamaConfig(vocab_size=99, hidden_size=8, intermediate_size=8,
        ...                            num_hidden_layers=1, num_attention_heads=2)))
        >>> with causal_attention(model):
        ...     attends_both_ways(model)
        False
        >>> attends_both_ways(model)
        True
    """
    config = _body(model).config
    held = vars(config).get("is_causal", _body)
    config.is_causal = True
    try:
        yield
    finally:
        if held is _body:
            del config.is_causal
        else:
            config.is_causal = held


def check_bidirectional(model: Any) -> None:
    """Prove that a model looks both ways and that padding does not show.

    Raises:
        InputError: When the first state does not change with the last token, or padding on the
            side that the tokenizer uses changes the states of a text.
    """
    body = _body(model)
    if not attends_both_ways(model):
        raise InputError(
            f"{type(body).__name__} ({body.config.model_type}) stays causal: changing the last "
            "token does not change the first state. This architecture, or this version of "
            "transformers, does not read is_causal. Tested families: "
            f"{', '.join(BIDIRECTIONAL_FAMILIES)}."
        )
    side = getattr(getattr(model, "tokenizer", None), "padding_side", "right")
    if not _ignores_padding(body, side):
        raise InputError(
            f"{type(body).__name__} ({body.config.model_type}) gives other states when a text is "
            f"padded on the {side}: it has absolute positions, which shift. Set "
            "model.tokenizer.padding_side = 'right'."
        )


def check_generates(model: Any) -> None:
    """Check that an embedding model's transformer can say next tokens by its table of tokens.

    Raises:
        InputError: When it is no decoder, or its output layer is not its table.
    """
    try:
        inside = model[0].auto_model
    except (TypeError, KeyError, IndexError, AttributeError) as error:
        raise InputError(
            f"a {type(model).__name__} has no transformer: expected a SentenceTransformer over a "
            "decoder."
        ) from error
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    known = inside.config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    if not known or getattr(inside.config, "is_decoder", None) is False:
        raise InputError(
            f"a {type(inside).__name__} is no decoder: transformers has no next-token model of it."
        )
    with causal_attention(model):
        if attends_both_ways(model):
            raise InputError(
                f"a {type(inside).__name__} reads both ways with the causal mask on, so that it "
                "cannot generate."
            )
    if not inside.config.tie_word_embeddings:
        raise InputError(
            "the output layer of this model is not its table of tokens, and embedding models do "
            "not keep another: take a model with tie_word_embeddings, such as "
            "new_model(..., tie_word_embeddings=True)."
        )


def attends_both_ways(model: Any) -> bool:
    """Say whether the first token's state depends on the last token, with and without padding."""
    body = _body(model)
    ids = _probe_ids(body)
    changed = ids.clone()
    changed[0, -1] = ids[0, 0]
    for padding in (0, 2):
        states = [_states(body, row, padding, "right")[0] for row in (ids, changed)]
        if torch.allclose(states[0], states[1], atol=1e-6, rtol=0):
            return False
    return True


def _ignores_padding(body: Any, side: str) -> bool:
    ids = _probe_ids(body)
    plain, padded = _states(body, ids, 0, side), _states(body, ids, 3, side)
    scale = float(plain.abs().amax()) + 1e-6
    return bool(torch.allclose(plain / scale, padded / scale, atol=1e-3, rtol=0))


def _states(body: Any, ids: Tensor, padding: int, side: str) -> Tensor:
    """Return the states (T, D) of one text, padded beside another one that is longer."""
    width = ids.shape[1]
    rows, mask = ids, torch.ones_like(ids)
    if padding:
        pad = body.config.pad_token_id
        pad = 0 if pad is None else pad
        longer = torch.cat([ids, ids[:, :padding]], dim=1)
        empty = torch.full((1, padding), pad, device=ids.device)
        own = [ids, empty] if side == "right" else [empty, ids]
        rows = torch.cat([torch.cat(own, dim=1), longer])
        mask = torch.ones_like(rows)
        at = slice(width, None) if side == "right" else slice(0, padding)
        mask[0, at] = 0
    was_training = body.training
    body.eval()
    try:
        with torch.no_grad():
            states: Tensor = body(input_ids=rows, attention_mask=mask).last_hidden_state[0]
    finally:
        body.train(was_training)
    return (states[:width] if side == "right" else states[-width:]).float()


def _probe_ids(body: Any) -> Tensor:
    """Return five different tokens that are nothing special, int64 (1, 5)."""
    config: Any = body.config
    special = {config.pad_token_id, getattr(config, "bos_token_id", None)}
    eos = getattr(config, "eos_token_id", None)
    special |= set(eos) if isinstance(eos, list) else {eos}
    found = [n for n in range(config.vocab_size) if n not in special][-5:]
    if len(found) < 5:
        raise InputError(f"a vocabulary of {config.vocab_size} is too small to probe the model.")
    device = next(body.parameters()).device
    return torch.tensor([found], device=device)


def _body(model: Any) -> Any:
    """Return the transformers model inside, without its head."""
    try:
        inside = model[0].auto_model
        return getattr(inside, "base_model", inside)
    except (TypeError, KeyError, IndexError, AttributeError):
        pass
    if not hasattr(model, "config") or not isinstance(model, nn.Module):
        raise InputError(
            f"a {type(model).__name__} has no transformer: expected a SentenceTransformer or a "
            "transformers model."
        )
    return getattr(model, "base_model", model)
