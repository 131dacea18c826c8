"""Dense search of one version by the cheapest plan: scans, inverted lists, walks over a graph.

Graph, lists and codes are a cache like the postings: made from the version's vectors, kept in its
cache folder, taken over by the next versions for the rows that stay.
"""

from __future__ import annotations

import hashlib
import sys
import threading
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from embedworks._core.progress import progress
from embedworks.errors import DataWarning, FormatError
from embedworks.index._saved_arrays import load_arrays, save_arrays
from embedworks.index._structures import ARRAYS, Structures
from embedworks.index.exact import ExactIndex, unit_rows
from embedworks.index.filtered.planner import WALKS, Calibration, Choice, Planner

if TYPE_CHECKING:
    from embedworks.index._bitmaps import Bitmap
    from embedworks.index.filtered.planned import FilteredIndex

__all__ = ["GRAPH_FOLDER", "INDEXES", "PlannedDense", "wants_graph"]

INDEXES = ("auto", "exact", "planned")
GRAPH_FOLDER = "graph"

_KIND = "collection graph"
_LEAST_ROWS = 2_000  # with fewer a scan is quicker whatever the dimension
_PAYS_FROM = 10_000_000  # rows x dimensions from which "auto" builds a graph
_TARGET_RECALL = 0.95
_MOST_CHANGED = 0.25  # share of rows added or removed up to which a graph is taken over
_STALE = 0.1  # share from which `prepare` and `compact` build it anew
_BATCH = 8  # queries from which a scan costs what it does in a batch
_PLANS = ("codes", *WALKS)
_LOADING = 1_000_000.0  # microseconds until the compiled code of the other plans is loaded
_STEADY = ("codes", "lists")  # find as much under filters that point away from the query
_WALKED = {
    "codes": "scan the int8 codes of the rows that pass",
    "lists": "scan the codes in the inverted lists nearest to the query",
    "post-filter": "walk over the graph through all rows, then filter",
    "graph": "walk over the graph",
    "two-hop": "walk over the graph, through rows that do not pass",
}


def wants_graph(index: str, rows: int, dim: int) -> bool:
    """Tell whether a version of this size gets a graph.

    Example:
        >>> wants_graph("auto", 10_000, 128), wants_graph("auto", 100_000, 128)
        (False, True)
        >>> wants_graph("planned", 10_000, 128), wants_graph("exact", 100_000, 128)
        (True, False)
    """
    if rows < _LEAST_ROWS or index == "exact":
        return False
    return index == "planned" or rows * dim >= _PAYS_FROM


@dataclass(frozen=True)
class _ScanCost:
    """Microseconds of one query's exact scan: ``base + per_row * matching``."""

    base: float
    per_row: float

    def of(self, matching: int) -> float:
        return self.base + self.per_row * matching


@dataclass(frozen=True, eq=False)
class PlannedDense:
    """Graph, lists and codes of the first G of a version's M rows, and what every plan costs.

    Attributes:
        exact: The version's vectors; all scores come from here, whatever the plan.
        built: What was built over rows 0 to G - 1; the others are scored beside it.
        calibration: What the other plans cost.
        alone: What a scan costs for one query.
        batch: What it costs per query of many.
        removed: Rows taken out of what was built since.
    """

    exact: ExactIndex
    built: Structures
    calibration: Calibration
    alone: _ScanCost
    batch: _ScanCost
    removed: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    # Making, keeping, taking over.

    @classmethod
    def build(cls, exact: ExactIndex, *, show_progress: bool | None = None) -> PlannedDense:
        """Build everything over all vectors and measure the plans on this machine."""
        label = f"Graph and lists of {len(exact):,} rows"
        with progress(label, enabled=show_progress):
            vectors = unit_rows(exact.vectors, exact.norms)
            built = Structures.build(vectors)
        alone, batch = _scan_cost(exact, 1), _scan_cost(exact, 64)
        index = _assemble(vectors, built, Calibration())
        made = cls(exact, built, index.calibrate(), alone, batch)
        made.__dict__["_index"] = index
        return made

    def taken_over(self, exact: ExactIndex, places: np.ndarray) -> PlannedDense | None:
        """Return this for another version's rows, or None when too much has changed.

        Args:
            exact: The other version's vectors (N, D).
            places: For each of its rows the row here that it may be, or -1, (N,).
        """
        if exact.vectors.shape[1:] != self.exact.vectors.shape[1:]:
            return None
        built = len(self.built)
        same = (places >= 0) & (places < built)
        rows = np.flatnonzero(same)
        for start in range(0, len(rows), 65_536):
            part = rows[start : start + 65_536]
            equal = exact.vectors[part] == self.exact.vectors[places[part]]
            same[part] = equal.all(axis=1)
        count = len(same) if same.all() else int(same.argmin())  # the rows before the first other
        removed = self.removed + built - count
        late = len(exact) - count
        if not count or late + removed > _MOST_CHANGED * len(exact):
            return None
        kept = places[:count].astype(np.int64)
        whole = count == built and bool((kept == np.arange(built)).all())
        structures = self.built if whole else self.built.kept(kept)
        return PlannedDense(exact, structures, self.calibration, self.alone, self.batch, removed)

    def save(self, folder: Path) -> None:
        """Write what was built as a folder, all or nothing.

        Raises:
            StorageError: When the disk is full or not writable.
        """
        arrays = self.built.arrays()
        settings = {
            "rows": len(self.exact),
            "entry": self.built.graph.entry,
            "removed": self.removed,
            "calibration": self.calibration.to_dict(),
            "alone": [self.alone.base, self.alone.per_row],
            "batch": [self.batch.base, self.batch.per_row],
            "sha256": {name: _digest(array) for name, array in arrays.items()},
        }
        save_arrays(folder, _KIND, settings, arrays)

    @classmethod
    def load(cls, folder: Path, exact: ExactIndex, *, verify: bool = False) -> PlannedDense:
        """Map a graph that `save` wrote.

        Raises:
            NotFoundError: When there is none.
            FormatError: When it is damaged, of another version or of other rows.
        """
        settings, arrays = load_arrays(folder, _KIND, ARRAYS, mapped=ARRAYS)
        try:
            _check_settings(settings, arrays, exact, folder, verify=verify)
            built = Structures.of(arrays, int(settings["entry"]))
            calibration = Calibration.from_dict(settings["calibration"])
            alone, batch = (_ScanCost(*map(float, settings[n])) for n in ("alone", "batch"))
            return cls(exact, built, calibration, alone, batch, int(settings["removed"]))
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, FormatError):
                raise
            raise FormatError(f"The graph in {folder} is damaged ({error!r}).") from error

    @property
    def late(self) -> int:
        """Rows added since graph and lists were built."""
        return len(self.exact) - len(self.built)

    @property
    def is_stale(self) -> bool:
        """Whether it should be built anew: too many rows have changed, or it is damaged."""
        if not self._sound:
            return True
        return self.late + self.removed > _STALE * len(self.exact)

    def memory(self) -> dict[str, int]:
        """Return the bytes of each part."""
        parts = self.built.nbytes()
        index = self.__dict__.get("_index")
        if index is not None and index.vectors is not self.exact.vectors:
            parts["unit vectors"] = int(index.vectors.nbytes)
        return parts

    # Searching.

    def search(
        self, vectors: np.ndarray, k: int, mask: np.ndarray | None
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return ``(rows, scores)`` per query: exactly min(k, matching) of them."""
        count = len(vectors)
        choice = self.choices(count, k, mask)[0]
        queries = self.exact.prepare(vectors, allow_zero=True)
        scans = choice.plan == "exact" or not count or not queries.any(axis=1).all()
        if scans or self._scans_once_more(count, k, mask):
            return list(zip(*self.exact.search(vectors, k, mask=mask, allow_zero=True)))
        results: list[tuple[np.ndarray, np.ndarray]] = [(_NOTHING, _NOTHING)] * count
        where = _bitmap(mask)
        away = np.zeros(count, dtype=bool)
        if choice.plan not in _STEADY:
            away = self._index.points_away(queries, where)
        for apart in (False, True):
            numbers = np.flatnonzero(away == apart)
            if not len(numbers):
                continue
            plan = self.choices(len(numbers), k, mask, away=True)[0].plan if apart else choice.plan
            if plan == "exact":
                some = self.exact.search(vectors[numbers], k, mask=mask)
                for number, *found in zip(numbers, *some, strict=True):
                    results[number] = (found[0], found[1])
                continue
            met = self._index.search(queries[numbers], k, where=where, plan=plan)
            for number, rows in zip(numbers, met.rows, strict=True):
                scores = self.exact.scores(queries[number], rows)
                order = np.lexsort((rows, -scores))
                results[number] = (rows[order], scores[order])
        return results

    def choices(
        self, queries: int, k: int, mask: np.ndarray | None, *, away: bool = False
    ) -> list[Choice]:
        """Return the possible plans with their predicted cost per query, cheapest first.

        Args:
            queries: How many are asked together.
            k: Results wanted.
            mask: Rows that pass; None is all.
            away: Whether the filter points away from the queries. Then a walk must have been
                measured to find enough there too, at the width it has for other queries.
        """
        total, built = len(self.exact), len(self.built)
        matching = total if mask is None else int(np.count_nonzero(mask))
        cost = self.batch if queries >= _BATCH else self.alone
        exact = Choice("exact", cost.of(matching))
        if matching <= k or not self._sound:
            return [exact]
        late = total - built if mask is None else int(np.count_nonzero(mask[built:]))
        beside = self.calibration.per_row * late
        planner = self._planner
        found = planner.choices(total, matching, k=k, codes=True)
        if away:
            widths = {choice.plan: choice.ef for choice in found}
            apart = planner.choices(total, matching, k=k, codes=True, away=True)
            found = [choice for choice in apart if choice.ef <= widths.get(choice.plan, -1)]
        others = [
            Choice(choice.plan, choice.microseconds + beside, choice.ef)
            for choice in found
            if choice.plan in _PLANS
        ]
        return sorted([exact, *others], key=lambda choice: choice.microseconds)

    def explain(self, k: int, mask: np.ndarray | None) -> tuple[str, ...]:
        """Say in words which plan one query takes, and what the others would cost."""
        total, built = len(self.exact), len(self.built)
        matching = total if mask is None else int(np.count_nonzero(mask))
        chosen, *others = self.choices(1, k, mask)
        steps = [f"planner: {_told(chosen)}"]
        if others:
            steps[0] += "; not " + ", ".join(map(_told, others))
        if chosen.plan == "exact":
            return (*steps, self.exact.plan(matching))
        if not _is_loaded():
            once = "scan once more: the compiled code of the others takes a second to load"
            return (*steps, once, self.exact.plan(matching))
        steps.append(
            f"{_WALKED[chosen.plan]}, built over {built:,} rows, then exact cosines of the best "
            "rows met"
        )
        if built < total:
            steps.append(f"score {total - built:,} rows added since it was built beside it")
        return tuple(steps)

    # Private parts.

    @cached_property
    def _sound(self) -> bool:
        """Whether the files of graph and lists hold what they should."""
        try:
            self.built.check(self.exact.vectors.shape[1])
        except FormatError as error:
            warnings.warn(
                f"A graph in the cache is damaged: {error} Searches scan instead; delete the "
                "cache folder, or call prepare, and it is made again.",
                DataWarning,
                stacklevel=2,
            )
            return False
        return True

    @cached_property
    def _planner(self) -> Planner:
        return Planner(self.calibration, _TARGET_RECALL)

    def _scans_once_more(self, queries: int, k: int, mask: np.ndarray | None) -> bool:
        """Whether to scan because the code of the cheaper plan would first have to be loaded.

        It is loaded when scans instead of it have cost as much as loading: a process that
        searches a few times never waits, and none takes more than twice what was possible.
        """
        if _is_loaded():
            return False
        choices = self.choices(queries, k, mask)
        scan = next(choice for choice in choices if choice.plan == "exact")
        with self._lock:
            _lost.append(queries * (scan.microseconds - choices[0].microseconds))
            return sum(_lost) < _LOADING

    @property
    def _index(self) -> FilteredIndex:
        with self._lock:
            index: FilteredIndex | None = self.__dict__.get("_index")
            if index is None:
                vectors = unit_rows(self.exact.vectors, self.exact.norms)
                index = _assemble(vectors, self.built, self.calibration)
                self.__dict__["_index"] = index
            return index


_NOTHING = np.empty(0)
_lost: list[float] = []  # microseconds by which scans were slower than the cheapest plan


def _is_loaded() -> bool:
    return "embedworks.index.filtered._lists" in sys.modules


def _bitmap(mask: np.ndarray | None) -> Bitmap | None:
    from embedworks.index._bitmaps import Bitmap

    return None if mask is None else Bitmap(mask)


def _assemble(vectors: np.ndarray, built: Structures, calibration: Calibration) -> FilteredIndex:
    # Compiled walks take about a second to import: collections that scan do without them.
    from embedworks.index._bitmaps import BitmapTable
    from embedworks.index.filtered.planned import FilteredIndex

    return FilteredIndex(
        vectors,
        BitmapTable(len(vectors)),
        similarity="cosine",
        alive=np.ones(len(vectors), dtype=np.uint8),
        graph=built.graph,
        lists=built.lists,
        codes=(built.codes, built.scales),
        planner=Planner(calibration, _TARGET_RECALL),
    )


def _scan_cost(exact: ExactIndex, queries: int) -> _ScanCost:
    """Measure exact scans for this many queries at once, over few rows and over many."""
    rng = np.random.default_rng(0)
    asked = exact.vectors[rng.integers(0, len(exact), queries)]
    points = []
    for count in (max(10, len(exact) // 100), min(len(exact), 200_000)):
        mask = np.zeros(len(exact), dtype=bool)
        mask[rng.choice(len(exact), count, replace=False)] = True
        times = []
        for _ in range(3):
            started = time.perf_counter()
            exact.search(asked, 10, mask=mask, allow_zero=True)
            times.append(1e6 * (time.perf_counter() - started) / queries)
        points.append((count, min(times)))
    (few, low), (many, high) = points
    per_row = max(1e-4, (high - low) / max(1, many - few))
    return _ScanCost(max(1.0, low - per_row * few), per_row)


def _check_settings(
    settings: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    exact: ExactIndex,
    folder: Path,
    *,
    verify: bool,
) -> None:
    rows = settings["rows"]
    if rows != len(exact) or not 0 < len(arrays["links"]) <= rows:
        raise FormatError(f"The graph in {folder} is of {rows} rows, expected {len(exact)}.")
    if not verify:
        return
    for name, array in arrays.items():
        if _digest(array) != settings["sha256"][name]:
            raise FormatError(f"{folder / name}.npy does not match its checksum.")


def _digest(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()


def _told(choice: Choice) -> str:
    name = "width" if choice.plan == "lists" else "ef"
    width = f" with {name} {choice.ef:g}" if choice.ef else ""
    return f"{choice.plan}{width}, about {choice.microseconds:,.0f} us"
