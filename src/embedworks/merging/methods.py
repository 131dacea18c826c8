"""The merge methods by name: what each needs, its options, and one call for all of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from embedworks._core.registry import Registry
from embedworks._core.settings import Settings
from embedworks.errors import EmbedworksError, InputError
from embedworks.merging import functional, sparse

__all__ = ["MERGE_METHODS", "MergeMethod"]

Share = Annotated[float, Field(gt=0, le=1)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


Per = Literal["tensor", "row", "column"]
Combine = Literal["linear", "ties"]
Majority = Literal["sum", "count"]
Rescale = Literal["expected", "l1", "none"]


class NoOptions(Settings):
    """A method without options."""


class LinearOptions(Settings):
    """Options of `embedworks.merging.linear`."""

    normalize: bool = True


class TaskArithmeticOptions(Settings):
    """Options of `embedworks.merging.task_arithmetic`."""

    scale: Finite = 1.0


class NuslerpOptions(Settings):
    """Options of `embedworks.merging.nuslerp`."""

    per: Per = "tensor"


class KarcherOptions(Settings):
    """Options of `embedworks.merging.karcher`."""

    max_iter: int = Field(default=10, ge=1)
    tol: float = Field(default=1e-5, gt=0, allow_inf_nan=False)


class ModelStockOptions(Settings):
    """Options of `embedworks.merging.model_stock`."""

    per: Literal["tensor", "row"] = "tensor"


class TiesOptions(Settings):
    """Options of `embedworks.merging.ties`."""

    density: Share = 0.2
    scale: Finite = 1.0
    majority: Majority = "sum"


class DareOptions(Settings):
    """Options of `embedworks.merging.dare`."""

    density: Share = 0.5
    rescale: Rescale = "expected"
    combine: Combine = "linear"
    scale: Finite = 1.0
    majority: Majority = "sum"
    seed: int = Field(default=0, ge=0)


class DellaOptions(DareOptions):
    """Options of `embedworks.merging.della`."""

    epsilon: float = Field(default=0.15, ge=0, lt=0.5)
    combine: Combine = "ties"


class BreadcrumbsOptions(Settings):
    """Options of `embedworks.merging.breadcrumbs`."""

    density: Share = 0.14
    gamma: float = Field(default=0.01, ge=0, lt=1)
    combine: Combine = "linear"
    scale: Finite = 1.0
    majority: Majority = "sum"


class SceOptions(Settings):
    """Options of `embedworks.merging.sce`."""

    select_topk: Share = 1.0


class RamOptions(Settings):
    """Options of `embedworks.merging.ram`."""

    eps: float = Field(default=1e-5, ge=0, allow_inf_nan=False)


@dataclass(frozen=True)
class MergeMethod:
    """How one method merges the same tensor of several models.

    A method is called with arrays; `embedworks.merging` has the functions under the same names.

    Attributes:
        name: Its name in recipes and on the command line.
        function: The pure function: ``(tensors, weights, *, base, key, **options)``, with
            ``base`` and ``key`` only where it takes them.
        needs_base: Whether it cannot do without the base the models were trained from.
        takes_base: Whether a base may be given.
        least: Fewest models.
        most: Most models, or None.
        symmetric: Whether the order of the models, each with its weight, does not matter.
        random: Whether it draws random numbers; its options then have a ``seed``.
        weighted: Whether unequal weights may be given.
        elementwise: Whether every number needs only the same number of each model: tensors can
            then be merged in pieces.
        settings: The options, with the published defaults.

    Example:
        >>> ties = MERGE_METHODS["ties"]
        >>> ties.needs_base, ties.settings().to_dict()
        (True, {'density': 0.2, 'scale': 1.0, 'majority': 'sum'})
        >>> ties([np.array([2.0, 0.5]), np.array([4.0, 0.0])], base=np.zeros(2), density=0.5)
        array([3., 0.])
    """

    name: str
    function: Callable[..., np.ndarray] = field(repr=False)
    needs_base: bool = False
    takes_base: bool = False
    least: int = 1
    most: int | None = None
    symmetric: bool = True
    random: bool = False
    weighted: bool = True
    elementwise: bool = False
    settings: type[Settings] = NoOptions

    def __call__(
        self,
        tensors: Sequence[np.ndarray],
        weights: Sequence[float] | None = None,
        *,
        base: np.ndarray | None = None,
        key: str = "",
        **options: Any,
    ) -> np.ndarray:
        """Merge the same tensor of several models.

        Args:
            tensors: Float arrays of one shape (...), one for each model.
            weights: One number for each model, or None for equal ones.
            base: Array (...) of the model they were trained from.
            key: The tensor's name. It is named in errors, and random methods draw another stream
                for each name, so that the order in which tensors are merged does not matter.
            options: Fields of `settings`.

        Returns:
            Array (...) of the first tensor's type.

        Raises:
            SettingsError: When an option is unknown or out of range.
            InputError: When the number of models, a weight, a type or the presence of a base does
                not suit the method.
            ShapeError: When shapes differ.
            NonFiniteError: When a value is NaN or infinite; names the tensor by its position.
        """
        chosen: dict[str, Any] = dict(self.settings.from_dict(options))
        if base is not None and not self.takes_base:
            raise InputError(
                f"{self.name} has no use for a base, but one was given. Leave it out, or choose a "
                f"method that works on what the models changed: {', '.join(_with_base())}."
            )
        if self.takes_base:
            chosen["base"] = base
        if "key" in inspect.signature(self.function).parameters:
            chosen["key"] = key
        try:
            return self.function(tensors, weights, **chosen)
        except EmbedworksError as error:
            if not key:
                raise
            raise type(error)(f"{key}: {error}") from error

    def check(
        self,
        count: int,
        weights: Sequence[float] | None = None,
        *,
        has_base: bool = False,
        **options: Any,
    ) -> None:
        """Raise what a merge of ``count`` models would raise, before anything is read.

        Args:
            count: Number of models.
            weights: As they will be given.
            has_base: Whether a base will be given.
            options: As they will be given.

        Raises:
            EmbedworksError: As in a call.

        Example:
            >>> MERGE_METHODS["slerp"].check(3)
            Traceback (most recent call last):
            ...
            embedworks.errors.InputError: slerp merges exactly 2 models, got 3.
        """
        one = np.ones(1)
        self([one] * count, weights, base=one if has_base else None, **options)


def _with_base() -> list[str]:
    return [name for name in MERGE_METHODS if MERGE_METHODS[name].takes_base]


#: Every merge method by name.
MERGE_METHODS: Registry[MergeMethod] = Registry("merge methods")


def _add(function: Callable[..., np.ndarray], summary: str, **about: Any) -> None:
    name = function.__name__
    MERGE_METHODS.add(name, MergeMethod(name, function, **about), summary=summary)


def _add_with_base(function: Callable[..., np.ndarray], summary: str, **about: Any) -> None:
    _add(function, summary, needs_base=True, takes_base=True, **about)


_add(
    functional.linear,
    "Weighted mean: a model soup.",
    elementwise=True,
    settings=LinearOptions,
)
_add(functional.slerp, "Point on the arc between two.", takes_base=True, least=2, most=2)
_add(
    functional.nuslerp,
    "Point on the arc between the directions of two, at the length between.",
    takes_base=True,
    least=2,
    most=2,
    settings=NuslerpOptions,
)
_add(functional.multi_slerp, "Mean direction of several, at their mean length.", takes_base=True)
_add(
    functional.karcher,
    "Mean of several on the sphere, at their mean length.",
    takes_base=True,
    settings=KarcherOptions,
)
_add_with_base(
    functional.task_arithmetic,
    "The base and a weighted sum of what each model changed.",
    elementwise=True,
    settings=TaskArithmeticOptions,
)
_add_with_base(
    functional.model_stock,
    "Between the base and the mean of the models, as near as their angle says.",
    least=2,
    weighted=False,
    settings=ModelStockOptions,
)
_add_with_base(
    sparse.ties,
    "Largest changes, averaged over the models that agree on the sign.",
    settings=TiesOptions,
)
_add_with_base(
    sparse.dare,
    "Changes dropped at random, the rest rescaled and added.",
    symmetric=False,
    random=True,
    settings=DareOptions,
)
_add_with_base(
    sparse.della,
    "Changes dropped at random, small ones rather than large ones.",
    symmetric=False,
    random=True,
    settings=DellaOptions,
)
_add_with_base(
    sparse.breadcrumbs,
    "Middling changes: without the largest, which are outliers, and the smallest.",
    settings=BreadcrumbsOptions,
)
_add_with_base(
    sparse.sce,
    "Changes weighted by their size, without the signs of the minority.",
    least=2,
    weighted=False,
    settings=SceOptions,
)
_add_with_base(
    sparse.ram, "Each change averaged over the models that made it.", settings=RamOptions
)
