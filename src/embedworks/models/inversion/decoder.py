"""A causal language model that reads a sentence vector as a few tokens and writes the text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from embedworks._core.bars import no_bars
from embedworks._core.files import atomic_directory, read_json, write_json
from embedworks._core.seeding import derive_seed
from embedworks._core.validation import check_in_range, check_vectors, normalize_rows
from embedworks.errors import FormatError, InputError, ShapeError

__all__ = ["VectorDecoder", "end_token", "padded_rows", "target_tokens"]

_VERSION = 1


class VectorDecoder(nn.Module):
    """A language model with a projection of vectors into its input space.

    A unit vector e becomes K soft tokens ``MLP(e)``, which stand before the text. A corrector
    (``corrects=True``) reads a first guess too: its tokens, then K soft tokens each for e, for the
    vector of the guess ê, and for e - ê. A fresh projection says nothing: train it with
    `train_vector_decoder` or `train_vector_corrector`.

    Args:
        language_model: A causal language model of transformers; it is kept, not copied.
        tokenizer: Its tokenizer, with a token for the end of a text.
        vector_dim: D of the vectors.
        slots: K.
        corrects: Whether it reads a guess.
        seed: Of the projection's first weights.

    Raises:
        InputError: When a size is below 1, or the tokenizer has no end token.

    Paper: Morris, Kuleshov, Shmatikov and Rush 2023, arXiv 2310.06816 (the inputs; there they go
    through the encoder of a T5, here before the text of a decoder).

    Example:
        >>> from embedworks.models import new_language_model, train_tokenizer
        >>> tokenizer = train_tokenizer(["a file", "a folder"], vocab_size=270)
        >>> lm = new_language_model("llama", tokenizer, dim=16, layers=1, heads=2)
        >>> decoder = VectorDecoder(lm, tokenizer, vector_dim=4, slots=2)
        >>> len(decoder.write(np.eye(4), max_tokens=3))
        4
    """

    def __init__(
        self,
        language_model: Any,
        tokenizer: Any,
        vector_dim: int,
        *,
        slots: int = 8,
        corrects: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_in_range(vector_dim, name="vector_dim", low=1)
        check_in_range(slots, name="slots", low=1)
        end_token(tokenizer)
        self.language_model = language_model
        self.tokenizer = tokenizer
        self.vector_dim = vector_dim
        self.slots = slots
        self.corrects = corrects
        width = int(language_model.get_input_embeddings().embedding_dim)
        hidden = max(vector_dim, width)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(seed, "vector decoder"))
            self.projections = nn.ModuleList(
                nn.Sequential(
                    nn.Linear(vector_dim, hidden), nn.GELU(), nn.Linear(hidden, slots * width)
                )
                for _ in range(3 if corrects else 1)
            )
        self.projections.to(language_model.device)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.projections.parameters()).device

    def prefix(
        self, vectors: Tensor, guess_vectors: Tensor | None = None, guess_ids: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return what stands before the text: embeddings (B, P, H) and their mask (B, P).

        Args:
            vectors: Unit vectors e, (B, D); values are of order one after scaling by sqrt(D).
            guess_vectors: Unit vectors of guesses (B, D), for a corrector.
            guess_ids: Tokens of guesses (B, T), padded on the left with -1, for a corrector.

        Raises:
            InputError: When guesses are missing, or given to a decoder that reads none.
        """
        if self.corrects != (guess_vectors is not None and guess_ids is not None):
            raise InputError(
                "a corrector reads guesses and their vectors" if self.corrects
                else "this decoder reads no guesses: make one with corrects=True"
            )  # fmt: skip
        read = [vectors]
        if guess_vectors is not None:
            read += [guess_vectors, vectors - guess_vectors]
        scale = self.vector_dim**0.5
        soft = [
            project(scale * part).reshape(len(vectors), self.slots, -1)
            for project, part in zip(self.projections, read, strict=True)
        ]
        mask = torch.ones(
            len(vectors), self.slots * len(soft), dtype=torch.long, device=vectors.device
        )
        if guess_ids is not None:
            words = self.language_model.get_input_embeddings()(guess_ids.clamp(min=0))
            soft.insert(0, words.to(soft[0].dtype))
            mask = torch.cat([(guess_ids >= 0).long(), mask], dim=1)
        return torch.cat(soft, dim=1), mask

    def forward(
        self,
        vectors: Tensor,
        ids: Tensor,
        guess_vectors: Tensor | None = None,
        guess_ids: Tensor | None = None,
    ) -> Tensor:
        """Return the loss of every token of texts, in nats, (B, T); 0 where there is none.

        Args:
            vectors: Unit vectors (B, D).
            ids: Tokens of the texts with the end token, (B, T), padded on the right with -1.
            guess_vectors: See `prefix`.
            guess_ids: See `prefix`.
        """
        soft, before = self.prefix(vectors, guess_vectors, guess_ids)
        there = ids >= 0
        words = self.language_model.get_input_embeddings()(ids.clamp(min=0))
        mask = torch.cat([before, there.long()], dim=1)
        logits = self.language_model(
            inputs_embeds=torch.cat([soft.to(words.dtype), words], dim=1),
            attention_mask=mask,
            position_ids=(mask.cumsum(dim=1) - 1).clamp(min=0),
            use_cache=False,
        ).logits
        # The state before a token tells it: the last soft token tells the first.
        told = logits[:, soft.shape[1] - 1 : -1].float()
        loss = nn.functional.cross_entropy(told.transpose(1, 2), ids.clamp(min=0), reduction="none")
        return loss * there

    @torch.inference_mode()
    def write(
        self,
        vectors: np.ndarray,
        *,
        guesses: Sequence[str] | None = None,
        guess_vectors: np.ndarray | None = None,
        beams: int = 1,
        answers: int = 1,
        max_tokens: int = 32,
        batch_size: int = 256,
    ) -> list[list[str]]:
        """Write texts for vectors, the likeliest that a beam search finds.

        Args:
            vectors: (N, D); scaled to unit length.
            guesses: N texts, for a corrector.
            guess_vectors: Their vectors (N, D), for a corrector; zero rows stay zero.
            beams: Width of the search.
            answers: Texts for each vector, at most ``beams``.
            max_tokens: Longest text, and how much of a guess is read.
            batch_size: Vectors at a time.

        Returns:
            N lists of ``answers`` texts, the likeliest first.

        Raises:
            ShapeError: When vectors have another dimension, or numbers of rows differ.
            InputError: When ``answers`` is above ``beams``, or guesses do not fit the decoder.
        """
        check_in_range(answers, name="answers", low=1, high=beams)
        check_in_range(max_tokens, name="max_tokens", low=1)
        check_in_range(batch_size, name="batch_size", low=1)
        unit = self._unit(vectors)
        guessed = None if guess_vectors is None else self._unit(guess_vectors)
        if guesses is not None and (
            guessed is None or not len(guesses) == len(guessed) == len(unit)
        ):
            raise ShapeError(
                f"{len(unit)} vectors need as many guesses and vectors of guesses, got "
                f"{len(guesses)} and {0 if guessed is None else len(guessed)}."
            )
        self.eval()
        found: list[list[str]] = []
        for start in range(0, len(unit), batch_size):
            part = slice(start, start + batch_size)
            soft, mask = self.prefix(
                unit[part],
                None if guessed is None else guessed[part],
                None if guesses is None else self._guess_ids(guesses[part], max_tokens),
            )
            ids = self.language_model.generate(
                inputs_embeds=soft.to(self.language_model.dtype),
                attention_mask=mask,
                do_sample=False,
                num_beams=beams,
                num_return_sequences=answers,
                max_new_tokens=max_tokens,
                eos_token_id=end_token(self.tokenizer),
                pad_token_id=end_token(self.tokenizer),
                use_cache=True,
            )
            texts = self.tokenizer.batch_decode(ids, skip_special_tokens=True)
            found += [texts[i : i + answers] for i in range(0, len(texts), answers)]
        return found

    def _unit(self, vectors: np.ndarray) -> Tensor:
        checked = check_vectors(vectors)
        if checked.shape[1] != self.vector_dim:
            raise ShapeError(
                f"the decoder reads vectors of {self.vector_dim} dimensions, got "
                f"{checked.shape[1]}: are they of the model it was trained for?"
            )
        return torch.from_numpy(normalize_rows(checked).astype(np.float32)).to(self.device)

    def _guess_ids(self, guesses: Sequence[str], max_tokens: int) -> Tensor:
        rows = target_tokens(self.tokenizer, guesses, max_tokens, end=False)
        return padded_rows(rows, left=True).to(self.device)

    def save(self, folder: str | Path) -> Path:
        """Write the language model, the tokenizer and the projections (safetensors) to a folder.

        An existing folder is replaced in one step.
        """
        target = Path(folder)
        with atomic_directory(target) as temporary, no_bars():
            self.language_model.save_pretrained(temporary / "language_model")
            self.tokenizer.save_pretrained(temporary / "language_model")
            state = {
                k: v.detach().cpu().contiguous() for k, v in self.projections.state_dict().items()
            }
            save_file(state, temporary / "projections.safetensors")
            write_json(
                temporary / "decoder.json",
                {
                    "version": _VERSION,
                    "vector_dim": self.vector_dim,
                    "slots": self.slots,
                    "corrects": self.corrects,
                },
            )
        return target

    @classmethod
    def load(cls, folder: str | Path, *, device: str = "cpu") -> Self:
        """Read what `save` wrote; nothing is downloaded.

        Raises:
            NotFoundError: When there is no decoder in the folder.
            FormatError: When its files do not fit each other.
        """
        import transformers

        source = Path(folder)
        about = read_json(source / "decoder.json")
        if not isinstance(about, dict) or about.get("version") != _VERSION:
            raise FormatError(f"{source / 'decoder.json'} is not of version {_VERSION}.")
        inner = str(source / "language_model")
        model = transformers.AutoModelForCausalLM.from_pretrained(
            inner, local_files_only=True, use_safetensors=True
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(inner, local_files_only=True)
        try:
            sizes = {name: about[name] for name in ("vector_dim", "slots", "corrects")}
            found = cls(model, tokenizer, **sizes)
            found.projections.load_state_dict(load_file(source / "projections.safetensors"))
        except (KeyError, TypeError, RuntimeError, InputError) as error:
            raise FormatError(f"the decoder in {source} does not fit together: {error}") from error
        return found.to(device).eval()


def end_token(tokenizer: Any) -> int:
    """Return the token that ends a text.

    Raises:
        InputError: When the tokenizer has none.
    """
    for token in (tokenizer.eos_token_id, tokenizer.sep_token_id):
        if token is not None:
            return int(token)
    raise InputError(
        "the tokenizer has no end token: tokenizer.add_special_tokens({'eos_token': '</s>'}), "
        "and resize the model."
    )


def target_tokens(
    tokenizer: Any, texts: Sequence[str], max_tokens: int, *, end: bool = True
) -> list[np.ndarray]:
    """Return the tokens of texts without special ones, at most ``max_tokens``, int64 rows.

    Args:
        tokenizer: A tokenizer of transformers.
        texts: N texts; an empty one has no tokens.
        max_tokens: Where rows are cut, the end token counted.
        end: Whether the end token follows a text that is not cut.
    """
    if not texts:
        return []
    coded = tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
    tail = [end_token(tokenizer)] if end else []
    return [np.asarray([*row, *tail][:max_tokens], dtype=np.int64) for row in coded]


def padded_rows(rows: Sequence[np.ndarray], *, left: bool = False) -> Tensor:
    """Return rows as one tensor (B, T), -1 where there is nothing."""
    found = np.full((len(rows), max([1, *map(len, rows)])), -1, dtype=np.int64)
    for place, row in enumerate(rows):
        found[place, found.shape[1] - len(row) if left else 0 :][: len(row)] = row
    return torch.from_numpy(found)
