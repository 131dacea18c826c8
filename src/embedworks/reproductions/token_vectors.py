"""Token vectors of a model that is not trained, kept on disk, for late interaction."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from embedworks._core.files import atomic_path, sha256_of_text
from embedworks._core.progress import track
from embedworks._core.validation import check_texts
from embedworks.errors import FormatError, InputError
from embedworks.index import TokenMatrix
from embedworks.models import load, model_fingerprint

__all__ = ["FrozenTokens"]

_BLOCK = 512


class FrozenTokens:
    """A model's vector of every token, [CLS] and [SEP] too, of unit length, in float16.

    Args:
        model: Name for `embedworks.load` of a sentence-transformers model, or such a model.
        cache: Folder for the vectors, one file per list of texts; None keeps none.
        device: Torch device of the model, chosen by itself when None.

    Raises:
        InputError: When the model gives no token vectors.
    """

    def __init__(
        self, model: str | Any = "minilm", *, cache: Path | None = None, device: str | None = None
    ) -> None:
        self.model: Any = load(model, device=device) if isinstance(model, str) else model
        if not hasattr(self.model, "tokenize"):
            raise InputError(f"{type(self.model).__name__} gives no token vectors.")
        self._folder: Path | None = None
        if cache is not None:
            self._folder = Path(cache) / f"tokens-{model_fingerprint(self.model)[:16]}"

    def path(self, texts: Sequence[str]) -> Path | None:
        """Return where the vectors of these texts are kept."""
        name = sha256_of_text(*check_texts(texts))[:20]
        return None if self._folder is None else self._folder / f"{name}.safetensors"

    def __call__(self, texts: Sequence[str]) -> TokenMatrix:
        """Return one document of token vectors per text, float16."""
        from safetensors.numpy import save_file

        path = self.path(texts)
        if path is not None and path.is_file():
            return _read(path, len(texts))
        parts: list[np.ndarray] = []
        for start in track(range(0, len(texts), _BLOCK), "Encoding tokens"):
            found = self.model.encode(
                list(texts[start : start + _BLOCK]),
                output_value="token_embeddings",
                show_progress_bar=False,
            )
            parts += [one.cpu().numpy() for one in found]
        whole = TokenMatrix.from_documents(parts).normalized()
        matrix = TokenMatrix(whole.tokens.astype(np.float16), whole.offsets)
        if path is not None:
            with atomic_path(path) as temporary:
                save_file({"tokens": matrix.tokens, "offsets": matrix.offsets}, temporary)
        return matrix


def _read(path: Path, count: int) -> TokenMatrix:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        tensors = load_file(path)
        matrix = TokenMatrix(tensors["tokens"], tensors["offsets"])
    except (SafetensorError, KeyError, InputError) as error:
        raise FormatError(f"{path} is damaged ({error}): delete it and run again.") from error
    if len(matrix) != count:
        raise FormatError(f"{path} does not hold one document per text: delete it.")
    return matrix
