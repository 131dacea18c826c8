"""Every contestant of a filtered-search benchmark by its name."""

from __future__ import annotations

from embedworks._core.registry import Registry
from embedworks.evaluation.filtered import (
    graph_methods,
    library_methods,
    peer_methods,
    planned_methods,
)
from embedworks.evaluation.filtered.methods import FilteredMethod

__all__ = ["FILTERED_METHODS"]

#: Contestants by name; add your own with ``FILTERED_METHODS.add(method.name, method)``.
FILTERED_METHODS: Registry[FilteredMethod] = Registry("filtered-methods")

for _method in (
    *planned_methods.METHODS,
    *graph_methods.METHODS,
    *library_methods.METHODS,
    *peer_methods.METHODS,
):
    FILTERED_METHODS.add(_method.name, _method, summary=_method.summary)
