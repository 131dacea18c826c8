"""How many top-k sets vectors of a dimension can realise: bounds, constructions and checks.

A set S of k documents is realised by a query u with margin gamma when every document of S scores
at least ``2 gamma`` above every other: ``min u.v_i >= max u.v_j + 2 gamma``, all vectors of unit
length. `SubsetCheck` measures the gap, which is ``2 gamma``.

Without a margin, 2k dimensions are enough for any number of documents (`cyclic_polytope_embeddings`
are a proof one can run), so what binds in practice is the margin and the precision of the scores.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from embedworks._core.seeding import generator
from embedworks._core.validation import check_choice, check_in_range, check_k
from embedworks.errors import (
    BudgetError,
    DataWarning,
    EmptyInputError,
    InputError,
    NonFiniteError,
    ShapeError,
)

__all__ = [
    "CRITICAL_N",
    "SubsetCheck",
    "all_subsets",
    "critical_n_fit",
    "cyclic_polytope_embeddings",
    "cyclic_polytope_queries",
    "margin_ceiling",
    "max_subsets",
    "min_dimension",
    "random_subsets",
    "verify_subsets",
]

#: Dimension -> published critical n for pairs: most documents whose pairs gradient descent solved.
CRITICAL_N: dict[int, int] = {
    4: 10, 5: 14, 6: 19, 7: 24, 8: 28, 9: 32, 10: 36, 11: 42, 12: 47, 13: 54, 14: 62, 15: 70,
    16: 79, 17: 89, 18: 99, 19: 109, 20: 120, 21: 132, 22: 144, 23: 157, 24: 170, 25: 184, 26: 198,
    27: 213, 28: 229, 29: 245, 30: 261, 31: 278, 32: 296, 33: 314, 34: 333, 35: 352, 36: 372,
    37: 392, 38: 413, 39: 434, 40: 460, 41: 484, 42: 505, 43: 545, 44: 605, 45: 626,
}  # fmt: skip

_FLOATS = ("float16", "float32", "float64")
#: Most subsets that are listed one by one.
_MOST = 20_000_000
#: Cells of a block of scores.
_CELLS = 4_000_000


def min_dimension(n: int, k: int, margin: float) -> int:
    """Return the least dimension in which every k of n documents might be realised.

    A necessary condition (sphere packing): ``C(n, k) <= (1 + 1 / margin) ** d``. That it holds
    does not say that such vectors exist, or that a model finds them.

    Args:
        n: Number of documents.
        k: Size of the sets, below n.
        margin: Half the least gap between a set and the rest, in (0, 1], for unit vectors.

    Raises:
        InputError: When k >= n or the margin is out of range.

    Example:
        >>> [min_dimension(10**3, 2, 0.1), min_dimension(10**9, 1000, 0.1)]
        [6, 6177]
    """
    _check_sizes(n, k)
    _check_margin(margin)
    wanted, base = math.comb(n, k), 1 + 1 / Fraction(str(margin))
    d = max(1, math.ceil(math.log(wanted) / math.log(base)))
    # The logarithm may be a rounding error away from the whole number.
    while d > 1 and base ** (d - 1) >= wanted:
        d -= 1
    while base**d < wanted:
        d += 1
    return d


def max_subsets(d: int, margin: float) -> int:
    """Return the most sets that d dimensions can tell apart: ``(1 + 1 / margin) ** d``, exactly.

    Raises:
        InputError: When d is below 1 or the margin is out of range.

    Example:
        >>> max_subsets(2, 0.1)
        121
    """
    check_in_range(d, name="d", low=1)
    _check_margin(margin)
    return math.floor((1 + 1 / Fraction(str(margin))) ** int(d))


def margin_ceiling(n: int, k: int) -> float:
    """Return the largest margin with which any unit vectors can realise every k of n documents.

    Half of ``n / sqrt(k (n - 1) (n - k))``, the gap that a regular simplex with centroid queries
    reaches; about ``1 / (2 sqrt(k))`` for large n, whatever the dimension.

    Raises:
        InputError: When k >= n.

    Example:
        >>> margin_ceiling(2, 1), round(margin_ceiling(46, 2), 3)
        (1.0, 0.365)
    """
    _check_sizes(n, k)
    return n / math.sqrt(k * (n - 1) * (n - k)) / 2


def critical_n_fit(d: float) -> float:
    """Return the published cubic fit of the critical n of pairs at dimension d.

    It describes what one optimiser reached in 4 to 45 dimensions. It is no bound:
    `cyclic_polytope_embeddings` serve any n in 4 dimensions.

    Warns:
        DataWarning: Outside 4 to 45, where it is an extrapolation.

    Raises:
        InputError: When d is below 1.

    Example:
        >>> round(critical_n_fit(8)), CRITICAL_N[8]
        (27, 28)
    """
    check_in_range(d, name="d", low=1)
    if not 4 <= d <= 45:
        message = f"The fit of the critical n is of 4 to 45 dimensions; at {d} it extrapolates."
        warnings.warn(DataWarning(message), stacklevel=2)
    return -10.5322 + 4.0309 * d + 0.0520 * d**2 + 0.0037 * d**3


def all_subsets(n: int, k: int) -> np.ndarray:
    """Return every k of n documents, int64 (C(n, k), k), in lexicographic order.

    Raises:
        InputError: When k >= n.
        BudgetError: When there are more than 20 million.

    Example:
        >>> all_subsets(3, 2).tolist()
        [[0, 1], [0, 2], [1, 2]]
    """
    _check_sizes(n, k)
    if math.comb(n, k) > _MOST:
        raise BudgetError(
            f"There are {math.comb(n, k):,} sets of {k} of {n} documents, more than {_MOST:,}: "
            "take some of them with random_subsets."
        )
    flat = itertools.chain.from_iterable(itertools.combinations(range(n), k))
    return np.fromiter(flat, dtype=np.int64).reshape(-1, k)


def random_subsets(n: int, k: int, count: int, *, seed: int) -> np.ndarray:
    """Return ``count`` different sets of k of n documents, int64 (count, k).

    Raises:
        InputError: When k >= n or there are fewer sets than asked for.

    Example:
        >>> random_subsets(4, 2, 6, seed=0).shape
        (6, 2)
    """
    _check_sizes(n, k)
    check_in_range(count, name="count", low=1)
    total = math.comb(n, k)
    if count > total:
        raise InputError(f"There are {total} sets of {k} of {n} documents, not {count}.")
    rng = generator(seed, "subsets", n, k)
    if total <= 4 * count and total <= _MOST:
        chosen = all_subsets(n, k)[rng.permutation(total)[:count]]
        return np.asarray(chosen, dtype=np.int64)
    found: dict[tuple[int, ...], None] = {}
    while len(found) < count:
        found[tuple(sorted(rng.choice(n, size=k, replace=False).tolist()))] = None
    return np.array(list(found), dtype=np.int64)


def cyclic_polytope_embeddings(n: int, k: int, *, unit_norm: bool = True) -> np.ndarray:
    """Return n documents in 2k dimensions of which every k can be a query's best.

    With unit norm they are on the curve ``(cos t, sin t, ..., cos kt, sin kt) / sqrt(k)``, else
    on ``(t, t**2, ..., t**2k)``. In exact numbers they serve any n; in floating point the gaps,
    which shrink with n, are what ends it.

    Args:
        n: Number of documents.
        k: Size of the sets, below n.
        unit_norm: Whether documents have length 1.

    Returns:
        float64 (n, 2k).

    Raises:
        InputError: When k >= n.

    Example:
        >>> cyclic_polytope_embeddings(46, 2).shape
        (46, 4)
    """
    _check_sizes(n, k)
    if not unit_norm:
        return np.asarray(_places(n, False)[:, None] ** np.arange(1, 2 * k + 1))
    angles = _places(n, True)[:, None] * np.arange(1, k + 1)
    pairs = np.stack([np.cos(angles), np.sin(angles)], axis=2)
    return np.asarray(pairs.reshape(n, 2 * k) / math.sqrt(k))


def cyclic_polytope_queries(
    subsets: Sequence[Sequence[int]] | np.ndarray, n: int, *, unit_norm: bool = True
) -> np.ndarray:
    """Return the queries whose best documents are the given sets.

    A query holds the coefficients of minus a polynomial with a double root at each document of
    its set, which is negative everywhere else.

    Args:
        subsets: Document numbers (S, k), each row without repeats.
        n: Number of documents.
        unit_norm: As for `cyclic_polytope_embeddings`.

    Returns:
        float64 (S, 2k), of unit length.

    Raises:
        InputError: When a set is out of range or has repeats.

    Example:
        >>> documents, sets = cyclic_polytope_embeddings(46, 2), all_subsets(46, 2)
        >>> check = verify_subsets(documents, cyclic_polytope_queries(sets, 46), sets)
        >>> check.realised, check.total
        (1035, 1035)
    """
    chosen = _check_subsets(subsets, n)
    k = chosen.shape[1]
    _check_sizes(n, k)
    roots = _places(n, unit_norm)[chosen]
    if unit_norm:
        # 1 - cos(t - r) as a polynomial in exp(it), shifted up by one power.
        product: Any = np.ones((len(chosen), 1), dtype=np.complex128)
        for place in range(k):
            turn = np.exp(-1j * roots[:, place])[:, None]
            factor = np.concatenate([-turn.conj() / 2, np.ones_like(turn), -turn / 2], axis=1)
            product = _times(product, factor)
        top = product[:, k + 1 :]
        parts = np.stack([-2 * top.real, 2 * top.imag], axis=2).reshape(len(chosen), 2 * k)
    else:
        plain: Any = np.ones((len(chosen), 1))
        for place in range(k):
            root = roots[:, place : place + 1]
            plain = _times(plain, np.concatenate([root**2, -2 * root, root * 0 + 1], axis=1))
        parts = -plain[:, 1:]
    return np.asarray(parts / np.linalg.norm(parts, axis=1, keepdims=True))


@dataclass(frozen=True)
class SubsetCheck:
    """How many sets are realised."""

    total: int
    """Number of sets."""
    realised: int
    """Sets of which every document scores above every other document; a tie is not enough."""
    smallest_gap: float
    """Least over the sets of (worst of the set - best of the rest); twice the margin."""
    median_gap: float
    """Median of the same."""
    dtype: str
    """Precision of vectors and scores."""

    @property
    def wrong(self) -> int:
        """Sets that are not realised."""
        return self.total - self.realised

    @property
    def share(self) -> float:
        """Share of the sets that are realised."""
        return self.realised / self.total

    def to_dict(self) -> dict[str, Any]:
        """Return the fields and the share as JSON values."""
        return {**asdict(self), "share": self.share}


def verify_subsets(
    documents: np.ndarray,
    queries: np.ndarray,
    subsets: Sequence[Sequence[int]] | np.ndarray,
    *,
    dtype: str = "float64",
) -> SubsetCheck:
    """Count the sets that queries realise, with vectors and scores in one precision.

    In float16, products are added up in float32 and the score is rounded, as GPUs do.

    Args:
        documents: float array (n, D).
        queries: float array (S, D), one for each set.
        subsets: Document numbers (S, k).
        dtype: ``"float64"``, ``"float32"`` or ``"float16"``.

    Raises:
        ShapeError: When shapes do not fit.
        NonFiniteError: When a vector has NaN or infinity, also after the cast.
        InputError: When a set is out of range or has repeats.

    Example:
        >>> sets = all_subsets(3, 1)
        >>> verify_subsets(np.eye(3), np.eye(3), sets).smallest_gap
        1.0
    """
    check_choice(dtype, _FLOATS, name="dtype")
    stored = np.asarray(documents)
    asked = np.asarray(queries)
    if stored.ndim != 2 or asked.ndim != 2 or stored.shape[1] != asked.shape[1]:
        raise ShapeError(
            f"documents (n, D) and queries (S, D) must have one D, got {stored.shape} and "
            f"{asked.shape}."
        )
    chosen = _check_subsets(subsets, len(stored))
    if len(chosen) != len(asked):
        raise ShapeError(f"There are {len(asked)} queries for {len(chosen)} sets: one each.")
    _check_sizes(len(stored), chosen.shape[1])
    with np.errstate(over="ignore"):
        stored, asked = stored.astype(dtype), asked.astype(dtype)
    for name, vectors in (("documents", stored), ("queries", asked)):
        if not np.isfinite(vectors).all():
            raise NonFiniteError(f"{name} have NaN or infinity in {dtype}.")
    sums = "float32" if dtype == "float16" else dtype
    gaps = np.empty(len(chosen))
    block = max(1, _CELLS // len(stored))
    for start in range(0, len(chosen), block):
        part = slice(start, start + block)
        products = asked[part].astype(sums) @ stored.T.astype(sums)
        scores = products.astype(dtype).astype(np.float64)
        worst = np.take_along_axis(scores, chosen[part], axis=1).min(axis=1)
        np.put_along_axis(scores, chosen[part], -np.inf, axis=1)
        gaps[part] = worst - scores.max(axis=1)
    return SubsetCheck(
        len(chosen), int((gaps > 0).sum()), float(gaps.min()), float(np.median(gaps)), dtype
    )


def _places(n: int, circle: bool) -> np.ndarray:
    return 2 * np.pi * np.arange(n) / n if circle else np.linspace(-1.0, 1.0, n)


def _times(left: Any, right: Any) -> Any:
    """Multiply polynomials row by row, coefficients from the lowest power."""
    product = np.zeros((len(left), left.shape[1] + right.shape[1] - 1), dtype=left.dtype)
    for place in range(right.shape[1]):
        product[:, place : place + left.shape[1]] += left * right[:, place : place + 1]
    return product


def _check_sizes(n: int, k: int) -> None:
    check_k(k)
    if k >= n:
        raise InputError(
            f"k must be below the number of documents, got k={k} of n={n}: when every document is "
            "in the set there is nothing to tell apart."
        )


def _check_margin(margin: float) -> None:
    check_in_range(margin, name="margin", low=0.0, high=1.0, open_low=True)


def _check_subsets(subsets: Sequence[Sequence[int]] | np.ndarray, n: int) -> np.ndarray:
    if not isinstance(subsets, np.ndarray):
        sizes = {len(row) for row in subsets}
        if len(sizes) > 1:
            raise ShapeError(f"All sets must be of one size, got sizes {sorted(sizes)}.")
    chosen = np.asarray(subsets)
    if chosen.size == 0:
        raise EmptyInputError("There are no sets.")
    if chosen.ndim != 2 or chosen.dtype.kind not in "iu":
        raise ShapeError(
            f"subsets must be document numbers (S, k), got {chosen.dtype} {chosen.shape}."
        )
    if chosen.min() < 0 or chosen.max() >= n:
        raise InputError(
            f"Document numbers must be in [0, {n - 1}], got {chosen.min()} to {chosen.max()}."
        )
    ordered = np.sort(chosen, axis=1)
    repeats = np.flatnonzero((ordered[:, 1:] == ordered[:, :-1]).any(axis=1))
    if len(repeats):
        raise InputError(f"Set {repeats[0]} names a document twice: {chosen[repeats[0]].tolist()}.")
    return chosen.astype(np.int64)
