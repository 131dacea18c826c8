"""Ways from token states to one vector, as sentence-transformers modules.

Each reads ``token_embeddings`` and a mask, and writes ``sentence_embedding``. The mask is
``pooling_mask`` where the features have one (see `InstructedTransformer`), else
``attention_mask``; padding never counts, on either side. Mean, maximum and first token are
sentence-transformers' own ``Pooling``.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from sentence_transformers.base.modules import Module
from torch import Tensor, nn

from embedworks._core.registry import Registry
from embedworks.errors import EmptyInputError, InputError, ShapeError

__all__ = [
    "POOLINGS",
    "LastTokenPooling",
    "LatentAttentionPooling",
    "LearnedQueryPooling",
    "MLPPooling",
    "MaskedMeanPooling",
    "PowerMeanPooling",
    "SelfAttentionPooling",
    "TokenPooling",
    "WeightedMeanPooling",
]


class TokenPooling(Module):
    """The base of poolings: finds the mask, checks it, saves and loads.

    Subclasses name their options in ``config_keys`` and define `pool`.
    """

    config_keys: ClassVar[list[str]] = ["embedding_dimension"]

    def __init__(self, embedding_dimension: int) -> None:
        super().__init__()
        if embedding_dimension < 1:
            raise InputError(f"embedding_dimension must be 1 or more, got {embedding_dimension}.")
        self.embedding_dimension = embedding_dimension

    @abstractmethod
    def pool(self, tokens: Tensor, pooled: Tensor, real: Tensor) -> Tensor:
        """Return one vector per row.

        Args:
            tokens: float tensor (B, T, D).
            pooled: bool tensor (B, T), True for tokens that make up the vector; at least one per
                row.
            real: bool tensor (B, T), True for all but padding.

        Returns:
            float tensor (B, D').
        """

    def forward(self, features: dict[str, Any], **_: Any) -> dict[str, Any]:
        """Pool ``token_embeddings`` into ``sentence_embedding``.

        Raises:
            ShapeError: When the states or the mask have other shapes than expected.
            EmptyInputError: When nothing of a row is left to pool; names the first such row.
        """
        tokens: Tensor = features["token_embeddings"]
        if tokens.ndim != 3 or tokens.shape[2] != self.embedding_dimension:
            raise ShapeError(
                f"{type(self).__name__} expects states (B, T, {self.embedding_dimension}), got "
                f"{tuple(tokens.shape)}."
            )
        real = features.get("attention_mask")
        real = torch.ones(tokens.shape[:2], device=tokens.device) if real is None else real
        pooled = features.get("pooling_mask")
        pooled = real if pooled is None else pooled
        for name, mask in (("attention_mask", real), ("pooling_mask", pooled)):
            if mask.shape != tokens.shape[:2]:
                raise ShapeError(
                    f"{name} has shape {tuple(mask.shape)} for states {tuple(tokens.shape)}."
                )
        real, pooled = real.bool(), pooled.bool()
        pooled = pooled & real
        empty = (~pooled.any(dim=1)).nonzero()
        if len(empty):
            raise EmptyInputError(
                f"nothing is left to pool in {len(empty)} of {len(tokens)} texts, the first is row "
                f"{int(empty[0])}: it is empty, or an instruction fills all of its tokens. Leave "
                "it out, shorten the instruction, or allow longer texts."
            )
        features["sentence_embedding"] = self.pool(tokens, pooled, real)
        return features

    def get_embedding_dimension(self) -> int:
        """Return the dimension of the vectors."""
        return self.embedding_dimension

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **_: Any) -> None:
        """Write configuration and weights."""
        self.save_config(output_path)
        if any(True for _ in self.parameters()):
            self.save_torch_weights(output_path, safe_serialization=safe_serialization)

    @classmethod
    def load(cls, model_name_or_path: str, subfolder: str = "", **options: Any) -> Self:
        """Read what `save` wrote."""
        hub = {
            name: options[name]
            for name in ("token", "cache_folder", "revision", "local_files_only")
            if name in options
        }
        made = cls(**cls.load_config(model_name_or_path, subfolder=subfolder, **hub))
        if any(True for _ in made.parameters()):
            cls.load_torch_weights(model_name_or_path, subfolder=subfolder, model=made, **hub)
        return made


#: Poolings by name.
POOLINGS: Registry[type[TokenPooling]] = Registry("poolings")


def _mean(tokens: Tensor, mask: Tensor) -> Tensor:
    """Return the mean over True places; sums are kept in float32 at least."""
    exact = torch.promote_types(tokens.dtype, torch.float32)
    weights = mask.to(exact)[:, :, None]
    return ((tokens * weights).sum(dim=1) / weights.sum(dim=1)).to(tokens.dtype)


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


@POOLINGS.register("mean", summary="Mean over tokens, instruction left out.")
class MaskedMeanPooling(TokenPooling):
    """The mean over pooled tokens: sentence-transformers' mean, for a mask of any shape.

    Example:
        >>> pooling = MaskedMeanPooling(1)
        >>> features = {"token_embeddings": torch.tensor([[[1.0], [2.0], [6.0]]]),
        ...             "attention_mask": torch.tensor([[1, 1, 1]]),
        ...             "pooling_mask": torch.tensor([[0, 1, 1]])}
        >>> pooling(features)["sentence_embedding"].tolist()
        [[4.0]]
    """

    def pool(self, tokens: Tensor, pooled: Tensor, real: Tensor) -> Tensor:
        """Return (B, D)."""
        return _mean(tokens, pooled)


@POOLINGS.register("weighted-mean", summary="Mean with weights 1, 2, 3, ... over the tokens.")
class WeightedMeanPooling(TokenPooling):
    """The mean over pooled tokens, the n-th with weight n: in a causal model the last know most.

    Args:
        embedding_dimension: D.

    Paper: Muennighoff 2022, arXiv 2202.08904, section 3.1.
    """

    def pool(self, tokens: Tensor, pooled: Tensor, real: Tensor) -> Tensor:
        """Return (B, D)."""
        exact = torch.promote_types(tokens.dtype, torch.float32)
        weights = (pooled.cumsum(dim=1) * pooled).to(exact)[:, :, None]
        return ((tokens * weights).sum(dim=1) / weights.sum(dim=1)).to(tokens.dtype)


@POOLINGS.register("last-token", summary="State of the last token, checked to be EOS if given.")
class LastTokenPooling(TokenPooling):
    """The state of the last real token, as decoders are pooled; padding may be on either side.

    Args:
        embedding_dimension: D.
        eos_token_id: What the last token must be; None does not check. Decoders are often trained
            to gather the text in an end token which their tokenizer does not append by itself.

    Raises:
        InputError: When a text does not end with that token; names the row.
    """

    config_keys: ClassVar[list[str]] = ["embedding_dimension", "eos_token_id"]

    def __init__(self, embedding_dimension: int, eos_token_id: int | None = None) -> None:
        super().__init__(embedding_dimension)
        self.eos_token_id = eos_token_id

    def forward(self, features: dict[str, Any], **options: Any) -> dict[str, Any]:
        """Pool, after the check."""
        ids, mask = features.get("input_ids"), features.get("attention_mask")
        if self.eos_token_id is not None and ids is not None and mask is not None:
            last = ids.gather(1, _last_place(mask.bool())[:, None])[:, 0]
            wrong = (last != self.eos_token_id).nonzero()
            if len(wrong):
                raise InputError(
                    f"{len(wrong)} of {len(ids)} texts do not end with the token "
                    f"{self.eos_token_id}, the first is row {int(wrong[0])} with "
                    f"{int(last[wrong[0]])}: let the tokenizer append it (a post-processor, or "
                    "add_eos_token=True)."
                )
        return super().forward(features, **options)

    def pool(self, tokens: Tensor, pooled: Tensor, real: Tensor) -> Tensor:
        """Return (B, D)."""
        place = _last_place(pooled)
        return tokens.gather(1, place[:, None, None].expand(-1, 1, tokens.shape[2]))[:, 0]


def _last_place(mask: Tensor) -> Tensor:
    """Return the last True place of each row, int64 (B,)."""
    places = torch.arange(mask.shape[1], device=mask.device)
    return torch.where(mask, places, -1).amax(dim=1).clamp(min=0)


@POOLINGS.register("power-mean", summary="Power means side by side: minimum, mean, maximum, ...")
class PowerMeanPooling(TokenPooling):
    """Power means over tokens, concatenated: ``(mean of x^p)^(1/p)`` per coordinate.

    Args:
        embedding_dimension: D; vectors have D times as many dimensions as there are powers.
        powers: Odd whole numbers, ``"max"`` or ``"min"``. 1 is the mean; roots of odd powers keep
            the sign.

    Paper: Rueckle et al. 2018, arXiv 1803.01400. They concatenate several word vectors too.

    Example:
        >>> pooling = PowerMeanPooling(1, powers=["min", 1, 3, "max"])
        >>> features = {"token_embeddings": torch.tensor([[[1.0], [-2.0], [4.0]]])}
        >>> [round(x, 3) for x in pooling(features)["sentence_embedding"][0].tolist()]
        [-2.0, 1.0, 2.668, 4.0]
    """

    config_keys: ClassVar[list[str]] = ["embedding_dimension", "powers"]

    def __init__(
        self, embedding_dimension: int, powers: Sequence[int | str] = ("min", 1, "max")
    ) -> None:
        super().__init__(embedding_dimension)
        self.powers = list(powers)
        bad = [p for p in self.powers if p not in ("min", "max") and not _is_odd(p)]
        if bad or not self.powers or len(set(self.powers)) < len(self.powers):
            raise InputError(
                f"powers must be different odd whole numbers, 'min' or 'max', got {self.powers}."
            )

    def pool(self, tokens: Tensor, pooled: Tensor, real: Tensor) -> Tensor:
        """Return (B, D P) for P powers."""
        return torch.cat([self._of(tokens, pooled, power) for power in self.powers], dim=-1)

    def _of(self, tokens: Tensor, pooled: Tensor, power: int | str) -> Tensor:
        if power == "max":
            return tokens.masked_fill(~pooled[:, :, None], float("-inf")).amax(dim=1)
        if power == "min":
            return tokens.masked_fill(~pooled[:, :, None], float("inf")).amin(dim=1)
        if power == 1:
            return _mean(tokens, pooled)
        # Scaled by the largest entry: high powers of large states would overflow.
        top = tokens.masked_fill(~pooled[:, :, None], 0).abs().amax(dim=1).clamp(min=1e-6)
        mean = _mean((tokens / top[:, None]) ** int(power), pooled)
        # The slope of a root is infinite at 0.
        root = mean.sign() * mean.abs().clamp(min=1e-12) ** (1 / int(power))
        return root * top

    def get_embedding_dimension(self) -> int:
        """Return the dimension of the vectors."""
        return self.embedding_dimension * len(self.powers)


def _is_odd(power: object) -> bool:
    return isinstance(power, int) and not isinstance(power, bool) and power % 2 == 1 and power > 0


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
        return _mean(out + self.feed_forward(out), pooled)


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
        return _mean(tokens + self.feed_forward(tokens), pooled)


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
