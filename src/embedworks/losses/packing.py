"""Embed the columns of a batch in packs of similar length, with or without cached gradients.

A batch's texts differ in length; padded together, most of the work goes into padding. Sorted over
all columns and cut into packs, little is left of it. With cached gradients (GradCache) only one
pack's activations are alive at a time: vectors are computed without a graph, the loss gives their
gradients, and each pack is embedded again to pass its share on. The random state of the first
pass is replayed, so dropout draws the same masks.

Knows models as functions from features to a dict; knows nothing of the loss.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from embedworks.errors import InputError

__all__ = ["ColumnEmbedder", "Columns"]

Features = dict[str, Any]
Forward = Callable[[Features], dict[str, Any]]


@dataclass(frozen=True)
class Columns:
    """Embedded columns.

    Attributes:
        vectors: Per column, float (B, D), or (B, T, D) token vectors.
        masks: Per column, bool (B, T) for token vectors, else None.
    """

    vectors: list[Tensor]
    masks: list[Tensor | None]


@dataclass(frozen=True)
class _Pack:
    """Rows that are embedded together: all of one column, or (column, row) pairs."""

    columns: tuple[int, ...]
    index: Tensor | None  # rows within the columns put one after another; None for everything
    width: int


class ColumnEmbedder:
    """Embeds the columns of a batch pack by pack.

    Args:
        forward: The model: features to a dict with ``sentence_embedding`` or
            ``token_embeddings``.
        mini_batch_size: Texts per pack; None for no limit by count.
        mini_batch_tokens: Tokens per pack, padding included; None for no limit. A text longer
            than this is a pack of its own.
        tokens: Whether to use token vectors.

    Raises:
        InputError: When a limit is below 1.
    """

    def __init__(
        self,
        forward: Forward,
        *,
        mini_batch_size: int | None = None,
        mini_batch_tokens: int | None = None,
        tokens: bool = False,
    ) -> None:
        for name, value in (
            ("mini_batch_size", mini_batch_size),
            ("mini_batch_tokens", mini_batch_tokens),
        ):
            if value is not None and value < 1:
                raise InputError(f"{name} must be at least 1, got {value}.")
        self.forward = forward
        self.mini_batch_size = mini_batch_size
        self.mini_batch_tokens = mini_batch_tokens
        self.tokens = tokens

    def embed(self, columns: Sequence[Features]) -> Columns:
        """Return all columns' vectors, with a graph when gradients are enabled."""
        plan = self._plan(columns)
        outputs = [self._run(columns, pack) for pack in plan]
        return self._assemble(columns, plan, outputs)

    def embed_detached(self, columns: Sequence[Features]) -> tuple[Columns, Callable[..., None]]:
        """Return the vectors as leaves, and what passes their gradients on to the model.

        Returns:
            The vectors, which require gradients, and ``replay(factor, no_sync=None)``: call it
            once, after the leaves have their gradients. ``factor`` multiplies them; ``no_sync`` is
            a context for all packs but the last (as DistributedDataParallel has).
        """
        from sentence_transformers.base.losses.gradcache import RandContext

        plan = self._plan(columns)
        states, outputs = [], []
        with torch.no_grad():
            for pack in plan:
                features = self._features(columns, pack)
                states.append(RandContext(*[v for v in features.values() if _is_tensor(v)]))
                outputs.append(self._pick(self.forward(features)))
        found = self._assemble(columns, plan, outputs)
        leaves = [x.detach().requires_grad_() for x in found.vectors]

        def replay(factor: Tensor | float = 1.0, no_sync: Any = None) -> None:
            starts = _starts(columns)
            for number, (pack, state) in enumerate(zip(plan, states, strict=True)):
                last = number == len(plan) - 1
                with nullcontext() if last or no_sync is None else no_sync(), torch.enable_grad():
                    with state:
                        vectors, _ = self._pick(self.forward(self._features(columns, pack)))
                    if vectors.requires_grad:
                        gradient = _take_gradient(leaves, pack, starts, vectors)
                        vectors.backward(gradient * factor)  # type: ignore[no-untyped-call]

        return Columns(leaves, found.masks), replay

    def _plan(self, columns: Sequence[Features]) -> list[_Pack]:
        """Put columns that preprocess alike together and cut them into packs."""
        unlimited = self.mini_batch_size is None and self.mini_batch_tokens is None
        groups: dict[Any, list[int]] = {}
        for place, column in enumerate(columns):
            alike = None if unlimited else _signature(column)
            groups.setdefault(("alone", place) if alike is None else alike, []).append(place)
        packs: list[_Pack] = []
        for signature, members in groups.items():
            if signature[0] == "alone":
                packs.append(_Pack(tuple(members), None, 0))
            else:
                packs += self._cut(columns, tuple(members))
        return packs

    def _cut(self, columns: Sequence[Features], members: tuple[int, ...]) -> list[_Pack]:
        lengths = torch.cat([_widths(columns[m]["attention_mask"]) for m in members])
        # Longest first: a pack that does not fit in memory shows at once.
        order = torch.argsort(lengths, descending=True, stable=True)
        sizes = lengths[order].tolist()
        packs, start = [], 0
        while start < len(sizes):
            width = max(1, sizes[start])
            count = len(sizes) - start
            if self.mini_batch_tokens is not None:
                count = min(count, max(1, self.mini_batch_tokens // width))
            if self.mini_batch_size is not None:
                count = min(count, self.mini_batch_size)
            packs.append(_Pack(members, order[start : start + count], width))
            start += count
        return packs

    def _features(self, columns: Sequence[Features], pack: _Pack) -> Features:
        if pack.index is None:
            return dict(columns[pack.columns[0]])
        first = columns[pack.columns[0]]
        width = first["attention_mask"].shape[1]
        found: Features = {}
        for name, value in first.items():
            if not _is_tensor(value):
                found[name] = value
                continue
            parts = [columns[m][name] for m in pack.columns]
            if value.ndim >= 2 and value.shape[1] == width:
                found[name] = _rows_of(parts, pack)
            else:
                found[name] = torch.cat(parts)[pack.index]
        return found

    def _run(self, columns: Sequence[Features], pack: _Pack) -> tuple[Tensor, Tensor | None]:
        return self._pick(self.forward(self._features(columns, pack)))

    def _pick(self, output: dict[str, Any]) -> tuple[Tensor, Tensor | None]:
        if not self.tokens:
            vectors: Tensor = output["sentence_embedding"]
            return vectors, None
        return output["token_embeddings"], output["attention_mask"].bool()

    def _assemble(
        self,
        columns: Sequence[Features],
        plan: Sequence[_Pack],
        outputs: Sequence[tuple[Tensor, Tensor | None]],
    ) -> Columns:
        """Put the packs' rows back into columns."""
        vectors: list[Tensor] = [torch.empty(0)] * len(columns)
        masks: list[Tensor | None] = [None] * len(columns)
        for members in dict.fromkeys(pack.columns for pack in plan):
            mine = [n for n, pack in enumerate(plan) if pack.columns == members]
            parts = _same_width([outputs[n] for n in mine])
            rows = torch.cat([v for v, _ in parts])
            mask = (
                None if parts[0][1] is None else torch.cat([m for _, m in parts if m is not None])
            )
            if plan[mine[0]].index is not None:
                order = torch.cat([i for n in mine if (i := plan[n].index) is not None])
                back = torch.empty_like(order)
                back[order] = torch.arange(len(order), device=order.device)
                rows = rows[back]
                mask = None if mask is None else mask[back]
            start = 0
            for member in members:
                count = len(rows) if len(members) == 1 else len(columns[member]["attention_mask"])
                vectors[member] = rows[start : start + count]
                masks[member] = None if mask is None else mask[start : start + count]
                start += count
        return Columns(vectors, masks)


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor)


def _signature(column: Features) -> tuple[Any, ...] | None:
    """Return what columns must share to be put together; None for what cannot be cut by row.

    Inputs whose tensors do not all have one row per input (flattened pixels, bags of tokens) stay
    whole.
    """
    mask = column.get("attention_mask")
    if not _is_tensor(mask) or mask is None or mask.ndim != 2 or "cu_seq_lens_q" in column:
        return None
    rows, width = mask.shape
    parts: list[Any] = ["rows"]
    for name in sorted(column):
        value = column[name]
        if not _is_tensor(value):
            parts.append((name, repr(value)))
        elif value.ndim == 0 or value.shape[0] != rows:
            return None
        elif value.ndim >= 2 and value.shape[1] == width:
            if value.is_floating_point():
                return None
            parts.append((name, value.ndim))
        else:
            parts.append((name, tuple(value.shape[1:])))
    return tuple(parts)


def _widths(mask: Tensor) -> Tensor:
    """Return, per row, the position after its last real token, int64 (B,)."""
    places = torch.arange(1, mask.shape[1] + 1, device=mask.device)
    return (mask.bool() * places).amax(dim=1)


def _rows_of(parts: Sequence[Tensor], pack: _Pack) -> Tensor:
    """Return a pack's rows of columns with widths of their own, cut to the pack's width."""
    cut = []
    for part in parts:
        part = part[:, : pack.width]
        missing = pack.width - part.shape[1]
        if missing > 0:
            part = torch.nn.functional.pad(part, [0, 0] * (part.ndim - 2) + [0, missing])
        cut.append(part)
    return (cut[0] if len(cut) == 1 else torch.cat(cut))[pack.index]


def _starts(columns: Sequence[Features]) -> dict[int, int]:
    """Return each column's number of rows, for those that can be cut."""
    return {
        place: len(column["attention_mask"])
        for place, column in enumerate(columns)
        if _is_tensor(column.get("attention_mask"))
    }


def _take_gradient(
    leaves: Sequence[Tensor], pack: _Pack, counts: dict[int, int], like: Tensor
) -> Tensor:
    """Return the gradient of a pack's vectors, cut to their width."""
    gradients = []
    for member in pack.columns:
        gradient = leaves[member].grad
        gradients.append(torch.zeros_like(leaves[member]) if gradient is None else gradient)
    if like.ndim == 3:
        width = max(g.shape[1] for g in gradients)
        gradients = [torch.nn.functional.pad(g, [0, 0, 0, width - g.shape[1]]) for g in gradients]
    joined = gradients[0] if len(gradients) == 1 else torch.cat(gradients)
    if pack.index is not None:
        joined = joined[pack.index]
    return joined[:, : like.shape[1]] if like.ndim == 3 else joined


def _same_width(
    parts: Sequence[tuple[Tensor, Tensor | None]],
) -> list[tuple[Tensor, Tensor | None]]:
    """Pad token vectors and masks of several packs to the widest."""
    if parts[0][1] is None:
        return list(parts)
    width = max(vectors.shape[1] for vectors, _ in parts)
    found = []
    for vectors, mask in parts:
        missing = width - vectors.shape[1]
        wide = torch.nn.functional.pad(vectors, [0, 0, 0, missing])
        found.append((wide, None if mask is None else torch.nn.functional.pad(mask, [0, missing])))
    return found
