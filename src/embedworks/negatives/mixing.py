"""New hard negatives between old ones, mixed in feature space while training.

Pure functions first; `NegativeMixer` holds the options and counts. Symbols: B batch, K hard
negatives per row, m mixtures per row, D dim.
"""

from __future__ import annotations

import warnings
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from embedworks._core.validation import check_choice, check_in_range
from embedworks.errors import DataWarning, InputError, ShapeError

__all__ = ["Mixture", "NegativeMixer", "mix_listwise", "mix_pairwise"]

_SMALLEST_NORM = 1e-4  # of a mixture before it is scaled to 1; opposite parents cancel out


class Mixture(NamedTuple):
    """Mixed negatives.

    Attributes:
        vectors: float tensor (B, m, D) of unit vectors; zeros where not usable.
        usable: bool tensor (B, m), True where there is a mixture to contrast with.
    """

    vectors: Tensor
    usable: Tensor


def mix_pairwise(
    negatives: Tensor, present: Tensor, first: Tensor, second: Tensor, share: Tensor
) -> Mixture:
    """Mix pairs of a row's negatives: ``h = share * n_first + (1 - share) * n_second``, then unit.

    Args:
        negatives: float tensor (B, K, D) of unit vectors.
        present: bool tensor (B, K), True where there is a negative.
        first: int64 tensor (B, m), the first parent of each mixture.
        second: int64 tensor (B, m), the second parent; a pair of one negative is not usable.
        share: float tensor (B, m) in [0, 1].

    Returns:
        A `Mixture` of m vectors per row. A pair is usable when both parents are present, differ,
        and do not cancel out.

    Paper: Zhao et al. 2025, arXiv 2506.20923, pair-wise mixing.

    Example:
        >>> two = torch.eye(2)[None]
        >>> here, at = torch.ones(1, 2, dtype=torch.bool), torch.tensor([[0]])
        >>> mix_pairwise(two, here, at, at + 1, torch.tensor([[0.5]])).vectors
        tensor([[[0.7071, 0.7071]]])
    """
    dim = negatives.shape[-1]
    left = negatives.gather(1, first[..., None].expand(-1, -1, dim))
    right = negatives.gather(1, second[..., None].expand(-1, -1, dim))
    mixed = share[..., None] * left + (1 - share[..., None]) * right
    there = present.gather(1, first) & present.gather(1, second) & (first != second)
    return _unit(mixed, there)


def mix_listwise(
    negatives: Tensor, present: Tensor, query: Tensor, *, temperature: float
) -> Mixture:
    """Mix all of a row's negatives, weighted by ``softmax(similarity to the query / temperature)``.

    Args:
        negatives: float tensor (B, K, D) of unit vectors.
        present: bool tensor (B, K), True where there is a negative.
        query: float tensor (B, D) of unit vectors.
        temperature: Above 0; a small one returns the hardest negative almost unmixed.

    Returns:
        A `Mixture` of one vector per row, usable when at least two negatives are present: of one
        alone the mixture would be its copy.

    Paper: Zhao et al. 2025, arXiv 2506.20923, list-wise mixing.

    Example:
        >>> two, here = torch.eye(2)[None], torch.ones(1, 2, dtype=torch.bool)
        >>> mix_listwise(two, here, torch.ones(1, 2) / 2**0.5, temperature=0.1).vectors
        tensor([[[0.7071, 0.7071]]])
    """
    check_in_range(temperature, name="temperature", low=0.0, open_low=True)
    logits = torch.einsum("bd,bkd->bk", query, negatives) / temperature
    # The lowest finite number, so that a row without any negative has no NaN in its gradient.
    logits = logits.masked_fill(~present, torch.finfo(logits.dtype).min)
    weights = torch.softmax(logits, dim=1).masked_fill(~present, 0.0)
    mixed = torch.einsum("bk,bkd->bd", weights, negatives)[:, None]
    return _unit(mixed, (present.sum(dim=1) >= 2)[:, None])


def _unit(mixed: Tensor, there: Tensor) -> Mixture:
    """Scale to unit length; zeros without gradient where that is not possible."""
    usable = there & (mixed.detach().norm(dim=-1) > _SMALLEST_NORM)
    safe = torch.where(usable[..., None], mixed, torch.ones_like(mixed))
    return Mixture(torch.where(usable[..., None], F.normalize(safe, dim=-1), 0.0), usable)


class NegativeMixer:
    """Mix each row's hard negatives into new ones, for the row itself.

    Mining is expensive and its negatives grow easy; mixtures of them are new at every step. Scaling
    a mixture to unit length can lift it above both parents, even above the positive when the
    parents differ, hence the cap.

    Args:
        pairwise: Pair-wise mixtures per row; each pair is drawn at random.
        listwise: 1 to add the list-wise mixture, 0 to leave it out.
        beta: Shares of a pair are drawn from Beta(beta, beta); above 0. 1 is uniform, larger
            values mix more evenly.
        list_temperature: Of the list-wise weights; the objective's own temperature is the
            natural choice.
        stop_gradient: Whether mixtures pass no gradient on to their parents.
        cap: ``"positive"`` makes a mixture unusable unless it scores below the positive by more
            than ``cap_margin``; None keeps all.
        cap_margin: 0 or greater.

    Attributes:
        made: Mixtures made so far.
        capped: How many of them the cap dropped.

    Raises:
        InputError: When an option is out of range or nothing would be mixed.

    Paper: Zhao et al. 2025, arXiv 2506.20923 (KaLM-Embedding-V2), which states neither the number
    of mixtures, nor the list temperature, nor a cap: the defaults of these are ours.

    Example:
        >>> unit = lambda *shape: F.normalize(torch.randn(*shape), dim=-1)
        >>> mixer = NegativeMixer(pairwise=2, cap=None)
        >>> mixed = mixer(unit(4, 7, 8), unit(4, 8), unit(4, 8), generator=torch.Generator())
        >>> mixed.vectors.shape, mixed.usable.all().item()
        (torch.Size([4, 3, 8]), True)
    """

    def __init__(
        self,
        pairwise: int = 1,
        listwise: int = 1,
        *,
        beta: float = 2.0,
        list_temperature: float = 0.05,
        stop_gradient: bool = False,
        cap: Literal["positive"] | None = "positive",
        cap_margin: float = 0.0,
    ) -> None:
        if pairwise < 0 or listwise not in (0, 1) or pairwise + listwise < 1:
            raise InputError(
                "pairwise must be 0 or more and listwise 0 or 1 (a row has one list-wise mixture), "
                f"not both 0; got {pairwise} and {listwise}."
            )
        self.pairwise = pairwise
        self.listwise = listwise
        self.beta = check_in_range(beta, name="beta", low=0.0, open_low=True)
        self.list_temperature = check_in_range(
            list_temperature, name="list_temperature", low=0.0, open_low=True
        )
        self.stop_gradient = stop_gradient
        self.cap = None if cap is None else check_choice(cap, ["positive"], name="cap")
        self.cap_margin = check_in_range(cap_margin, name="cap_margin", low=0.0)
        self.made = 0
        self.capped = 0
        self._warned = False

    @property
    def size(self) -> int:
        """Mixtures per row, usable or not."""
        return self.pairwise + self.listwise

    def stats(self) -> dict[str, float]:
        """Return how many mixtures were made, and the share that the cap dropped."""
        return {
            "mixed": float(self.made),
            "capped": float(self.capped),
            "capped_share": self.capped / self.made if self.made else 0.0,
        }

    def __call__(
        self,
        negatives: Tensor,
        query: Tensor,
        positive: Tensor,
        present: Tensor | None = None,
        *,
        generator: torch.Generator,
    ) -> Mixture:
        """Return m mixtures of each row's negatives: the pair-wise ones first.

        Args:
            negatives: float tensor (B, K, D) of unit vectors.
            query: float tensor (B, D) of unit vectors.
            positive: float tensor (B, D) of unit vectors.
            present: bool tensor (B, K), True where there is a negative; None means everywhere.
            generator: Source of the random pairs and shares. Equal states give equal mixtures.

        Returns:
            A `Mixture` of (B, m, D) vectors and (B, m) flags.

        Raises:
            ShapeError: When shapes do not agree.
            InputError: When K is 0 or a vector that is present is not of unit length.
        """
        self._check(negatives, query, positive, present)
        batch, count, _ = negatives.shape
        if present is None:
            present = torch.ones(batch, count, dtype=torch.bool, device=negatives.device)
        if count < 2 and not self._warned:
            self._warned = True
            warnings.warn(
                "mixing needs at least two hard negatives per row, the batch has one: nothing is "
                "mixed. Mine more, or leave mixing out.",
                DataWarning,
                stacklevel=2,
            )
        parts = []
        if self.pairwise:
            parts.append(mix_pairwise(negatives, present, *self._draw(present, generator, query)))
        if self.listwise:
            parts.append(mix_listwise(negatives, present, query, temperature=self.list_temperature))
        vectors = torch.cat([part.vectors for part in parts], dim=1)
        usable = torch.cat([part.usable for part in parts], dim=1)
        if self.stop_gradient:
            vectors = vectors.detach()
        made = usable
        if self.cap is not None:
            with torch.no_grad():
                limit = (query * positive).sum(dim=-1) - self.cap_margin
                usable = made & (torch.einsum("bd,bmd->bm", query, vectors) < limit[:, None])
        self.made += int(made.sum())
        self.capped += int((made & ~usable).sum())
        return Mixture(torch.where(usable[..., None], vectors, 0.0), usable)

    def _draw(
        self, present: Tensor, generator: torch.Generator, like: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Draw ``pairwise`` pairs of different negatives per row, and their shares."""
        seed = torch.randint(2**62, (1,), generator=generator, device=generator.device)
        rng = np.random.default_rng(int(seed))
        batch, count = present.shape
        keys = rng.random((batch, self.pairwise, count))
        keys[np.broadcast_to(~present.cpu().numpy()[:, None], keys.shape)] = 2.0
        order = torch.from_numpy(np.argsort(keys, axis=2)).to(like.device)
        share = torch.from_numpy(rng.beta(self.beta, self.beta, (batch, self.pairwise)))
        first = order[..., 0]
        second = order[..., min(1, count - 1)]
        return first, second, share.to(device=like.device, dtype=like.dtype)

    def _check(
        self, negatives: Tensor, query: Tensor, positive: Tensor, present: Tensor | None
    ) -> None:
        if negatives.ndim != 3 or query.shape != (len(negatives), negatives.shape[2]):
            raise ShapeError(
                f"negatives must be (B, K, D) and query (B, D), got {tuple(negatives.shape)} and "
                f"{tuple(query.shape)}."
            )
        if positive.shape != query.shape:
            raise ShapeError(f"positive must be {tuple(query.shape)}, got {tuple(positive.shape)}.")
        if negatives.shape[1] == 0:
            raise InputError("there are no hard negatives to mix: mine some, or leave mixing out.")
        if present is not None and (
            present.dtype != torch.bool or present.shape != negatives.shape[:2]
        ):
            raise ShapeError(
                f"present must be bool {tuple(negatives.shape[:2])}, got {present.dtype} "
                f"{tuple(present.shape)}."
            )
        # Half precision cannot hold a unit vector's length better than this.
        tolerance = 2e-2 if torch.finfo(query.dtype).eps > 1e-4 else 1e-3
        for name, vectors in (("negatives", negatives), ("query", query), ("positive", positive)):
            lengths = vectors.detach().float().norm(dim=-1)
            wrong = ~((lengths - 1).abs() <= tolerance)
            if name == "negatives" and present is not None:
                wrong &= present
            if bool(wrong.any()):
                where = wrong.nonzero()[0].tolist()
                raise InputError(
                    f"{name} must be unit vectors: {int(wrong.sum())} are not, the first at "
                    f"{where} has length {float(lengths[tuple(where)]):.4g}. Normalise them first."
                )
