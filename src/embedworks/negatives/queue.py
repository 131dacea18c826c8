"""A queue of past document vectors: more negatives than a batch holds, without encoding them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from embedworks._core.validation import check_k
from embedworks.errors import InputError, NonFiniteError, ShapeError

__all__ = ["EmbeddingQueue"]


class EmbeddingQueue(nn.Module):
    """The last ``size`` document vectors with their content keys, first in, first out.

    Vectors are copied without gradient. Each carries the key of its content, so that an objective
    can mask documents that are positives of the current batch. It has no second, slow encoder:
    while the model moves, older vectors lag behind it, so keep the queue short (some batches).

    Everything is in buffers: ``state_dict`` resumes it exactly, and it moves with ``to(device)``.

    Args:
        size: Largest number of vectors kept (N).
        dim: Their dimension (D).
        dtype: How they are kept.

    Raises:
        InputError: When ``size`` or ``dim`` is not at least 1, or ``dtype`` is not a float type.

    Example:
        >>> queue = EmbeddingQueue(size=3, dim=2)
        >>> queue.enqueue(torch.eye(2), torch.tensor([1, 2]))
        >>> queue.enqueue(torch.ones(2, 2), torch.tensor([3, 4]))
        >>> queue.keys, len(queue)
        (tensor([2, 3, 4]), 3)
    """

    _vectors: Tensor
    _keys: Tensor
    _state: Tensor

    def __init__(self, size: int, dim: int, *, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.size, self.dim = check_k(size), check_k(dim)
        if not dtype.is_floating_point:
            raise InputError(f"vectors are kept as floats, not as {dtype}.")
        self.register_buffer("_vectors", torch.zeros(size, dim, dtype=dtype))
        self.register_buffer("_keys", torch.zeros(size, dtype=torch.int64))
        # Where the next vector goes, and how many there are.
        self.register_buffer("_state", torch.zeros(2, dtype=torch.int64))

    def __len__(self) -> int:
        return int(self._state[1])

    @property
    def vectors(self) -> Tensor:
        """The vectors kept, oldest first, (n, D) without gradient."""
        return self._vectors[self._order()]

    @property
    def keys(self) -> Tensor:
        """Their content keys, int64 (n,)."""
        return self._keys[self._order()]

    def _order(self) -> Tensor:
        start, filled = self._state.tolist()
        ages = torch.arange(start - filled, start, device=self._keys.device)
        return ages % self.size

    @torch.no_grad()
    def enqueue(self, vectors: Tensor, keys: Tensor) -> None:
        """Add vectors; the oldest make room. Of more than ``size``, the last are kept.

        Args:
            vectors: float tensor (n, D).
            keys: int64 tensor (n,), `embedworks.data.content_key` of each document.

        Raises:
            ShapeError: When shapes do not agree with each other or with the queue.
            InputError: When vectors are not floats or keys not int64.
            NonFiniteError: When a vector has NaN or infinity; nothing is then added.
        """
        if vectors.ndim != 2 or vectors.shape[1] != self.dim:
            raise ShapeError(f"vectors must be (n, {self.dim}), got {tuple(vectors.shape)}.")
        if keys.shape != (len(vectors),):
            raise ShapeError(
                f"{len(vectors)} vectors need keys ({len(vectors)},), got {tuple(keys.shape)}."
            )
        if not vectors.dtype.is_floating_point or keys.dtype != torch.int64:
            raise InputError(
                f"float vectors and int64 keys are expected, got {vectors.dtype} and {keys.dtype}."
            )
        finite = torch.isfinite(vectors).all(dim=1)
        if not bool(finite.all()):
            raise NonFiniteError(
                f"{int((~finite).sum())} of {len(vectors)} vectors have NaN or infinity, the "
                f"first is row {int((~finite).nonzero()[0])}."
            )
        vectors, keys = vectors[-self.size :], keys[-self.size :]
        start, filled = self._state.tolist()
        count = len(vectors)
        place = (start + torch.arange(count, device=self._keys.device)) % self.size
        self._vectors[place] = vectors.to(self._vectors)
        self._keys[place] = keys.to(self._keys)
        self._state.copy_(
            torch.tensor([(start + count) % self.size, min(self.size, filled + count)])
        )

    def clear(self) -> None:
        """Empty the queue, for example between stages."""
        self._state.zero_()

    def extra_repr(self) -> str:
        """Return what ``print`` shows."""
        return f"size={self.size}, dim={self.dim}, filled={len(self)}"
