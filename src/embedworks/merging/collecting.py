"""What Fisher merging and RegMean need to know of a model, measured on a few rows or texts.

Knows a loss only as something that is made from a model and called with a batch, so that every
loss of this package and of sentence-transformers will do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from embedworks._core.progress import progress
from embedworks._core.validation import check_choice, check_k, check_texts
from embedworks.data import Row, RowSet
from embedworks.errors import EmptyInputError, InputError, NonFiniteError

__all__ = ["PER", "LossOf", "batches_of", "collect_fisher", "collect_grams", "mean_loss"]

#: Makes a loss from a model: `ContrastiveLoss`, a loss class of sentence-transformers, a lambda.
LossOf = Callable[[Any], nn.Module]

#: What one gradient is of: a row's own loss with its batch as context, or a batch's mean.
PER = ("row", "batch")
_WEIGHT = "row_weight"  # the key under which ContrastiveLoss finds the weights of rows


def collect_fisher(
    model: Any,
    rows: RowSet,
    loss: LossOf,
    *,
    per: str = "row",
    batch_size: int = 8,
    show_progress: bool | None = None,
) -> dict[str, np.ndarray]:
    """Return the diagonal of a model's empirical Fisher information, for `fisher`.

    The mean over rows of the squared gradient of the loss with respect to each parameter. It is
    the empirical one: the positive is the row's own, not drawn from the model.

    A contrastive loss of one row depends on the other rows of its batch. With ``per="row"`` the
    gradient is that of the row's own term L_i, the batch being its context: every row costs a pass
    over its batch, so that batches are small. The loss must take a weight per row, as
    `embedworks.losses.ContrastiveLoss` does; L_i is the loss with a weight of 1 for row i and of 0
    for the others. A loss that returns only the mean of its batch, such as those of
    sentence-transformers, allows ``per="batch"``: gradients of batch means are squared, which is
    cheaper and another quantity (about 1 / batch_size of the above where gradients of rows are
    unrelated, more where they agree). For a loss that looks at each row alone (cosine similarity,
    MSE), ``per="batch", batch_size=1`` is exact.

    Args:
        model: A ``SentenceTransformer``; it runs in evaluation mode and is left as it was.
        rows: The probe set, at least one row; every row contributes as many negatives as the row
            with the fewest has. Rows that all have a ``score`` give it as the label.
        loss: Called with the model, returns the loss.
        per: ``"row"`` or ``"batch"``.
        batch_size: Rows per batch; batches are as even as possible.
        show_progress: True or False to force a bar; by default on a terminal.

    Returns:
        float32 array for each parameter by its name, of the parameter's shape; zeros where the
        loss does not depend on it.

    Raises:
        EmptyInputError: When there are no rows.
        InputError: With ``per="row"`` and a loss that takes no weights of rows.
        NonFiniteError: When a loss or a gradient is NaN or infinite.
        UnknownNameError: When ``per`` is neither of the two.

    Paper: Matena and Raffel 2021, arXiv 2111.09832, section 3.
    """
    check_choice(per, PER, name="per")
    batches = batches_of(rows, batch_size)
    objective = loss(model)
    found = {
        name: torch.zeros_like(parameter, dtype=torch.float32)
        for name, parameter in model.named_parameters()
    }
    terms = 0
    with _still(model), progress("Fisher", len(rows), enabled=show_progress) as bar:
        for number, batch in enumerate(batches):
            columns, labels = _features(model, batch, rows)
            if per == "row" and number == 0:
                _check_row_weights(objective, columns, labels, len(batch))
            for one in range(len(batch)) if per == "row" else (None,):
                model.zero_grad(set_to_none=True)
                value = _call(objective, columns, labels, only=one)
                value.backward()  # type: ignore[no-untyped-call]
                for name, parameter in model.named_parameters():
                    if parameter.grad is not None:
                        gradient = parameter.grad.to_dense().float()
                        found[name].addcmul_(gradient, gradient)
                terms += 1
            bar.advance(len(batch))
    result = {name: (total / terms).cpu().numpy() for name, total in found.items()}
    for name, array in result.items():
        if not np.isfinite(array).all():
            raise NonFiniteError(f"the gradient of {name} is NaN or infinite on these rows.")
    return result


def collect_grams(
    model: Any,
    texts: Sequence[str],
    *,
    batch_size: int = 32,
    show_progress: bool | None = None,
) -> dict[str, np.ndarray]:
    """Return ``X^T X / len(texts)`` over the inputs X of every linear layer, for `regmean`.

    Args:
        model: A ``SentenceTransformer``; it runs in evaluation mode and is left as it was.
        texts: The probe texts, at least one; prompts must be in them. Padding does not count.
        batch_size: Texts encoded at a time.
        show_progress: True or False to force a bar; by default on a terminal.

    Returns:
        float64 array (in, in) for each linear layer, by the name of its weight; empty for a model
        without linear layers, such as a static one.

    Raises:
        EmptyInputError: When there are no texts.
        NonFiniteError: When an input of a layer is NaN or infinite.

    Paper: Jin et al. 2022, arXiv 2212.09849, section 3.2.
    """
    texts = sorted(check_texts(texts), key=len)
    check_k(batch_size)
    if not texts:
        raise EmptyInputError("RegMean needs probe texts, and there are none.")
    grams: dict[str, Tensor] = {}
    real: Tensor | None = None

    def watch(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def note(layer: nn.Module, given: tuple[Tensor, ...]) -> None:
            inputs = given[0].detach()
            if real is not None and inputs.shape[:-1] == real.shape:
                inputs = inputs[real]
            flat = inputs.reshape(-1, inputs.shape[-1]).double()
            product = flat.T @ flat
            grams[name] = grams[name] + product if name in grams else product

        return note

    names = {id(parameter): name for name, parameter in model.named_parameters()}
    handles = [
        layer.register_forward_pre_hook(watch(names[id(layer.weight)]))
        for layer in model.modules()
        if isinstance(layer, nn.Linear) and id(layer.weight) in names
    ]
    try:
        with (
            _still(model),
            torch.no_grad(),
            progress("Inputs", len(texts), enabled=show_progress) as bar,
        ):
            for start in range(0, len(texts), batch_size):
                features = _to(model.preprocess(texts[start : start + batch_size]), model.device)
                mask = features.get("attention_mask")
                real = None if mask is None else mask.bool()
                model(features)
                bar.advance(min(batch_size, len(texts) - start))
    finally:
        for handle in handles:
            handle.remove()
    result = {name: (gram / len(texts)).cpu().numpy() for name, gram in grams.items()}
    for name, array in result.items():
        if not np.isfinite(array).all():
            raise NonFiniteError(f"the inputs of {name} are NaN or infinite on these texts.")
    return result


def mean_loss(
    model: Any,
    rows: RowSet,
    loss: LossOf,
    *,
    batch_size: int = 32,
    show_progress: bool | None = None,
) -> float:
    """Return a model's mean loss over rows, batch by batch, each counted by its rows.

    Args:
        model: A ``SentenceTransformer``; it runs in evaluation mode and is left as it was.
        rows: The probe set, at least one row.
        loss: Called with the model, returns the loss.
        batch_size: Rows per batch; a contrastive loss contrasts within them.
        show_progress: True or False to force a bar; by default on a terminal.

    Raises:
        EmptyInputError: When there are no rows.
        NonFiniteError: When a loss is NaN or infinite.
    """
    objective = loss(model)
    total = 0.0
    with _still(model), torch.no_grad(), progress("Loss", len(rows), enabled=show_progress) as bar:
        for batch in batches_of(rows, batch_size):
            columns, labels = _features(model, batch, rows)
            total += float(_call(objective, columns, labels)) * len(batch)
            bar.advance(len(batch))
    return total / len(rows)


def batches_of(rows: RowSet, batch_size: int) -> list[list[Row]]:
    """Cut rows into batches of at most ``batch_size``, as even as possible, in order.

    Raises:
        EmptyInputError: When there are no rows.

    Example:
        >>> rows = RowSet([Row(str(n), "a text") for n in range(5)])
        >>> [len(batch) for batch in batches_of(rows, 4)]
        [3, 2]
    """
    check_k(batch_size)
    if not len(rows):
        raise EmptyInputError("the probe set has no rows: at least one is needed.")
    parts = np.array_split(np.arange(len(rows)), math.ceil(len(rows) / batch_size))
    return [[rows[int(place)] for place in part] for part in parts]


@contextmanager
def _still(model: Any) -> Iterator[None]:
    """Run in evaluation mode with every parameter asking for a gradient; then restore all."""
    training = model.training
    asked = [
        (parameter, parameter.requires_grad, parameter.grad) for parameter in model.parameters()
    ]
    model.eval()
    try:
        for parameter, _, _ in asked:
            parameter.requires_grad_(parameter.is_floating_point())
        yield
    finally:
        model.train(training)
        for parameter, wanted, gradient in asked:
            parameter.requires_grad_(wanted)
            parameter.grad = gradient


def _features(
    model: Any, batch: Sequence[Row], rows: RowSet
) -> tuple[list[dict[str, Any]], Tensor | None]:
    """Return features of anchor, positive and negatives, and labels where all rows have them."""
    negatives = min(len(row.negatives) for row in rows)
    columns: list[list[Any]] = [[row.anchor for row in batch], [row.positive for row in batch]]
    columns += [[row.negatives[place] for row in batch] for place in range(negatives)]
    scores = [row.score for row in batch if row.score is not None]
    labels = torch.tensor(scores, device=model.device) if len(scores) == len(batch) else None
    return [_to(model.preprocess(column), model.device) for column in columns], labels


def _to(features: dict[str, Any], device: Any) -> dict[str, Any]:
    return {
        key: value.to(device) if isinstance(value, Tensor) else value
        for key, value in features.items()
    }


def _call(
    loss: nn.Module,
    columns: Sequence[dict[str, Any]],
    labels: Tensor | None,
    only: int | None = None,
) -> Tensor:
    """Return the loss of a batch, or of one row in the company of the others."""
    given = [dict(column) for column in columns]
    if only is not None:
        rows = next(len(v) for v in given[0].values() if isinstance(v, Tensor))
        rows = len(given[0]["offsets"]) if "offsets" in given[0] else rows
        weights = torch.zeros(rows)
        weights[only] = 1.0
        device = next(v.device for v in given[0].values() if isinstance(v, Tensor))
        given[0][_WEIGHT] = weights.to(device)
    value: Tensor = loss(given, labels)
    if not torch.isfinite(value).all():
        raise NonFiniteError(f"the loss is {float(value)} on these rows: is the model damaged?")
    return value


def _check_row_weights(
    loss: nn.Module, columns: Sequence[dict[str, Any]], labels: Tensor | None, rows: int
) -> None:
    """Raise `InputError` when a loss pays no attention to the weights of rows."""
    if rows < 2:
        return
    with torch.no_grad():
        whole = float(_call(loss, columns, labels))
        try:
            each = [float(_call(loss, columns, labels, only=row)) for row in range(rows)]
        except (TypeError, KeyError):  # a model that was handed a weight it does not know
            each = [whole] * rows
    if all(value == whole for value in each):
        raise InputError(
            f"{type(loss).__name__} returns one number for a batch and takes no weights of rows, "
            "so that a row's own loss cannot be told. Use per='batch', with batch_size=1 if the "
            "loss looks at each row alone, or embedworks.losses.ContrastiveLoss."
        )
