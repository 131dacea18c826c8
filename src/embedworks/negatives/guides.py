"""Guides: a frozen encoder's opinion of every text, computed once and looked up by key.

A guide says which candidates of a batch lie closer to the query than its positive and are
therefore left out. It does not learn, so its vectors are computed before training.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from embedworks._core.validation import normalize_rows
from embedworks.data import RowSet, content_key
from embedworks.data.rows import RowInput
from embedworks.errors import EmptyInputError, InputError, NotFoundError
from embedworks.models.vectors import Role, VectorStore, encode_inputs, fingerprint_of

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["CachedGuide"]


class CachedGuide:
    """A guide's unit vectors by content key. Make one with `build`.

    With a folder, vectors lie there as a memory map sorted by key: they are not read into memory,
    the next run finds them again, a run that was killed continues, and new texts are added to the
    old. The folder may be shared by guides: each has its own part, named after the model.

    Attributes:
        dim: Dimension of the vectors.

    Paper: Solatorio 2024, arXiv 2402.16829 (GISTEmbed), which encodes every batch with the guide.

    Example:
        >>> class Lengths:
        ...     def encode(self, texts):
        ...         return np.array([[len(text), 1.0] for text in texts])
        >>> guide = CachedGuide.build(["a", "abc"], Lengths())
        >>> guide.lookup(np.array([content_key("a")]))
        array([[0.70710677, 0.70710677]], dtype=float32)
    """

    def __init__(self, store: VectorStore) -> None:
        self._store = store

    @classmethod
    def build(
        cls,
        inputs: RowSet | Sequence[RowInput],
        model: Any,
        folder: str | Path | None = None,
        *,
        role: Role | None = None,
        student: Any = None,
        fingerprint: str | None = None,
        show_progress: bool | None = None,
    ) -> CachedGuide:
        """Encode every distinct input once.

        Args:
            inputs: Texts or dicts; of training rows every anchor, positive and negative.
            model: The guide: anything with ``encode``.
            folder: Where vectors are kept; None keeps them in memory.
            role: ``"query"`` or ``"document"`` to use ``encode_query`` or ``encode_document``.
                One guide serves both sides of a batch, so the default is plain ``encode``.
            student: The model in training, to make sure that it is not its own guide.
            fingerprint: Stands for the model in the folder; by default a hash of its weights.
            show_progress: True or False to force a bar.

        Raises:
            EmptyInputError: When there is nothing to encode.
            InputError: When the guide is the student, or gives a vector of zeros.
            NonFiniteError: When the guide gives NaN or infinity.
            FormatError: When the folder is damaged.
        """
        if student is not None:
            _refuse_student(model, student)
        items = _all_inputs(inputs) if isinstance(inputs, RowSet) else list(inputs)
        if not items:
            raise EmptyInputError("a guide needs at least one text to encode.")
        keys = np.array([content_key(item) for item in items], dtype=np.int64)
        path = None if folder is None else Path(folder)
        name = fingerprint_of(model, fingerprint) if path is not None else ""
        store = VectorStore.beside(path, name, role)
        new = keys[store.missing(keys)]
        store.add(
            items,
            keys,
            lambda part: encode_inputs(model, part, role),
            show_progress=show_progress,
            label="Encoding (guide)",
        )
        _refuse_zeros(store, new)
        return cls(store)

    def __len__(self) -> int:
        return len(self._store.keys)

    @property
    def dim(self) -> int:
        """Dimension of the vectors."""
        return int(self._store.vectors.shape[1])

    @overload
    def lookup(self, keys: np.ndarray) -> np.ndarray: ...
    @overload
    def lookup(self, keys: Tensor) -> Tensor: ...
    def lookup(self, keys: Any) -> Any:
        """Return the unit vectors of content keys.

        Args:
            keys: int64, any shape; an array, or a tensor on any device.

        Returns:
            float32 of the keys' shape and D; an array, or a tensor on the keys' device.

        Raises:
            InputError: When keys are not int64.
            NotFoundError: When some have no vector; says how many.
        """
        if not isinstance(keys, np.ndarray):
            import torch

            found = self.lookup(keys.detach().cpu().numpy())
            return torch.from_numpy(found).to(keys.device)
        if keys.dtype != np.int64:
            raise InputError(f"content keys are int64, got {keys.dtype}.")
        flat = keys.reshape(-1)
        missing = self._store.missing(flat)
        if missing.any():
            raise NotFoundError(
                f"the guide has no vector for {len(np.unique(flat[missing]))} of "
                f"{len(np.unique(flat))} inputs, the first has key {flat[missing][0]}. Build it "
                "from all rows that are trained on, as they are given to the model."
            )
        return normalize_rows(self._store.take(flat)).reshape(*keys.shape, self.dim)


def _all_inputs(rows: RowSet) -> list[RowInput]:
    return [item for row in rows for item in (row.anchor, row.positive, *row.negatives)]


def _refuse_zeros(store: VectorStore, keys: np.ndarray) -> None:
    zeros = 0
    for start in range(0, len(keys), 10_000):
        zeros += int((~store.take(keys[start : start + 10_000]).any(axis=1)).sum())
    if zeros:
        raise InputError(
            f"the guide gives {zeros} of {len(keys)} inputs a vector of zeros: it has no opinion "
            "of them. Drop these inputs, or use another guide."
        )


def _refuse_student(model: Any, student: Any) -> None:
    """Raise when the guide is the student, or learns with it."""
    shared = False
    if hasattr(model, "parameters") and hasattr(student, "parameters"):
        own = {id(parameter) for parameter in student.parameters()}
        shared = any(id(parameter) in own for parameter in model.parameters())
    if model is student or shared:
        raise InputError(
            "the student cannot be its own guide: its cached vectors would be those from before "
            "training, and a guide that makes the student's mistakes confirms them. Use another "
            "model, or a separate frozen copy."
        )
