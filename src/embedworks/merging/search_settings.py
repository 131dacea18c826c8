"""How the coefficients of a merge are searched, as data. Knows no tensors."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from embedworks._core.settings import Settings
from embedworks.merging.layers import Partition

__all__ = [
    "FORMS", "AdamergingOptions", "CoefficientSearch", "Form", "Goal", "GridOptions",
    "SelfPositioningOptions",
]  # fmt: skip

Form = Literal["slerp", "simplex", "free"]
Goal = Literal["mean", "relative", "worst"]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]

#: What the coefficients can be, by name.
FORMS: dict[str, str] = {
    "slerp": "a chain of SLERPs with one weight per model, times one length (Self Positioning)",
    "simplex": "weights that sum to 1, times one length",
    "free": "one number for each model and group of tensors",
}


class CoefficientSearch(Settings):
    """How coefficients are searched.

    Attributes:
        form: What the coefficients can be; see `embedworks.merging.FORMS`.
        by: How finely the model is divided; forms other than ``free`` take ``all``.
        loss: ``rows`` (what the probe rows ask for) or ``entropy`` (no labels).
        goal: ``mean`` of the tasks' losses; ``relative``: each as a share of the mean loss of the
            models merged, so that losses of different kinds count alike; ``worst``: the tasks
            whose loss is farthest above the best single model's, relative to it.
        steps: Steps at most.
        learning_rate: Of the coefficients.
        optimizer: ``adam`` or ``sgd``.
        mu: Weight of the length of the merged task vector in the objective.
        length: Length at the start; 1 is the even merge.
        batch_size: Rows of one task in a step.
        held_out: Share of each task's rows that decides when to stop.
        check_every: Steps between looks at what is held out.
        patience: Looks without a gain after which it stops.
        temperature: What cosines are divided by.
        max_tokens: Longest probe text; None for the model's limit.
        surface: Also measure the loss over a plane of the first two models' coefficients, and
            draw it into ``landscape.svg``: this many points per axis, 0 for none.
        seed: Seed of the split and the order of rows.
    """

    form: Form = "free"
    by: Partition = "layer"
    loss: Literal["rows", "entropy"] = "rows"
    goal: Goal = "relative"
    steps: Count = 100
    learning_rate: Positive = 0.02
    optimizer: Literal["adam", "sgd"] = "adam"
    mu: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    length: Annotated[float, Field(allow_inf_nan=False)] = 1.0
    batch_size: Annotated[int, Field(ge=2)] = 32
    held_out: Annotated[float, Field(ge=0, le=0.9)] = 0.25
    check_every: Count = 10
    patience: Count = 3
    temperature: Positive = 0.05
    max_tokens: Count | None = None
    surface: Annotated[int, Field(ge=0, le=101)] = 0
    seed: Annotated[int, Field(ge=0)] = 0


class SelfPositioningOptions(CoefficientSearch):
    """Self Positioning: the settings with which the coefficients are those of arXiv 2410.15035."""

    form: Form = "slerp"
    by: Partition = "all"
    goal: Goal = "mean"
    mu: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.01


class AdamergingOptions(CoefficientSearch):
    """AdaMerging by layer: no labels are used (arXiv 2310.02575)."""

    loss: Literal["rows", "entropy"] = "entropy"
    goal: Goal = "mean"


class GridOptions(CoefficientSearch):
    """Coefficients of whole models, tried one by one on the rows that are not held out.

    Attributes:
        parts: Weights are multiples of ``1 / parts`` that sum to each length.
        lengths: Lengths of the merged task vector; 1 is a weighted mean.
    """

    by: Literal["all"] = "all"
    parts: Annotated[int, Field(ge=1, le=50)] = 4
    lengths: tuple[Finite, ...] = (0.6, 0.8, 1.0, 1.2)
