"""Linear heads over frozen vectors, trained for the candidates that a first search finds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from embedworks._core.extras import require_extra
from embedworks._core.validation import check_in_range, check_vectors
from embedworks.errors import InputError, ShapeError
from embedworks.index._saved_arrays import load_arrays, save_arrays
from embedworks.index.quantized.learning import (
    Plan,
    check_positives,
    contrastive_loss,
    descend,
)

__all__ = ["VectorHead", "learn_heads"]

_BLOCK = 65_536
_TINY = 1e-12  # a vector shorter than this has no direction


@dataclass(frozen=True, eq=False)
class VectorHead:
    """``x -> unit(x + x @ weight)``: a vector's correction, learned without its encoder.

    Args:
        weight: Float32 (D, D); zeros leave directions as they are.

    Raises:
        ShapeError: When the weight is not square.
        NonFiniteError: When a value is NaN or infinite.

    Example:
        >>> head = VectorHead(np.array([[0.0, 1.0], [0.0, 0.0]], dtype=np.float32))
        >>> head(np.array([[3.0, 1.0], [0.0, 2.0]])).tolist()
        [[0.6000000238418579, 0.800000011920929], [0.0, 1.0]]
    """

    weight: np.ndarray

    def __post_init__(self) -> None:
        if self.weight.ndim != 2 or self.weight.shape[0] != self.weight.shape[1]:
            raise ShapeError(f"A head's weight must have shape (D, D), got {self.weight.shape}.")
        check_vectors(self.weight, name="weight")

    @property
    def dim(self) -> int:
        """Dimensions of a vector, D."""
        return self.weight.shape[0]

    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        """Return corrected vectors of unit length, float32 (N, D); a zero vector stays zero.

        Raises:
            ShapeError, NonFiniteError: For unusable vectors.
        """
        changed = np.empty((len(vectors), self.dim), dtype=np.float32)
        for start in range(0, len(vectors), _BLOCK):
            part = check_vectors(vectors[start : start + _BLOCK], dim=self.dim)
            turned = part + part @ self.weight
            lengths = np.linalg.norm(turned, axis=1, keepdims=True)
            changed[start : start + _BLOCK] = turned / np.maximum(lengths, _TINY)
        return changed

    def save(self, folder: Path) -> None:
        """Write the head as a folder.

        Raises:
            StorageError: When the disk is full or not writable.
        """
        save_arrays(folder, "head", {}, {"weight": self.weight})

    @classmethod
    def load(cls, folder: Path) -> VectorHead:
        """Read a saved head.

        Raises:
            NotFoundError: When there is none.
            FormatError: When it is damaged or of another kind.
        """
        return cls(load_arrays(folder, "head", ("weight",))[1]["weight"])


def learn_heads(
    queries: np.ndarray,
    documents: np.ndarray,
    batches: Iterable[np.ndarray] | None = None,
    *,
    positives: np.ndarray,
    also: Sequence[np.ndarray] = (),
    document_side: bool = True,
    epochs: int = 5,
    batch_size: int = 256,
    learning_rate: float = 1e-3,
    temperature: float = 0.05,
    seed: int = 0,
) -> tuple[VectorHead, VectorHead]:
    """Train a head for queries and one for documents, so that queries find their documents.

    The loss is `contrastive_loss` between the heads' outputs over the documents of a batch.
    What it is good for depends on the batches and on what the documents are:

    - Random batches train for a search of everything.
    - `locality_batches` over the candidates of a first search train for ranking those again.
    - With ``document_side=False`` documents stay as they are. They can then be vectors that
      codes stand for, ``quantizer.decode(codes)``: a query head for compressed search.
    - With ``also``, one query head serves several kinds of document vectors, such as coded and
      dense ones (the paper's query unification).

    Args:
        queries: Unit vectors of training queries, (Q, D).
        documents: Vectors of the documents, (M, D).
        batches: Triples (query, positive, negative); None draws random batches.
        positives: One relevant document of each query, int (Q,).
        also: More vectors of the same documents, each (M, D), which stay as they are; their
            losses are added.
        document_side: Whether to train the documents' head too; otherwise it is zero.
        epochs: Passes over the batches.
        batch_size: Queries per random batch.
        learning_rate: Of Adam, falling to 0 in a line.
        temperature: Of the contrast.
        seed: Seed of random batches.

    Returns:
        ``(query head, document head)``.

    Raises:
        ShapeError: When dimensions or positives do not fit.
        InputError: When an argument is out of range or a positive is no document.
        NonFiniteError: When training diverges.
        MissingExtraError: When torch is not installed.

    Paper: Xiao et al. 2022 (BiDR), arXiv 2201.05409, sections 3.3 and 3.5. The paper trains new
    encoders; here the encoder is frozen and only the heads learn. To train the encoder itself,
    give the same triples to a `ContrastiveLoss`.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> documents = np.eye(8, dtype=np.float32)
        >>> queries = np.roll(documents, 1, axis=1)  # every query points at the wrong document
        >>> asks, _ = learn_heads(queries, documents, positives=np.arange(8), epochs=200,
        ...                       learning_rate=0.05, document_side=False)
        >>> (asks(queries) @ documents.T).argmax(axis=1).tolist()
        [0, 1, 2, 3, 4, 5, 6, 7]
    """
    torch: Any = require_extra("torch", extra="train", purpose="learn heads")
    queries = check_vectors(queries, name="queries")
    dim = queries.shape[1]
    documents = check_vectors(documents, name="documents", dim=dim)
    fixed = [check_vectors(one, name="also", dim=dim) for one in also]
    if any(len(one) != len(documents) for one in fixed):
        raise InputError(f"Every array of also must have {len(documents)} rows, like documents.")
    check_positives(positives, len(queries), len(documents))
    check_in_range(temperature, name="temperature", low=0, open_low=True)
    plan = Plan(
        positives, batches, documents=len(documents), epochs=epochs, batch_size=batch_size,
        seed=seed, learning_rate=learning_rate,
    )  # fmt: skip
    asking = torch.nn.Parameter(torch.zeros(dim, dim))
    answering = torch.nn.Parameter(torch.zeros(dim, dim), requires_grad=document_side)
    optimizer = torch.optim.Adam([asking, answering] if document_side else [asking])
    asked = torch.from_numpy(queries)
    unchanged = [torch.from_numpy(one) for one in ([] if document_side else [documents])]
    unchanged += [torch.from_numpy(one) for one in fixed]
    changed = torch.from_numpy(documents)
    for rows, numbers, known in plan.steps(optimizer, "Learning heads"):
        turned = _turned(asked[rows], asking)
        sides = [one[numbers] for one in unchanged]
        if document_side:
            sides.append(_turned(changed[numbers], answering))
        losses = [
            contrastive_loss(turned, side, temperature=temperature, ignored=known) for side in sides
        ]
        descend(optimizer, sum(losses[1:], start=losses[0]))
    weights = (asking.detach().numpy().copy(), answering.detach().numpy().copy())
    return VectorHead(weights[0]), VectorHead(weights[1])


def _turned(vectors: Any, weight: Any) -> Any:
    changed = vectors + vectors @ weight
    return changed / changed.norm(dim=1, keepdim=True).clamp_min(_TINY)
