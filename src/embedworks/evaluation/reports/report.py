"""The report of a run: one HTML file that needs nothing but a browser.

Fill a `ReportData` and call `write_report`. Every part is optional except title and verdict;
what is missing is left out of the page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from embedworks._core.files import write_text
from embedworks._core.seeding import generator
from embedworks._core.validation import check_choice, check_vectors
from embedworks.errors import InputError, NonFiniteError, ShapeError
from embedworks.evaluation.kinds.failures import FailedQuery
from embedworks.evaluation.kinds.retrieval import Comparison
from embedworks.evaluation.reports._page import page
from embedworks.evaluation.reports._sections import body
from embedworks.evaluation.reports.projection import project_2d

__all__ = ["Curve", "PointMap", "ReportData", "StageTime", "render_report", "write_report"]

#: Points on the map; more make the page heavy and the picture no clearer.
_MAP_POINTS = 3000


@dataclass(frozen=True)
class Curve:
    """A line to draw, such as the validation score over the merge weight.

    Raises:
        ShapeError: When ``x`` and ``y`` differ in length or are empty.
        NonFiniteError: When a value is NaN or infinite.

    Example:
        >>> Curve((0.0, 0.5, 1.0), (0.40, 0.46, 0.43), "merge weight", "nDCG@10", chosen=0.5).chosen
        0.5
    """

    x: Sequence[float]
    y: Sequence[float]
    x_label: str
    """Name and unit of the horizontal axis."""
    y_label: str
    """Name and unit of the vertical axis."""
    chosen: float | None = None
    """The x that was chosen, marked in the plot."""
    caption: str = ""
    """What to read in the plot: n, data split, interval level."""

    def __post_init__(self) -> None:
        if len(self.x) != len(self.y) or len(self.x) == 0:
            raise ShapeError(
                f"A curve needs as many x as y and at least one, got {len(self.x)} and "
                f"{len(self.y)}."
            )
        if not (np.isfinite(self.x).all() and np.isfinite(self.y).all()):
            raise NonFiniteError(
                f"The curve {self.y_label!r} over {self.x_label!r} holds NaN or infinity."
            )


@dataclass(frozen=True)
class PointMap:
    """A collection drawn in the plane; usually made by `from_vectors`."""

    points: np.ndarray
    """Shape (N, 2)."""
    groups: Sequence[str]
    """One group per point, such as its folder."""
    titles: Sequence[str]
    """One title per point, shown on hover."""
    total: int
    """Size of the collection that the points were drawn from."""

    def __post_init__(self) -> None:
        check_vectors(self.points, name="points", dim=2)
        for name, values in (("groups", self.groups), ("titles", self.titles)):
            if len(values) != len(self.points):
                raise ShapeError(f"{len(self.points)} points but {len(values)} {name}.")

    @classmethod
    def from_vectors(
        cls,
        vectors: np.ndarray,
        groups: Sequence[str],
        titles: Sequence[str],
        *,
        seed: int = 0,
        limit: int = _MAP_POINTS,
        layout_steps: int = 200,
    ) -> PointMap:
        """Draw at most ``limit`` rows of ``vectors`` (N, D) at random and lay them out.

        Raises:
            ShapeError: When vectors, groups and titles differ in length.
            InputError: When ``limit`` is not in [1, 3000].

        Example:
            >>> rows = np.eye(4, dtype=np.float32)
            >>> PointMap.from_vectors(rows, list("aabb"), list("wxyz")).points.shape
            (4, 2)
        """
        rows = check_vectors(vectors)
        if not 1 <= limit <= _MAP_POINTS:
            raise InputError(f"limit must be in [1, {_MAP_POINTS}], got {limit}.")
        for name, values in (("groups", groups), ("titles", titles)):
            if len(values) != len(rows):
                raise ShapeError(f"{len(rows)} vectors but {len(values)} {name}.")
        picks = list(range(len(rows)))
        if len(rows) > limit:
            rng = generator(seed, "map")
            picks = sorted(rng.choice(len(rows), limit, replace=False).tolist())
        return cls(
            project_2d(rows[picks], seed=seed, layout_steps=layout_steps),
            [groups[i] for i in picks],
            [titles[i] for i in picks],
            len(rows),
        )


@dataclass(frozen=True)
class StageTime:
    """How long a stage took, beside what was planned."""

    name: str
    planned: float | None
    """Seconds, or None for a stage that was not planned."""
    actual: float
    """Seconds."""


@dataclass(frozen=True)
class ReportData:
    """Everything the report shows."""

    title: str
    verdict: str
    """What came out, in words; see `embedworks.evaluation.verdict_sentence`."""
    kicker: str = ""
    """One small line above the title: date, command."""
    key_figures: Mapping[str, str] = field(default_factory=dict)
    """Label -> value with unit, at the top: ``{"passages": "10,412"}``. Four to six read well."""
    notes: Sequence[str] = ()
    """Warnings that belong to the result, such as "nothing helped: the base was kept"."""
    comparison: Comparison | None = None
    own: str = ""
    """The system of ``comparison`` the report is about; drawn in colour."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """System -> name to show."""
    costs: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """System -> column -> value with unit: ``{"adapted": {"per query": "0.4 ms"}}``."""
    failures: Sequence[FailedQuery] = ()
    failure_metric: str = "ndcg@10"
    failure_baseline: str = ""
    """Name to show for the system behind `FailedQuery.baseline_score`."""
    point_map: PointMap | None = None
    merge_curve: Curve | None = None
    loss_curve: Curve | None = None
    pair_sources: Sequence[Mapping[str, str | int | float]] = ()
    """Rows of a table; the keys of the first row are the columns."""
    read: Mapping[str, int] = field(default_factory=dict)
    """What was read: label -> count."""
    skipped: Mapping[str, int] = field(default_factory=dict)
    """Reason -> count."""
    skipped_examples: Sequence[tuple[str, str]] = ()
    """(path, reason)."""
    timings: Sequence[StageTime] = ()
    provenance: Mapping[str, str] = field(default_factory=dict)
    """Versions, model hash, seed, machine: label -> value."""
    prompts: Mapping[str, str] = field(default_factory=dict)
    """Prompt name -> text, as the model applied them."""
    recipe: str = ""
    """The resolved recipe as YAML."""

    def __post_init__(self) -> None:
        systems = self.comparison.systems if self.comparison is not None else ()
        if self.own:
            check_choice(self.own, systems, name="own")
        for name in self.costs:
            check_choice(name, systems, name="system of costs")


def render_report(data: ReportData) -> str:
    """Return the report as one HTML page without any outside resource.

    Texts are escaped, long ones cut with an ellipsis, and long tables end with a count of the
    rows left out, so the page stays below 3 MB whatever the data.

    Example:
        >>> html = render_report(ReportData(title="Run <1>", verdict="Better."))
        >>> "Run &lt;1&gt;" in html
        True
    """
    return page(data.title, body(data))


def write_report(data: ReportData, path: str | Path) -> Path:
    """Write `render_report` to a file and return its path.

    Raises:
        StorageError: When the file cannot be written; an older report is then unchanged.
    """
    path = Path(path)
    write_text(path, render_report(data))
    return path
