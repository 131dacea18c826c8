"""What a reproduction is: arms, seeds, scales, the comparison that decides, and how one cell runs.

Knows nothing of models or data; those are what an entry's ``run`` chooses.
"""

from __future__ import annotations

import hashlib
import inspect
import itertools
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from embedworks._core.files import sha256_of_text
from embedworks._core.registry import did_you_mean
from embedworks._core.validation import check_unique
from embedworks.errors import EmptyInputError, InputError, NonFiniteError, UnknownNameError
from embedworks.reproductions.comparisons import Comparison

__all__ = ["Arm", "Context", "Outcome", "Reproduction", "Tuning"]

T = TypeVar("T")

_SLUG = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")


@dataclass(frozen=True)
class Arm:
    """One of the things compared.

    Args:
        name: Short name for tables and plots, such as ``"gist"`` or ``"gist rho=0.4"``.
        summary: What it does, in one line.
        settings: Anything JSON can hold; ``run`` reads it as ``arm["rho"]``. Recorded with the
            result.
        tune_as: Name of another arm whose tuned settings this one uses, for arms that differ
            only in the data; empty for an arm that is tuned itself.
    """

    name: str
    summary: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    tune_as: str = ""

    def __getitem__(self, name: str) -> Any:
        if name not in self.settings:
            hint = did_you_mean(name, list(self.settings))
            raise UnknownNameError(f"Arm {self.name!r} has no setting {name!r}. {hint}")
        return self.settings[name]


@dataclass(frozen=True)
class Outcome:
    """What one cell (one arm under one seed) gave.

    Args:
        metrics: Metric -> value. A metric with items need not be repeated here: its value is
            the mean over its items.
        items: Metric -> item id -> value, such as one nDCG per query. Ids say what is the same:
            an item that occurs under several seeds is resampled together with itself.

    Raises:
        EmptyInputError: When there is no metric, or a metric has no items.
        NonFiniteError: When a value is NaN or infinite.
        InputError: When a metric differs from the mean of its items.

    Example:
        >>> quality = Outcome(items={"ndcg@10": {"q1": 1.0, "q2": 0.5}})
        >>> (quality | Outcome({"seconds": 3.0})).metrics
        {'ndcg@10': 0.75, 'seconds': 3.0}
    """

    metrics: Mapping[str, float] = field(default_factory=dict)
    items: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        metrics: dict[str, float] = {name: float(value) for name, value in self.metrics.items()}
        items: dict[str, dict[str, float]] = {}
        for name, values in self.items.items():
            if not values:
                raise EmptyInputError(f"Metric {name!r} has no items.")
            items[name] = {str(item): float(value) for item, value in values.items()}
            mean = math.fsum(items[name].values()) / len(values)
            if name in metrics and abs(metrics[name] - mean) > 1e-6 * max(1.0, abs(mean)):
                raise InputError(
                    f"Metric {name!r} is {metrics[name]}, but the mean of its items is {mean}."
                )
            metrics[name] = mean
        if not metrics:
            raise EmptyInputError("An outcome needs at least one metric.")
        for name, value in metrics.items():
            bad = value if not math.isfinite(value) else None
            found = (v for v in items.get(name, {}).values() if not math.isfinite(v))
            bad = next(found, bad)
            if bad is not None:
                raise NonFiniteError(f"Metric {name!r} has the value {bad}: did training diverge?")
        object.__setattr__(self, "metrics", metrics)
        object.__setattr__(self, "items", items)

    def __or__(self, other: Outcome) -> Outcome:
        twice = sorted(self.metrics.keys() & other.metrics.keys())
        if twice:
            raise InputError(f"Both outcomes have the metrics {twice}: rename them first.")
        return Outcome({**self.metrics, **other.metrics}, {**self.items, **other.items})

    def prefixed(self, prefix: str) -> Outcome:
        """Return the outcome with ``prefix`` before every metric, as in ``"acl ndcg@10"``."""
        return Outcome(
            {f"{prefix}{name}": value for name, value in self.metrics.items()},
            {f"{prefix}{name}": values for name, values in self.items.items()},
        )


@dataclass(frozen=True)
class Tuning:
    """The same small grid for every arm, chosen on validation data under seeds of their own.

    Without it, an arm may win because the settings happened to suit it. Every arm that is tuned
    runs once per grid point and tuning seed with `Context.part` set to ``"validation"``; its
    best point is used for the seeds that count.

    Args:
        grid: Setting -> values, such as ``{"lr": (1e-3, 3e-3, 1e-2)}``; ``run`` finds the value
            in `Context.tuned`.
        metric: Metric to choose by, as ``run`` reports it on validation data.
        seeds: Seeds used for nothing else.
        larger_is_better: Whether the largest value of ``metric`` wins, or the smallest.

    Example:
        >>> [dict(point) for point in Tuning({"lr": (0.1, 0.2)}, metric="ndcg@10").points()]
        [{'lr': 0.1}, {'lr': 0.2}]
    """

    grid: Mapping[str, tuple[float, ...]]
    metric: str
    seeds: tuple[int, ...] = (1000,)
    larger_is_better: bool = True

    def __post_init__(self) -> None:
        if not self.grid or not all(self.grid.values()):
            raise EmptyInputError("Tuning needs at least one setting with at least one value.")
        if not self.seeds:
            raise EmptyInputError("Tuning needs at least one seed.")

    def points(self) -> Iterator[dict[str, float]]:
        """Yield every point of the grid."""
        for values in itertools.product(*self.grid.values()):
            yield dict(zip(self.grid, values, strict=True))


@dataclass
class Context:
    """What ``run`` may use beside its arm: tuned settings, the device, places, and a memory.

    Attributes:
        scale: ``"mini"`` or ``"gpu"``.
        part: ``"validation"`` while tuning, else ``"test"``: which questions to score.
        tuned: The point of the tuning grid to use; empty without tuning.
        device: Torch device, such as ``"cpu"``.
        cache: Folder for what may be kept between runs, such as frozen vectors.
    """

    scale: str
    part: str
    tuned: Mapping[str, float]
    device: str
    cache: Path
    _memory: dict[tuple[Any, ...], Any] = field(default_factory=dict, repr=False)

    def once(self, key: tuple[Any, ...], make: Callable[[], T]) -> T:
        """Return what ``make`` gave for ``key``, calling it once per seed, not once per arm.

        The memory is emptied when the runner goes on to the next seed. Name everything the
        result depends on in the key.

        Example:
            >>> context = Context("mini", "test", {}, "cpu", Path("cache"))
            >>> context.once(("world", 0), lambda: [1]) is context.once(("world", 0), list)
            True
        """
        if key not in self._memory:
            self._memory[key] = make()
        found: T = self._memory[key]
        return found

    def setting(self, name: str, default: T) -> T | float:
        """Return a tuned setting, or ``default`` where nothing was tuned."""
        return self.tuned.get(name, default)


#: Called with (arm, seed, settings of the scale, context); returns metrics, with or without items.
Run = Callable[[Arm, int, Mapping[str, Any], Context], Outcome | Mapping[str, float]]


@dataclass(frozen=True)
class Reproduction:
    """A claim of a paper as an experiment whose verdict follows from a rule.

    Everything that decides the verdict is fixed here, before anything has run.

    Args:
        slug: Name in the command line and of the files, such as ``"gistembed-guide"``.
        paper: Title of the paper.
        arxiv: Its arXiv number, such as ``"2402.16829"``; empty when it has none.
        claim: What the paper says, in one sentence.
        falsifier: What would show the claim to be wrong here, in one sentence. `decisive` and
            the conditions with ``falsifies`` must say the same in numbers.
        arms: What is compared; names are unique.
        decisive: The comparison that decides: a `Comparison`, or (treatment, control, metric).
        run: Carries out one cell: ``run(arm, seed, settings, context) -> Outcome``, where
            ``settings`` are those of the scale. A plain mapping of metrics will do.
        scales: Scale -> settings for ``run``, such as ``{"mini": {"steps": 200}}``.
        conditions: What must hold besides, such as "a random mask does not match it".
        secondary: Comparisons that are reported and decide nothing.
        seeds: Number of seeds by default; the seeds are 0, 1, ...
        tuning: The grid every arm is tuned on, or None.
        setup: How it was done, in Markdown paragraphs for the page: data, student, budget.
        limits: What it does not show, and where it departs from the paper.

    Raises:
        InputError: When the slug, arms or scales are unusable.
        UnknownNameError: When a comparison names an arm that is not there.

    Example:
        >>> toy = Reproduction(
        ...     slug="toy", paper="A toy", arxiv="", claim="Two is more than one.",
        ...     falsifier="One is not less than two.", arms=(Arm("one"), Arm("two")),
        ...     decisive=("two", "one", "value"), scales={"mini": {}},
        ...     run=lambda arm, seed, settings, context: {"value": len(arm.name) + seed},
        ... )
        >>> toy.comparisons[0].name
        'two over one'
    """

    slug: str
    paper: str
    arxiv: str
    claim: str
    falsifier: str
    arms: tuple[Arm, ...]
    decisive: Comparison | tuple[str, str, str]
    run: Run
    scales: Mapping[str, Mapping[str, Any]]
    conditions: tuple[Comparison, ...] = ()
    secondary: tuple[Comparison, ...] = ()
    seeds: int = 3
    tuning: Tuning | None = None
    setup: str = ""
    limits: str = ""

    def __post_init__(self) -> None:
        if isinstance(self.decisive, tuple):
            object.__setattr__(self, "decisive", Comparison.between(*self.decisive))
        self._check()

    @property
    def comparisons(self) -> tuple[Comparison, ...]:
        """The decisive comparison, the conditions, then the secondary ones."""
        assert isinstance(self.decisive, Comparison)
        return (self.decisive, *self.conditions, *self.secondary)

    def _check(self) -> None:
        if not _SLUG.fullmatch(self.slug):
            raise InputError(f"A slug has lower-case words joined by '-', got {self.slug!r}.")
        for name in ("paper", "claim", "falsifier"):
            if not getattr(self, name).strip():
                raise InputError(f"Reproduction {self.slug!r}: {name} is empty.")
        if len(self.arms) < 2:
            raise InputError(f"Reproduction {self.slug!r} needs at least two arms.")
        names = [arm.name for arm in self.arms]
        check_unique(names, name=f"arms of {self.slug!r}")
        questions = [f"{one.name} ({one.metric})" for one in self.comparisons]
        check_unique(questions, name=f"comparisons of {self.slug!r}")
        for comparison in self.comparisons:
            for used in comparison.contrast:
                if used not in names:
                    raise UnknownNameError(
                        f"Reproduction {self.slug!r}: comparison {comparison.name!r} names the "
                        f"arm {used!r}. {did_you_mean(used, names)}"
                    )
        for arm in self.arms:
            if arm.tune_as and (arm.tune_as not in names or self.arm(arm.tune_as).tune_as):
                raise UnknownNameError(
                    f"Arm {arm.name!r} is tuned as {arm.tune_as!r}, which is not an arm that is "
                    f"tuned itself. {did_you_mean(arm.tune_as, names)}"
                )
        if "mini" not in self.scales:
            raise InputError(f"Reproduction {self.slug!r} has no scale 'mini'.")
        if self.seeds < 2:
            raise InputError(f"Reproduction {self.slug!r}: a verdict needs 2 seeds or more.")
        if self.tuning and set(self.tuning.seeds) & set(range(self.seeds)):
            raise InputError(f"Reproduction {self.slug!r}: tuning seeds must not count as seeds.")

    def arm(self, name: str) -> Arm:
        """Return the arm of that name.

        Raises:
            UnknownNameError: When there is none; names close ones.
        """
        found = {arm.name: arm for arm in self.arms}
        if name not in found:
            hint = did_you_mean(name, list(found))
            raise UnknownNameError(f"Reproduction {self.slug!r} has no arm {name!r}. {hint}")
        return found[name]

    def fingerprint(self, scale: str) -> str:
        """Return a hash of everything written here that decides the result at ``scale``.

        Raises:
            UnknownNameError: When there is no such scale.
            InputError: When settings hold something JSON cannot.
        """
        if scale not in self.scales:
            hint = did_you_mean(scale, list(self.scales))
            raise UnknownNameError(f"Reproduction {self.slug!r} has no scale {scale!r}. {hint}")
        values = {
            "slug": self.slug,
            "arms": [asdict(arm) for arm in self.arms],
            "settings": dict(self.scales[scale]),
            "tuning": asdict(self.tuning) if self.tuning else None,
            "comparisons": [asdict(comparison) for comparison in self.comparisons],
        }
        try:
            return sha256_of_text(json.dumps(values, sort_keys=True, default=_plain))
        except TypeError as error:
            raise InputError(
                f"Reproduction {self.slug!r}: settings must be plain values ({error})."
            ) from error

    def source_fingerprint(self) -> str:
        """Return a hash of the code a cell runs: ``run``, its file, and the whole library."""
        import embedworks

        package = Path(embedworks.__file__).parent
        files = {path for path in package.rglob("*.py") if "__pycache__" not in path.parts}
        run = inspect.unwrap(self.run)
        own = inspect.getsourcefile(run if inspect.isroutine(run) else type(run))
        if own and Path(own).is_file():
            files.add(Path(own))
        line = run.__code__.co_firstlineno if inspect.isfunction(run) else 0
        digest = hashlib.sha256(f"{getattr(run, '__qualname__', '')}:{line}".encode())
        for path in sorted(files):
            digest.update(path.read_bytes())
        return digest.hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is not a plain value")
