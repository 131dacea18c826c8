"""Before a merge: do the models agree, which tensors are tied, and where does each one go?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from embedworks.errors import EmptyInputError, InputError
from embedworks.merging._tensor_files import INTEGERS, Layout, TensorSource
from embedworks.merging.layers import check_parts, weights_of
from embedworks.merging.methods import MERGE_METHODS

__all__ = ["MergeCall", "Plan", "Weights", "limited", "make_plan"]

_SHOWN = 10
_PROBE = 4096


#: One number per model; or such numbers by part of the model (see `embedworks.merging.part_of`).
Weights = Sequence[float] | Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class MergeCall:
    """A method with its weights and options, checked before any file is written.

    Attributes:
        method: A name among `MERGE_METHODS`.
        weights: One number per model, or None.
        options: The method's options.
        parts: Part of the model -> one number per model, in place of ``weights``; else empty.
    """

    method: str
    weights: tuple[float, ...] | None = None
    options: dict[str, Any] = field(default_factory=dict)
    parts: dict[str, tuple[float, ...]] = field(default_factory=dict)

    @classmethod
    def of(
        cls, method: str, weights: Weights | None, options: Mapping[str, Any] | None
    ) -> MergeCall:
        """Take weights and options as a caller gives them."""
        parts: dict[str, tuple[float, ...]] = {}
        given = None
        try:
            if isinstance(weights, Mapping):
                parts = {str(part): tuple(map(float, own)) for part, own in weights.items()}
            elif weights is not None:
                given = tuple(float(weight) for weight in weights)
        except (TypeError, ValueError) as error:
            raise InputError(f"weights must be numbers, got {weights!r:.80}.") from error
        if isinstance(weights, Mapping) and not parts:
            raise InputError("weights by part are empty: give '*' for the whole model at least.")
        return cls(method, given, dict(options or {}), parts)

    def check(self, count: int, *, has_base: bool) -> None:
        """Raise what the method has against ``count`` models, these weights and options."""
        if not count:
            raise EmptyInputError("There is nothing to merge: give at least one model.")
        method = MERGE_METHODS[self.method]
        for weights in self.parts.values() or [self.weights]:
            method.check(count, weights, has_base=has_base, **self.options)

    def check_names(self, names: Sequence[str]) -> None:
        """Raise what weights by part have against the tensors of a model."""
        if self.parts:
            check_parts(self.parts, names)
            for name in names:
                weights_of(name, self.parts)

    @property
    def elementwise(self) -> bool:
        """Whether a tensor can be merged in pieces."""
        return MERGE_METHODS[self.method].elementwise

    def __call__(
        self, tensors: Sequence[np.ndarray], base: np.ndarray | None, key: str
    ) -> np.ndarray:
        """Merge one tensor."""
        method = MERGE_METHODS[self.method]
        weights = weights_of(key, self.parts) if self.parts else self.weights
        return method(tensors, weights, base=base, key=key, **self.options)


@dataclass(frozen=True)
class Plan:
    """The tensors of several models that belong together, and how they are merged."""

    call: MergeCall
    sources: tuple[TensorSource, ...]
    base: TensorSource | None
    layout: Layout
    groups: tuple[tuple[str, ...], ...]

    @property
    def all(self) -> tuple[TensorSource, ...]:
        """The sources, the base last where there is one."""
        return self.sources if self.base is None else (*self.sources, self.base)

    @property
    def copied(self) -> tuple[str, ...]:
        """The integer tensors."""
        entries = self.sources[0].entries
        return tuple(n for group in self.groups for n in group if entries[n].dtype in INTEGERS)

    @property
    def parameters(self) -> int:
        """How many numbers are merged; tied ones count once."""
        entries = [self.sources[0].entries[group[0]] for group in self.groups]
        return sum(entry.values for entry in entries if entry.dtype not in INTEGERS)


def make_plan(
    sources: Sequence[TensorSource],
    base: TensorSource | None,
    call: MergeCall,
    *,
    single: str | None = None,
) -> Plan:
    """Check that the sources agree; find ties; lay the result out as the first source.

    Args:
        sources: The models, in order.
        base: The common ancestor, or None.
        call: The method, already checked.
        single: Name of the one file to write; by default the first source's files.

    Raises:
        InputError: With up to ten of the differences in names, shapes and types, or naming
            integer tensors that differ.
    """
    if base is not None:
        base = _without_idle(base, sources[0])
    models = list(sources) if base is None else [*sources, base]
    aligned = _align(models)
    first, others = aligned[0], aligned[1:]
    problems = []
    for number, other in enumerate(others, start=1):
        label = _label(models, number, base)
        for name in sorted(first.entries.keys() | other.entries.keys()):
            mine, theirs = first.entries.get(name), other.entries.get(name)
            if mine is None or theirs is None:
                lacks, has = ("model 1", label) if mine is None else (label, "model 1")
                problems.append(f"{name!r} is in {has} and not in {lacks}")
            elif mine.shape != theirs.shape:
                problems.append(
                    f"{name!r} has shape {mine.shape} in model 1, {theirs.shape} in {label}"
                )
            elif mine.dtype != theirs.dtype:
                problems.append(f"{name!r} is {mine.dtype} in model 1, {theirs.dtype} in {label}")
            elif mine.dtype in INTEGERS and not mine.equals(theirs):
                problems.append(
                    f"{name!r} holds integers ({mine.dtype}) that differ between model 1 and "
                    f"{label}; integers are copied and must be equal. Quantised weights are merged "
                    "before they are quantised"
                )
    if problems:
        where = ", ".join(f"{_label(models, n, base)} is {m.path}" for n, m in enumerate(models))
        raise InputError(
            "\n- ".join([f"The models do not have the same tensors ({where}):", *limited(problems)])
        )
    if all(entry.dtype in INTEGERS for entry in first.entries.values()):
        raise InputError(f"{first.path} holds integers only: there is nothing to merge.")
    groups = _tied(aligned)
    return Plan(
        call,
        tuple(aligned[: len(sources)]),
        None if base is None else aligned[-1],
        Layout.like(first, first.entries, single),
        groups,
    )


def limited(problems: Sequence[str]) -> list[str]:
    """Return at most ten problems, and how many more there are."""
    more = len(problems) - _SHOWN
    return [*problems[:_SHOWN], *([f"and {more:,} more"] if more > 0 else [])]


def _without_idle(base: TensorSource, first: TensorSource) -> TensorSource:
    """Leave out integers that only the base has: older libraries saved positions with a model."""
    kept = {
        name: entry
        for name, entry in base.entries.items()
        if name in first.entries or entry.dtype not in INTEGERS
    }
    return replace(base, entries=kept)


def _label(models: Sequence[TensorSource], number: int, base: TensorSource | None) -> str:
    return "the base" if models[number] is base else f"model {number + 1}"


def _align(models: Sequence[TensorSource]) -> list[TensorSource]:
    """Make names agree where one model keeps a tied tensor twice and another once.

    A name that some models lack is, in those that have it, the twin of a tensor that all have:
    then it reads from there in the others, or is dropped when the first model lacks it.
    """
    shared = set.intersection(*(set(model.entries) for model in models))
    extra = set.union(*(set(model.entries) for model in models)) - shared
    entries = [dict(model.entries) for model in models]
    for name in sorted(extra):
        owners = [held for held in entries if name in held]
        twin = next(
            (
                other
                for other in sorted(shared)
                if len(owners[0][name].shape) >= 2
                and all(held[name].equals(held[other]) for held in owners)
            ),
            None,
        )
        if twin is None:
            continue
        for held in entries:
            if name not in entries[0]:
                held.pop(name, None)
            elif name not in held:
                held[name] = replace(held[twin], name=name)
    return [replace(model, entries=held) for model, held in zip(models, entries)]


def _tied(models: Sequence[TensorSource]) -> tuple[tuple[str, ...], ...]:
    """Group names whose matrices have the same bytes in every model, in the first one's order.

    Merging such a group once keeps the tie, also under a method that draws random numbers.
    """
    groups: list[list[str]] = []
    seen: dict[tuple[Any, ...], list[list[str]]] = {}
    ordered = sorted(models[0].entries.values(), key=lambda e: (e.path.name, e.offset))
    by_place: dict[tuple[Any, ...], int] = {}
    for entry in ordered:
        by_place[entry.dtype, entry.shape] = by_place.get((entry.dtype, entry.shape), 0) + 1
    for entry in ordered:
        group = [entry.name]
        if len(entry.shape) >= 2 and by_place[entry.dtype, entry.shape] > 1:
            probe = tuple(m.entries[entry.name].bytes(0, _PROBE).tobytes() for m in models)
            alike = seen.setdefault((entry.dtype, entry.shape, probe), [])
            for other in alike:
                if all(m.entries[entry.name].equals(m.entries[other[0]]) for m in models):
                    other.append(entry.name)
                    break
            else:
                alike.append(group)
                groups.append(group)
        else:
            groups.append(group)
    return tuple(tuple(group) for group in groups)
