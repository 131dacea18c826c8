"""Dense search of one version by the cheapest plan: scans, inverted lists, walks over a graph.

Lists and graph are a cache like the postings: made from the version's vectors, kept in its
cache folder, taken over by the next versions for the rows that stay.
"""

from __future__ import annotations

import hashlib
import sys
import threading
import warnings
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
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
    from embedworks.index.filtered._plans import Plans, Prepared

__all__ = ["GRAPH_FOLDER", "INDEXES", "PlannedDense", "wants_graph"]

INDEXES = ("auto", "exact", "planned")
GRAPH_FOLDER = "graph"

_KIND, _VERSION = "collection graph", 2
_LEAST_ROWS = 2_000  # with fewer a scan is quicker whatever the dimension
_PAYS_FROM = 10_000_000  # rows x dimensions from which "auto" builds a graph
_TARGET_RECALL = 0.95
_MOST_CHANGED = 0.25  # share of rows added or removed up to which a graph is taken over
_STALE = 0.1  # share from which `prepare` and `compact` build it anew
_KEPT_FILTERS, _KEPT_CHOICES = 32, 64
_KEPT_ROWS = 16_000_000  # in the filters kept, of which each row that passes may take four bytes
_PLANS = ("codes", *WALKS)
_LOADING = 1_000_000.0  # microseconds until the compiled code of the other plans is loaded
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


@dataclass(eq=False)
class _Passing:
    """The rows a filter leaves, counted once.

    Attributes:
        mask: True for those that pass (M,); None for all.
        matching: How many pass.
        late: How many of them were added since graph and lists were built.
        ready: What the plans made of it; None before one was carried out.
        choices: What `PlannedDense.choices` said, by its arguments.
    """

    mask: np.ndarray | None
    matching: int
    late: int
    ready: Prepared | None = None
    choices: dict[tuple[int, int], list[Choice]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class PlannedDense:
    """Lists and graph of the first G of a version's M rows, and what every plan costs.

    Attributes:
        exact: The version's vectors; all scores come from here, whatever the plan.
        built: What was built over rows 0 to G - 1; the others are scored beside it.
        calibration: What every plan costs.
        removed: Rows taken out of what was built since.
    """

    exact: ExactIndex
    built: Structures
    calibration: Calibration
    removed: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _kept: OrderedDict[int, _Passing] = field(default_factory=OrderedDict, repr=False)

    # Making, keeping, taking over.

    @classmethod
    def build(cls, exact: ExactIndex, *, show_progress: bool | None = None) -> PlannedDense:
        """Build everything over all vectors and measure the plans on this machine."""
        label = f"Graph and lists of {len(exact):,} rows"
        with progress(label, enabled=show_progress):
            vectors = unit_rows(exact.vectors, exact.norms)
            built = Structures.build(vectors)
            plans = _assemble(vectors, built)
            calibration = plans.calibrate(np.ones(len(vectors), dtype=np.uint8), unit=True)
        made = cls(exact, built, calibration)
        made.__dict__["_plans"] = plans
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
        return PlannedDense(exact, structures, self.calibration, removed)

    def save(self, folder: Path) -> None:
        """Write what was built as a folder, all or nothing.

        Raises:
            StorageError: When the disk is full or not writable.
        """
        arrays = self.built.arrays()
        settings = {
            "rows": len(self.exact),
            "removed": self.removed,
            "calibration": self.calibration.to_dict(),
            "sha256": {name: _digest(array) for name, array in arrays.items()},
        }
        save_arrays(folder, _KIND, settings, arrays, version=_VERSION)

    @classmethod
    def load(cls, folder: Path, exact: ExactIndex, *, verify: bool = False) -> PlannedDense:
        """Map a graph that `save` wrote.

        Raises:
            NotFoundError: When there is none.
            FormatError: When it is damaged, of another version or of other rows.
        """
        settings, arrays = load_arrays(folder, _KIND, ARRAYS, version=_VERSION, mapped=ARRAYS)
        try:
            _check_settings(settings, arrays, exact, folder, verify=verify)
            built = Structures.of(arrays)
            calibration = Calibration.from_dict(settings["calibration"])
            return cls(exact, built, calibration, int(settings["removed"]))
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
        plans = self.__dict__.get("_plans")
        if plans is not None:
            if plans.vectors is not self.exact.vectors:
                parts["unit vectors"] = int(plans.vectors.nbytes)
            parts["graph"] = plans.nbytes()["graph"]
        return parts

    # Searching.

    def search(
        self, vectors: np.ndarray, k: int, mask: np.ndarray | None
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return ``(rows, scores)`` per query: exactly min(k, matching) of them."""
        count, passing = len(vectors), self._passing(mask)
        queries = self.exact.prepare(vectors, allow_zero=True)
        choices = self._choices(count, k, passing)
        scans = choices[0].plan == "exact" or not count or not queries.any(axis=1).all()
        if scans or self._scans_once_more(count, choices):
            return list(zip(*self.exact.search(vectors, k, mask=mask, allow_zero=True)))
        found = list(self._walk(queries, k, self._ready(passing), choices[0]))
        results = self._in_order(queries, found)
        missed = [place for place, rows in enumerate(found) if rows is None]
        if missed:
            scanned = zip(*self.exact.search(vectors[missed], k, mask=mask), strict=True)
            for place, best in zip(missed, scanned, strict=True):
                results[place] = best
        return results

    def choices(self, queries: int, k: int, mask: np.ndarray | None) -> list[Choice]:
        """Return the possible plans with their predicted cost per query, cheapest first.

        Args:
            queries: How many are asked together.
            k: Results wanted.
            mask: Rows that pass; None is all.
        """
        return self._choices(queries, k, self._passing(mask))

    def _choices(self, queries: int, k: int, passing: _Passing) -> list[Choice]:
        key = queries, k
        if key not in passing.choices:
            if len(passing.choices) >= _KEPT_CHOICES:
                passing.choices.clear()
            passing.choices[key] = self._priced(max(1, queries), k, passing)
        return passing.choices[key]

    def _priced(self, queries: int, k: int, passing: _Passing) -> list[Choice]:
        total, matching = len(self.exact), passing.matching
        exact = Choice("exact", self.calibration.exact(total, matching, queries=queries))
        if matching <= k or not self._sound:
            return [exact]
        beside = self.calibration.one(passing.late) if passing.late else 0.0
        found = self._planner.choices(total, matching, k=k, codes=True)
        others = [
            Choice(choice.plan, choice.microseconds + beside, choice.ef)
            for choice in found
            if choice.plan in _PLANS
        ]
        return sorted([exact, *others], key=lambda choice: choice.microseconds)

    def explain(self, k: int, mask: np.ndarray | None) -> tuple[str, ...]:
        """Say in words which plan one query takes, and what the others would cost."""
        total, built = len(self.exact), len(self.built)
        passing = self._passing(mask)
        chosen, *others = self._choices(1, k, passing)
        steps = [f"planner: {_told(chosen)}"]
        if others:
            steps[0] += "; not " + ", ".join(map(_told, others))
        if chosen.plan == "exact":
            return (*steps, self.exact.plan(passing.matching))
        if not _is_loaded():
            once = "scan once more: the compiled code of the others takes a second to load"
            return (*steps, once, self.exact.plan(passing.matching))
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

    def _scans_once_more(self, queries: int, choices: Sequence[Choice]) -> bool:
        """Whether to scan because the code of the cheaper plan would first have to be loaded.

        It is loaded when scans instead of it have cost as much as loading: a process that
        searches a few times never waits, and none takes more than twice what was possible.
        """
        if _is_loaded():
            return False
        scan = next(choice for choice in choices if choice.plan == "exact")
        with self._lock:
            _lost.append(queries * (scan.microseconds - choices[0].microseconds))
            return sum(_lost) < _LOADING

    def _passing(self, mask: np.ndarray | None) -> _Passing:
        """Count a mask; a read-only one is kept, with what is made of it."""
        total, built = len(self.exact), len(self.built)
        key = id(mask)
        with self._lock:
            kept = self._kept.get(key)
            if kept is not None:
                self._kept.move_to_end(key)
                return kept
        if mask is None:
            passing = _Passing(None, total, total - built)
        else:
            late = int(np.count_nonzero(mask[built:]))
            passing = _Passing(mask, int(np.count_nonzero(mask[:built])) + late, late)
        if mask is None or not mask.flags.writeable:
            with self._lock:
                self._kept[key] = passing
                while len(self._kept) > max(1, min(_KEPT_FILTERS, _KEPT_ROWS // total)):
                    self._kept.popitem(last=False)
        return passing

    def _ready(self, passing: _Passing) -> Prepared:
        """Bring rows that pass into the form the plans take."""
        if passing.ready is None:
            from embedworks.index._bitmaps import Bitmap
            from embedworks.index.filtered._plans import Prepared

            bitmap = None if passing.mask is None else Bitmap(passing.mask, passing.matching)
            ready = Prepared(None, bitmap, self._alive, False, len(self.built))
            ready.matching = passing.matching
            passing.ready = ready
        return passing.ready

    def _walk(
        self, queries: np.ndarray, k: int, ready: Prepared, choice: Choice
    ) -> Iterable[np.ndarray | None]:
        """Return the rows a plan finds for each prepared query; None where it gave up."""
        plans = self._plans
        found: list[np.ndarray | None]
        if plans.compiled(ready, choice) and not self.late:
            rows, _, counts = plans.walk_each(queries, k, ready, choice)
            least = min(k, ready.count) if choice.plan == "post-filter" else 0
            found = [
                line[:count] if count >= least else None
                for line, count in zip(rows, counts.tolist(), strict=True)
            ]
        else:
            walks = (plans.walk(query, k, ready, choice) for query in queries)
            found = [None if best is None else best[0] for best in walks]
        if choice.plan == "post-filter":
            lists = self._planner.lists(len(self.exact), ready.count, k=k)
            for number, query in enumerate(queries):
                if found[number] is None:
                    best = plans.walk(query, k, ready, lists)
                    found[number] = None if best is None else best[0]
        return found

    def _in_order(
        self, queries: np.ndarray, found: Sequence[np.ndarray | None]
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Score the rows found for each query exactly and sort them; nothing where it is None."""
        sizes = [0 if rows is None else len(rows) for rows in found]
        rows = np.concatenate([_NOTHING, *(part for part in found if part is not None)])
        owners = np.repeat(np.arange(len(found)), sizes)
        scores = self.exact.scores(queries[owners], rows)
        order = np.lexsort((rows, -scores, owners))
        rows, scores = rows[order], scores[order]
        ends = np.cumsum(sizes).tolist()
        parts = [slice(end - size, end) for size, end in zip(sizes, ends, strict=True)]
        return [(rows[part], scores[part]) for part in parts]

    @cached_property
    def _alive(self) -> np.ndarray:
        return np.ones(len(self.exact), dtype=np.uint8)

    @property
    def _plans(self) -> Plans:
        with self._lock:
            plans: Plans | None = self.__dict__.get("_plans")
            if plans is None:
                plans = _assemble(unit_rows(self.exact.vectors, self.exact.norms), self.built)
                self.__dict__["_plans"] = plans
            return plans


_NOTHING = np.empty(0, dtype=np.int64)
_lost: list[float] = []  # microseconds by which scans were slower than the cheapest plan


def _is_loaded() -> bool:
    return "embedworks.index.filtered._lists" in sys.modules


def _assemble(vectors: np.ndarray, built: Structures) -> Plans:
    # Compiled walks take about a second to import: collections that scan do without them.
    from embedworks.index.filtered._plans import Plans

    return Plans(vectors, None, built.graph, built.lists, ())


def _check_settings(
    settings: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    exact: ExactIndex,
    folder: Path,
    *,
    verify: bool,
) -> None:
    rows = settings["rows"]
    if rows != len(exact) or not 1 < len(arrays["link_starts"]) <= rows + 1:
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
