"""Poolings that learn: latent attention and its controls, and a learned query."""

from __future__ import annotations

from typing import ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from embedworks.errors import InputError
from embedworks.modules.poolings.base import POOLINGS, TokenPooling, masked_mean

__all__ = [
    "LatentAttentionPooling",
    "LearnedQueryPooling",
    "MLPPooling",
    "SelfAttentionPooling",
]


def _heads(width: int, num_heads: int, dim_head: int | None) -> int:
    """Return the width of a head."""
    if num_heads < 1:
        raise InputError(f"num_heads must be 1 or more, got {num_heads}.")
    if dim_head is not None:
        if dim_head < 1:
            raise InputError(f"dim_head must be 1 or more, got {dim_head}.")
        return dim_head
    if width % num_heads:
        raise InputError(
            f"{width} dimensions cannot be shared by {num_heads} heads: choose num_heads that "
            "divides it, or give dim_head."
        )
    return width // num_heads


class _FeedForward(nn.Module):
    """LayerNorm, then ``W2 (a * gelu(b))`` with ``[a, b] = W1 x``, or ``W2 gelu(W1 x)``."""

    def __init__(self, width: int, mult: float, *, gated: bool) -> None:
        super().__init__()
        inner = max(1, round(width * mult))
        self.gated = gated
        self.norm = nn.LayerNorm(width)
        self.rise = nn.Linear(width, inner * (2 if gated else 1))
        self.fall = nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.rise(self.norm(x))
        if self.gated:
            value, gate = inner.chunk(2, dim=-1)
            inner = value * F.gelu(gate)
        else:
            inner = F.gelu(inner)
        found: Tensor = self.fall(inner)
        return found


@POOLINGS.register("latent-attention", summary="NV-Embed: tokens read learned latents, then mean.")
class LatentAttentionPooling(TokenPooling):
    """Each token reads a learned dictionary, goes through an MLP, and the mean is taken.

    ``H1 = H + softmax(LN(H) Wq K^T / sqrt(dh)) V Wo`` with ``[K, V] = LN(Z) Wkv`` of the latents
    Z, ``H2 = H1 + FF(LN(H1))``, and the mean of H2 over the pooled tokens. Tokens do not see each
    other, so padding is left out before the work is done.

    Args:
        embedding_dimension: D.
        num_latents: Rows of Z. The default sizes add little to a small encoder;
            `published` has NV-Embed's.
        num_heads: Heads.
        dim_head: Width of a head; None takes D / heads.
        ff_mult: Inner width of the MLP, in D.
        gated: Whether the MLP is gated (GEGLU, as published) or plain.
        residual: Whether H and H1 are added, as published.

    Raises:
        InputError: When the sizes do not fit.

    Paper: Lee et al. 2024, arXiv 2405.17428, section 3.1; exact as in the published model code,
        which scales the scores by ``dim_head ** -0.5`` and gates the MLP. Without the closing
        normalisation: that is a module of its own.
    """

    config_keys: ClassVar[list[str]] = [
        "embedding_dimension", "num_latents", "num_heads", "dim_head", "ff_mult", "gated",
        "residual",
    ]  # fmt: skip

    def __init__(
        self,
        embedding_dimension: int,
        num_latents: int = 32,
        num_heads: int = 8,
        dim_head: int | None = None,
        ff_mult: float = 0.5,
        gated: bool = True,
        residual: bool = True,
    ) -> None:
        super().__init__(embedding_dimension)
        if num_latents < 1:
            raise InputError(f"num_latents must be 1 or more, got {num_latents}.")
        if not ff_mult > 0:
            raise InputError(f"ff_mult must be above 0, got {ff_mult}.")
        head = _heads(embedding_dimension, num_heads, dim_head)
        self.num_latents, self.num_heads, self.dim_head = num_latents, num_heads, dim_head
        self.ff_mult, self.gated, self.residual = ff_mult, gated, residual
        inner = head * num_heads
        self.latents = nn.Parameter(torch.randn(num_latents, embedding_dimension))
        self.norm = nn.LayerNorm(embedding_dimension)
        self.latent_norm = nn.LayerNorm(embedding_dimension)
        self.to_query = nn.Linear(embedding_dimension, inner, bias=False)
        self.to_key_value = nn.Linear(embedding_dimension, 2 * inner, bias=False)
        self.to_out = nn.Linear(inner, embedding_dimension, bias=False)
        self.feed_forward = _FeedForward(embedding_dimension, ff_mult, gated=gated)

    @classmethod
    def published(cls, embedding_dimension: int, *, dim_head: int | None = None) -> Self:
        """Return NV-Embed's sizes: 512 latents, 8 heads, inner MLP of 4 D.

        Its ``dim_head`` is D (4,096): about a tenth of a 7-billion model's weights, and more than
        a small one's. The default of D / 8 is what the paper's text suggests.
        """
        return cls(embedding_dimension, num_latents=512, dim_head=dim_head, ff_mult=4)

    def pool(self, tokens: Tensor, pooled: Tensor, real: Tensor) -> Tensor:
        """Return (B, D)."""
        row = pooled.nonzero()[:, 0]
        states = self._read(tokens[pooled])
        exact = torch.promote_types(states.dtype, torch.float32)
        sums = torch.zeros(len(tokens), states.shape[1], dtype=exact, device=tokens.device)
        sums = sums.index_add(0, row, states.to(exact))
        return (sums / pooled.sum(dim=1, keepdim=True)).to(tokens.dtype)

    def _read(self, states: Tensor) -> Tensor:
        """Return H2 of states (N, D) that stand for themselves."""
        heads = self.num_heads
        key, value = self.to_key_value(self.latent_norm(self.latents)).chunk(2, dim=-1)
        query = self.to_query(self.norm(states))
        split = [x.unflatten(-1, (heads, -1)).transpose(0, 1) for x in (query, key, value)]
        read = F.scaled_dot_product_attention(split[0], split[1], split[2])
        out = self.to_out(read.transpose(0, 1).flatten(1))
        out = states + out if self.residual else out
        changed = self.feed_forward(out)
        return out + changed if self.residual else changed


@POOLINGS.register("self-attention", summary="One more attention layer over the tokens, then mean.")
class SelfAttentionPooling(TokenPooling):
    """Tokens read each other once more, go through an MLP, and the mean is taken.

    The control of latent attention: the same block with the tokens in place of the latents. All
    real tokens are read, instructions included; the mean is over the pooled ones.

    Args:
        embedding_dimension: D.
        num_heads: Heads.
        dim_head: Width of a head; None takes D / heads.
        ff_mult: Inner width of the MLP, in D.
        gated: Whether the MLP is gated.

    Paper: Lee et al. 2024, arXiv 2405.17428, table of poolings.
    """

    config_keys: ClassVar[list[str]] = [
        "embedding_dimension",
        "num_heads",
        "dim_head",
        "ff_mult",
        "gated",
    ]

    def __init__(
        self,
        embedding_dimension: int,
        num_heads: int = 8,
        dim_head: int | None = None,
        ff_mult: float = 0.5,
        gated: bool = True,
    ) -> None:
        super().__init__(embedding_dimension)
        if not ff_mult > 0:
            raise InputError(f"ff_mult must be above 0, got {ff_mult}.")
        inner = num_heads * _heads(embedding_dimension, num_heads, dim_head)
        self.num_heads, self.dim_head, self.ff_mult, self.gated = (
            num_heads, dim_head, ff_mult, gated,
        )  # fmt: skip
        self.norm = nn.LayerNorm(embedding_dimension)
        self.to_query_key_value = nn.Linear(embedding_dimension, 3 * inner, bias=False)
        self.to_out = nn.Linear(inner, embedding_dimension, bias=False)
        self.feed_forward = _FeedForward(embedding_dimension, ff_mult, gated=gated)

    def pool(self, tokens: Tensor, pooled: Tensor, real: Tensor) -> Tensor:
        """Return (B, D)."""
        parts = self.to_query_key_value(self.norm(tokens)).chunk(3, dim=-1)
        query, key, value = (x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for x in parts)
        read = F.scaled_dot_product_attention(query, key, value, attn_mask=real[:, None, None, :])
        out = tokens + self.to_out(read.transpose(1, 2).flatten(2))
        return masked_mean(out + self.feed_forward(out), pooled)


@POOLINGS.register("mlp", summary="An MLP on every token, then mean: the control of attention.")
class MLPPooling(TokenPooling):
    """Tokens go through a residual MLP, and the mean is taken.

    What latent attention is without the latents: with `matched`, a control that has as many
    weights.

    Args:
        embedding_dimension: D.
        ff_mult: Inner width of the MLP, in D.
        gated: Whether it is gated.
    """

    config_keys: ClassVar[list[str]] = ["embedding_dimension", "ff_mult", "gated"]

    def __init__(self, embedding_dimension: int, ff_mult: float = 0.5, gated: bool = True) -> None:
        super().__init__(embedding_dimension)
        if not ff_mult > 0:
            raise InputError(f"ff_mult must be above 0, got {ff_mult}.")
        self.ff_mult, self.gated = ff_mult, gated
        self.feed_forward = _FeedForward(embedding_dimension, ff_mult, gated=gated)

    @classmethod
    def matched(cls, other: TokenPooling, *, gated: bool = True) -> Self:
        """Return one with about as many weights as another pooling."""
        wanted = sum(p.numel() for p in other.parameters())
        width = other.embedding_dimension
        # Weights: D (2 or 1) m and m D, biases (2 or 1) m and D, and the norm's 2 D.
        inner = (wanted - 3 * width) / ((3 if gated else 2) * width + (2 if gated else 1))
        return cls(width, max(inner, 1) / width, gated)

    def pool(self, tokens: Tensor, pooled: Tensor, real: Tensor) -> Tensor:
        """Return (B, D)."""
        return masked_mean(tokens + self.feed_forward(tokens), pooled)


@POOLINGS.register("learned-query", summary="A learned query per head weighs the tokens.")
class LearnedQueryPooling(TokenPooling):
    """A weighted mean of tokens, the weights from a learned query per head.

    Head h weighs its share of the coordinates by ``softmax(q_h . W_h LN(x))`` over the pooled
    tokens. The query starts at 0, which is the plain mean: training leaves from what the model
    already does.

    Args:
        embedding_dimension: D.
        num_heads: Heads; each takes D / heads coordinates.

    Raises:
        InputError: When the heads do not divide D.
    """

    config_keys: ClassVar[list[str]] = ["embedding_dimension", "num_heads"]

    def __init__(self, embedding_dimension: int, num_heads: int = 8) -> None:
        super().__init__(embedding_dimension)
        head = _heads(embedding_dimension, num_heads, None)
        self.num_heads = num_heads
        self.norm = nn.LayerNorm(embedding_dimension)
        self.to_key = nn.Linear(embedding_dimension, embedding_dimension, bias=False)
        self.query = nn.Parameter(torch.zeros(num_heads, head))

    def pool(self, tokens: Tensor, pooled: Tensor, real: Tensor) -> Tensor:
        """Return (B, D)."""
        key = self.to_key(self.norm(tokens)).unflatten(-1, (self.num_heads, -1))
        scores = (key * self.query).sum(dim=-1) / key.shape[-1] ** 0.5
        weights = scores.masked_fill(~pooled[:, :, None], float("-inf")).softmax(dim=1)
        shares = tokens.reshape(*tokens.shape[:2], self.num_heads, -1)
        return (weights[..., None] * shares).sum(dim=1).flatten(1)
