"""Search the coefficients of a merge on probe rows, by gradient or over a grid.

Nothing but the coefficients is trained. A step gives the model the parameters of the present merge,
takes each task's loss and gradient, and takes the products of the gradient with the task vectors:
these are the gradient of the coefficients. The parameters are set in place rather than through a
functional call, so that losses that embed a batch twice (cached gradients) work as they are.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from embedworks._core.progress import progress
from embedworks.errors import InputError, NonFiniteError
from embedworks.merging.positions import make_position
from embedworks.merging.probe import Probe
from embedworks.merging.search_settings import CoefficientSearch, Goal
from embedworks.merging.task_vectors import TaskVectors

__all__ = ["SearchOutcome", "combined", "search_coefficients", "simplex_grid"]


@dataclass(frozen=True)
class SearchOutcome:
    """What a search found.

    Attributes:
        groups: Names of the groups of tensors (G).
        coefficients: (N, G): what each model's task vector counts, in each group.
        tasks: What was measured -> task -> loss on what is held out: ``base``, ``model 1``, ...,
            ``start`` (the even merge) and ``found``.
        history: One entry per look: step, held-out losses, objective, length.
        step: The step the coefficients are from; 0 is the start.
        steps: Steps made.
        norms: Length of each task vector.
        cosines: Cosines between the task vectors.
        seconds: Wall clock.
    """

    groups: tuple[str, ...]
    coefficients: np.ndarray
    tasks: dict[str, dict[str, float]]
    history: tuple[dict[str, Any], ...]
    step: int
    steps: int
    norms: tuple[float, ...]
    cosines: tuple[tuple[float, ...], ...]
    seconds: float

    @property
    def weights(self) -> dict[str, list[float]]:
        """Group -> one number per model: weights of a merge by ``task_arithmetic``."""
        return {group: self.coefficients[:, n].tolist() for n, group in enumerate(self.groups)}

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "weights": self.weights,
            "losses": self.tasks,
            "step": self.step,
            "steps": self.steps,
            "norms": list(self.norms),
            "cosines": [list(row) for row in self.cosines],
            "history": list(self.history),
            "seconds": round(self.seconds, 3),
        }


def combined(
    losses: Sequence[float], goal: Goal, singles: Sequence[Sequence[float]]
) -> tuple[float, list[float]]:
    """Return the value of several tasks' losses, and its derivative by each.

    ``mean``: ``mean_t L_t``. ``relative``: ``mean_t L_t / m_t`` with the mean loss ``m_t`` of the
    single models. ``worst``: ``tau log sum_t exp(r_t / tau)``, ``r_t = (L_t - b_t) / |b_t|`` with
    the best single model's ``b_t`` and tau = 0.05: a smooth maximum.

    Args:
        losses: One loss per task (T).
        goal: One of the three.
        singles: Losses of the single models (N, T).

    Example:
        >>> combined([1.0, 4.0], "relative", [[1.0, 2.0], [1.0, 6.0]])
        (1.0, [0.5, 0.125])
    """
    found = np.asarray(losses, np.float64)
    count = len(found)
    if goal == "mean":
        return float(found.mean()), [1 / count] * count
    table = np.abs(np.asarray(singles, np.float64))
    if goal == "relative":
        scale = np.maximum(table.mean(axis=0), 1e-6)
        return float((found / scale).mean()), (1 / scale / count).tolist()
    best = np.asarray(singles, np.float64).min(axis=0)
    scale = np.maximum(np.abs(best), 1e-6)
    regret = (found - best) / scale / _SMOOTH
    top = regret.max()
    shares = np.exp(regret - top)
    value = _SMOOTH * (top + math.log(shares.sum()))
    return float(value), (shares / shares.sum() / scale).tolist()


#: A coefficient beyond this is no merge any more.
_FARTHEST = 1e4
#: How far below the worst a task may be and still count, in shares of its loss.
_SMOOTH = 0.05


@dataclass
class _Search:
    """One search under way."""

    vectors: TaskVectors
    model: Any
    probe: Probe
    settings: CoefficientSearch
    singles: list[list[float]] = field(default_factory=list)
    history: list[dict[str, Any]] = field(default_factory=list)

    def held_out(self, coefficients: Tensor) -> dict[str, float]:
        self.vectors.put(self.model, coefficients)
        return self.probe.held_out_losses()

    def value(self, losses: dict[str, float]) -> float:
        return combined([losses[t] for t in self.probe.tasks], self.settings.goal, self.singles)[0]

    def look(self, step: int, coefficients: Tensor, length: float) -> float:
        """Measure what is held out, and note it."""
        losses = self.held_out(coefficients)
        value = self.value(losses)
        self.history.append({"step": step, "losses": losses, "value": value, "length": length})
        return value

    def gradient(self, coefficients: Tensor) -> Tensor:
        """Return the gradient (N, G) of the objective on one batch of each task."""
        self.vectors.put(self.model, coefficients)
        losses, pulls = [], []
        for task in self.probe.tasks:
            self.model.zero_grad(set_to_none=True)
            loss = self.probe.loss(task)
            loss.backward()  # type: ignore[no-untyped-call]
            losses.append(float(loss.detach()))
            pulls.append(self.vectors.pull(self.model))
        self.model.zero_grad(set_to_none=True)
        _, shares = combined(losses, self.settings.goal, self.singles)
        return torch.stack([s * pull for s, pull in zip(shares, pulls, strict=True)]).sum(0)


def search_coefficients(
    vectors: TaskVectors,
    model: Any,
    probe: Probe,
    settings: CoefficientSearch | None = None,
    *,
    grid: Sequence[Sequence[float]] | None = None,
    show_progress: bool | None = None,
) -> SearchOutcome:
    """Find coefficients of task vectors that make probe rows' losses small.

    The model is left with the parameters that were found.

    Args:
        vectors: The task vectors, grouped as ``settings.by`` says.
        model: A sentence-transformers model of the base's structure; it is changed.
        probe: The rows, over the same model.
        settings: How to search.
        grid: Try these coefficients (K, N) of whole models in place of a gradient search; the
            best on the rows that are not held out is taken.
        show_progress: True or False to force a bar; by default on a terminal.

    Raises:
        InputError: When the groups do not suit the form, or the grid the models.
        NonFiniteError: When a loss or the coefficients become NaN or infinite.

    Paper: Li et al. 2024, Self Positioning, arXiv 2410.15035 (form ``slerp``); Yang et al. 2023,
        AdaMerging, arXiv 2310.02575 (form ``free``, loss ``entropy``). Goals over tasks, groups by
        module and stopping on held-out rows are ours.
    """
    settings = settings or CoefficientSearch()
    if settings.form != "free" and len(vectors.groups) > 1:
        raise InputError(
            f"The form {settings.form!r} has one length for the whole model: use by='all'."
        )
    started = time.perf_counter()
    trained = {name: p.requires_grad for name, p in model.named_parameters()}
    was_training = model.training
    model.eval()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in vectors.names)
    search = _Search(vectors, model, probe, settings)
    try:
        measured = _measure_single(search)
        position = make_position(
            settings.form, vectors.gram.sum(0), len(vectors.groups), length=settings.length
        )
        search.look(0, position().detach(), float(position.length().detach()))
        measured["start"] = search.history[0]["losses"]
        with progress("Searching", settings.steps, enabled=show_progress) as bar:
            if grid is None:
                step, best, steps = _descend(search, position, bar)
            else:
                bar.update(total=len(grid))
                step, best, steps = _try_all(search, _grid(grid, vectors), bar)
        measured["found"] = search.held_out(best)
    finally:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(trained[name])
        model.train(was_training)
    return SearchOutcome(
        groups=vectors.groups,
        coefficients=best.numpy().copy(),
        tasks=measured,
        history=tuple(search.history),
        step=step,
        steps=steps,
        norms=tuple(vectors.norms.tolist()),
        cosines=tuple(map(tuple, vectors.cosines.tolist())),
        seconds=time.perf_counter() - started,
    )


def _measure_single(search: _Search) -> dict[str, dict[str, float]]:
    """Measure the base and each model on what is held out; keep the models' losses."""
    count, groups = len(search.vectors), len(search.vectors.groups)
    measured = {"base": search.held_out(torch.zeros(count, groups, dtype=torch.float64))}
    for number in range(count):
        alone = torch.zeros(count, groups, dtype=torch.float64)
        alone[number] = 1.0
        measured[f"model {number + 1}"] = found = search.held_out(alone)
        search.singles.append([found[task] for task in search.probe.tasks])
    return measured


def _descend(search: _Search, position: Any, bar: Any) -> tuple[int, Tensor, int]:
    """Return the step whose coefficients were best on what is held out, these, and steps made."""
    settings = search.settings
    kinds: dict[str, type[torch.optim.Optimizer]] = {
        "adam": torch.optim.Adam,
        "sgd": torch.optim.SGD,
    }
    optimizer = kinds[settings.optimizer](
        position.parameters(),
        lr=settings.learning_rate,  # type: ignore[call-arg]
    )
    best, found, without = position().detach().clone(), 0, 0
    least = search.history[0]["value"]
    for step in range(1, settings.steps + 1):
        coefficients = position()
        pulled = search.gradient(coefficients.detach())
        objective = (coefficients * pulled).sum() + settings.mu * position.length()
        optimizer.zero_grad(set_to_none=True)
        objective.backward()
        optimizer.step()
        now = position().detach()
        if not bool((now.abs() < _FARTHEST).all()):  # NaN neither
            raise NonFiniteError(
                f"The coefficients ran away to {float(now.abs().max()):g} at step {step}: lower "
                f"the learning rate ({settings.learning_rate:g})."
            )
        bar.advance()
        if step % settings.check_every and step != settings.steps:
            continue
        value = search.look(step, now, float(position.length().detach()))
        without += 1
        if value < least:
            least, best, found, without = value, now.clone(), step, 0
        if without >= settings.patience:
            return found, best, step
    return found, best, settings.steps


def _try_all(search: _Search, grid: Sequence[Tensor], bar: Any) -> tuple[int, Tensor, int]:
    values = []
    for place, coefficients in enumerate(grid, start=1):
        search.vectors.put(search.model, coefficients)
        losses = search.probe.used_losses()
        values.append(search.value(losses))
        search.history.append(
            {
                "step": place,
                "losses": losses,
                "value": values[-1],
                "length": float(coefficients.sum(0).mean()),
            }
        )
        bar.advance()
    place = int(np.argmin(values))
    return place + 1, grid[place], len(grid)


def _grid(grid: Sequence[Sequence[float]], vectors: TaskVectors) -> list[Tensor]:
    points = torch.tensor([list(point) for point in grid], dtype=torch.float64)
    if points.ndim != 2 or points.shape[1] != len(vectors) or not len(points):
        raise InputError(
            f"A grid has one number per model ({len(vectors)}) in each point, got shape "
            f"{tuple(points.shape)}."
        )
    return [point[:, None].expand(-1, len(vectors.groups)) for point in points]


def simplex_grid(count: int, *, parts: int, lengths: Sequence[float]) -> Iterator[list[float]]:
    """Yield weights of ``count`` models in steps of ``1 / parts`` that sum to each length.

    Example:
        >>> list(simplex_grid(2, parts=2, lengths=[1.0]))
        [[0.0, 1.0], [0.5, 0.5], [1.0, 0.0]]
    """
    for length in lengths:
        for cuts in itertools.combinations(range(parts + count - 1), count - 1):
            edges = [-1, *cuts, parts + count - 1]
            yield [length * (b - a - 1) / parts for a, b in itertools.pairwise(edges)]
