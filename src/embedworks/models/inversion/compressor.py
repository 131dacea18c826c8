"""A trained encoder of texts as a few memory vectors that a language model reads."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
import torch
from pydantic import Field
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from embedworks._core.bars import no_bars
from embedworks._core.files import atomic_directory, read_json, write_json
from embedworks._core.seeding import derive_seed
from embedworks._core.validation import check_in_range, check_texts
from embedworks.errors import EmptyInputError, FormatError, InputError, ShapeError
from embedworks.models.inversion.decoder import end_token, padded_rows, target_tokens
from embedworks.models.inversion.memory import write_from_memory
from embedworks.models.inversion.training import VectorDecoderSettings, train_on_batches

__all__ = [
    "TextCompressor",
    "TextCompressorSettings",
    "TextCompressorTraining",
    "train_text_compressor",
]

_VERSION = 1


class TextCompressor(nn.Module):
    """An encoder that makes K memory vectors of a text, and the language model that reads them.

    The encoder is the language model's own body, copied: it reads a text and then K memory tokens,
    whose last states, projected, are the memory. The language model reads the memory and writes
    what follows the text, or, after one more trained vector, the text itself. A fresh one says
    nothing: train it with `train_text_compressor`. `memory_vectors` finds vectors for one text by
    gradients instead; it holds more, and takes hundreds of steps for each text.

    Args:
        language_model: A causal language model of transformers; it is kept, not copied.
        tokenizer: Its tokenizer, with a token for the end of a text.
        slots: K.
        seed: Of the first memory tokens.

    Raises:
        InputError: When ``slots`` is below 1, or the tokenizer has no end token.

    Paper: Ge et al. 2024, ICAE, arXiv 2307.06945 (memory tokens, one loss for the text and one for
    what follows it, a token that asks for the text; there the encoder is trained by LoRA, here
    whole); the states as vectors are also those of AutoCompressor, arXiv 2305.14788.

    Example:
        >>> from embedworks.models import new_language_model, train_tokenizer
        >>> tokenizer = train_tokenizer(["a file", "a folder"], vocab_size=270)
        >>> lm = new_language_model("llama", tokenizer, dim=16, layers=1, heads=2)
        >>> TextCompressor(lm, tokenizer, slots=2).compress(["a file", "a folder"]).shape
        (2, 2, 16)
    """

    def __init__(
        self, language_model: Any, tokenizer: Any, *, slots: int = 4, seed: int = 0
    ) -> None:
        super().__init__()
        check_in_range(slots, name="slots", low=1)
        end_token(tokenizer)
        self.language_model = language_model
        self.tokenizer = tokenizer
        self.slots = slots
        self.encoder = copy.deepcopy(language_model.base_model)
        self.encoder.requires_grad_(True)
        table = language_model.get_input_embeddings()
        spread = float(table.weight.detach().float().std())
        drawn = torch.Generator().manual_seed(derive_seed(seed, "text compressor") % 2**63)
        first = spread * torch.randn(slots + 1, table.embedding_dim, generator=drawn)
        self.memory_tokens = nn.Parameter(first[:-1])
        self.again = nn.Parameter(first[-1])
        self.projection = nn.Linear(int(self.encoder.config.hidden_size), table.embedding_dim)
        with torch.no_grad():
            # States are of order one and token vectors far smaller: the memory starts as small.
            nn.init.eye_(self.projection.weight).mul_(spread)
            nn.init.zeros_(self.projection.bias)
        self.to(language_model.device)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.memory_tokens.device

    def memory(self, ids: Tensor) -> Tensor:
        """Return memory vectors (B, K, H) of texts.

        Args:
            ids: Tokens (B, T), padded on the left with -1.
        """
        words = self.encoder.get_input_embeddings()(ids.clamp(min=0))
        asked = self.memory_tokens.to(words.dtype).expand(len(ids), -1, -1)
        mask = nn.functional.pad((ids >= 0).long(), (0, self.slots), value=1)
        states = self.encoder(
            inputs_embeds=torch.cat([words, asked], dim=1),
            attention_mask=mask,
            position_ids=(mask.cumsum(dim=1) - 1).clamp(min=0),
            use_cache=False,
        ).last_hidden_state
        found: Tensor = self.projection(states[:, -self.slots :])
        return found

    def forward(self, memory: Tensor, ids: Tensor, *, again: bool) -> Tensor:
        """Return the loss of every token after the memory, in nats, (B, T); 0 where there is none.

        Args:
            memory: (B, K, H).
            ids: Tokens with the end token (B, T), padded on the right with -1.
            again: Whether they are the text itself, which is asked for, or what follows it.
        """
        before = self._asked(memory) if again else memory
        words = self.language_model.get_input_embeddings()(ids.clamp(min=0))
        inputs = torch.cat([before.to(words.dtype), words[:, :-1]], dim=1)
        logits = self.language_model(inputs_embeds=inputs, use_cache=False).logits
        told = logits[:, before.shape[1] - 1 :].float().transpose(1, 2)
        loss = nn.functional.cross_entropy(told, ids.clamp(min=0), reduction="none")
        return loss * (ids >= 0)

    def _asked(self, memory: Tensor) -> Tensor:
        again = self.again.to(memory.dtype).expand(len(memory), 1, -1)
        return torch.cat([memory, again], dim=1)

    @torch.inference_mode()
    def compress(
        self, texts: Sequence[str], *, max_tokens: int = 128, batch_size: int = 64
    ) -> np.ndarray:
        """Return memory vectors of texts, float32 (N, K, H).

        Args:
            texts: N texts.
            max_tokens: Where texts are cut.
            batch_size: Texts at a time.

        Raises:
            EmptyInputError: When there are no texts, or one is empty.
        """
        check_in_range(max_tokens, name="max_tokens", low=1)
        check_in_range(batch_size, name="batch_size", low=1)
        rows = target_tokens(self.tokenizer, check_texts(texts), max_tokens, end=False)
        if not rows:
            raise EmptyInputError("there are no texts to compress.")
        self.eval()
        parts = [
            self.memory(padded_rows(rows[i : i + batch_size], left=True).to(self.device))
            for i in range(0, len(rows), batch_size)
        ]
        return np.asarray(torch.cat(parts).float().cpu().numpy())

    @torch.inference_mode()
    def write(
        self, memory: np.ndarray, *, max_tokens: int = 128, batch_size: int = 64
    ) -> list[str]:
        """Write the texts that memory vectors (N, K, H) stand for, by greedy decoding.

        Raises:
            ShapeError: When the memory is not of this compressor's shape.
        """
        found = np.asarray(memory)
        if found.ndim != 3 or found.shape[1:] != (self.slots, len(self.again)):
            raise ShapeError(
                f"memory must be (N, {self.slots}, {len(self.again)}), got {found.shape}."
            )
        asked = self._asked(torch.from_numpy(found.astype(np.float32)).to(self.device))
        return write_from_memory(
            self.language_model, self.tokenizer, asked.cpu().numpy(), max_tokens=max_tokens,
            batch_size=batch_size,
        )  # fmt: skip

    def save(self, folder: str | Path) -> Path:
        """Write language model, encoder, tokenizer and vectors (safetensors) to a folder.

        An existing folder is replaced in one step.

        Returns:
            The folder.
        """
        target = Path(folder)
        with atomic_directory(target) as temporary, no_bars():
            self.language_model.save_pretrained(temporary / "language_model")
            self.tokenizer.save_pretrained(temporary / "language_model")
            self.encoder.save_pretrained(temporary / "encoder")
            save_file(self._own(), temporary / "memory.safetensors")
            write_json(temporary / "compressor.json", {"version": _VERSION, "slots": self.slots})
        return target

    def _own(self) -> dict[str, Tensor]:
        """Return the weights beside those of the two transformers."""
        found = {"memory_tokens": self.memory_tokens, "again": self.again}
        found |= {f"projection.{k}": v for k, v in self.projection.named_parameters()}
        return {name: value.detach().cpu().contiguous() for name, value in found.items()}

    @classmethod
    def load(cls, folder: str | Path, *, device: str = "cpu") -> Self:
        """Read what `save` wrote; nothing is downloaded.

        Raises:
            NotFoundError: When there is no compressor in the folder.
            FormatError: When its files do not fit each other.
        """
        import transformers

        source = Path(folder)
        about = read_json(source / "compressor.json")
        if not isinstance(about, dict) or about.get("version") != _VERSION:
            raise FormatError(f"{source / 'compressor.json'} is not of version {_VERSION}.")
        inner = str(source / "language_model")
        options = {"local_files_only": True, "use_safetensors": True}
        model = transformers.AutoModelForCausalLM.from_pretrained(inner, **options)
        tokenizer = transformers.AutoTokenizer.from_pretrained(inner, local_files_only=True)
        try:
            found = cls(model, tokenizer, slots=about["slots"])
            found.encoder = transformers.AutoModel.from_pretrained(
                str(source / "encoder"), **options
            )
            own = load_file(source / "memory.safetensors")
            weights = {name for name in found.state_dict() if name in own}
            if weights != set(own):
                raise InputError(f"unknown weights {sorted(set(own) - weights)}")
            found.load_state_dict({**found.state_dict(), **own})
        except (KeyError, TypeError, RuntimeError, OSError, InputError) as error:
            raise FormatError(f"the compressor in {source} does not fit: {error}") from error
        return found.to(device).eval()


class TextCompressorSettings(VectorDecoderSettings):
    """How a text compressor is trained.

    Example:
        >>> TextCompressorSettings(slots=2).freeze_language_model
        True
    """

    slots: Annotated[int, Field(ge=1)] = 4
    """Memory vectors of a text, K."""
    max_tokens: Annotated[int, Field(ge=1)] = 128
    """Where texts and what follows them are cut, in tokens."""
    freeze_language_model: bool = True
    """Train the encoder alone; a small language model learns to read a memory only when trained."""
    again_weight: Annotated[float, Field(ge=0.0)] = 1.0
    """Of the loss of the text itself, L_AE."""
    continue_weight: Annotated[float, Field(ge=0.0)] = 1.0
    """Of the loss of what follows, L_LM, where continuations are given."""


@dataclass(frozen=True)
class TextCompressorTraining:
    """A trained compressor and what its training was.

    Attributes:
        compressor: The compressor.
        losses: Weighted losses in nats per token since the last entry, about fifty in all.
        seconds: Wall-clock time of the steps.
        cut: Texts that were longer than ``max_tokens``.
    """

    compressor: TextCompressor
    losses: tuple[float, ...]
    seconds: float
    cut: int


def train_text_compressor(
    texts: Sequence[str],
    language_model: Any,
    tokenizer: Any,
    settings: TextCompressorSettings | None = None,
    *,
    continuations: Sequence[str] | None = None,
    show_progress: bool | None = None,
) -> TextCompressorTraining:
    """Train memory vectors after which a language model writes a text, and what follows it.

    ``again_weight * L_AE + continue_weight * L_LM``, each a mean over tokens.

    Args:
        texts: N training texts.
        language_model: A causal language model of transformers, on the device to train on; it is
            changed in place, unless it is frozen.
        tokenizer: Its tokenizer.
        settings: Sizes and schedule.
        continuations: N texts that follow; without them there is no L_LM.
        show_progress: True or False to force a bar; by default there is one on a terminal.

    Raises:
        EmptyInputError: When there are no texts, or one is empty.
        ShapeError: When numbers of texts and continuations differ.
        InputError: When no loss has a weight.

    Paper: Ge et al. 2024, ICAE, arXiv 2307.06945, equations 1 and 2.
    """
    settings = settings or TextCompressorSettings()
    given = check_texts(texts)
    follow = [] if continuations is None else check_texts(continuations, name="continuations")
    if not given:
        raise EmptyInputError("there are no texts to train a compressor on.")
    if continuations is not None and len(follow) != len(given):
        raise ShapeError(f"there are {len(given)} texts and {len(follow)} continuations.")
    continue_weight = settings.continue_weight if follow else 0.0
    if settings.again_weight == 0 and continue_weight == 0:
        raise InputError("no loss has a weight: give again_weight, or continuations.")
    limit = settings.max_tokens
    compressor = TextCompressor(language_model, tokenizer, slots=settings.slots, seed=settings.seed)
    language_model.requires_grad_(not settings.freeze_language_model)
    read = target_tokens(tokenizer, given, limit, end=False)
    # The end token has a place of its own, so that a cut text is the whole of what is read.
    end = np.array([end_token(tokenizer)])
    wanted = [np.concatenate([row, end]) for row in read]
    after = target_tokens(tokenizer, follow, limit)
    device = compressor.device

    def told(batch: np.ndarray) -> list[tuple[Tensor, Tensor]]:
        memory = compressor.memory(padded_rows([read[i] for i in batch], left=True).to(device))
        parts = []
        for rows, again, weight in (
            (wanted, True, settings.again_weight), (after, False, continue_weight)
        ):  # fmt: skip
            if weight:
                ids = padded_rows([rows[i] for i in batch]).to(device)
                lost = compressor(memory, ids, again=again)
                parts.append((weight * lost.sum(), (ids >= 0).sum()))
        return parts

    losses, seconds = train_on_batches(
        compressor, len(given), settings, told, "Compressor", show_progress
    )
    cut = sum(len(row) > limit for row in target_tokens(tokenizer, given, limit + 1, end=False))
    return TextCompressorTraining(compressor.eval(), losses, seconds, cut)
