"""Which device and how many threads to use."""

from __future__ import annotations

import os

from embedworks._core.extras import require_extra
from embedworks.errors import SettingsError

__all__ = ["cpu_count", "pick_device"]


def cpu_count() -> int:
    """Return the number of CPU cores this process may use.

    ``EMBEDWORKS_THREADS`` overrides it; otherwise the affinity mask counts, not the machine's
    total.

    Example:
        >>> cpu_count() >= 1
        True
    """
    wanted = os.environ.get("EMBEDWORKS_THREADS")
    if wanted is not None:
        if not wanted.isdigit() or int(wanted) < 1:
            raise SettingsError(f"EMBEDWORKS_THREADS must be a positive integer, got {wanted!r}.")
        return int(wanted)
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1


def pick_device(device: str | None = None) -> str:
    """Return the torch device to use: the one asked for, else cuda, else mps, else cpu.

    Raises:
        SettingsError: When the device asked for is not there.
        MissingExtraError: When torch is not installed.
    """
    torch = require_extra("torch", extra="train", purpose="choose a torch device")
    if device is None:
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    kind = device.split(":")[0]
    if kind == "cuda" and not torch.cuda.is_available():
        raise SettingsError(f"device {device!r} was asked for, but this torch sees no CUDA GPU.")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise SettingsError(f"device {device!r} was asked for, but this torch has no MPS.")
    return device
