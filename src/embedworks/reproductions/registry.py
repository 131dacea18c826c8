"""Every reproduction by its slug, gathered from the files in ``papers``."""

from __future__ import annotations

import importlib
import pkgutil

from embedworks._core.registry import Registry
from embedworks.errors import InputError
from embedworks.reproductions import papers
from embedworks.reproductions.framework import Reproduction

__all__ = ["REPRODUCTIONS"]

#: Reproductions by slug.
REPRODUCTIONS: Registry[Reproduction] = Registry("reproductions")


def _gather() -> None:
    for module in sorted(pkgutil.iter_modules(papers.__path__), key=lambda found: found.name):
        if module.name.startswith("_"):
            continue
        loaded = importlib.import_module(f"{papers.__name__}.{module.name}")
        entries = getattr(loaded, "ENTRIES", None)
        if not isinstance(entries, tuple):
            raise InputError(f"{loaded.__name__} must define ENTRIES, a tuple of reproductions.")
        for entry in entries:
            REPRODUCTIONS.add(entry.slug, entry, summary=entry.claim)


_gather()
