"""Progress bars with rate and ETA; silent unless standard error is a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import TypeVar

__all__ = ["Progress", "progress", "track"]

T = TypeVar("T")


class Progress:
    """Handle of one running bar; `advance` moves it, `total` may be learned later."""

    def __init__(self, bar: object | None = None, task: object | None = None) -> None:
        self._bar = bar
        self._task = task

    def advance(self, amount: float = 1.0) -> None:
        """Move the bar by ``amount``."""
        if self._bar is not None:
            self._bar.advance(self._task, amount)  # type: ignore[attr-defined]

    def update(self, *, total: float | None = None, description: str | None = None) -> None:
        """Change the bar's total or its label."""
        if self._bar is not None:
            fields = {"total": total, "description": description}
            self._bar.update(  # type: ignore[attr-defined]
                self._task, **{k: v for k, v in fields.items() if v is not None}
            )


@contextmanager
def progress(
    description: str, total: float | None = None, *, enabled: bool | None = None
) -> Iterator[Progress]:
    """Show one progress bar while the block runs.

    Args:
        description: Label, for example ``"Reading"``.
        total: Number of units, or None while unknown.
        enabled: True or False to force; None shows the bar only when stderr is a terminal.

    Example:
        >>> with progress("Counting", total=2) as bar:
        ...     bar.advance()
    """
    if enabled is None:
        enabled = sys.stderr.isatty()
    if not enabled:
        yield Progress()
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as RichProgress

    columns = (
        TextColumn("{task.description:<10}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
    )
    with RichProgress(*columns, console=Console(stderr=True), transient=True) as bar:
        yield Progress(bar, bar.add_task(description, total=total))


def track(
    items: Iterable[T],
    description: str,
    *,
    total: float | None = None,
    enabled: bool | None = None,
) -> Iterator[T]:
    """Yield ``items`` while a bar counts them.

    Example:
        >>> list(track([1, 2], "Counting"))
        [1, 2]
    """
    if total is None and isinstance(items, Sized):
        total = len(items)
    with progress(description, total, enabled=enabled) as bar:
        for item in items:
            yield item
            bar.advance()
