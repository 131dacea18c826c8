"""Where in the span of task vectors a merged model stands, as a function of a few numbers.

With task vectors ``V_i = theta_i - theta_0`` a merged model is ``theta_0 + sum_i c_i V_i``. Each
form here maps a handful of trained numbers to the coefficients ``c`` (N models, G groups of
tensors), differentiably. The forms look at the products between the task vectors at most, never at
the vectors themselves.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from embedworks._core.validation import check_choice
from embedworks.errors import InputError, ShapeError
from embedworks.merging.search_settings import FORMS

__all__ = ["Position", "chain_coefficients", "make_position"]

#: Above this absolute cosine the arc between two vectors is taken for a line.
_LINE = 0.9995


def chain_coefficients(gram: Tensor, weights: Tensor) -> Tensor:
    """Return the factors of vectors that are merged by one SLERP after the other.

    ``V_(1..n) = slerp(V_(1..n-1), V_n)``, where ``V_n`` has the weight ``a_n`` and what came before
    the mean of its weights: with ``b = a_n / (mean(a_1..a_(n-1)) + a_n)`` and the angle ``w``
    between the two, the factors are ``sin((1 - b) w) / sin w`` and ``sin(b w) / sin w``. Where the
    two are nearly parallel or opposite (absolute cosine above 0.9995), or one is zero, they are
    ``1 - b`` and ``b``.

    Args:
        gram: float tensor (N, N), the products ``<V_i, V_j>``.
        weights: float tensor (N,), above 0.

    Returns:
        (N,), differentiable in ``weights``; ``sum_i c_i V_i`` is the merged vector.

    Raises:
        ShapeError: When the shapes do not fit.

    Paper: Li et al. 2024, Self Positioning, arXiv 2410.15035. The order of the models matters for
        more than two; they are taken as given.

    Example:
        >>> chain_coefficients(torch.eye(2), torch.ones(2)).numpy().round(4)
        array([0.7071, 0.7071], dtype=float32)
    """
    count = len(weights)
    if gram.shape != (count, count) or weights.ndim != 1 or count < 1:
        raise ShapeError(
            f"gram must be (N, N) and weights (N,), got {tuple(gram.shape)} and "
            f"{tuple(weights.shape)}."
        )
    factors = [weights.new_ones(())]
    for number in range(1, count):
        done = torch.stack(factors)
        inner = gram[:number, :number]
        length = (done @ inner @ done).clamp(min=0).sqrt()
        own = gram[number, number].clamp(min=0).sqrt()
        product = done @ gram[:number, number]
        share = weights[number] / (weights[:number].mean() + weights[number])
        cosine = product / (length * own) if bool(length > 0) and bool(own > 0) else None
        if cosine is None or abs(float(cosine.detach())) > _LINE:
            before, after = 1 - share, share
        else:
            angle = torch.arccos(cosine)
            before = torch.sin((1 - share) * angle) / torch.sin(angle)
            after = torch.sin(share * angle) / torch.sin(angle)
        factors = [before * factor for factor in factors] + [after]
    return torch.stack(factors)


class Position(nn.Module):
    """Trained numbers that stand for coefficients (N, G); `make_position` makes one by its form."""

    def forward(self) -> Tensor:
        """Return the coefficients (N, G), float64."""
        raise NotImplementedError

    def length(self) -> Tensor:
        """Return how far the merged model is from the base, 1 at the mean of the models."""
        return self().sum(dim=0).mean()


class _Scaled(Position):
    """A direction given by one weight per model, and one length for all tensors."""

    def __init__(self, count: int, groups: int, length: float) -> None:
        super().__init__()
        self.groups = groups
        self.scale = nn.Parameter(torch.tensor(length, dtype=torch.float64))

    def direction(self) -> Tensor:
        """Return factors (N,)."""
        raise NotImplementedError

    def forward(self) -> Tensor:
        return (self.scale * self.direction())[:, None].expand(-1, self.groups)

    def length(self) -> Tensor:
        return self.scale


class _Chain(_Scaled):
    def __init__(self, gram: Tensor, groups: int, length: float) -> None:
        super().__init__(len(gram), groups, length)
        self.register_buffer("gram", gram.double(), persistent=False)
        start = math.log(math.e - 1)  # softplus of it is 1
        self.raw = nn.Parameter(torch.full((len(gram),), start, dtype=torch.float64))

    def direction(self) -> Tensor:
        gram: Tensor = self.gram  # type: ignore[assignment]
        return chain_coefficients(gram, nn.functional.softplus(self.raw))


class _Simplex(_Scaled):
    def __init__(self, gram: Tensor, groups: int, length: float) -> None:
        super().__init__(len(gram), groups, length)
        self.raw = nn.Parameter(torch.zeros(len(gram), dtype=torch.float64))

    def direction(self) -> Tensor:
        return torch.softmax(self.raw, dim=0)


class _Free(Position):
    def __init__(self, gram: Tensor, groups: int, length: float) -> None:
        super().__init__()
        start = torch.full((len(gram), groups), length / len(gram), dtype=torch.float64)
        self.raw = nn.Parameter(start)

    def forward(self) -> Tensor:
        return self.raw


def make_position(form: str, gram: Tensor, groups: int, *, length: float = 1.0) -> Position:
    """Return the trained numbers of a form, at the even merge.

    Args:
        form: A name among `FORMS`.
        gram: float tensor (N, N), products between the task vectors as wholes.
        groups: Number of groups of tensors (G).
        length: How long the merged task vector is at the start; 1 for the mean of the models, or
            of the arc between them.

    Raises:
        UnknownNameError: When there is no such form.
        InputError: When the length is not a finite number.

    Example:
        >>> make_position("free", torch.eye(2), 3)().tolist()
        [[0.5, 0.5, 0.5], [0.5, 0.5, 0.5]]
    """
    check_choice(form, FORMS, name="form")
    if not math.isfinite(length):
        raise InputError(f"length must be finite, got {length}.")
    kinds: dict[str, type[_Chain] | type[_Simplex] | type[_Free]] = {
        "slerp": _Chain,
        "simplex": _Simplex,
        "free": _Free,
    }
    return kinds[form](gram, groups, length)
