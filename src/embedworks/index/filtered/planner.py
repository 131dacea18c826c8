"""Choose how to answer a filtered query: what each plan would cost, measured on this machine.

Own design after the planners of Qdrant and UNIFY. Differs from a fitted cost formula on purpose:
the walks' costs and recalls are kept as they were measured and interpolated over selectivity.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from embedworks.errors import FormatError
from embedworks.index.filtered.scan_cost import LonePoint, ScanPoint, lone_cost, scan_cost

__all__ = ["WALKS", "Calibration", "Choice", "Explanation", "Planner", "WalkPoint"]

WALKS = ("lists", "post-filter", "graph", "two-hop")

_LEARNING_RATE = 0.1
_STEPS = 8  # choices are kept for numbers of matching rows that differ by a ninth or less
_SURPRISE = 2.0  # one observed time counts as at most so many times what was expected
_MOST = 16.0  # and all of them move a prediction by at most so much
_DRIFT = 0.2  # and made anew when a plan's correction has moved by so much
_FADE_EVERY, _FADE = 64, 1.1  # after so many observations corrections shrink by so much
_HOPE = 0.8  # down to this part of the predicted time: what is not tried may be better
_MOST_KEPT = 4096
_SHORTFALL = 0.2  # a walk may miss a fifth of what is allowed: other queries are harder
_ALL_SHORTFALL = 0.4  # and two fifths where it goes over all rows: no other filter is harder
_AWAY_SHORTFALL = 0.05  # and a twentieth where the filter steers it: others are harder too
_EXACT_PREFERENCE = 1.1  # another plan must be this much cheaper than an exact one
_AFTER_FROM = 0.25  # share of rows from which filtering after a walk leaves enough of them
_RUN = 0.5  # what a row of a contiguous run costs of one from anywhere
_INSTANT = 1e-3  # microseconds: no walk is faster, whatever a record says
_LISTS_WIDTH = 4.0  # when nothing was measured
_CODES_FROM = 8  # times k rows: with fewer, rounding could cost one of them its place


@dataclass(frozen=True)
class WalkPoint:
    """One measurement of a walk over the graph.

    Attributes:
        plan: One of `WALKS`.
        selectivity: Share of the rows that passed.
        ef: Width of the walk; of ``"lists"``, the spreads that a list may gain on its centroid.
        recall: Recall@10 against the exact answer under filters that have nothing to do with
            the vectors.
        away: The same under filters that point away from the query.
        microseconds: Time of one query under the first kind.
    """

    plan: str
    selectivity: float
    ef: float
    recall: float
    microseconds: float
    away: float = 0.0


@dataclass(frozen=True)
class Calibration:
    """What plans cost on this machine.

    Attributes:
        base: Microseconds of every query; this and the next three count if ``alone`` is empty.
        per_row: Microseconds to score one row chosen from anywhere.
        per_run_row: Microseconds to score one row of a contiguous run.
        per_code_row: Microseconds to score the int8 code of one row chosen from anywhere.
        walks: Measurements of the walks.
        scans: Measurements of exact searches for several queries together.
        alone: Measurements of scans for one query.
    """

    base: float = 10.0
    per_row: float = 0.1
    per_run_row: float = 0.05
    per_code_row: float = 0.03
    walks: tuple[WalkPoint, ...] = ()
    scans: tuple[ScanPoint, ...] = ()
    alone: tuple[LonePoint, ...] = ()

    def one(self, matching: float, *, codes: bool = False, run: bool = False) -> float:
        """Predict the microseconds of scoring the rows that pass for one query.

        Args:
            matching: How many pass.
            codes: Whether their int8 codes are read first.
            run: Whether they lie side by side.
        """
        measured = lone_cost(self.alone, codes, matching)
        if measured is None:
            each = self.per_code_row if codes else self.per_run_row if run else self.per_row
            return (1 + codes) * self.base + each * matching
        return _RUN * measured if run else measured

    def exact(self, rows: int, matching: float, *, queries: int = 1) -> float:
        """Predict the microseconds per query of an exact search for queries asked together."""
        if not self.scans:
            return self.one(matching)
        return scan_cost(self.scans, queries, rows, matching)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values; `from_dict` reads them."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Calibration:
        """Read what `to_dict` gave.

        Raises:
            FormatError: When something is missing or not known.
        """
        try:
            walks = tuple(WalkPoint(**point) for point in values["walks"])
            scans = tuple(ScanPoint(**point) for point in values.get("scans", ()))
            alone = tuple(LonePoint(**point) for point in values.get("alone", ()))
            return cls(**{**values, "walks": walks, "scans": scans, "alone": alone})
        except (KeyError, TypeError) as error:
            raise FormatError(f"The calibration record is damaged: {error}.") from error


@dataclass(frozen=True)
class Choice:
    """A plan with its predicted cost.

    Attributes:
        plan: ``"empty"``, ``"exact"``, ``"run"``, ``"codes"`` or one of `WALKS`.
        microseconds: Predicted time of one query.
        ef: Width of the walk, 0 for the others.
        octave: Logarithm to base 2 of the number of rows that pass, rounded; what is learned from
            the time it takes counts there.
    """

    plan: str
    microseconds: float
    ef: float = 0
    octave: int = 0


@dataclass(frozen=True)
class Explanation:
    """How a filtered search would be carried out, and what the other plans would cost.

    Attributes:
        where: The filter, or None.
        rows: Rows that are not removed.
        matching: Estimated number of rows that pass.
        chosen: The plan chosen.
        choices: Every possible plan, cheapest first.
        beside: Rows that were added after lists and graph were built; every walk scans those of
            them that pass.
    """

    where: str | None
    rows: int
    matching: float
    chosen: Choice
    choices: tuple[Choice, ...]
    beside: int = 0

    def __str__(self) -> str:
        share = self.matching / self.rows if self.rows else 0.0
        lines = [f"about {self.matching:,.0f} of {self.rows:,} rows match ({share:.2%})"]
        if self.where:
            lines.append(f"filter: {self.where}")
        for choice in self.choices:
            mark = "->" if choice == self.chosen else "  "
            name = "width" if choice.plan == "lists" else "ef"
            width = f" {name}={choice.ef:g}" if choice.ef else ""
            lines.append(f"{mark} {choice.plan}{width}: about {choice.microseconds:,.0f} us")
        if self.beside:
            many = " Build anew: they are many." if 10 * self.beside > self.rows else ""
            lines.append(f"{self.beside:,} rows were added since and are scanned beside it.{many}")
        return "\n".join(lines)


@dataclass
class Planner:
    """Predicts costs, chooses the cheapest plan that reaches the recall, and learns.

    Args:
        calibration: What plans cost.
        target_recall: Recall@10 to aim for; a walk is used when it missed, on the queries it was
            measured with, at most a fifth of what this allows, or two fifths if it goes over
            all rows; one that the filter steers a twentieth, also where filters point away.
        learn: Whether observed times correct the predictions.
        ratios: By plan and octave of rows that pass, what observed times are of predicted ones.

    Example:
        >>> planner = Planner(Calibration(walks=(WalkPoint("graph", 0.5, 16, 1.0, 60.0, 1.0),
        ...                                      WalkPoint("graph", 0.05, 16, 1.0, 300.0, 1.0))))
        >>> planner.choose(100_000, 500, k=10).plan, planner.choose(100_000, 40_000, k=10).plan
        ('exact', 'graph')
    """

    calibration: Calibration
    target_recall: float = 0.95
    learn: bool = True
    ratios: dict[tuple[str, int], float] = field(default_factory=dict)
    _kept: dict[tuple[Any, ...], Choice] = field(default_factory=dict, repr=False)
    _observed: int = field(default=0, repr=False)
    _kept_ratios: dict[tuple[str, int], float] = field(default_factory=dict, repr=False)
    _prices: dict[tuple[Any, ...], list[Choice]] = field(default_factory=dict, repr=False)
    _read: Calibration | None = field(default=None, repr=False)
    _points: dict[tuple[str, float], tuple[WalkPoint, ...]] = field(
        default_factory=dict, repr=False
    )

    def choices(
        self,
        rows: int,
        matching: float,
        *,
        k: int,
        run: bool = False,
        codes: bool = False,
        queries: int = 1,
    ) -> list[Choice]:
        """Return every plan that can answer, cheapest first.

        Args:
            rows: Rows in the index.
            matching: Number of them that pass, maybe estimated.
            k: Results wanted.
            run: Whether the rows that pass lie in one run of an ordered copy.
            codes: Whether the rows have int8 codes.
            queries: How many are asked together. From two on the exact plan is a matrix product
                that they share, which a run of an ordered copy adds nothing to.
        """
        priced = self._priced(rows, matching, k=k, run=run, codes=codes, queries=queries)
        return self._corrected(priced, queries > 1)

    def _priced(
        self,
        rows: int,
        matching: float,
        *,
        k: int,
        run: bool,
        codes: bool,
        queries: int,
    ) -> list[Choice]:
        """Return every plan that can answer, with what the calibration says it costs."""
        if matching <= 0:
            return [Choice("empty", 0.0)]
        octave = round(math.log2(matching + 1))
        cost, together = self.calibration, queries > 1
        exact = cost.exact(rows, matching, queries=queries) if together else cost.one(matching)
        found = [Choice("exact", exact, octave=octave)]
        if run and not together:
            found.append(Choice("run", cost.one(matching, run=True), octave=octave))
        if codes and matching > _CODES_FROM * k:
            found.append(Choice("codes", cost.one(matching, codes=True), octave=octave))
        for plan in WALKS:
            walk = self._walk(plan, matching / max(1, rows), k)
            if walk is not None:
                found.append(replace(walk, octave=octave))
        return found

    def _corrected(self, priced: Sequence[Choice], together: bool) -> list[Choice]:
        """Return priced choices with what was learned about them, cheapest first."""
        corrected = []
        for c in priced:
            ratio = self.ratios.get((c.plan, c.octave), 1.0)
            if together and c.plan == "exact":
                ratio = 1.0  # learned from queries alone
            corrected.append(Choice(c.plan, c.microseconds * ratio, c.ef, c.octave))
        return sorted(corrected, key=lambda c: (c.microseconds, c.plan))

    def choose(
        self,
        rows: int,
        matching: float,
        *,
        k: int,
        run: bool = False,
        codes: bool = False,
        queries: int = 1,
    ) -> Choice:
        """Return the cheapest plan; an exact one also when another is hardly cheaper.

        Choices are kept: nearby numbers of matching rows get the same one, with its cost.
        """
        size = round(_STEPS * math.log2(matching + 1))
        many = 1 if queries == 1 else round(_STEPS * math.log2(queries))
        key = rows, size, k, run, codes, many, self.target_recall
        found = self._kept.get(key)
        if found is None:
            if not self._kept:
                self._kept_ratios = dict(self.ratios)
            priced = self._prices.get(key)
            if priced is None:
                if len(self._prices) >= _MOST_KEPT:
                    self._prices.clear()
                priced = self._prices[key] = self._priced(
                    rows, matching, k=k, run=run, codes=codes, queries=queries
                )
            choices = self._corrected(priced, queries > 1)
            nearly = choices[0].microseconds * _EXACT_PREFERENCE
            sure = (c for c in choices if not c.ef and c.plan != "codes")
            found = next((c for c in sure if c.microseconds <= nearly), choices[0])
            self._kept[key] = found
        return found

    def lists(self, rows: int, matching: float, *, k: int) -> Choice:
        """Return the lists plan, which finds something where a walk over all rows gave up."""
        walk = self._walk("lists", matching / max(1, rows), k)
        return walk or Choice("lists", 0.0, _LISTS_WIDTH)

    def forget(self) -> None:
        """Drop what was learned and kept, after a new calibration."""
        self.ratios.clear()
        self._kept.clear()
        self._prices.clear()

    def observe(self, choice: Choice, microseconds: float) -> None:
        """Correct the predictions of a plan, for about as many passing rows, by one observed time.

        What a plan costs beyond its calibration depends on how many rows pass; one number for a
        plan would keep it from being tried where it is good after a few queries where it is bad.
        It also depends on how near these rows are to the query and to one another, so corrections
        fade: a plan that was slow for some filters is tried again now and then, and so is one
        that is not predicted to be much slower than the best.
        """
        if not self.learn or choice.microseconds <= 0:
            return
        key = choice.plan, choice.octave
        ratio, before = self.ratios.get(key, 1.0), self._kept_ratios.get(key, 1.0)
        expected = choice.microseconds / before
        # One pause of the process must not cost a plan its place: it would never be tried again.
        seen = min(_SURPRISE * ratio, max(ratio / _SURPRISE, microseconds / expected))
        learned = (1 - _LEARNING_RATE) * ratio + _LEARNING_RATE * seen
        learned = min(_MOST, max(1 / _MOST, learned))
        self.ratios[key] = learned
        self._observed += 1
        if self._observed % _FADE_EVERY == 0:
            for plan in ("exact", "codes", *WALKS):
                self.ratios.setdefault((plan, choice.octave), 1.0)
            for other, old in self.ratios.items():
                if other != key:
                    faded = max(_HOPE, old / _FADE) if old > _HOPE else min(_HOPE, old * _FADE)
                    self.ratios[other] = faded
            self._kept.clear()
        elif not (1 - _DRIFT) * before < learned < (1 + _DRIFT) * before:
            self._kept.clear()

    def _walk(self, plan: str, share: float, k: int) -> Choice | None:
        """Interpolate the cheapest sufficient measurements on both sides of a selectivity."""
        if plan == "post-filter" and share < _AFTER_FROM:
            return None
        points = self._sufficient(plan)
        below = max((p for p in points if p.selectivity <= share), key=_share, default=None)
        above = min((p for p in points if p.selectivity >= share), key=_share, default=None)
        if below is None or above is None:
            return None
        part = 0.0
        if above.selectivity > below.selectivity:
            whole = math.log(above.selectivity / below.selectivity)
            part = math.log(share / below.selectivity) / whole
        fast, slow = max(_INSTANT, below.microseconds), max(_INSTANT, above.microseconds)
        cost = fast ** (1 - part) * slow**part
        wider = max(1.0, k / 10)
        width = max(below.ef, above.ef)
        if plan != "lists":  # those scan on by themselves where more results are wanted
            width = math.ceil(width * wider)
        return Choice(plan, cost * wider, width)

    def _sufficient(self, plan: str) -> tuple[WalkPoint, ...]:
        """Return for each selectivity the narrowest walk that finds enough; kept."""
        if self._read is not self.calibration:
            self._read, self._points = self.calibration, {}
        key = plan, self.target_recall
        if key not in self._points:
            best: dict[float, WalkPoint] = {}
            for point in self.calibration.walks:
                if point.plan != plan or point.selectivity <= 0:
                    continue
                recall, some = point.recall, point.selectivity < 1
                part = _SHORTFALL if plan == "lists" else _ALL_SHORTFALL
                if some and plan in ("graph", "two-hop"):
                    part = _AWAY_SHORTFALL
                if some and plan != "post-filter":  # that one shows when it fails
                    recall = min(recall, point.away)
                needed = 1 - (1 - self.target_recall) * part
                held = best.get(point.selectivity)
                if recall >= needed and (held is None or point.ef < held.ef):
                    best[point.selectivity] = point
            self._points[key] = tuple(best.values())
        return self._points[key]


def _share(point: WalkPoint) -> float:
    return point.selectivity
