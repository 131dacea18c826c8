"""What a contestant of a filtered-search benchmark is: how it is built, asked and tuned.

A method has one knob and a ladder of values for it; everything else is fixed and stated in its
summary. Methods of other libraries make their bitmap with our attribute table, so that all pay
the same for the filter. Every method searches one query at a time on one thread.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from embedworks.evaluation.filtered.worlds import FilteredData
from embedworks.index.where import Condition

__all__ = ["Answer", "BuiltIndex", "FilteredMethod"]

#: ``answer(query (D,), k, where, value of the knob)`` -> row numbers, best first.
Answer = Callable[[np.ndarray, int, Condition, float], np.ndarray]


@dataclass(frozen=True, eq=False)
class BuiltIndex:
    """An index ready to be asked.

    Attributes:
        index: The index itself; methods with one ``build`` share it.
        nbytes: Bytes it holds, without the attributes.
        close: Called once when the index is no longer needed.
    """

    index: Any
    nbytes: int
    close: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class FilteredMethod:
    """One way to search under a filter.

    Attributes:
        name: Name in tables and on the command line.
        summary: What it is, with its fixed settings.
        build: Makes the index; methods with the same function share what it returns.
        answer: Called with what ``build`` made and the data; returns the function that is timed.
        knob: What the ladder turns, such as ``"efSearch"``; empty when there is nothing to turn.
        ladder: Values of the knob, from fast to thorough.
        planner: Whether it chooses among plans by itself; others are single methods.
        requires: Modules that must be installed.
        refuses: Says why the index cannot answer a filter, or returns an empty text.
        forget: Called before each query, outside the clock: drops cached filters.
    """

    name: str
    summary: str
    build: Callable[[FilteredData], BuiltIndex]
    answer: Callable[[BuiltIndex, FilteredData], Answer]
    knob: str = ""
    ladder: tuple[float, ...] = (0.0,)
    planner: bool = False
    requires: tuple[str, ...] = ()
    refuses: Callable[[BuiltIndex, Condition], str] = lambda built, where: ""
    forget: Callable[[BuiltIndex], None] = lambda built: None

    def missing(self) -> str:
        """Say what must be installed first, or return an empty text."""
        absent = [name for name in self.requires if importlib.util.find_spec(name) is None]
        return f"{', '.join(absent)} is not installed" if absent else ""
