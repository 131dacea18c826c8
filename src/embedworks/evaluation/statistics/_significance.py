"""The arithmetic of many comparisons: corrections, tails, ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import NormalDist

import numpy as np

from embedworks.errors import NonFiniteError
from embedworks.evaluation.outcomes import Resampling, Score
from embedworks.evaluation.statistics.intervals import Difference

__all__ = ["corrected", "mean_ranks", "normal_tail"]


def corrected(p_values: Sequence[float], method: str) -> np.ndarray:
    """Return p-values corrected for their number, in the order given.

    Holm multiplies the smallest by N, the next by N - 1, and so on; Benjamini-Hochberg multiplies
    the largest by 1, the next by N / (N - 1), and so on. Neither lets a smaller p-value end
    above a larger one.

    Example:
        >>> corrected([0.01, 0.04, 0.03], "holm").tolist()
        [0.03, 0.06, 0.06]
        >>> corrected([0.01, 0.04, 0.03], "benjamini-hochberg").tolist()
        [0.03, 0.04, 0.04]
    """
    p = np.asarray(p_values, dtype=np.float64)
    if not ((p >= 0) & (p <= 1)).all():
        raise NonFiniteError("Every p-value must be a number in [0, 1].")
    if method == "none" or not len(p):
        return p
    order = np.argsort(p, kind="stable")
    count = len(p)
    if method == "holm":
        stepped = np.maximum.accumulate(p[order] * np.arange(count, 0, -1))
    else:
        scaled = p[order] * count / np.arange(1, count + 1)
        stepped = np.minimum.accumulate(scaled[::-1])[::-1]
    out = np.empty(count)
    out[order] = np.minimum(stepped, 1.0)
    return out


def normal_tail(gap: Difference, first: Score, second: Score, how: Resampling) -> Difference:
    """Replace a p-value at the resolution of its resamples by that of the normal tail.

    With R resamples no p-value below 1 / (1 + R) can be seen, and after correction for some fifty
    comparisons nothing would be clear. There, and only there, the difference over its standard
    error is looked up in the normal distribution.
    """
    if first.values and second.values:
        gaps = np.array(first.values) - np.array(second.values)
        floor = 1 / (1 + how.n_resamples)
        error = float(np.sqrt((gaps**2).sum())) / len(gaps)
    else:
        gaps = np.array(first.replicates) - np.array(second.replicates)
        gaps = gaps[np.isfinite(gaps)]
        floor = 2 / (1 + len(gaps))
        error = float(gaps.std()) if len(gaps) else 0.0
    if gap.p_value > floor or error == 0:
        return gap
    tail = 2 * NormalDist().cdf(-abs(gap.mean) / error)
    return replace(gap, p_value=min(floor, tail))


def mean_ranks(figures: np.ndarray) -> np.ndarray:
    """Return ranks of shape (systems, tasks), 1 for the highest; equal figures share the average.

    Example:
        >>> mean_ranks(np.array([[0.5], [0.9], [0.5]])).ravel().tolist()
        [2.5, 1.0, 2.5]
    """
    above = (figures[None, :, :] > figures[:, None, :]).sum(axis=1)
    equal = (figures[None, :, :] == figures[:, None, :]).sum(axis=1)
    return np.asarray(above + (equal + 1) / 2)
