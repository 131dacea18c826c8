"""Vectors optimised on the judgements themselves: the best any encoder could do, by one optimiser.

No text is read. Queries and documents are free unit vectors, moved until every query scores its
own set above the rest. What comes out is a property of the optimiser too: the loss, its
temperature and what queries may be change how many documents a dimension serves.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from embedworks._core.devices import pick_device
from embedworks._core.extras import require_extra
from embedworks._core.files import read_json, sha256_of_text, write_json
from embedworks._core.seeding import derive_seed
from embedworks._core.validation import check_choice, check_in_range, check_k, check_vectors
from embedworks.errors import BudgetError, FormatError, InputError
from embedworks.evaluation.limits.capacity import (
    CRITICAL_N,
    _check_sizes,
    _check_subsets,
    all_subsets,
)

if TYPE_CHECKING:
    import torch

__all__ = ["CriticalN", "FreeEmbeddings", "critical_n", "optimize_free_embeddings"]

Loss = Literal["infonce", "sigmoid", "hinge"]
Query = Literal["free", "centroid"]

#: Copies of the scores that a step holds at its highest: scores, softmax, gradients.
_COPIES = 4
_EVERY = 50
#: Scores from which several threads are worth it.
_SHARED_CELLS = 1_000_000
_FORMAT = "embedworks-critical-n"


@dataclass(frozen=True, eq=False)
class FreeEmbeddings:
    """The best vectors seen while optimising."""

    documents: np.ndarray
    """float32 (n, D), unit length unless they were given."""
    queries: np.ndarray
    """float32 (S, D), unit length, one for each set."""
    realised: float
    """Share of the sets whose documents all score above all others."""
    accuracy: float
    """Share of relevant documents among the top k of their query; the published measure."""
    steps: int
    """Steps taken."""
    loss: float
    """The lowest value of the loss."""

    @property
    def solved(self) -> bool:
        """Whether every set is realised."""
        return self.realised == 1.0


def optimize_free_embeddings(
    subsets: Sequence[Sequence[int]] | np.ndarray,
    n: int,
    d: int,
    *,
    loss: Loss = "infonce",
    query: Query = "free",
    temperature: float = 0.1,
    lr: float = 0.01,
    max_steps: int = 100_000,
    patience: int = 1000,
    documents: np.ndarray | None = None,
    seed: int = 42,
    device: str | None = None,
    memory_limit: float = 2e9,
) -> FreeEmbeddings:
    """Optimise unit vectors so that each query's best documents are its set.

    Full batch, Adam, rows put back on the sphere after every step. Every 50 steps the sets are
    counted; it ends when all are realised, or when the loss has not fallen by 1e-5 for
    ``patience`` steps.

    Args:
        subsets: Document numbers (S, k), such as `all_subsets` or `random_subsets`.
        n: Number of documents.
        d: Dimension.
        loss: ``"infonce"``: mean over relevant documents of -log softmax over all documents;
            ``"sigmoid"``: each document is a question of its own, with a learnt threshold per
            query; ``"hinge"``: every other document below the worst of the set by
            ``temperature``.
        query: ``"free"``, or ``"centroid"`` for the normalised mean of the set's documents.
        temperature: Scores are divided by it; the margin of ``"hinge"``.
        lr: Learning rate.
        max_steps: Most steps.
        patience: Steps without progress before it ends.
        documents: float array (n, d) of documents that stay as they are, such as a model's,
            of any length; only queries move then.
        seed: Seed of the start.
        device: Torch device.
        memory_limit: Most bytes of scores; more are refused.

    Raises:
        InputError: When a setting is out of range, sets are not usable, or nothing would move.
        BudgetError: When the scores would take more than ``memory_limit``.
        MissingExtraError: When torch is not installed.

    Example:
        >>> from embedworks.evaluation.limits import all_subsets
        >>> optimize_free_embeddings(all_subsets(6, 2), 6, 4).solved
        True
    """
    chosen = _check_subsets(subsets, n)
    k = chosen.shape[1]
    _check_sizes(n, k)
    _check_settings(d, loss, query, temperature, lr, max_steps, patience)
    _check_memory(len(chosen), n, k, memory_limit)
    fixed = None
    if documents is not None:
        if query == "centroid":
            raise InputError("With fixed documents, centroid queries have nothing to optimise.")
        fixed = check_vectors(documents, name="documents", dim=d)
        if len(fixed) != n:
            raise InputError(f"documents must be {n} rows, got {len(fixed)}.")
        if not fixed.any(axis=1).all():
            raise InputError("documents hold a zero vector: it has no direction.")
    require_extra("torch", extra="train", purpose="optimise vectors")
    work = _Optimisation(chosen, n, d, loss, query, temperature, fixed, seed, pick_device(device))
    with _threads(len(chosen) * n):
        return work.run(lr, max_steps, patience)


@contextmanager
def _threads(cells: int) -> Iterator[None]:
    """Use one thread for small scores: steps too short to share are far slower with two."""
    import torch

    before = torch.get_num_threads()
    if cells < _SHARED_CELLS:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Optimisation:
    def __init__(
        self,
        subsets: np.ndarray,
        n: int,
        d: int,
        loss: Loss,
        query: Query,
        temperature: float,
        fixed: np.ndarray | None,
        seed: int,
        device: str,
    ) -> None:
        import torch

        draw = torch.Generator().manual_seed(derive_seed(seed, "free embeddings"))
        self.loss, self.query, self.temperature = loss, query, temperature
        self.subsets = torch.from_numpy(subsets).to(device)
        start = _unit(torch.randn(n, d, generator=draw))
        self.documents = (start if fixed is None else torch.from_numpy(fixed)).to(device)
        self.documents.requires_grad_(fixed is None)
        self.free = _unit(torch.randn(len(subsets), d, generator=draw).to(device))
        self.free.requires_grad_(query == "free")
        self.threshold = torch.zeros(len(subsets), 1, device=device, requires_grad=True)
        self.moving = [x for x in (self.documents, self.free) if x.requires_grad]

    def queries(self) -> torch.Tensor:
        if self.query == "free":
            return self.free
        return _unit(self.documents[self.subsets].sum(dim=1))

    def run(self, lr: float, max_steps: int, patience: int) -> FreeEmbeddings:
        import torch

        parameters = [*self.moving, *([self.threshold] if self.loss == "sigmoid" else [])]
        optimiser = torch.optim.Adam(parameters, lr=lr)
        best = (-1.0, -1.0)
        kept = self.documents.detach().clone(), self.queries().detach().clone()
        lowest, since, step = math.inf, 0, 0
        for step in range(1, max_steps + 1):
            optimiser.zero_grad()
            value = self._value(self.queries() @ self.documents.T)
            value.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            with torch.no_grad():
                for vectors in self.moving:
                    vectors.copy_(_unit(vectors))
            check = step % _EVERY == 0 or step == max_steps
            if check:
                found = self._counts()
                if found > best:
                    best = found
                    kept = self.documents.detach().clone(), self.queries().detach().clone()
                if best[0] == 1.0:
                    break
                # Progress is looked at here only: reading a value waits for the device.
                now = float(value.detach())
                if now < lowest - 1e-5:
                    lowest, since = now, step
                elif step - since >= patience:
                    break
        lowest = min(lowest, float(value.detach()))
        stored, asked = (x.cpu().numpy() for x in kept)
        return FreeEmbeddings(stored, asked, best[0], best[1], step, lowest)

    def _value(self, scores: torch.Tensor) -> torch.Tensor:
        import torch
        from torch.nn import functional

        if self.loss == "infonce":
            logits = scores / self.temperature
            own = torch.gather(logits, 1, self.subsets)
            return (logits.logsumexp(dim=1) - own.mean(dim=1)).mean()
        if self.loss == "sigmoid":
            logits = scores / self.temperature - self.threshold
            own = torch.gather(logits, 1, self.subsets)
            everything = functional.softplus(logits)
            return (functional.softplus(-own).sum() + everything.sum()) / len(
                scores
            ) - functional.softplus(own).sum() / len(scores)
        worst = torch.gather(scores, 1, self.subsets).amin(dim=1, keepdim=True)
        over = functional.relu(self.temperature + scores - worst)
        return over.scatter(1, self.subsets, 0.0).sum(dim=1).mean()

    def _counts(self) -> tuple[float, float]:
        """Return the share of realised sets and of relevant documents in the top k."""
        import torch

        with torch.no_grad():
            scores = self.queries() @ self.documents.T
            own = torch.gather(scores, 1, self.subsets)
            others = scores.scatter(1, self.subsets, -math.inf)
            realised = (own.amin(dim=1) > others.amax(dim=1)).double().mean()
            top = scores.topk(self.subsets.shape[1], dim=1).indices
            hits = (top[:, :, None] == self.subsets[:, None, :]).any(dim=2).double().mean()
        return float(realised), float(hits)


@dataclass(frozen=True)
class CriticalN:
    """Most documents of which every set of k was realised."""

    d: int
    """Dimension."""
    k: int
    """Size of the sets."""
    n: int
    """The largest n that was solved; 0 when none was."""
    tried: Mapping[int, float]
    """n -> share of the sets that were realised."""
    seconds: float
    """What the optimisations took when they were made."""

    @property
    def published(self) -> int | None:
        """The published figure, for pairs in 4 to 45 dimensions."""
        return CRITICAL_N.get(self.d) if self.k == 2 else None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        tried = {str(n): share for n, share in self.tried.items()}
        return {**asdict(self), "tried": tried, "published": self.published}


def critical_n(
    d: int,
    k: int = 2,
    *,
    loss: Loss = "infonce",
    query: Query = "free",
    temperature: float = 0.1,
    lr: float = 0.01,
    max_steps: int = 100_000,
    patience: int = 1000,
    start: int | None = None,
    sweep: int = 0,
    most: int | None = None,
    seed: int = 42,
    device: str | None = None,
    memory_limit: float = 2e9,
    cache: str | Path | None = None,
) -> CriticalN:
    """Search for the most documents of which free vectors realise every set of k.

    Steps of 1, 2, 4, ... away from ``start`` until solved turns into failed (or the other way
    round), then a binary search between. Whether an n is solved is not quite monotone, so a few
    more are worth trying: ``sweep``. Finished optimisations are kept in ``cache``.

    Args:
        d: Dimension.
        k: Size of the sets.
        loss: As for `optimize_free_embeddings`.
        query: As for `optimize_free_embeddings`.
        temperature: As for `optimize_free_embeddings`.
        lr: As for `optimize_free_embeddings`.
        max_steps: As for `optimize_free_embeddings`.
        patience: As for `optimize_free_embeddings`.
        start: Where to begin; the published figure where there is one, else ``d + k``.
        sweep: How many n beyond the one found are tried as well.
        most: Largest n to try; no end by default.
        seed: As for `optimize_free_embeddings`.
        device: As for `optimize_free_embeddings`.
        memory_limit: As for `optimize_free_embeddings`.
        cache: JSON file of finished optimisations, keyed by all settings; made when absent.

    Raises:
        InputError: When a setting is out of range.
        BudgetError: When an n on the way has too many sets for ``memory_limit``.
        FormatError: When the cache is not one.

    Example:
        >>> critical_n(4, most=6).n
        6
    """
    check_k(k)
    _check_settings(d, loss, query, temperature, lr, max_steps, patience)
    check_in_range(sweep, name="sweep", low=0)
    if most is not None and most <= k:
        raise InputError(f"most must be above k={k}, got {most}.")
    chosen = pick_device(device)
    settings = {
        "d": d, "k": k, "loss": loss, "query": query, "temperature": temperature, "lr": lr,
        "max_steps": max_steps, "patience": patience, "seed": seed,
        "device": chosen.split(":")[0],
    }  # fmt: skip
    trials = _Trials(settings, None if cache is None else Path(cache), chosen, memory_limit)
    first = start or (CRITICAL_N.get(d) if k == 2 else None) or d + k
    top = math.inf if most is None else most
    low, high = _gallop(trials, int(min(max(first, k + 1), top)), k, top)
    while high - low > 1 and low:
        middle = (low + int(high)) // 2
        low, high = (middle, high) if trials(middle) == 1.0 else (low, middle)
    for n in _swept(low, sweep, top):
        trials(n)
    solved = [n for n, share in trials.tried.items() if share == 1.0]
    tried = dict(sorted(trials.tried.items()))
    return CriticalN(d, k, max(solved, default=0), tried, trials.seconds)


def _gallop(trials: _Trials, n: int, k: int, top: float) -> tuple[int, float]:
    """Return the largest n known to be solved (0: none) and a larger one that failed."""
    step = 1
    if trials(n) == 1.0:
        while n < top:
            further = int(min(n + step, top))
            if trials(further) < 1.0:
                return n, further
            n, step = further, 2 * step
        return n, n + 1
    while n > k + 1:
        nearer = max(n - step, k + 1)
        if trials(nearer) == 1.0:
            return nearer, n
        n, step = nearer, 2 * step
    return 0, n


def _swept(low: int, sweep: int, top: float) -> Iterator[int]:
    return (n for n in range(low + 1, low + 1 + sweep) if low and n <= top)


class _Trials:
    """Optimisations by n, each done once and kept in a file."""

    def __init__(
        self, settings: Mapping[str, Any], cache: Path | None, device: str, memory_limit: float
    ) -> None:
        self.settings, self.cache, self.device = dict(settings), cache, device
        self.memory_limit = memory_limit
        self.tried: dict[int, float] = {}
        self.seconds = 0.0

    def __call__(self, n: int) -> float:
        if n not in self.tried:
            record = self._known().get(self._key(n)) or self._make(n)
            self.tried[n] = record["realised"]
            self.seconds += record["seconds"]
        return self.tried[n]

    def _key(self, n: int) -> str:
        parts = {**self.settings, "n": n}
        return sha256_of_text(*(f"{name}={parts[name]!r}" for name in sorted(parts)))[:24]

    def _make(self, n: int) -> dict[str, Any]:
        started = time.perf_counter()
        options = {k: v for k, v in self.settings.items() if k not in ("k", "device")}
        k = self.settings["k"]
        _check_memory(math.comb(n, k), n, k, self.memory_limit)
        found = optimize_free_embeddings(
            all_subsets(n, k), n, device=self.device, memory_limit=self.memory_limit, **options
        )
        record = {
            **self.settings,
            "n": n,
            "realised": found.realised,
            "accuracy": found.accuracy,
            "steps": found.steps,
            "seconds": round(time.perf_counter() - started, 3),
        }
        if self.cache is not None:
            # Read again: another search may have written to the same file.
            known = {**self._known(), self._key(n): record}
            write_json(self.cache, {"format": _FORMAT, "version": 1, "trials": known})
        return record

    def _known(self) -> dict[str, dict[str, Any]]:
        if self.cache is None or not self.cache.exists():
            return {}
        value = read_json(self.cache)
        if not isinstance(value, dict) or value.get("format") != _FORMAT:
            raise FormatError(f"{self.cache} is not a file of critical-n trials: choose another.")
        trials: dict[str, Any] = value.get("trials") or {}
        usable = value.get("version") == 1 and isinstance(value.get("trials"), dict)
        if not usable or not all(map(_is_trial, trials.values())):
            raise FormatError(f"{self.cache} has trials of another version or form: move it away.")
        return dict(trials)


def _is_trial(record: object) -> bool:
    if not isinstance(record, dict):
        return False
    numbers = (record.get("realised"), record.get("seconds"))
    return all(isinstance(x, (int, float)) and math.isfinite(x) and x >= 0 for x in numbers)


def _unit(vectors: torch.Tensor) -> torch.Tensor:
    from torch.nn import functional

    return functional.normalize(vectors, dim=1)


def _check_settings(
    d: int, loss: str, query: str, temperature: float, lr: float, max_steps: int, patience: int
) -> None:
    check_choice(loss, ("infonce", "sigmoid", "hinge"), name="loss")
    check_choice(query, ("free", "centroid"), name="query")
    check_in_range(d, name="d", low=1)
    check_in_range(temperature, name="temperature", low=0, open_low=True)
    check_in_range(lr, name="lr", low=0, open_low=True)
    check_in_range(max_steps, name="max_steps", low=1)
    check_in_range(patience, name="patience", low=1)


def _check_memory(sets: int, n: int, k: int, limit: float) -> None:
    needed = _COPIES * 4 * sets * n
    if needed > limit:
        fits = max(1, int(limit / (_COPIES * 4 * n)))
        raise BudgetError(
            f"The scores of {sets:,} sets and {n:,} documents take about {needed / 1e9:.1f} GB, "
            f"the limit is {limit / 1e9:.1f} GB. Optimise a random part, "
            f"random_subsets({n}, {k}, {fits}, seed=0), or raise memory_limit."
        )
