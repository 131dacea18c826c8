"""Train a whole sentence-transformers model for some steps, the same for every arm; ask it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from embedworks.data import Row
from embedworks.errors import DataWarning
from embedworks.models import encode_batched
from embedworks.reproductions import row_batches, unit_rows

__all__ = ["Encoder", "train_model"]


class Encoder:
    """A model as a student that is only asked for vectors; long texts are cut, for all arms."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def vectors(self, texts: Sequence[str], /) -> np.ndarray:
        """Return unit vectors (N, D)."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=DataWarning)
            return unit_rows(encode_batched(self._model, texts, show_progress=False)[0])

    def encode(self, texts: Sequence[str], /) -> Any:
        """It is trained elsewhere."""
        raise NotImplementedError

    def parameters(self) -> list[Any]:
        """Nothing is trained here."""
        return []

    def train(self, mode: bool, /) -> None:
        """Nothing is trained here."""


def train_model(
    model: Any,
    loss: Any,
    rows: Sequence[Row],
    *,
    steps: int,
    batch: int,
    lr: float,
    seed: int,
    bf16: bool = False,
    labels: Callable[[Sequence[Row]], Any] | None = None,
    negatives: int = 0,
) -> None:
    """Train with AdamW, linear warm-up over a tenth of the steps, then linear decay.

    Args:
        model: Trained in place; parameters that need no gradient stay.
        loss: Called with features by column.
        rows: Anchors and positives.
        steps: Steps.
        batch: Rows of a batch.
        lr: Peak learning rate.
        seed: Of dropout and of the order of the rows.
        bf16: Whether to compute in bfloat16 where torch finds it safe.
        labels: What the loss gets as labels of a batch of rows; None for none. A loss with labels
            reads anchors alone.
        negatives: Columns of the rows' own negatives; each row has as many.
    """
    import torch

    torch.manual_seed(seed)
    trained = [p for p in loss.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=lr, weight_decay=0.01, fused=True)
    rise = max(1, steps // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda n: min((n + 1) / rise, (steps - n) / max(1, steps - rise))
    )
    model.train()
    for chosen in row_batches(rows, batch, steps=steps, seed=seed):
        texts = [[str(row.anchor) for row in chosen]]
        if labels is None:
            texts.append([str(row.positive) for row in chosen])
        texts += [[str(row.negatives[place]) for row in chosen] for place in range(negatives)]
        columns = [model.preprocess(column) for column in texts]
        features = [
            {k: v.to(model.device) if hasattr(v, "to") else v for k, v in column.items()}
            for column in columns
        ]
        with torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=bf16):
            value = loss(features, None if labels is None else labels(chosen))
        value.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        schedule.step()
    model.eval()
