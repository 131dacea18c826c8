"""Choosing what goes into a merge by a score or a loss: greedy soups, weights from losses.

Knows models only as something a score can be asked for; the score may be any function.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from embedworks._core.validation import check_in_range, normalize_rows
from embedworks.data import RowSet
from embedworks.errors import EmptyInputError, InputError, NonFiniteError
from embedworks.models import Encoder

__all__ = ["GreedySoup", "cocktail_weights", "greedy_soup", "pair_score"]


@dataclass(frozen=True)
class GreedySoup:
    """What `greedy_soup` chose.

    Attributes:
        chosen: Numbers of the models in the soup, in the order they were added.
        score: The soup's score.
        scores: Each model's own score, in the order given.
        steps: For every model that was tried: its number, the score of the soup with it, and
            whether it stayed.
    """

    chosen: tuple[int, ...]
    score: float
    scores: tuple[float, ...]
    steps: tuple[tuple[int, float, bool], ...]


def greedy_soup(count: int, score: Callable[[Sequence[int]], float]) -> GreedySoup:
    """Choose models whose mean scores best, adding one at a time.

    Models are taken in the order of their own scores, the best first, ties in the order given.
    Each is averaged with those already in, and stays unless the score falls.

    Args:
        count: Number of models, at least 1.
        score: Called with the numbers of models, returns the score of their mean: the higher, the
            better. Called once per model and once per model after the best.

    Raises:
        EmptyInputError: When there is no model.
        NonFiniteError: When a score is not a finite number.

    Paper: Wortsman et al. 2022, arXiv 2203.05482, recipe 1.

    Example:
        >>> values = [0.0, 1.0, 5.0]
        >>> found = greedy_soup(3, lambda which: -abs(2.5 - np.mean([values[w] for w in which])))
        >>> found.chosen, found.steps
        ((1, 2), ((0, -2.0, False), (2, -0.5, True)))
    """
    if count < 1:
        raise EmptyInputError("A soup needs at least one model.")

    def checked(which: Sequence[int]) -> float:
        value = float(score(which))
        if not np.isfinite(value):
            raise NonFiniteError(
                f"the score of model {' + '.join(str(w + 1) for w in which)} is {value}: expected "
                "a finite number, the higher the better."
            )
        return value

    scores = [checked([place]) for place in range(count)]
    order = sorted(range(count), key=lambda place: -scores[place])
    chosen, best = [order[0]], scores[order[0]]
    steps = []
    for place in order[1:]:
        value = checked([*chosen, place])
        stays = value >= best
        steps.append((place, value, stays))
        if stays:
            chosen.append(place)
            best = value
    return GreedySoup(tuple(chosen), best, tuple(scores), tuple(steps))


def cocktail_weights(losses: Sequence[float], tau: float = 1.0) -> list[float]:
    """Return ``softmax(-loss_i / tau)``: models with a lower loss on a few examples weigh more.

    Args:
        losses: One finite number per model, at least one.
        tau: Above 0; small values pick the best model, large ones weigh all alike.

    Returns:
        Weights that sum to 1.

    Raises:
        EmptyInputError: When there is no loss.
        NonFiniteError: When a loss is NaN or infinite.
        InputError: When tau is not above 0.

    Paper: Xiao et al. 2023, LM-Cocktail, arXiv 2311.13534. There the result is mixed once more
    with the model that was fine-tuned; for that, give it as one of the models of a second,
    `linear` merge.

    Example:
        >>> [round(w, 3) for w in cocktail_weights([0.5, 1.0], tau=0.5)]
        [0.731, 0.269]
    """
    check_in_range(tau, name="tau", low=0.0, open_low=True)
    values = np.asarray(losses, np.float64)
    if values.ndim != 1 or not len(values):
        raise EmptyInputError("losses must be a list with one number per model.")
    if not np.isfinite(values).all():
        raise NonFiniteError(f"losses must be finite, got {values.tolist()}.")
    shares = np.exp(-(values - values.min()) / tau)
    return [float(share) for share in shares / shares.sum()]


def pair_score(rows: RowSet) -> Callable[[Encoder], float]:
    """Return a score for models: how early each row's anchor finds its positive.

    The mean reciprocal rank of the positive, by cosine, among all positives and negatives of the
    rows, less the anchor's other positives. A document as near as the positive counts as before
    it, so that a model which gives all texts one vector does not score. For choosing a merge; a
    result to report is a matter for `embedworks.evaluation`.

    Args:
        rows: At least two rows of texts.

    Returns:
        A function from a model to a number between 0 and 1. It uses ``encode_query`` and
        ``encode_document`` where the model has them.

    Raises:
        InputError: When there are too few rows, or inputs other than texts.
    """
    texts = [text for row in rows for text in (row.anchor, row.positive, *row.negatives)]
    if len(rows) < 2 or not all(isinstance(text, str) for text in texts):
        raise InputError(
            f"a score of pairs needs at least two rows of texts, got {len(rows)} rows: give rows, "
            "or a score function of your own."
        )
    anchors = list(dict.fromkeys(str(row.anchor) for row in rows))
    documents = list(dict.fromkeys(str(d) for row in rows for d in (row.positive, *row.negatives)))
    place = {text: number for number, text in enumerate(documents)}
    positives: dict[str, list[int]] = {anchor: [] for anchor in anchors}
    for row in rows:
        positives[str(row.anchor)].append(place[str(row.positive)])

    def score(model: Encoder) -> float:
        ask: Any = getattr(model, "encode_query", model.encode)
        tell: Any = getattr(model, "encode_document", model.encode)
        left = normalize_rows(np.asarray(ask(anchors)))
        right = normalize_rows(np.asarray(tell(documents)))
        found = []
        for vector, anchor in zip(left, anchors):
            near = right @ vector
            own = sorted(set(positives[anchor]))
            others = np.delete(near, own)
            found += [1.0 / (1 + int((others >= near[number]).sum())) for number in own]
        return float(np.mean(found))

    return score
