"""The shape of a set of vectors: isotropy, rank, alignment, uniformity, hubs.

These figures describe; none says by itself that a model is good. Vectors drawn at random are as
isotropic as can be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from embedworks._core.validation import (
    check_in_range,
    check_k,
    check_texts,
    check_vectors,
    unit_directions,
)
from embedworks.errors import EmptyInputError, InputError, ShapeError
from embedworks.evaluation.outcomes import Failure, Resampling, Score, TaskResult, shorten

if TYPE_CHECKING:
    from embedworks.evaluation.systems import System

__all__ = [
    "GeometryReport",
    "GeometryTask",
    "alignment",
    "effective_rank",
    "geometry_report",
    "iso_score",
    "k_occurrences",
    "linear_cka",
    "mean_cosine",
    "partition_isotropy",
    "uniformity",
]

_BLOCK = 1024


def mean_cosine(vectors: np.ndarray) -> float:
    """Return the mean cosine of two different vectors: 0 when directions are spread evenly.

    Exact over all pairs, in time linear in N.

    Args:
        vectors: float (N, D), no zero rows.

    Raises:
        EmptyInputError: When there are fewer than 2.
        InputError: When a vector is zero.

    Example:
        >>> mean_cosine(np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]]))
        -0.333...
    """
    unit = _unit(vectors)
    n = len(unit)
    total = unit.sum(axis=0)
    return float((total @ total - n) / (n * (n - 1)))


def effective_rank(vectors: np.ndarray) -> float:
    """Return exp(H) of the singular values as shares: how many dimensions the vectors use.

    The mean is not taken away: a shift that all vectors share makes the rank smaller.

    Args:
        vectors: float (N, D).

    Returns:
        A value in [1, min(N, D)].

    Raises:
        InputError: When all vectors are zero.

    Paper: Roy and Vetterli 2007, EUSIPCO.

    Example:
        >>> round(effective_rank(np.eye(4)), 6), round(effective_rank(np.ones((5, 4))), 6)
        (4.0, 1.0)
    """
    spectrum = np.sqrt(_spectrum(_checked(vectors, least=1)))
    if not spectrum.any():
        raise InputError("All vectors are zero: they have no rank to speak of.")
    shares = spectrum / spectrum.sum()
    shares = shares[shares > 0]
    return float(np.exp(-(shares * np.log(shares)).sum()))


def iso_score(vectors: np.ndarray) -> float:
    """Return how evenly the variance is spread over the dimensions, from 0 to 1.

    1 when the covariance is a multiple of the identity, 0 when all variance is in one direction.
    It does not see the mean: see `mean_cosine` for that.

    Args:
        vectors: float (N, D) with N and D of 2 or more.

    Raises:
        ShapeError: When D is 1.
        InputError: When all vectors are equal.

    Paper: Rudman et al. 2022, arXiv 2108.07344.

    Example:
        >>> line = np.array([[1.0, 1.0], [2.0, 2.0], [4.0, 4.0]])
        >>> round(iso_score(line), 6)
        0.0
    """
    array = _checked(vectors)
    d = array.shape[1]
    if d < 2:
        raise ShapeError("An IsoScore needs vectors of 2 dimensions or more, got 1.")
    # The variances along the principal axes, scaled to the length of a vector of ones.
    variances = np.zeros(d)
    found = _spectrum(array - array.mean(axis=0))
    variances[: len(found)] = found[:d]
    norm = float(np.linalg.norm(variances))
    if norm == 0:
        raise InputError("All vectors are equal: they have no variance to share out.")
    scaled = np.sqrt(d) * variances / norm
    defect = float(np.linalg.norm(scaled - 1)) / np.sqrt(2 * (d - np.sqrt(d)))
    used = (d - defect**2 * (d - np.sqrt(d))) ** 2 / d**2  # share of dimensions in use
    return float(np.clip((d * used - 1) / (d - 1), 0.0, 1.0))


def partition_isotropy(vectors: np.ndarray) -> float:
    """Return min over max of the partition function along the principal axes, in (0, 1].

    ``Z(c) = sum_i exp(c . v_i)`` for the eigenvectors c of V'V, both ways; 1 is isotropic. Rows
    are first divided by their mean length, so that the scale of the vectors does not count.

    Args:
        vectors: float (N, D).

    Raises:
        InputError: When all vectors are zero.

    Paper: Mu and Viswanath 2018, arXiv 1702.01417, equation 2.

    Example:
        >>> round(partition_isotropy(np.vstack([np.eye(3), -np.eye(3)])), 6)
        1.0
    """
    array = _checked(vectors)
    scale = float(np.linalg.norm(array, axis=1).mean())
    if scale == 0:
        raise InputError("All vectors are zero: they have no isotropy to speak of.")
    array = array / scale
    axes = np.linalg.eigh(array.T @ array)[1]
    along = array @ axes
    sums = []
    for sign in (1.0, -1.0):
        high = (sign * along).max(axis=0)
        sums.append(np.log(np.exp(sign * along - high).sum(axis=0)) + high)
    logs = np.concatenate(sums)
    return float(np.exp(logs.min() - logs.max()))


def alignment(first: np.ndarray, second: np.ndarray, *, alpha: float = 2.0) -> float:
    """Return the mean distance, to the power ``alpha``, of vectors that belong together.

    Args:
        first: float (N, D); scaled to unit length here.
        second: float (N, D), row by row the partners.
        alpha: The power.

    Returns:
        0 when partners are equal; 2 for ``alpha`` 2 when they are orthogonal.

    Raises:
        ShapeError: When shapes differ.
        InputError: When a vector is zero.

    Paper: Wang and Isola 2020, arXiv 2005.10242.

    Example:
        >>> alignment(np.eye(2), np.eye(2)[::-1])
        2.0...
    """
    one, other = _unit(first, least=1), _unit(second, least=1)
    if one.shape != other.shape:
        raise ShapeError(f"Partners have shapes {one.shape} and {other.shape}: one each is needed.")
    return float((np.linalg.norm(one - other, axis=1) ** alpha).mean())


def uniformity(vectors: np.ndarray, *, t: float = 2.0) -> float:
    """Return the log of the mean Gaussian potential of all pairs: lower is more uniform.

    Args:
        vectors: float (N, D); scaled to unit length here.
        t: Sharpness of the potential.

    Returns:
        0 when all vectors are equal, about ``-2t`` at best.

    Raises:
        EmptyInputError: When there are fewer than 2.
        InputError: When a vector is zero.

    Paper: Wang and Isola 2020, arXiv 2005.10242.

    Example:
        >>> round(uniformity(np.array([[1.0, 0.0], [-1.0, 0.0]])), 6)
        -8.0
    """
    check_in_range(t, name="t", low=0.0, open_low=True)
    unit = _unit(vectors)
    n, total = len(unit), 0.0
    for start in range(0, n, _BLOCK):
        squared = 2 - 2 * unit[start : start + _BLOCK] @ unit.T
        total += float(np.exp(-t * np.maximum(squared, 0.0)).sum())
    # Every vector beside itself gave 1.
    return float(np.log((total - n) / (n * (n - 1))))


def k_occurrences(vectors: np.ndarray, k: int = 10) -> np.ndarray:
    """Return how many others have each vector among their ``k`` nearest by cosine.

    A vector that is near to very many is a hub: it turns up in searches it has nothing to do with,
    and a document far more often than ``k`` may have been planted to do so.

    Args:
        vectors: float (N, D), no zero rows.
        k: Neighbours, below N.

    Returns:
        int64 (N,), whose mean is ``k``.

    Raises:
        InputError: When ``k`` is not below N, or a vector is zero.

    Paper: Radovanović et al. 2010, JMLR 11.

    Example:
        >>> k_occurrences(np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]]), k=1)
        array([1, 2, 0])
    """
    check_k(k)
    unit = _unit(vectors)
    n = len(unit)
    if k >= n:
        raise InputError(f"{n} vectors have at most {n - 1} neighbours each, asked for {k}.")
    counts = np.zeros(n, dtype=np.int64)
    for start in range(0, n, _BLOCK):
        scores = unit[start : start + _BLOCK] @ unit.T
        rows = np.arange(len(scores))
        scores[rows, start + rows] = -np.inf
        nearest = np.argpartition(-scores, k - 1, axis=1)[:, :k]
        counts += np.bincount(nearest.ravel(), minlength=n)
    return counts


def linear_cka(first: np.ndarray, second: np.ndarray) -> float:
    """Return how alike two models place the same texts, from 0 to 1.

    Linear centred kernel alignment; turning or scaling a space changes nothing. With few texts
    and many dimensions it is high for unrelated spaces too.

    Args:
        first: float (N, D), one model's vectors.
        second: float (N, D'), the other's, of the same texts in the same order.

    Raises:
        ShapeError: When the numbers of texts differ.
        InputError: When all vectors of one side are equal.

    Paper: Kornblith et al. 2019, arXiv 1905.00414.

    Example:
        >>> round(linear_cka(np.eye(3), 2 * np.eye(3)[:, ::-1]), 6)
        1.0
    """
    one, other = _checked(first), _checked(second)
    if len(one) != len(other):
        raise ShapeError(f"{len(one)} and {len(other)} vectors: both need the same texts.")
    one, other = one - one.mean(axis=0), other - other.mean(axis=0)
    norms = [float(np.linalg.norm(part.T @ part)) for part in (one, other)]
    if 0.0 in norms:
        raise InputError("All vectors of one side are equal: there is nothing to compare.")
    return float(np.linalg.norm(one.T @ other) ** 2 / (norms[0] * norms[1]))


@dataclass(frozen=True)
class GeometryReport:
    """Figures of `geometry_report`."""

    vectors: int
    """Vectors looked at."""
    zero_vectors: int
    """Zero vectors, left out."""
    dimension: int
    """Dimensions."""
    mean_cosine: float
    """Of two different vectors; 0 when spread evenly, 1 in one direction."""
    iso_score: float
    """Evenness of the variance, 0 to 1."""
    partition_isotropy: float
    """Min over max of the partition function."""
    effective_rank: float
    """exp(H) of the singular values."""
    uniformity: float
    """Log mean potential; lower is more uniform."""
    alignment: float | None
    """Mean squared distance of given pairs."""
    hubness: float
    """Skewness of the k-occurrences; above about 1 there are hubs."""
    largest_hub: int
    """The most vectors that one vector is a neighbour of."""

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary that JSON can hold."""
        return asdict(self)


def geometry_report(
    vectors: np.ndarray, *, pairs: Sequence[tuple[int, int]] = (), k: int = 10
) -> GeometryReport:
    """Describe the shape of a set of vectors.

    Args:
        vectors: float (N, D), at least 3 that are not zero.
        pairs: Row numbers of vectors that belong together, for the alignment.
        k: Neighbours for hubness; lowered where there are fewer vectors.

    Raises:
        EmptyInputError: When there are too few vectors.
        InputError: When a pair names no row, or all vectors are equal.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> report = geometry_report(rng.normal(size=(500, 8)))
        >>> abs(report.mean_cosine) < 0.01, report.effective_rank > 7.5
        (True, True)
    """
    array = check_vectors(vectors)
    there = np.asarray(array.any(axis=1))
    kept = array[there]
    if len(kept) < 3:
        raise EmptyInputError(f"A geometry needs 3 vectors that are not zero, got {len(kept)}.")
    if bad := next((p for p in pairs if not all(0 <= i < len(array) for i in p)), None):
        raise InputError(f"Pair {bad} names a row outside the {len(array)} vectors.")
    both = np.array([p for p in pairs if there[p[0]] and there[p[1]]], dtype=np.int64)
    counts = k_occurrences(kept, min(k, len(kept) - 1))
    return GeometryReport(
        vectors=len(kept),
        zero_vectors=int((~there).sum()),
        dimension=array.shape[1],
        mean_cosine=mean_cosine(kept),
        iso_score=iso_score(kept),
        partition_isotropy=partition_isotropy(kept),
        effective_rank=effective_rank(kept),
        uniformity=uniformity(kept),
        alignment=alignment(array[both[:, 0]], array[both[:, 1]]) if len(both) else None,
        hubness=_skewness(counts.astype(np.float64)),
        largest_hub=int(counts.max()),
    )


class GeometryTask:
    """The shape of a system's vectors of some texts.

    The main figure is the mean cosine of two different texts, with an interval over texts: near 0
    when directions are spread evenly, near 1 when all vectors point one way. The other figures of
    `geometry_report` are in ``details``, without intervals: hubs and ranks change with the number
    of texts, so compare systems on the same ones. "Failures" are the largest hubs.

    Args:
        name: Name for tables.
        texts: Different texts, 20 or more; equal ones are taken once.
        pairs: Numbers of texts that belong together, for the alignment.
        instruction: What the task is, for systems that read instructions.
        k: Neighbours for hubness.

    Raises:
        EmptyInputError: When there are fewer than 20 different texts.
        InputError: When a pair names no text.

    Example:
        >>> GeometryTask("toy", [f"text {i}" for i in range(20)]).kind
        'probing'
    """

    kind = "probing"
    metric = "mean_cosine"

    def __init__(
        self,
        name: str,
        texts: Sequence[str],
        *,
        pairs: Sequence[tuple[int, int]] = (),
        instruction: str | None = None,
        k: int = 10,
    ) -> None:
        given = check_texts(texts, name=f"texts of task {name!r}")
        if bad := next((p for p in pairs if not all(0 <= i < len(given) for i in p)), None):
            raise InputError(f"Task {name!r}: pair {bad} names none of its {len(given)} texts.")
        self.name = name
        self.instruction = instruction
        self.k = check_k(k)
        self._texts = list(dict.fromkeys(given))
        if len(self._texts) < 20:
            raise EmptyInputError(
                f"Task {name!r} needs 20 different texts, got {len(self._texts)}: the shape of "
                "fewer says nothing."
            )
        place = {text: i for i, text in enumerate(self._texts)}
        self.pairs = [(place[given[i]], place[given[j]]) for i, j in pairs]
        self._repeated = len(given) - len(self._texts)

    def texts(self) -> list[str]:
        """Return the texts the task encodes."""
        return list(self._texts)

    def run(self, system: System, resampling: Resampling) -> TaskResult:
        """Describe the system's vectors.

        Raises:
            EmptyInputError: When fewer than 3 texts have a vector.
            InputError: When all vectors are equal.
        """
        vectors = system.encode(self._texts, instruction=self.instruction)
        report = geometry_report(vectors, pairs=self.pairs, k=self.k)
        there = np.flatnonzero(vectors.any(axis=1))
        unit = _unit(vectors[there])

        def statistic(rows: np.ndarray) -> float | None:
            # Text repeats of a resample are the same text and no pair.
            weights = np.bincount(rows, minlength=len(unit)).astype(np.float64)
            pairs = len(rows) ** 2 - float(weights @ weights)
            if pairs <= 0:
                return None
            sums = weights @ unit
            total = float(sums @ sums)
            return (total - float(weights @ weights)) / pairs

        counts = k_occurrences(vectors[there], min(self.k, len(there) - 1))
        repeated = {"texts that are there already": self._repeated} if self._repeated else {}
        absent = len(vectors) - len(there)
        return TaskResult(
            task=self.name,
            kind=self.kind,
            metric=self.metric,
            scores={self.metric: Score.of_statistic(len(unit), statistic, resampling)},
            better="neither",
            excluded={**repeated, **({"texts with the zero vector": absent} if absent else {})},
            failures=tuple(
                Failure(
                    item=str(there[i]),
                    text=shorten(self._texts[there[i]]),
                    score=float(counts[i]),
                    expected=(f"about {self.k} texts have it among their {self.k} nearest",),
                    found=(f"{counts[i]} have",),
                )
                for i in np.argsort(-counts, kind="stable")[:10].tolist()
                if counts[i] > 3 * self.k
            ),
            details={**report.to_dict(), "k": self.k, "instruction": self.instruction},
        )


def _checked(vectors: np.ndarray, *, least: int = 2) -> np.ndarray:
    array = check_vectors(vectors).astype(np.float64)
    if len(array) < least:
        raise EmptyInputError(f"At least {least} vectors are needed, got {len(array)}.")
    return array


def _unit(vectors: np.ndarray, *, least: int = 2) -> np.ndarray:
    return unit_directions(_checked(vectors, least=least))


def _spectrum(array: np.ndarray) -> np.ndarray:
    """Return squared singular values, largest first, rounding noise set to zero."""
    small = array.T @ array if array.shape[0] >= array.shape[1] else array @ array.T
    values = np.linalg.eigvalsh(small)[::-1]
    floor = max(array.shape) * np.finfo(np.float64).eps * max(float(values[0]), 0.0)
    return np.where(values > floor, values, 0.0)


def _skewness(values: np.ndarray) -> float:
    centred = values - values.mean()
    spread = float(centred.std())
    return float((centred**3).mean() / spread**3) if spread > 0 else 0.0
