"""Task vectors of models in memory: their products, a model put anywhere in their span, gradients.

Knows names and tensors; nothing of losses or of how a position is searched.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from embedworks.errors import InputError, NonFiniteError, ShapeError
from embedworks.merging._planning import limited
from embedworks.merging.layers import part_of

__all__ = ["TaskVectors"]


class TaskVectors:
    """What N models changed of their base: ``V_i = theta_i - theta_0``, by group of tensors.

    Args:
        base: Name -> float tensor of the base's parameters.
        models: The same of each model.
        by: How finely tensors are grouped; see `embedworks.merging.PARTITIONS`.

    Attributes:
        groups: Names of the groups (G), in the order of the parameters.
        names: Parameters that some model changed; the others are left alone.

    Raises:
        InputError: When names differ, or a model is the base itself.
        ShapeError: When a tensor has another shape.
        NonFiniteError: When a tensor has NaN or infinity.

    Example:
        >>> base = {"layer.0.w": torch.zeros(2), "head": torch.zeros(1)}
        >>> one = {"layer.0.w": torch.tensor([1.0, 0.0]), "head": torch.ones(1)}
        >>> two = {"layer.0.w": torch.tensor([0.0, 2.0]), "head": torch.zeros(1)}
        >>> vectors = TaskVectors(base, [one, two], by="layer")
        >>> vectors.groups, vectors.gram.sum(0).tolist()
        (('layer 0', 'head'), [[2.0, 0.0], [0.0, 4.0]])
        >>> vectors.merged(torch.full((2, 2), 0.5))["layer.0.w"].tolist()
        [0.5, 1.0]
    """

    def __init__(
        self, base: Mapping[str, Tensor], models: Sequence[Mapping[str, Tensor]], *, by: str = "all"
    ) -> None:
        if not models:
            raise InputError("There are no models to take task vectors of.")
        self.by = by
        # Copies: the base's own parameters may be those of the model that is changed.
        self.base = {n: _checked(n, tensor, "the base").clone() for n, tensor in base.items()}
        _check_names(self.base, models)
        deltas: list[dict[str, Tensor]] = []
        for number, model in enumerate(models, start=1):
            own = {}
            for name, origin in self.base.items():
                tensor = _checked(name, model[name], f"model {number}")
                if tensor.shape != origin.shape:
                    raise ShapeError(
                        f"{name!r} has shape {tuple(tensor.shape)} in model {number} and "
                        f"{tuple(origin.shape)} in the base."
                    )
                own[name] = tensor - origin
            if not any(bool(delta.any()) for delta in own.values()):
                raise InputError(
                    f"Model {number} is the base itself: its task vector is zero. Leave it out."
                )
            deltas.append(own)
        self.names = tuple(n for n in self.base if any(bool(own[n].any()) for own in deltas))
        self.vectors = [{name: own[name] for name in self.names} for own in deltas]
        parts = [part_of(name, by) for name in self.names]
        self.groups = tuple(dict.fromkeys(parts))
        self._place = dict(zip(self.names, map(self.groups.index, parts), strict=True))
        self.gram = self._gram()

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def norms(self) -> Tensor:
        """Lengths (N,) of the task vectors as wholes, float64."""
        return self.gram.sum(0).diagonal().sqrt()

    @property
    def cosines(self) -> Tensor:
        """Cosines (N, N) between the task vectors as wholes, float64."""
        return self.gram.sum(0) / self.norms[:, None] / self.norms[None, :]

    def merged(self, coefficients: Tensor) -> dict[str, Tensor]:
        """Return ``theta_0 + sum_i c_ig V_i`` of the changed parameters.

        Args:
            coefficients: float tensor (N, G).
        """
        self._check(coefficients)
        rows = coefficients.detach().tolist()
        found = {}
        for name in self.names:
            tensor = self.base[name].clone()
            for row, own in zip(rows, self.vectors, strict=True):
                tensor.add_(own[name], alpha=row[self._place[name]])
            found[name] = tensor
        return found

    def put(self, model: Any, coefficients: Tensor) -> None:
        """Give a model the merged parameters, in place.

        Args:
            model: A module with the same parameters.
            coefficients: float tensor (N, G).
        """
        parameters = dict(model.named_parameters())
        with torch.no_grad():
            for name, tensor in self.merged(coefficients).items():
                parameters[name].copy_(tensor)

    def pull(self, model: Any) -> Tensor:
        """Return the gradient (N, G) of the coefficients, from the gradients of the parameters.

        ``dL / dc_ig = sum over the tensors of group g of <dL / dtheta, V_i>``: no graph through the
        merge is needed.
        """
        found = torch.zeros(len(self), len(self.groups), dtype=torch.float64)
        for name, parameter in model.named_parameters():
            if name in self._place and parameter.grad is not None:
                gradient = parameter.grad.float().flatten()
                for number, own in enumerate(self.vectors):
                    product = torch.dot(gradient, own[name].to(gradient.device).flatten())
                    found[number, self._place[name]] += float(product)
        return found

    def _gram(self) -> Tensor:
        """Return the products (G, N, N) of the task vectors, float64."""
        count = len(self)
        gram = torch.zeros(len(self.groups), count, count, dtype=torch.float64)
        for name in self.names:
            rows = torch.stack([own[name].flatten() for own in self.vectors]).double()
            gram[self._place[name]] += rows @ rows.T
        return gram

    def _check(self, coefficients: Tensor) -> None:
        if coefficients.shape != (len(self), len(self.groups)):
            raise ShapeError(
                f"coefficients have shape {tuple(coefficients.shape)}, expected one per model and "
                f"group: ({len(self)}, {len(self.groups)})."
            )


def _checked(name: str, tensor: Tensor, where: str) -> Tensor:
    if not tensor.is_floating_point():
        raise InputError(f"{name!r} of {where} holds {tensor.dtype}: only floats can be merged.")
    tensor = tensor.detach().float().cpu()
    if not bool(torch.isfinite(tensor).all()):
        raise NonFiniteError(f"{name!r} of {where} has NaN or infinity: this model is damaged.")
    return tensor


def _check_names(base: Mapping[str, Tensor], models: Sequence[Mapping[str, Tensor]]) -> None:
    problems = []
    for number, model in enumerate(models, start=1):
        for name in sorted(base.keys() ^ model.keys()):
            has, lacks = ("the base", f"model {number}")[:: 1 if name in base else -1]
            problems.append(f"{name!r} is in {has} and not in {lacks}")
    if problems:
        raise InputError("\n- ".join(["The models differ from the base:", *limited(problems)]))
