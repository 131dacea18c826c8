"""One small registry for everything a string may select: models, recipes, tasks, methods.

Knows nothing about embeddings. Plain classes and functions stay the default; a registry exists
only where a name in a recipe or on the command line must find an object.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from importlib import metadata
from typing import Generic, TypeVar

from embedworks.errors import InputError, UnknownNameError

__all__ = ["REGISTRIES", "Registry", "did_you_mean"]

T = TypeVar("T")


def did_you_mean(name: str, known: list[str]) -> str:
    """Return a hint with the closest known names, or with all of them.

    Example:
        >>> did_you_mean("minilmm", ["static", "minilm"])
        "Did you mean 'minilm'?"
        >>> did_you_mean("xyz", ["static", "minilm"])
        "Known: 'minilm', 'static'."
    """
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    if close:
        return "Did you mean " + " or ".join(repr(c) for c in close) + "?"
    if not known:
        return "None are registered."
    return "Known: " + ", ".join(repr(k) for k in sorted(known)) + "."


class Registry(Generic[T]):
    """A named collection of objects of one kind.

    Other packages add to it through the entry-point group ``embedworks.<kind>``; these are
    loaded on first use, never at import.

    Args:
        kind: What is registered, in the plural (``"pair sources"``), used in messages.

    Raises:
        InputError: On registering a name twice.
        UnknownNameError: On asking for a name that is not there.

    Example:
        >>> shapes = Registry[type]("shapes")
        >>> @shapes.register("square", summary="Four equal sides.")
        ... class Square: ...
        >>> shapes.names()
        ['square']
        >>> shapes["sqare"]
        Traceback (most recent call last):
        ...
        embedworks.errors.UnknownNameError: No 'sqare' among the shapes. Did you mean 'square'?
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._items: dict[str, T] = {}
        self._summaries: dict[str, str] = {}
        self._entry_points_loaded = False

    def register(self, name: str, *, summary: str = "") -> Callable[[T], T]:
        """Register the decorated object under ``name``; ``summary`` is shown in listings."""

        def decorate(item: T) -> T:
            self.add(name, item, summary=summary)
            return item

        return decorate

    def add(self, name: str, item: T, *, summary: str = "") -> None:
        """Register ``item`` under ``name``."""
        if name in self._items:
            raise InputError(
                f"{name!r} is already registered among the {self.kind}: choose another name."
            )
        self._items[name] = item
        self._summaries[name] = summary

    def names(self) -> list[str]:
        """Return the registered names, sorted."""
        self._load_entry_points()
        return sorted(self._items)

    def summary(self, name: str) -> str:
        """Return the one-line description of ``name``."""
        self[name]
        return self._summaries[name]

    def __getitem__(self, name: str) -> T:
        self._load_entry_points()
        if name not in self._items:
            raise UnknownNameError(
                f"No {name!r} among the {self.kind}. {did_you_mean(name, list(self._items))}"
            )
        return self._items[name]

    def __contains__(self, name: object) -> bool:
        self._load_entry_points()
        return name in self._items

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __len__(self) -> int:
        return len(self.names())

    def _load_entry_points(self) -> None:
        if self._entry_points_loaded:
            return
        self._entry_points_loaded = True
        group = "embedworks." + self.kind.replace(" ", "_")
        for point in metadata.entry_points(group=group):
            self.add(point.name, point.load(), summary=f"from {point.value}")


#: Where ``embedworks list`` finds its kinds: kind -> (module, attribute) of the registry.
REGISTRIES: dict[str, tuple[str, str]] = {
    "batch-strategies": ("embedworks.data", "BATCH_STRATEGIES"),
    "converters": ("embedworks.data", "CONVERTERS"),
    "data-merge-methods": ("embedworks.merging", "DATA_MERGE_METHODS"),
    "filtered-methods": ("embedworks.evaluation", "FILTERED_METHODS"),
    "learners": ("embedworks.evaluation", "LEARNERS"),
    "margins": ("embedworks.evaluation", "MARGINS"),
    "models": ("embedworks.models", "MODELS"),
    "negative-rules": ("embedworks.negatives", "NEGATIVE_RULES"),
    "objectives": ("embedworks.losses", "OBJECTIVES"),
    "pair-sources": ("embedworks.data", "PAIR_SOURCES"),
    "poolings": ("embedworks.modules", "POOLINGS"),
    "prompt-templates": ("embedworks.modules", "PROMPT_TEMPLATES"),
    "readers": ("embedworks.data", "READERS"),
    "recipes": ("embedworks.training", "RECIPES"),
    "reasoning-sets": ("embedworks.evaluation", "REASONING_SETS"),
    "reproductions": ("embedworks.reproductions", "REPRODUCTIONS"),
    "search-modes": ("embedworks.index", "SEARCH_MODES"),
    "templates": ("embedworks.data", "TEMPLATES"),
    "merge-methods": ("embedworks.merging", "MERGE_METHODS"),
    "merge-methods-by-place": ("embedworks.merging", "PLACE_MERGE_METHODS"),
    "metrics": ("embedworks.evaluation", "METRICS"),
    "suites": ("embedworks.evaluation", "SUITES"),
    "word-methods": ("embedworks.models", "WORD_METHODS"),
}
