"""GloVe: word vectors whose products are the logarithms of how often words stand together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import types

from embedworks._core.kernels import compile_kernel
from embedworks._core.progress import progress
from embedworks._core.seeding import generator
from embedworks._core.validation import check_in_range
from embedworks.models.static import StaticModel
from embedworks.models.words.cooccurrence import Cooccurrences, count_cooccurrences
from embedworks.models.words.corpus import WordCorpus
from embedworks.models.words.methods import WORD_METHODS, WordRun, training_record, word_model

__all__ = ["GloVe", "fit_glove", "glove_loss"]

_FAST = {"contract", "reassoc", "nsz", "arcp"}
_MATRIX = types.Array(types.float32, 2, "C")
_INTS = types.Array(types.int32, 1, "C")
_VECTOR = types.Array(types.float32, 1, "C")
_CHUNK = 500_000  # pairs between two moves of the bar


@compile_kernel(
    types.float64,
    _INTS,
    _INTS,
    _VECTOR,
    _VECTOR,
    types.int64,
    types.int64,
    _MATRIX,
    _MATRIX,
    _MATRIX,
    _MATRIX,
    types.float32,
    fastmath=_FAST,
)
def _descend(
    rows: np.ndarray,
    columns: np.ndarray,
    logs: np.ndarray,
    weights: np.ndarray,
    first: int,
    last: int,
    left: np.ndarray,
    right: np.ndarray,
    left_squares: np.ndarray,
    right_squares: np.ndarray,
    rate: float,
) -> float:
    """One AdaGrad step for each pair; return the summed loss. The last column is the bias."""
    dim = left.shape[1] - 1
    loss = 0.0
    for pair in range(first, last):
        i, j = rows[pair], columns[pair]
        error = left[i, dim] + right[j, dim] - logs[pair]
        for d in range(dim):
            error += left[i, d] * right[j, d]
        push = weights[pair] * error
        loss += push * error
        for d in range(dim):
            down_left, down_right = push * right[j, d], push * left[i, d]
            left_squares[i, d] += down_left * down_left
            right_squares[j, d] += down_right * down_right
            left[i, d] -= rate * down_left / np.sqrt(left_squares[i, d])
            right[j, d] -= rate * down_right / np.sqrt(right_squares[j, d])
        left_squares[i, dim] += push * push
        right_squares[j, dim] += push * push
        left[i, dim] -= rate * push / np.sqrt(left_squares[i, dim])
        right[j, dim] -= rate * push / np.sqrt(right_squares[j, dim])
    return loss


def glove_loss(
    counts: Cooccurrences,
    left: np.ndarray,
    right: np.ndarray,
    *,
    x_max: float = 100.0,
    alpha: float = 0.75,
) -> float:
    """Return ``sum f(x) (w . c + b + b' - ln x)^2 / pairs``, ``f(x) = min(1, (x / x_max)^alpha)``.

    Pennington, Socher and Manning 2014, equations 8 and 9.

    Args:
        counts: Pairs with their counts.
        left: float array (V, D + 1): word vectors, the last column the biases.
        right: float array (V, D + 1), context vectors.
        x_max: Count from which on all pairs weigh alike.
        alpha: How much less the pairs below weigh.

    Example:
        >>> pairs = Cooccurrences(np.array([0]), np.array([0]), np.array([np.e]))
        >>> round(glove_loss(pairs, np.zeros((1, 3)), np.zeros((1, 3)), x_max=1.0), 6)
        1.0
    """
    a, b = left[counts.rows].astype(np.float64), right[counts.columns].astype(np.float64)
    product = np.einsum("pd,pd->p", a[:, :-1], b[:, :-1]) + a[:, -1] + b[:, -1]
    weights = np.minimum(1.0, (counts.values / x_max) ** alpha)
    return float(np.mean(weights * (product - np.log(counts.values)) ** 2))


def fit_glove(
    counts: Cooccurrences,
    size: int,
    dim: int,
    *,
    epochs: int = 25,
    rate: float = 0.05,
    x_max: float = 100.0,
    alpha: float = 0.75,
    seed: int = 0,
    show_progress: bool | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Lower `glove_loss` with AdaGrad, one pair at a time in one drawn order.

    The squares start at 1, as in the paper's program. Half the gradient is taken there and here,
    so that ``rate`` has the meaning it has there.

    Returns:
        Left and right, float32 (size, dim + 1), the last column the biases.
    """
    rng = generator(seed, "glove")
    shape = (size, dim + 1)
    left, right = (
        ((rng.random(shape, dtype=np.float32) - np.float32(0.5)) / np.float32(dim + 1))
        for _ in range(2)
    )
    squares = np.ones(shape, dtype=np.float32), np.ones(shape, dtype=np.float32)
    order = rng.permutation(len(counts.values))
    rows, columns = counts.rows[order], counts.columns[order]
    values = counts.values[order]
    logs = np.log(values).astype(np.float32)
    weights = np.minimum(1.0, (values / x_max) ** alpha).astype(np.float32)
    with progress("Training", epochs * len(values), enabled=show_progress) as bar:
        for _ in range(epochs):
            for first in range(0, len(values), _CHUNK):
                last = min(first + _CHUNK, len(values))
                _descend(rows, columns, logs, weights, first, last, left, right, *squares, rate)
                bar.advance(last - first)
    return left, right


@WORD_METHODS.register("glove", summary="GloVe: products fit the logarithms of counts.")
@dataclass(frozen=True)
class GloVe:
    """Global vectors, Pennington, Socher and Manning 2014; the sum of word and context vectors.

    Args:
        epochs: How often each pair is looked at.
        rate: AdaGrad's rate.
        x_max: Count from which on all pairs weigh alike; 10 suits a few million words.
        alpha: How much less the pairs below weigh.

    Raises:
        InputError: When a number is out of range.
    """

    epochs: int = 25
    rate: float = 0.05
    x_max: float = 100.0
    alpha: float = 0.75

    def __post_init__(self) -> None:
        check_in_range(self.epochs, name="epochs", low=1)
        for name in ("rate", "x_max", "alpha"):
            check_in_range(getattr(self, name), name=name, low=0, open_low=True)

    def train(self, corpus: WordCorpus, run: WordRun) -> StaticModel:
        """Return a word model of word plus context vectors."""
        corpus.require_pairs()
        counts = count_cooccurrences(
            corpus, run.window, harmonic=True, show_progress=run.show_progress
        )
        options: dict[str, Any] = {
            "epochs": self.epochs, "rate": self.rate, "x_max": self.x_max, "alpha": self.alpha
        }  # fmt: skip
        left, right = fit_glove(
            counts, len(corpus.words), run.dim, seed=run.seed,
            show_progress=run.show_progress, **options,
        )  # fmt: skip
        record = training_record("glove", self, corpus, run)
        table = (left + right)[:, :-1]
        return word_model(corpus.words, table, name="glove", metadata=record)
