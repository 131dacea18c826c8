"""Filters for a benchmark, drawn from the columns at hand: by kind, share and correlation.

Kinds as in the survey of filtered search (arXiv 2507.21989): ``exact`` (a value, EM), ``range``
(R), ``set`` (a value in a set, EMIS) and ``combined`` (AND, OR and NOT of those). The share is
that of the rows that pass. Correlation is with the query: among many filters of a kind and share,
a query gets one whose rows are near it (positive), far from it (negative), or any.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from embedworks._core.seeding import generator
from embedworks._core.validation import check_choice, check_in_range
from embedworks.errors import EmptyInputError, InputError
from embedworks.evaluation.filtered.worlds import FilteredData
from embedworks.index.attributes import AttributeTable
from embedworks.index.filtering import kind_of
from embedworks.index.where import And, Between, Compare, Condition, Contains, Literal, Not, Or

__all__ = ["CORRELATIONS", "FILTER_KINDS", "FilteredCell", "Workload", "filtered_workload"]

FILTER_KINDS = ("exact", "range", "set", "combined")
CORRELATIONS = ("none", "positive", "negative")

_WITHIN = 1.6  # a filter may pass so many times more, or fewer, rows than wanted
_POOL = 128
_TRIES = 12  # for each filter of the pool
_FAVOURED = 8  # a correlated query takes one of this part of the pool
_CENTRE = 1000  # rows whose mean stands for those that pass


@dataclass(frozen=True)
class FilteredCell:
    """One filter per query, all of one sort.

    Attributes:
        kind: One of `FILTER_KINDS`.
        share: Share of the rows that should pass, in (0, 1].
        correlation: One of `CORRELATIONS`.
        wheres: One condition per query.

    Example:
        >>> FilteredCell("range", 0.001, "negative", ()).name
        'range 0.1 % negative'
    """

    kind: str
    share: float
    correlation: str
    wheres: tuple[Condition, ...]

    @property
    def name(self) -> str:
        """Kind, share and correlation in words."""
        return _name(self.kind, self.share, self.correlation)


@dataclass(frozen=True, eq=False)
class Workload:
    """Cells over one set of vectors.

    Attributes:
        data: Vectors, attributes and queries.
        cells: What could be drawn.
        skipped: Name of a cell that could not -> why.
    """

    data: FilteredData
    cells: tuple[FilteredCell, ...]
    skipped: dict[str, str]


def filtered_workload(
    data: FilteredData,
    *,
    kinds: Sequence[str] = FILTER_KINDS,
    shares: Sequence[float] = (0.5, 0.1, 0.01, 0.001, 0.0001),
    correlations: Sequence[str] = CORRELATIONS,
    correlated_shares: Sequence[float] = (0.1, 0.01),
    seed: int = 0,
) -> Workload:
    """Draw a filter for every query, for every kind, share and correlation.

    A filter is taken when at most 1.6 times more, or fewer, rows pass than
    wanted; what the columns cannot give is skipped with a reason.

    Args:
        data: Vectors, attributes and queries.
        kinds: Of `FILTER_KINDS`.
        shares: Shares of the rows that pass, each in (0, 1].
        correlations: Of `CORRELATIONS`.
        correlated_shares: The ``shares`` at which the correlated cells are drawn.
        seed: Seed of all choices.

    Raises:
        UnknownNameError: On a kind or correlation that is not there.
        InputError: When a share is outside (0, 1].
        EmptyInputError: When no cell can be drawn.

    Example:
        >>> from embedworks.evaluation.filtered.worlds import synthetic_filtered_data
        >>> data = synthetic_filtered_data(1000, 8, 3)
        >>> drawn = filtered_workload(data, kinds=["exact"], shares=[0.5], correlations=["none"])
        >>> [str(where) for where in drawn.cells[0].wheres]
        ["kind = 'a'", "kind = 'a'", "kind = 'a'"]
    """
    for kind in kinds:
        check_choice(kind, FILTER_KINDS, name="kind")
    for correlation in correlations:
        check_choice(correlation, CORRELATIONS, name="correlation")
    for share in shares:
        check_in_range(share, name="share", low=0, high=1, open_low=True)
    draw = _Drawer(data.table, generator(seed, "filters"))
    cells, skipped = [], {}
    for kind in kinds:
        for share in shares:
            wanted = [c for c in correlations if c == "none" or share in correlated_shares]
            pool = draw.pool(kind, share) if wanted else []
            for correlation in wanted:
                if pool:
                    wheres = _assign(pool, correlation, data, draw)
                    cells.append(FilteredCell(kind, share, correlation, wheres))
                else:
                    skipped[_name(kind, share, correlation)] = draw.why(kind, share)
    if not cells:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in skipped.items())
        raise EmptyInputError(f"No filters could be drawn from the columns ({reasons}).")
    return Workload(data, tuple(cells), skipped)


def _name(kind: str, share: float, correlation: str) -> str:
    return f"{kind} {100 * share:g} %" + ("" if correlation == "none" else f" {correlation}")


def _assign(
    pool: list[Condition], correlation: str, data: FilteredData, draw: _Drawer
) -> tuple[Condition, ...]:
    """Choose a filter of the pool for every query."""
    asked = len(data.queries)
    if correlation == "none":
        places = np.concatenate(
            [draw.rng.permutation(len(pool)) for _ in range(math.ceil(asked / len(pool)))]
        )[:asked]
        return tuple(pool[place] for place in places)
    centres = np.stack([draw.centre(where, data.vectors) for where in pool])
    nearness = data.queries @ centres.T
    order = np.argsort(-nearness if correlation == "positive" else nearness, axis=1)
    few = max(1, len(pool) // _FAVOURED)
    picks = draw.rng.integers(0, few, asked)
    return tuple(pool[order[number, pick]] for number, pick in enumerate(picks))


class _Drawer:
    """Draws filters from the columns of a table."""

    def __init__(self, table: pa.Table, rng: np.random.Generator) -> None:
        self.rng, self.rows = rng, table.num_rows
        self.attributes = AttributeTable(table)
        self.singles: dict[str, tuple[list[Literal], np.ndarray]] = {}
        self.elements: dict[str, tuple[list[Literal], np.ndarray]] = {}
        self.ordered: dict[str, pa.Array] = {}
        for name in table.column_names:
            column = table.column(name).combine_chunks()
            kind = kind_of(column.type)
            if kind == "set":
                self.elements[name] = _counted(pc.list_flatten(column))
                continue
            if kind in ("text", "number", "date", "true/false"):
                self.singles[name] = _counted(column)
            if kind in ("number", "date"):
                known = column.drop_null()
                if pa.types.is_floating(known.type):
                    known = known.filter(pc.is_finite(known))
                self.ordered[name] = known.take(pc.sort_indices(known))

    def pool(self, kind: str, share: float) -> list[Condition]:
        """Return up to `_POOL` different filters that pass about ``share`` of the rows."""
        if share * self.rows < 1:
            return []
        found: dict[str, Condition] = {}
        for _ in range(_POOL * _TRIES):
            where = self._one(kind, share)
            if where is None:
                break
            if 1 / _WITHIN <= self._passing(where) / (share * self.rows) <= _WITHIN:
                found[str(where)] = where
            if len(found) == _POOL:
                break
        return list(found.values())

    def why(self, kind: str, share: float) -> str:
        """Say why a pool is empty."""
        if share * self.rows < 1:
            return "that is less than one row"
        columns = {"exact": self.singles, "range": self.ordered, "set": self.elements}
        if kind in columns and not columns[kind]:
            return "no column has such values"
        return f"no filter of this kind passes about {100 * share:g} % of the rows"

    def centre(self, where: Condition, vectors: np.ndarray) -> np.ndarray:
        """Return the mean vector of rows that pass."""
        rows = self.attributes.compile(where).rows()
        if len(rows) > _CENTRE:
            rows = self.rng.choice(rows, _CENTRE, replace=False)
        mean: np.ndarray = vectors[rows].mean(axis=0)
        return mean

    def _passing(self, where: Condition) -> int:
        compiled = self.attributes.compile(where)
        count = compiled.cardinality()
        return count.minimum if count.exact else int(compiled.mask().sum())

    def _one(self, kind: str, share: float) -> Condition | None:
        """Return a filter that may pass about ``share`` of the rows; None when there is none."""
        makers: dict[str, Callable[[float], Condition | None]] = {
            "exact": self._exact,
            "range": self._range,
            "set": self._set,
            "combined": self._combined,
        }
        return makers[kind](share)

    def _exact(self, share: float) -> Condition | None:
        found = self._counted_value(self.singles, share)
        return None if found is None else Compare(found[0], "=", found[1])

    def _set(self, share: float) -> Condition | None:
        found = self._counted_value(self.elements, share)
        return None if found is None else Contains(*found)

    def _counted_value(
        self, columns: dict[str, tuple[list[Literal], np.ndarray]], share: float
    ) -> tuple[str, Literal] | None:
        """Draw a column that has fitting values, then one of them."""
        low, high = share * self.rows / _WITHIN, share * self.rows * _WITHIN
        fitting = {
            name: places
            for name, (_, counts) in columns.items()
            if len(places := np.flatnonzero((counts >= low) & (counts <= high)))
        }
        if not fitting:
            return None
        name = str(self.rng.choice(list(fitting)))
        return name, columns[name][0][int(self.rng.choice(fitting[name]))]

    def _range(self, share: float) -> Condition | None:
        width = max(1, round(share * self.rows))
        wide = [name for name, values in self.ordered.items() if len(values) >= width]
        if not wide:
            return None
        name = str(self.rng.choice(wide))
        values = self.ordered[name]
        start = int(self.rng.integers(0, len(values) - width + 1))
        return Between(name, _literal(values[start]), _literal(values[start + width - 1]))

    def _combined(self, share: float) -> Condition | None:
        """Join two or three filters so that about ``share`` pass if they are independent."""
        shape = int(self.rng.integers(0, 4))
        part = float(self.rng.uniform(0.25, 0.75))
        if shape == 0:
            wanted = [share**part, share ** (1 - part)]
        elif shape == 1:
            wanted = [share * part, share * (1 - part)]
        elif shape == 2:
            wanted = [min(1.0, share / (1 - part)), part]
        else:
            wide = math.sqrt(share)
            wanted = [wide * part, wide * (1 - part), wide]
        parts = [self._any(one) for one in wanted]
        if any(one is None for one in parts):
            return None
        first, second, *third = [one for one in parts if one is not None]
        if shape == 0:
            return And((first, second))
        if shape == 1:
            return Or((first, second))
        return And((first, Not(second))) if shape == 2 else And((Or((first, second)), *third))

    def _any(self, share: float) -> Condition | None:
        """Draw a filter of a random single kind."""
        for kind in self.rng.permutation(["exact", "range", "set"]):
            found = self._one(str(kind), share)
            if found is not None:
                return found
        return None


def _counted(column: pa.Array) -> tuple[list[Literal], np.ndarray]:
    """Return the different values of a column and how many rows have each."""
    counts = pc.value_counts(column.drop_null())
    values = [_literal(value) for value in counts.field("values")]
    numbers = counts.field("counts").to_numpy(zero_copy_only=False)
    usable = [n for n, value in enumerate(values) if value == value]  # NaN equals nothing
    return [values[n] for n in usable], numbers[usable]


def _literal(scalar: pa.Scalar) -> Literal:
    """Return a value as a filter writes it."""
    value = scalar.as_py()
    if isinstance(value, datetime.date | datetime.datetime):
        return value.isoformat()
    if isinstance(value, str | bool | int | float):
        return value
    raise InputError(f"A column of {scalar.type} cannot be filtered by value; leave it out.")
