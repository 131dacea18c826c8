"""Filters for a benchmark, drawn from the columns at hand: by kind, share and correlation.

Kinds as in the survey of filtered search (arXiv 2507.21989): ``exact`` (a value, EM), ``range``
(R), ``set`` (a value in a set, EMIS) and ``combined`` (AND, OR and NOT of those). The share is
that of the rows that pass. Correlation is with the query: it gets any filter of the kind and share
(none), one that passes a row near it and whose rows are near it on the whole (positive), or one
whose rows are far from it (negative).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from embedworks._core.seeding import generator
from embedworks._core.validation import check_choice, check_in_range
from embedworks.errors import EmptyInputError
from embedworks.evaluation.filtered._drawing import FilterDrawer
from embedworks.evaluation.filtered.worlds import FilteredData
from embedworks.index.where import Condition

__all__ = ["CORRELATIONS", "FILTER_KINDS", "FilteredCell", "FilteredWorkload", "filtered_workload"]

FILTER_KINDS = ("exact", "range", "set", "combined")
CORRELATIONS = ("none", "positive", "negative")

_POOL = 128
_FARTHEST = 8  # a query takes one of this part of the pool whose rows are farthest
_ANCHORED = 12  # filters drawn around a near row, of which a query takes the nearest
_NEAR = 10  # rows that count as near


@dataclass(frozen=True)
class FilteredCell:
    """One filter per query, all of one sort.

    Attributes:
        kind: One of `FILTER_KINDS`, or ``"own"`` for filters that were given.
        share: Share of the rows that should pass, in (0, 1].
        correlation: One of `CORRELATIONS`.
        wheres: One condition per query.
        label: Name to use instead of kind, share and correlation.

    Example:
        >>> FilteredCell("range", 0.001, "negative", ()).name
        'range 0.1 % negative'
    """

    kind: str
    share: float
    correlation: str
    wheres: tuple[Condition, ...]
    label: str = ""

    @property
    def name(self) -> str:
        """The label, or kind, share and correlation in words."""
        return self.label or _name(self.kind, self.share, self.correlation)


@dataclass(frozen=True, eq=False)
class FilteredWorkload:
    """Cells over one set of vectors.

    Attributes:
        data: Vectors, attributes and queries.
        cells: What could be drawn.
        skipped: Name of a cell that could not -> why.
    """

    data: FilteredData
    cells: tuple[FilteredCell, ...]
    skipped: dict[str, str] = field(default_factory=dict)


def filtered_workload(
    data: FilteredData,
    *,
    kinds: Sequence[str] = FILTER_KINDS,
    shares: Sequence[float] = (0.5, 0.1, 0.01, 0.001, 0.0001),
    correlations: Sequence[str] = CORRELATIONS,
    correlated_shares: Sequence[float] = (0.1, 0.01),
    seed: int = 0,
) -> FilteredWorkload:
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
    draw = FilterDrawer(data.attributes, generator(seed, "filters"))
    cells, skipped = [], {}
    for kind in kinds:
        for share in shares:
            wanted = [c for c in correlations if c == "none" or share in correlated_shares]
            pool = draw.pool(kind, share, _POOL) if wanted else []
            for correlation in wanted:
                name = _name(kind, share, correlation)
                if not pool:
                    skipped[name] = draw.why(kind, share)
                    continue
                wheres = _assign(kind, share, correlation, pool, data, draw)
                if wheres is None:
                    skipped[name] = "few rows near the queries pass a filter of this kind"
                else:
                    cells.append(FilteredCell(kind, share, correlation, wheres))
    if not cells:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in skipped.items())
        raise EmptyInputError(f"No filters could be drawn from the columns ({reasons}).")
    return FilteredWorkload(data, tuple(cells), skipped)


def _name(kind: str, share: float, correlation: str) -> str:
    return f"{kind} {100 * share:g} %" + ("" if correlation == "none" else f" {correlation}")


def _assign(
    kind: str,
    share: float,
    correlation: str,
    pool: list[Condition],
    data: FilteredData,
    draw: FilterDrawer,
) -> tuple[Condition, ...] | None:
    """Choose a filter for every query; None when most have none that is near."""
    asked = len(data.queries)
    if correlation == "none":
        places = np.concatenate(
            [draw.rng.permutation(len(pool)) for _ in range(math.ceil(asked / len(pool)))]
        )[:asked]
        return tuple(pool[place] for place in places)
    centres = np.stack([draw.centre(where, data.vectors) for where in pool])
    order = np.argsort(data.queries @ centres.T, axis=1)
    if correlation == "positive":
        near = [_near(kind, share, query, data, draw) for query in data.queries]
        if 2 * near.count(None) > asked:
            return None
        return tuple(one or pool[order[number, -1]] for number, one in enumerate(near))
    picks = draw.rng.integers(0, max(1, len(pool) // _FARTHEST), asked)
    return tuple(pool[order[number, pick]] for number, pick in enumerate(picks))


def _near(
    kind: str, share: float, query: np.ndarray, data: FilteredData, draw: FilterDrawer
) -> Condition | None:
    """Draw filters that a row near the query passes; return the one with the nearest rows."""
    scores = data.vectors @ query
    few = min(_NEAR, len(scores))
    rows = np.argpartition(-scores, few - 1)[:few]
    drawn = [draw.fitting(kind, share, int(draw.rng.choice(rows))) for _ in range(_ANCHORED)]
    found = {str(where): where for where in drawn if where is not None}
    return max(
        found.values(),
        key=lambda where: float(draw.centre(where, data.vectors) @ query),
        default=None,
    )
