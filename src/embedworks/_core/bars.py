"""Silence transformers' progress bars where nothing is downloaded."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["no_bars"]


@contextmanager
def no_bars() -> Iterator[None]:
    """Hide the bars of reading and writing weights, and put the setting back."""
    bars = importlib.import_module("transformers.utils.logging")
    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            bars.enable_progress_bar()
