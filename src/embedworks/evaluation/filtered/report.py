"""What a filtered-search benchmark found: points, cells, and who is best where."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from embedworks.errors import FormatError

__all__ = ["BuildCost", "CellReport", "FilteredReport", "Point", "Standing"]


@dataclass(frozen=True)
class Point:
    """One method at one value of its knob, over all queries of a cell.

    Attributes:
        method: Its name.
        value: Value of the knob.
        recall: Mean recall over queries and rounds, in [0, 1].
        wrong: Rows returned in all that fail the filter or repeat one, over all rounds.
        missing: Places left empty in all, over all rounds.
        seconds: Mean time of a query, one per round.
        median: Median time of a query over all rounds, seconds.
        p99: 99th percentile of it, seconds.
    """

    method: str
    value: float
    recall: float
    wrong: int
    missing: int
    seconds: tuple[float, ...]
    median: float
    p99: float

    @property
    def qps(self) -> float:
        """Queries a second: one over the median round's mean time."""
        return 1.0 / statistics.median(self.seconds)

    @property
    def qps_range(self) -> tuple[float, float]:
        """Queries a second in the slowest and in the fastest round."""
        return 1.0 / max(self.seconds), 1.0 / min(self.seconds)


@dataclass(frozen=True)
class BuildCost:
    """What a method's index takes; methods that share an index have the same.

    Attributes:
        seconds: Time to build it, on one thread.
        nbytes: Bytes it holds, without the attributes.
        peak_mb: Highest memory while building, MB above that before.
    """

    seconds: float
    nbytes: int
    peak_mb: float


@dataclass(frozen=True)
class Standing:
    """Where a method stands in one cell at the recall wanted.

    Attributes:
        point: Its fastest point that reaches the recall, or None.
        share_of_best: Its speed over that of the best single method, 0 without a point.
    """

    point: Point | None
    share_of_best: float


@dataclass(frozen=True)
class CellReport:
    """All points of one cell.

    Attributes:
        name: Kind, share and correlation.
        kind: Kind of the filters.
        share: Share of the rows wanted.
        correlation: Correlation wanted.
        passing: Mean share of the rows that passed.
        measured_correlation: Mean `filter_correlation` over some of the queries.
        filters: How many different filters the queries had.
        example: One of them.
        points: Every method and value measured.
        skipped: Method -> why it, or its further values, were not measured.
    """

    name: str
    kind: str
    share: float
    correlation: str
    passing: float
    measured_correlation: float
    filters: int
    example: str
    points: tuple[Point, ...]
    skipped: Mapping[str, str] = field(default_factory=dict)

    def fastest(self, method: str, recall: float) -> Point | None:
        """Return a method's fastest point that reaches ``recall``, or None."""
        reached = (p for p in self.points if p.method == method and p.recall >= recall)
        return max(reached, key=lambda point: point.qps, default=None)


@dataclass(frozen=True)
class FilteredReport:
    """A whole benchmark.

    Attributes:
        settings: Sizes, seeds, k, rounds and threads.
        target_recall: Recall at which methods are compared.
        planners: Methods that choose among plans by themselves; the others are single methods.
        builds: Method -> what its index takes.
        cells: The cells, as measured.
        skipped_cells: Cells that could not be drawn -> why.
        skipped_methods: Methods that could not take part -> why.

    Example:
        >>> points = (Point("a", 1, 0.97, 0, 0, (0.001,), 0.001, 0.001),
        ...           Point("b", 1, 0.99, 0, 0, (0.002,), 0.002, 0.002),
        ...           Point("c", 1, 0.90, 0, 0, (0.0001,), 0.0001, 0.0001))
        >>> cell = CellReport("range 1 %", "range", 0.01, "none", 0.01, 0.0, 1, "", points)
        >>> report = FilteredReport({}, 0.95, (), {}, (cell,))
        >>> report.best(cell).method, report.standing(cell, "b").share_of_best
        ('a', 0.5)
        >>> report.worst_share("b"), report.worst_share("c")
        (0.5, 0.0)
    """

    settings: Mapping[str, Any]
    target_recall: float
    planners: tuple[str, ...]
    builds: Mapping[str, BuildCost]
    cells: tuple[CellReport, ...]
    skipped_cells: Mapping[str, str] = field(default_factory=dict)
    skipped_methods: Mapping[str, str] = field(default_factory=dict)

    @property
    def methods(self) -> tuple[str, ...]:
        """Every method that was measured somewhere, in order of appearance."""
        return tuple(dict.fromkeys(p.method for cell in self.cells for p in cell.points))

    @property
    def single_methods(self) -> tuple[str, ...]:
        """The methods that are no planners."""
        return tuple(name for name in self.methods if name not in self.planners)

    def best(self, cell: CellReport) -> Point | None:
        """Return the fastest point of a single method at the recall wanted, or None."""
        points = (cell.fastest(name, self.target_recall) for name in self.single_methods)
        return max((p for p in points if p is not None), key=lambda p: p.qps, default=None)

    def standing(self, cell: CellReport, method: str) -> Standing:
        """Compare a method with the best single method of a cell."""
        point, best = cell.fastest(method, self.target_recall), self.best(cell)
        if point is None or best is None:
            return Standing(point, 0.0)
        return Standing(point, point.qps / best.qps)

    def worst_share(self, method: str) -> float:
        """Return a method's smallest share of the best single method's speed over all cells.

        0.0 when it misses the recall somewhere. Cells where no single method reaches it are
        left out.
        """
        decided = [cell for cell in self.cells if self.best(cell) is not None]
        return min((self.standing(cell, method).share_of_best for cell in decided), default=0.0)

    def wins(self, method: str) -> int:
        """Count the cells where a single method is the best one."""
        found = (self.best(cell) for cell in self.cells)
        return sum(point is not None and point.method == method for point in found)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values: everything measured, and each cell's best method."""
        record = asdict(self)
        for cell, plain in zip(self.cells, record["cells"], strict=True):
            best = self.best(cell)
            plain["best"] = None if best is None else best.method
            for point, found in zip(cell.points, plain["points"], strict=True):
                found["qps"] = round(point.qps, 1)
        record["worst_share"] = {name: round(self.worst_share(name), 4) for name in self.methods}
        return record

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> FilteredReport:
        """Read what `to_dict` gave.

        Raises:
            FormatError: When something is missing or of another kind.
        """
        try:
            cells = []
            for cell in record["cells"]:
                values = {k: v for k, v in cell.items() if k not in ("best", "points")}
                points = ({**p, "seconds": tuple(p["seconds"])} for p in map(dict, cell["points"]))
                kept = [{k: v for k, v in p.items() if k != "qps"} for p in points]
                cells.append(CellReport(**values, points=tuple(Point(**p) for p in kept)))
            return cls(
                settings=dict(record["settings"]),
                target_recall=float(record["target_recall"]),
                planners=tuple(record["planners"]),
                builds={name: BuildCost(**cost) for name, cost in record["builds"].items()},
                cells=tuple(cells),
                skipped_cells=dict(record["skipped_cells"]),
                skipped_methods=dict(record["skipped_methods"]),
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise FormatError(f"This is no record of a filtered benchmark: {error!r}.") from error
