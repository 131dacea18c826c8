"""How much memory a piece of work took at its highest."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

__all__ = ["PeakMemory"]

_STATUS = Path("/proc/self/status")


class PeakMemory:
    """The process's peak resident memory since this object was made.

    Linux can start a new peak; elsewhere the peak is that of the whole process, and the growth
    since the start is what can be told.

    Example:
        >>> peak = PeakMemory()
        >>> peak.megabytes() >= 0
        True
    """

    def __init__(self) -> None:
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
        self._before = _resident("VmRSS:")

    def megabytes(self) -> float:
        """Return the MB (2**20 bytes) above the memory in use at the start."""
        return max(0.0, _resident("VmHWM:") - self._before)


def _resident(field: str) -> float:
    with suppress(OSError):
        for line in _STATUS.read_text(encoding="ascii").splitlines():
            if line.startswith(field):
                return int(line.split()[1]) / 1024
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 1024
