"""Small models to train many times: a token table, an adapter over frozen vectors, a real one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from embedworks._core.extras import require_extra
from embedworks._core.files import atomic_path, sha256_of_text
from embedworks._core.seeding import derive_seed
from embedworks._core.validation import check_choice, check_in_range, check_texts
from embedworks.data import content_key
from embedworks.errors import EmptyInputError, FormatError, InputError
from embedworks.models import encode_batched, load, model_fingerprint

if TYPE_CHECKING:
    import torch

__all__ = ["AdapterStudent", "FrozenVectors", "StaticStudent", "Student", "TransformerStudent"]


class Student(Protocol):
    """Anything `train_student` can train."""

    def encode(self, texts: Sequence[str], /) -> torch.Tensor:
        """Return unit vectors (N, D) with gradient."""
        ...

    def vectors(self, texts: Sequence[str], /) -> np.ndarray:
        """Return unit vectors float32 (N, D) without gradient, for evaluation."""
        ...

    def parameters(self) -> Iterable[torch.nn.Parameter]:
        """Return what is trained."""
        ...

    def train(self, mode: bool, /) -> None:
        """Switch dropout on or off."""
        ...


class _Base:
    """What students share: evaluation in blocks, without gradient."""

    block = 2048
    threads: int | None = 1
    """Torch threads while training; None leaves them. Steps of a small student are too short to
    share: with other work on the machine, two threads can be ten times slower than one."""

    def encode(self, texts: Sequence[str], /) -> torch.Tensor:
        raise NotImplementedError

    def vectors(self, texts: Sequence[str], /) -> np.ndarray:
        """Return unit vectors float32 (N, D) without gradient."""
        import torch

        if not texts:
            raise EmptyInputError("There are no texts to encode.")
        parts = []
        with torch.inference_mode():
            for start in range(0, len(texts), self.block):
                found = self.encode(texts[start : start + self.block])
                parts.append(found.float().cpu().numpy())
        return np.concatenate(parts)

    def train(self, mode: bool, /) -> None:
        """Nothing here has dropout."""


class StaticStudent(_Base):
    """A token table: a text's vector is the normalised mean of its tokens' rows.

    Trains at thousands of texts per second, so that several arms under several seeds take a
    minute. It sees words, not their order.

    Args:
        texts: Every text that will be encoded, for the vocabulary; labels are not looked at.
            Tokens that occur in none of them are left out later on.
        init: ``"pretrained"`` starts from the bundled model's rows, ``"random"`` from noise.
        dim: Dimensions; fewer than the bundled model's 256 take its first ones.
        seed: Seed of the random rows.
        device: Torch device.

    Raises:
        EmptyInputError: When the texts have no token.
        MissingExtraError: When torch is not installed.

    Example:
        >>> student = StaticStudent(["red apple", "green pear"], dim=8)
        >>> student.encode(["red pear", "apple"]).shape
        torch.Size([2, 8])
    """

    def __init__(
        self,
        texts: Sequence[str],
        *,
        init: Literal["pretrained", "random"] = "pretrained",
        dim: int = 256,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        torch = require_extra("torch", extra="train", purpose="train a student")
        check_choice(init, ("pretrained", "random"), name="init")
        self._model: Any = load("static")
        check_in_range(dim, name="dim", low=1, high=self._model.dim)
        self._tokens: dict[str, np.ndarray] = {}
        self._place = np.zeros(len(self._model.table), dtype=np.int64)
        distinct = list(dict.fromkeys(check_texts(texts)))
        ids, offsets = self._model.tokenize(distinct)
        used = np.unique(ids)
        if not len(used):
            raise EmptyInputError("The texts have no token: a student needs words to learn from.")
        # Row 0 stands for texts without a known token.
        self._place[used] = np.arange(1, len(used) + 1)
        for place, text in enumerate(distinct):
            self._tokens[text] = self._own(ids[offsets[place] : offsets[place + 1]])
        rng = torch.Generator().manual_seed(derive_seed(seed, "static student"))
        table = torch.randn(len(used) + 1, dim, generator=rng) / dim**0.5
        if init == "pretrained":
            table[1:] = torch.from_numpy(self._model.table[used, :dim].copy())
        self.table = torch.nn.Parameter(table.to(device))

    def copy(self) -> StaticStudent:
        """Return a student with a table of its own, as it is now; reading texts is not repeated.

        Example:
            >>> first = StaticStudent(["red apple"], dim=8)
            >>> second = first.copy()
            >>> second.table.detach().zero_().sum().item(), bool(first.table.any())
            (0.0, True)
        """
        import torch

        twin = copy(self)
        twin.table = torch.nn.Parameter(self.table.detach().clone())
        return twin

    def _own(self, ids: np.ndarray) -> np.ndarray:
        rows = self._place[ids]
        rows = rows[rows > 0]
        return rows if len(rows) else np.zeros(1, dtype=np.int64)

    def encode(self, texts: Sequence[str], /) -> torch.Tensor:
        """Return unit vectors (N, D) with gradient."""
        import torch
        from torch.nn import functional

        unseen = [text for text in dict.fromkeys(texts) if text not in self._tokens]
        if unseen:
            ids, offsets = self._model.tokenize(unseen)
            for place, text in enumerate(unseen):
                self._tokens[text] = self._own(ids[offsets[place] : offsets[place + 1]])
        parts = [self._tokens[text] for text in texts]
        starts = np.cumsum([0, *(len(part) for part in parts[:-1])])
        device = self.table.device
        means = functional.embedding_bag(
            torch.from_numpy(np.concatenate(parts)).to(device),
            self.table,
            torch.from_numpy(starts).to(device),
            mode="mean",
        )
        return functional.normalize(means, dim=-1)

    def parameters(self) -> list[torch.nn.Parameter]:
        """Return the table."""
        return [self.table]


class FrozenVectors:
    """Vectors of a model that is not trained, computed once per text and kept on disk.

    Used by `AdapterStudent`, and for guides and teachers.

    Args:
        model: Name for `embedworks.load`, such as ``"minilm"``, or a loaded model.
        cache: Folder for the vectors; None keeps them in memory only.
        device: Torch device of the model, chosen by itself when None.

    Example:
        >>> frozen = FrozenVectors("static")
        >>> frozen(["a pear", "an apple", "a pear"]).shape
        (3, 256)
    """

    def __init__(
        self, model: str | Any = "minilm", *, cache: Path | None = None, device: str | None = None
    ) -> None:
        self.model: Any = load(model, device=device) if isinstance(model, str) else model
        self._rows: dict[int, np.ndarray] = {}
        self._folder: Path | None = None
        if cache is not None:
            self._folder = Path(cache) / f"vectors-{model_fingerprint(self.model)[:16]}"
            for path in sorted(self._folder.glob("*.safetensors")):
                self._read(path)

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Return unit vectors float32 (N, D); what is not known yet is encoded and kept."""
        keys = [content_key(text) for text in texts]
        missing = {key: text for key, text in zip(keys, texts) if key not in self._rows}
        if missing:
            found, _ = encode_batched(self.model, list(missing.values()))
            norms = np.linalg.norm(found, axis=1, keepdims=True)
            found = found / np.where(norms > 0, norms, 1.0)
            self._rows |= dict(zip(missing, found))
            if self._folder is not None:
                self._write(list(missing), found)
        return np.stack([self._rows[key] for key in keys])

    def _write(self, keys: list[int], vectors: np.ndarray) -> None:
        from safetensors.numpy import save_file

        assert self._folder is not None
        name = sha256_of_text(*map(str, sorted(keys)))[:20]
        tensors = {"keys": np.asarray(keys, dtype=np.int64), "vectors": vectors}
        with atomic_path(self._folder / f"{name}.safetensors") as temporary:
            save_file(tensors, temporary)

    def _read(self, path: Path) -> None:
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            tensors = load_file(path)
            keys, vectors = tensors["keys"], tensors["vectors"]
        except (SafetensorError, KeyError) as error:
            raise FormatError(f"{path} is damaged ({error}): delete it and run again.") from error
        if vectors.ndim != 2 or len(keys) != len(vectors):
            raise FormatError(f"{path} does not hold one vector per text: delete it.")
        self._rows |= dict(zip(keys.tolist(), vectors))


class AdapterStudent(_Base):
    """A trainable adapter over frozen vectors of a real model; starts as that model.

    ``normalize(x + W2 gelu(W1 x))`` with ``W2 = 0`` at first, or ``normalize(W x)`` with ``W``
    the identity. A step costs microseconds, yet the vectors are a transformer's.

    Args:
        frozen: Gives the vectors; encode all texts beforehand with one call, in one go.
        kind: ``"mlp"`` (residual, one hidden layer) or ``"linear"``.
        hidden: Width of the hidden layer.
        seed: Seed of ``W1``.
        device: Torch device of the adapter.

    Example:
        >>> student = AdapterStudent(FrozenVectors("static"), hidden=32)
        >>> bool(np.allclose(student.vectors(["pear"]), student.frozen(["pear"]), atol=1e-5))
        True
    """

    def __init__(
        self,
        frozen: FrozenVectors,
        *,
        kind: Literal["mlp", "linear"] = "mlp",
        hidden: int = 512,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        torch = require_extra("torch", extra="train", purpose="train a student")
        check_choice(kind, ("mlp", "linear"), name="kind")
        self.frozen = frozen
        self.kind = kind
        self.device = device
        dim = frozen(["the width of the vectors"]).shape[1]
        rng = torch.Generator().manual_seed(derive_seed(seed, "adapter student"))
        if kind == "linear":
            weights = [torch.eye(dim)]
        else:
            check_in_range(hidden, name="hidden", low=1)
            weights = [
                torch.randn(hidden, dim, generator=rng) / dim**0.5,
                torch.zeros(dim, hidden),
            ]
        self._weights = [torch.nn.Parameter(weight.to(device)) for weight in weights]

    def encode(self, texts: Sequence[str], /) -> torch.Tensor:
        """Return unit vectors (N, D) with gradient."""
        import torch
        from torch.nn import functional

        x = torch.from_numpy(self.frozen(texts)).to(self.device)
        if self.kind == "linear":
            y = x @ self._weights[0].T
        else:
            # Unit vectors have entries of about 1 / sqrt(D); the hidden layer wants about 1.
            inner = functional.gelu(x @ self._weights[0].T * x.shape[1] ** 0.5)
            y = x + inner @ self._weights[1].T / self._weights[1].shape[1] ** 0.5
        return functional.normalize(y, dim=-1)

    def parameters(self) -> list[torch.nn.Parameter]:
        """Return the adapter's weights."""
        return self._weights


class TransformerStudent(_Base):
    """A whole sentence-transformers model, for a few real steps or for a GPU.

    Args:
        model: Name for `embedworks.load`; it is loaded afresh, so that arms do not share it.
        max_length: Tokens read of each text.
        layers: Train only the last so many layers; None trains everything.
        device: Torch device.
        dropout: Whether dropout is on while training.

    Raises:
        InputError: When the model is not a transformer, or has fewer layers.
    """

    block = 128
    threads = None

    def __init__(
        self,
        model: str = "minilm",
        *,
        max_length: int = 64,
        layers: int | None = None,
        device: str = "cpu",
        dropout: bool = True,
    ) -> None:
        require_extra("torch", extra="train", purpose="train a student")
        self.model: Any = load(model, device=device)
        if not hasattr(self.model, "preprocess"):
            raise InputError(f"{model!r} is not a transformer: use StaticStudent for it.")
        self.model.max_seq_length = max_length
        self.dropout = dropout
        if layers is not None:
            self._freeze(model, layers)
        self.model.eval()

    def _freeze(self, name: str, layers: int) -> None:
        stack = getattr(getattr(self.model[0].auto_model, "encoder", None), "layer", None)
        if stack is None or not 0 < layers <= len(stack):
            raise InputError(f"{name!r} cannot train {layers} layers: give 1 or more that it has.")
        for parameter in self.model.parameters():
            parameter.requires_grad_(False)
        for layer in stack[-layers:]:
            for parameter in layer.parameters():
                parameter.requires_grad_(True)

    def encode(self, texts: Sequence[str], /) -> torch.Tensor:
        """Return unit vectors (N, D) with gradient; texts are encoded in order of length."""
        import torch
        from torch.nn import functional

        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        parts = []
        for start in range(0, len(order), 64):
            chosen = [texts[i] for i in order[start : start + 64]]
            features = {
                name: value.to(self.model.device) if hasattr(value, "to") else value
                for name, value in self.model.preprocess(chosen).items()
            }
            parts.append(self.model(features)["sentence_embedding"])
        places = torch.empty(len(order), dtype=torch.int64)
        places[torch.tensor(order)] = torch.arange(len(order))
        return functional.normalize(torch.cat(parts)[places.to(self.model.device)], dim=-1)

    def parameters(self) -> list[torch.nn.Parameter]:
        """Return the parameters that are trained."""
        return [p for p in self.model.parameters() if p.requires_grad]

    def train(self, mode: bool, /) -> None:
        """Switch dropout on or off."""
        self.model.train(mode and self.dropout)
