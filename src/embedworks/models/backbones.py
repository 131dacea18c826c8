"""Models from scratch, of any size: transformers' own architectures, with random weights.

For experiments, for tests, and as a start for pre-training. Nothing is downloaded.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from embedworks._core.bars import no_bars
from embedworks._core.extras import require_extra
from embedworks._core.seeding import derive_seed
from embedworks._core.validation import check_choice
from embedworks.errors import EmptyInputError, InputError

__all__ = ["ARCHITECTURES", "new_language_model", "new_model", "train_tokenizer"]

#: Architectures with the names that sizes have in their configuration. The first group are
#: encoders, the second decoders, the last encoder-decoders of which the encoder is used.
ARCHITECTURES = (
    "bert", "modernbert", "mpnet",
    "gemma", "gpt2", "llama", "mistral", "qwen2", "qwen3",
    "t5",
)  # fmt: skip

_DECODERS = ("gemma", "gpt2", "llama", "mistral", "qwen2", "qwen3")
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def train_tokenizer(
    texts: Iterable[str],
    vocab_size: int = 8192,
    *,
    max_tokens: int = 512,
    lowercase: bool = False,
) -> Any:
    """Train a byte-level BPE tokenizer: any text can be written, no token is unknown.

    Texts get ``[CLS]`` in front and ``[SEP]`` behind, which stand for begin and end of text in
    decoders too.

    Args:
        texts: What to learn from.
        vocab_size: Tokens, at least 261: 256 bytes and five special ones.
        max_tokens: Longest text that models with it read.
        lowercase: Whether case is dropped.

    Returns:
        A ``PreTrainedTokenizerFast``.

    Raises:
        InputError: When ``vocab_size`` is too small.
        EmptyInputError: When there are no texts.
        MissingExtraError: When transformers is not installed.

    Example:
        >>> tokenizer = train_tokenizer(["a file", "a folder"], vocab_size=270)
        >>> tokenizer.decode(tokenizer("a file")["input_ids"], skip_special_tokens=True)
        'a file'
    """
    transformers = require_extra("transformers", extra="train", purpose="make a tokenizer")
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from tokenizers.processors import TemplateProcessing

    if vocab_size < 256 + len(_SPECIAL):
        raise InputError(f"vocab_size must be {256 + len(_SPECIAL)} or more, got {vocab_size}.")
    tokenizer = Tokenizer(models.BPE())
    if lowercase:
        tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=list(_SPECIAL), show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    seen = 0

    def counted() -> Iterable[str]:
        nonlocal seen
        for text in texts:
            seen += bool(text.strip())
            yield text

    tokenizer.train_from_iterator(counted(), trainer)
    if not seen:
        raise EmptyInputError("there are no texts to train a tokenizer on.")
    ids = {name: tokenizer.token_to_id(name) for name in _SPECIAL}
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(name, ids[name]) for name in ("[CLS]", "[SEP]")],
    )
    roles = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]",
             "bos": "[CLS]", "eos": "[SEP]"}  # fmt: skip
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=max_tokens,
        **{f"{role}_token": token for role, token in roles.items()},
    )


def new_model(
    architecture: str,
    tokenizer: Any,
    *,
    dim: int = 256,
    layers: int = 4,
    heads: int = 4,
    ff_dim: int | None = None,
    max_tokens: int = 512,
    pooling: Any = None,
    bidirectional: bool = False,
    seed: int = 0,
    device: str = "cpu",
    **config: Any,
) -> Any:
    """Return a sentence-transformers model with random weights.

    Args:
        architecture: One of `ARCHITECTURES`, or any other ``model_type`` of transformers whose
            configuration uses the usual names.
        tokenizer: A ``PreTrainedTokenizerFast``, as `train_tokenizer` makes.
        dim: Hidden size, D.
        layers: L.
        heads: Attention heads; they divide ``dim``.
        ff_dim: Inner size of the MLPs; None takes 4 D.
        max_tokens: Longest text.
        pooling: A pooling module; None takes the mean.
        bidirectional: Take the mask off a decoder, see
            `embedworks.modules.make_bidirectional`.
        seed: Of the weights.
        device: Torch device.
        config: Further values of the architecture's configuration.

    Raises:
        UnknownNameError: When transformers has no such architecture.
        InputError: When sizes do not fit, or a value is not one of the configuration's.

    Example:
        >>> tokenizer = train_tokenizer(["a file", "a folder"], vocab_size=270)
        >>> model = new_model("llama", tokenizer, dim=16, layers=1, heads=2, bidirectional=True)
        >>> model.encode(["a file"]).shape
        (1, 16)
    """
    library = require_extra("sentence_transformers", extra="train", purpose="make a model")
    import torch
    import transformers
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

    made = _configured(architecture, tokenizer, dim, layers, heads, ff_dim, max_tokens, config)
    with torch.random.fork_rng(devices=[]), no_bars(), tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(derive_seed(seed, "new model"))
        if architecture == "t5":
            body = transformers.T5EncoderModel(made)
        else:
            body = transformers.AutoModel.from_config(made)
        # Sentence-transformers builds its first module from a folder alone.
        body.save_pretrained(Path(folder) / "body")
        tokenizer.save_pretrained(Path(folder) / "body")
        first = Transformer(str(Path(folder) / "body"), max_seq_length=max_tokens)
    modules = [first, Pooling(dim, "mean") if pooling is None else pooling, Normalize()]
    model = library.SentenceTransformer(modules=modules, device=device)
    model.eval()
    if bidirectional:
        from embedworks.modules import make_bidirectional

        make_bidirectional(model)
    return model


def new_language_model(
    architecture: str,
    tokenizer: Any,
    *,
    masked: bool = False,
    dim: int = 256,
    layers: int = 4,
    heads: int = 4,
    ff_dim: int | None = None,
    max_tokens: int = 512,
    seed: int = 0,
    **config: Any,
) -> Any:
    """Return a language model of transformers with random weights, its output layer tied.

    Args:
        architecture: As for `new_model`.
        tokenizer: As `train_tokenizer` makes.
        masked: Whether it fills in masked tokens, as encoders do; else it says what comes next.
        dim: Hidden size, D.
        layers: L.
        heads: Attention heads; they divide ``dim``.
        ff_dim: Inner size of the MLPs; None takes 4 D.
        max_tokens: Longest text.
        seed: Of the weights.
        config: Further values of the architecture's configuration.

    Raises:
        UnknownNameError: When transformers has no such architecture.
        InputError: When sizes do not fit, or the architecture has no such output layer.

    Example:
        >>> tokenizer = train_tokenizer(["a file", "a folder"], vocab_size=270)
        >>> lm = new_language_model("qwen3", tokenizer, dim=16, layers=1, heads=2)
        >>> lm(**tokenizer(["a file"], return_tensors="pt")).logits.shape[-1] == len(tokenizer)
        True
    """
    require_extra("transformers", extra="train", purpose="make a language model")
    import torch
    import transformers

    config.setdefault("tie_word_embeddings", True)
    made = _configured(architecture, tokenizer, dim, layers, heads, ff_dim, max_tokens, config)
    kind = transformers.AutoModelForMaskedLM if masked else transformers.AutoModelForCausalLM
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "new model"))
        try:
            model = kind.from_config(made)
        except ValueError as error:
            raise InputError(
                f"{architecture} has no output layer for {'masked' if masked else 'next'} tokens."
            ) from error
    model.eval()
    return model


def _configured(
    architecture: str,
    tokenizer: Any,
    dim: int,
    layers: int,
    heads: int,
    ff_dim: int | None,
    max_tokens: int,
    config: dict[str, Any],
) -> Any:
    """Return the architecture's configuration, checked."""
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    check_choice(architecture, [*ARCHITECTURES, *CONFIG_MAPPING.keys()], name="architecture")
    if layers < 1 or dim < 1 or heads < 1 or dim % heads:
        raise InputError(
            f"{layers} layers of {dim} dimensions with {heads} heads do not fit: heads must divide "
            "the dimensions."
        )
    values = _sizes(architecture, dim, layers, heads, ff_dim or 4 * dim, max_tokens)
    values |= {
        "vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.cls_token_id, "eos_token_id": tokenizer.sep_token_id,
    }  # fmt: skip
    if architecture == "modernbert":
        values |= {"cls_token_id": tokenizer.cls_token_id, "sep_token_id": tokenizer.sep_token_id}
    known = transformers.AutoConfig.for_model(architecture).to_dict()
    unknown = sorted(set(config) - set(known) - {"tie_word_embeddings"})
    if unknown:
        raise InputError(f"the configuration of {architecture} has no {unknown}.")
    return transformers.AutoConfig.for_model(architecture, **{**values, **config})


def _sizes(
    architecture: str, dim: int, layers: int, heads: int, ff_dim: int, max_tokens: int
) -> dict[str, Any]:
    """Return the sizes under the names of an architecture's configuration."""
    if architecture == "gpt2":
        return {
            "n_embd": dim, "n_layer": layers, "n_head": heads, "n_inner": ff_dim,
            "n_positions": max_tokens,
        }  # fmt: skip
    if architecture == "t5":
        return {
            "d_model": dim, "num_layers": layers, "num_heads": heads, "d_ff": ff_dim,
            "d_kv": dim // heads,
        }  # fmt: skip
    found = {
        "hidden_size": dim, "num_hidden_layers": layers, "num_attention_heads": heads,
        "intermediate_size": ff_dim, "max_position_embeddings": max_tokens + 2,
    }  # fmt: skip
    if architecture in _DECODERS:
        found["num_key_value_heads"] = heads
    if architecture in ("gemma", "qwen3"):
        found["head_dim"] = dim // heads
    return found
