"""Draw single filters that pass about a given share of a table's rows."""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from embedworks.errors import InputError
from embedworks.index.attributes import AttributeTable
from embedworks.index.filtering import kind_of
from embedworks.index.where import And, Between, Compare, Condition, Contains, Literal, Not, Or

__all__ = ["FilterDrawer"]

_WITHIN = 1.6  # a filter may pass so many times more, or fewer, rows than wanted
_TRIES = 12
_CENTRE = 1000  # rows whose mean stands for those that pass


@dataclass(frozen=True, eq=False)
class _Values:
    """The different values of a column, and how many rows have each."""

    values: list[Literal]
    counts: np.ndarray
    places: dict[Literal, int]

    @classmethod
    def of(cls, column: pa.Array) -> _Values:
        counted = pc.value_counts(column.drop_null())
        values = [_literal(value) for value in counted.field("values")]
        numbers = counted.field("counts").to_numpy(zero_copy_only=False)
        usable = [n for n, value in enumerate(values) if value == value]  # NaN equals nothing
        values = [values[n] for n in usable]
        return cls(values, numbers[usable], {value: n for n, value in enumerate(values)})


@dataclass(frozen=True, eq=False)
class _Ordered:
    """The numbers or dates of a column in order, and each row's place, -1 without a number."""

    values: pa.Array
    place: np.ndarray

    @classmethod
    def of(cls, column: pa.Array) -> _Ordered:
        known = np.asarray(column.is_valid().to_numpy(zero_copy_only=False), dtype=bool)
        if pa.types.is_floating(column.type):
            finite = pc.fill_null(pc.is_finite(column), fill_value=False)
            known &= finite.to_numpy(zero_copy_only=False)
        rows = np.flatnonzero(known)
        order = rows[pc.sort_indices(column.take(pa.array(rows))).to_numpy()]
        place = np.full(len(column), -1, dtype=np.int64)
        place[order] = np.arange(len(order))
        return cls(column.take(pa.array(order)), place)


class FilterDrawer:
    """Draws filters from the columns of a table."""

    def __init__(self, attributes: AttributeTable, rng: np.random.Generator) -> None:
        self.attributes, self.rng = attributes, rng
        self.table = table = attributes.table
        self.rows = len(attributes)
        self.singles: dict[str, _Values] = {}
        self.elements: dict[str, _Values] = {}
        self.ordered: dict[str, _Ordered] = {}
        for name in table.column_names:
            column = table.column(name).combine_chunks()
            kind = kind_of(column.type)
            if pa.types.is_decimal(column.type):
                continue  # filters have no decimal literals
            if kind == "set":
                self.elements[name] = _Values.of(pc.list_flatten(column))
            elif kind in ("text", "number", "date", "true/false"):
                self.singles[name] = _Values.of(column)
            if kind in ("number", "date"):
                self.ordered[name] = _Ordered.of(column)

    def pool(self, kind: str, share: float, size: int) -> list[Condition]:
        """Return up to ``size`` different filters that pass about ``share`` of the rows."""
        if share * self.rows < 1:
            return []
        drawn = [self.fitting(kind, share) for _ in range(size)]
        return list({str(where): where for where in drawn if where is not None}.values())

    def fitting(self, kind: str, share: float, row: int | None = None) -> Condition | None:
        """Draw until a filter passes about ``share`` of the rows, or give up.

        With ``row``, only values of that row are drawn, and ranges around its value.
        """
        for _ in range(_TRIES):
            where = self._one(kind, share, row)
            if where is None:
                return None
            if 1 / _WITHIN <= self._passing(where) / (share * self.rows) <= _WITHIN:
                return where
        return None

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

    def _one(self, kind: str, share: float, row: int | None) -> Condition | None:
        """Return a filter that may pass about ``share`` of the rows; None when there is none."""
        makers: dict[str, Callable[[float, int | None], Condition | None]] = {
            "exact": self._exact,
            "range": self._range,
            "set": self._set,
            "combined": self._combined,
        }
        return makers[kind](share, row)

    def _exact(self, share: float, row: int | None) -> Condition | None:
        found = self._counted_value(self.singles, share, row)
        return None if found is None else Compare(found[0], "=", found[1])

    def _set(self, share: float, row: int | None) -> Condition | None:
        found = self._counted_value(self.elements, share, row)
        return None if found is None else Contains(*found)

    def _counted_value(
        self, columns: dict[str, _Values], share: float, row: int | None
    ) -> tuple[str, Literal] | None:
        """Draw a column that has fitting values, then one of them."""
        low, high = share * self.rows / _WITHIN, share * self.rows * _WITHIN
        fitting = {}
        for name, values in columns.items():
            places = np.flatnonzero((values.counts >= low) & (values.counts <= high))
            if row is not None:
                own = self._own(name, row)
                places = np.intersect1d(places, [values.places[v] for v in own]).astype(np.int64)
            if len(places):
                fitting[name] = places
        if not fitting:
            return None
        name = str(self.rng.choice(list(fitting)))
        return name, columns[name].values[int(self.rng.choice(fitting[name]))]

    def _own(self, name: str, row: int) -> list[Literal]:
        """Return the values a row has in a column, as filters write them."""
        value = self.table.column(name)[row]
        if not value.is_valid:
            return []
        scalars = value.values if kind_of(value.type) == "set" else [value]
        found = [_literal(one) for one in scalars if one.is_valid]
        return [one for one in found if one == one]

    def _range(self, share: float, row: int | None) -> Condition | None:
        width = max(1, round(share * self.rows))
        wide = [name for name, column in self.ordered.items() if len(column.values) >= width]
        if row is not None:
            wide = [name for name in wide if self.ordered[name].place[row] >= 0]
        if not wide:
            return None
        name = str(self.rng.choice(wide))
        column = self.ordered[name]
        last = len(column.values) - width
        if row is None:
            start = int(self.rng.integers(0, last + 1))
        else:
            start = int(column.place[row]) - int(self.rng.integers(0, width))
            start = min(last, max(0, start))
        ends = column.values[start], column.values[start + width - 1]
        return Between(name, _literal(ends[0]), _literal(ends[1]))

    def _combined(self, share: float, row: int | None) -> Condition | None:
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
        denied = 1 if shape == 2 else None  # a row that must pass must not pass this part
        parts = [
            self._any(one, None if place == denied else row) for place, one in enumerate(wanted)
        ]
        if any(one is None for one in parts):
            return None
        first, second, *third = [one for one in parts if one is not None]
        if shape == 0:
            return And((first, second))
        if shape == 1:
            return Or((first, second))
        return And((first, Not(second))) if shape == 2 else And((Or((first, second)), *third))

    def _any(self, share: float, row: int | None) -> Condition | None:
        """Draw a filter of a random single kind."""
        for kind in self.rng.permutation(["exact", "range", "set"]):
            found = self._one(str(kind), share, row)
            if found is not None:
                return found
        return None


def _literal(scalar: pa.Scalar) -> Literal:
    """Return a value as a filter writes it."""
    value = scalar.as_py()
    if isinstance(value, datetime.date | datetime.datetime):
        return value.isoformat()
    if isinstance(value, str | bool | int | float):
        return value
    raise InputError(f"A column of {scalar.type} cannot be filtered by value; leave it out.")
