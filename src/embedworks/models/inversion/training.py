"""Training of vector decoders and of correctors, for any model with ``encode``."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from embedworks._core.progress import progress
from embedworks._core.seeding import derive_seed, generator
from embedworks._core.settings import Settings
from embedworks._core.validation import check_texts, check_vectors, normalize_rows
from embedworks.errors import EmptyInputError, InputError, ShapeError
from embedworks.models.inversion.decoder import VectorDecoder, padded_rows, target_tokens

__all__ = [
    "VectorDecoderSettings",
    "VectorDecoderTraining",
    "text_vectors",
    "train_on_batches",
    "train_vector_corrector",
    "train_vector_decoder",
]

Count = Annotated[int, Field(ge=1)]


class VectorDecoderSettings(Settings):
    """How a vector decoder is trained.

    Example:
        >>> VectorDecoderSettings(steps=10).slots
        8
    """

    slots: Count = 8
    """Soft tokens that a vector becomes, K."""
    steps: Count = 2000
    batch_size: Count = 64
    """Texts."""
    max_tokens: Count = 32
    """Where texts are cut, in tokens."""
    learning_rate: Annotated[float, Field(gt=0.0)] = 5e-4
    warmup: Annotated[float, Field(ge=0.0, le=1.0)] = 0.05
    """Share of the steps; then the rate falls as a cosine."""
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.01
    freeze_language_model: bool = False
    """Train the projection alone (xRAG with ``slots=1``)."""
    precision: Literal["fp32", "bf16"] = "fp32"
    seed: Annotated[int, Field(ge=0)] = 0


@dataclass(frozen=True)
class VectorDecoderTraining:
    """A trained decoder and what its training was.

    Attributes:
        decoder: The decoder.
        losses: Mean loss of a token in nats since the last entry, about fifty in all.
        seconds: Wall-clock time of the steps.
        cut: Texts that were longer than ``max_tokens``.
    """

    decoder: VectorDecoder
    losses: tuple[float, ...]
    seconds: float
    cut: int


def train_vector_decoder(
    model: Any,
    texts: Sequence[str],
    language_model: Any,
    tokenizer: Any,
    settings: VectorDecoderSettings | None = None,
    *,
    targets: Sequence[str] | None = None,
    vectors: np.ndarray | None = None,
    show_progress: bool | None = None,
) -> VectorDecoderTraining:
    """Train a language model to write the texts whose vectors it reads.

    Args:
        model: Anything with ``encode(texts)``; it stays as it is. It may be None where vectors are
            given.
        texts: N training texts.
        language_model: A causal language model of transformers, on the device to train on; it is
            changed in place, unless it is frozen.
        tokenizer: Its tokenizer.
        settings: Sizes and schedule.
        targets: N texts to write instead of the texts themselves, such as what follows each.
        vectors: Vectors of the texts (N, D), where they are known.
        show_progress: True or False to force a bar; by default there is one on a terminal.

    Raises:
        EmptyInputError: When there are no texts, or one is empty.
        ShapeError: When numbers of texts, targets and vectors differ.

    Paper: Morris et al. 2023, arXiv 2310.06816, section 3.2 (the first step of vec2text); with
    ``freeze_language_model`` and one slot, Cheng et al. 2024, arXiv 2405.13792 (xRAG).
    """
    settings = settings or VectorDecoderSettings()
    given = check_texts(texts)
    written = given if targets is None else check_texts(targets, name="targets")
    found = text_vectors(model, given) if vectors is None else _checked(vectors, len(given))
    if len(written) != len(given):
        raise ShapeError(f"there are {len(given)} texts and {len(written)} targets.")
    decoder = VectorDecoder(
        language_model, tokenizer, found.shape[1], slots=settings.slots, seed=settings.seed
    )
    return _train(decoder, settings, written, found, None, show_progress)


def train_vector_corrector(
    decoder: VectorDecoder,
    model: Any,
    texts: Sequence[str],
    settings: VectorDecoderSettings | None = None,
    *,
    vectors: np.ndarray | None = None,
    guesses: Sequence[str] | None = None,
    show_progress: bool | None = None,
) -> VectorDecoderTraining:
    """Train a corrector, which reads a decoder's guess and its vector beside the vector.

    It starts from a copy of the decoder. Guesses on texts the decoder was trained on are better
    than on others; where there is plenty of text, train the two on different texts.

    Args:
        decoder: A trained decoder that reads no guesses.
        model: What embeds the guesses, with ``encode(texts)``.
        texts: N training texts.
        settings: Schedule; ``slots`` are the decoder's.
        vectors: Vectors of the texts (N, D), where they are known.
        guesses: N guesses; by default the decoder's own likeliest.
        show_progress: True or False to force a bar; by default there is one on a terminal.

    Raises:
        InputError: When the decoder is a corrector itself.
        EmptyInputError: When there are no texts, or one is empty.
        ShapeError: When numbers of texts, guesses and vectors differ.

    Paper: Morris et al. 2023, arXiv 2310.06816, section 3.1.
    """
    settings = settings or VectorDecoderSettings()
    if decoder.corrects:
        raise InputError("a corrector starts from a decoder that reads no guesses.")
    given = check_texts(texts)
    found = text_vectors(model, given) if vectors is None else _checked(vectors, len(given))
    if guesses is None:
        guesses = [best for (best,) in decoder.write(found, max_tokens=settings.max_tokens)]
    if len(guesses) != len(given):
        raise ShapeError(f"there are {len(given)} texts and {len(guesses)} guesses.")
    corrector = VectorDecoder(
        copy.deepcopy(decoder.language_model),
        decoder.tokenizer,
        decoder.vector_dim,
        slots=decoder.slots,
        corrects=True,
        seed=settings.seed,
    )
    corrector.projections[0].load_state_dict(decoder.projections[0].state_dict())
    seen = text_vectors(model, guesses, dim=decoder.vector_dim)
    return _train(corrector, settings, given, found, (list(guesses), seen), show_progress)


def text_vectors(model: Any, texts: Sequence[str], *, dim: int = 1) -> np.ndarray:
    """Return unit vectors of texts, float32 (N, D); texts without a word are zero.

    Args:
        model: Anything with ``encode(texts)``.
        texts: N texts, empty ones among them.
        dim: D of the result where no text has a word.
    """
    there = [place for place, text in enumerate(texts) if text.strip()]
    if not there:
        return np.zeros((len(texts), dim), dtype=np.float32)
    found = _checked(np.asarray(model.encode([texts[i] for i in there])), len(there))
    every = np.zeros((len(texts), found.shape[1]), dtype=np.float32)
    every[there] = found
    return every


def _checked(vectors: np.ndarray, count: int) -> np.ndarray:
    found = normalize_rows(check_vectors(vectors)).astype(np.float32)
    if len(found) != count:
        raise ShapeError(f"there are {count} texts and {len(found)} vectors.")
    return found


def _train(
    decoder: VectorDecoder,
    settings: VectorDecoderSettings,
    texts: Sequence[str],
    vectors: np.ndarray,
    guesses: tuple[list[str], np.ndarray] | None,
    show_progress: bool | None,
) -> VectorDecoderTraining:
    limit = settings.max_tokens
    rows = target_tokens(decoder.tokenizer, texts, limit)
    if not rows:
        raise EmptyInputError("there are no texts to train a decoder on.")
    read = None
    if guesses is not None:
        read = target_tokens(decoder.tokenizer, guesses[0], limit, end=False)
    decoder.to(decoder.language_model.device)
    decoder.language_model.requires_grad_(not settings.freeze_language_model)
    device = decoder.device

    def told(batch: np.ndarray) -> list[tuple[Tensor, Tensor]]:
        ids = padded_rows([rows[i] for i in batch]).to(device)
        parts: dict[str, Tensor] = {}
        if guesses is not None and read is not None:
            parts["guess_vectors"] = torch.from_numpy(guesses[1][batch]).to(device)
            parts["guess_ids"] = padded_rows([read[i] for i in batch], left=True).to(device)
        lost = decoder(torch.from_numpy(vectors[batch]).to(device), ids, **parts)
        return [(lost.sum(), (ids >= 0).sum())]

    losses, seconds = train_on_batches(decoder, len(rows), settings, told, "Decoder", show_progress)
    cut = sum(
        len(row) == limit for row in target_tokens(decoder.tokenizer, texts, limit, end=False)
    )
    return VectorDecoderTraining(decoder.eval(), losses, seconds, cut)


def train_on_batches(
    module: nn.Module,
    count: int,
    settings: VectorDecoderSettings,
    told: Callable[[np.ndarray], list[tuple[Tensor, Tensor]]],
    name: str,
    show_progress: bool | None,
) -> tuple[tuple[float, ...], float]:
    """Train what requires gradients, with AdamW, a ramp and a cosine.

    Args:
        module: What is trained, on its device.
        count: Rows.
        settings: Schedule.
        told: Rows of a batch to parts of the loss, each a sum over tokens and their number; the
            loss is the sum of the parts' means.
        name: For the bar.
        show_progress: See `train_vector_decoder`.

    Returns:
        Losses since the last entry, about fifty in all, and seconds.
    """
    weights = [weight for weight in module.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(
        weights, lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _rate(settings))
    device = weights[0].device
    every = max(1, settings.steps // 50)
    losses: list[float] = []
    since: Tensor | float = 0.0
    start = time.perf_counter()
    module.train()
    devices = [device] if device.type == "cuda" else []
    with (
        torch.random.fork_rng(devices=devices),
        progress(name, settings.steps, enabled=show_progress) as bar,
    ):
        torch.manual_seed(derive_seed(settings.seed, "vector decoder training"))
        for step, batch in enumerate(_batches(count, settings), start=1):
            with torch.autocast(device.type, torch.bfloat16, settings.precision == "bf16"):
                parts = told(batch)
            loss = torch.stack([lost / tokens for lost, tokens in parts]).sum()
            torch.autograd.backward(loss)
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
            since = since + torch.stack(
                [torch.stack([lost.detach().float(), tokens.float()]) for lost, tokens in parts]
            )
            if step % every == 0 or step == settings.steps:
                assert isinstance(since, Tensor)
                losses.append(float((since[:, 0] / since[:, 1]).sum()))
                since = 0.0
            bar.advance()
    return tuple(losses), time.perf_counter() - start


def _rate(settings: VectorDecoderSettings) -> Any:
    """Return the share of the learning rate at a step: a ramp, then a cosine to zero."""
    ramp = round(settings.warmup * settings.steps)

    def share(step: int) -> float:
        if step < ramp:
            return (step + 1) / ramp
        return 0.5 + 0.5 * math.cos(math.pi * (step - ramp) / max(1, settings.steps - ramp))

    return share


def _batches(count: int, settings: VectorDecoderSettings) -> Iterator[np.ndarray]:
    """Yield rows of each step; every row is drawn once before one is drawn again."""
    rng = generator(settings.seed, "vector decoder batches")
    size = min(settings.batch_size, count)
    order: np.ndarray = np.empty(0, dtype=np.int64)
    for _ in range(settings.steps):
        while len(order) < size:
            order = np.concatenate([order, rng.permutation(count)])
        yield order[:size]
        order = order[size:]
