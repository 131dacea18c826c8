"""Bring the vectors and facts of all devices together."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from embedworks.errors import ShapeError
from embedworks.losses.batch_info import BatchInfo


def is_distributed() -> bool:
    """Return whether several processes train together."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def gather_vectors(vectors: Tensor) -> Tensor:
    """Return the vectors of all devices (world * n, ...); gradients flow back to each of them.

    Raises:
        ShapeError: When devices hold different numbers of rows.
    """
    from torch.distributed.nn.functional import all_gather

    sizes = [torch.zeros(1, dtype=torch.int64, device=vectors.device) for _ in _ranks()]
    dist.all_gather(sizes, torch.tensor([len(vectors)], device=vectors.device))
    counts = [int(size) for size in sizes]
    if len(set(counts)) > 1:
        raise ShapeError(
            f"devices hold {counts} rows: every device needs a batch of the same size. Set "
            "drop_last (dataloader_drop_last) so that the last, smaller batch is left out."
        )
    if vectors.ndim == 3:
        width = torch.tensor([vectors.shape[1]], device=vectors.device)
        dist.all_reduce(width, op=dist.ReduceOp.MAX)
        missing = int(width) - vectors.shape[1]
        vectors = torch.nn.functional.pad(vectors, [0, 0, 0, missing])
    return torch.cat(all_gather(vectors.contiguous()))  # type: ignore[no-untyped-call]


def gather_info(info: BatchInfo) -> BatchInfo:
    """Return the facts of all devices' rows. Every device must have the same facts."""

    def gather(value: Tensor) -> Tensor:
        whole = value.to(torch.uint8) if value.dtype == torch.bool else value
        parts = [torch.empty_like(whole) for _ in _ranks()]
        dist.all_gather(parts, whole.contiguous())
        return torch.cat(parts).to(value.dtype)

    return info.map(gather)


def first_row(local_rows: int) -> int:
    """Return the global number of this device's first row."""
    return dist.get_rank() * local_rows


def _ranks() -> range:
    return range(dist.get_world_size())
