"""`LexiconPooling`: one dimension per group of tokens, as lexical vectors of a dense size."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from embedworks.errors import InputError, ShapeError
from embedworks.modules.poolings import TokenPooling

__all__ = ["LexiconPooling"]

_TOKENS_AT_A_TIME = 4096


class LexiconPooling(TokenPooling):
    """Score every token of the vocabulary at every place; keep the largest of each group.

    Dimension g is ``max over places t and tokens v of group g of ln(1 + relu(w_v . h_t + b_v))``.
    `embedworks.models.lexicon_model` makes one from a model's own output layer and k-means.

    Args:
        embedding_dimension: Width of the states, D.
        groups: Number of groups, the dimension of the vectors.
        vocabulary: Number of tokens, V.

    Attributes:
        head: Parameter (V, D).
        bias: Parameter (V,).
        group_of: int64 (V,), the group of each token; -1 leaves it out.

    Paper: Lei et al. 2025, LENS, arXiv 2501.09749. There the centres of the groups take the place
    of the output layer; here all tokens are scored and the largest of a group counts, so that
    groups of one token each are the lexical vectors themselves.

    Example:
        >>> pooling = LexiconPooling(2, groups=2, vocabulary=3)
        >>> pooling.set_groups(torch.tensor([[1., 0.], [2., 0.], [0., 1.]]), [0, 0, 1])
        >>> states = torch.tensor([[[1., 0.], [0., 3.]]])
        >>> pooling({"token_embeddings": states})["sentence_embedding"].tolist()
        [[1.0986..., 1.3862...]]
    """

    config_keys: ClassVar[list[str]] = ["embedding_dimension", "groups", "vocabulary"]
    group_of: Tensor

    def __init__(self, embedding_dimension: int, groups: int, vocabulary: int) -> None:
        super().__init__(embedding_dimension)
        if not 1 <= groups <= vocabulary:
            raise InputError(f"groups must be 1 to the {vocabulary} tokens, got {groups}.")
        self.groups = groups
        self.vocabulary = vocabulary
        self.head = nn.Parameter(torch.zeros(vocabulary, embedding_dimension))
        self.bias = nn.Parameter(torch.zeros(vocabulary))
        self.register_buffer("group_of", torch.full((vocabulary,), -1))

    def set_groups(self, head: Tensor, group_of: object, bias: Tensor | None = None) -> None:
        """Take the output layer (V, D), its bias (V,), and the group of each token (V,).

        Raises:
            ShapeError: When sizes do not fit.
            InputError: When a group is not one of them, or is empty.
        """
        found = torch.as_tensor(group_of, dtype=torch.int64)
        if head.shape != self.head.shape or found.shape != self.group_of.shape:
            raise ShapeError(
                f"expected a head {tuple(self.head.shape)} and {self.vocabulary} groups, got "
                f"{tuple(head.shape)} and {tuple(found.shape)}."
            )
        kept = found[found >= 0]
        if len(set(kept.tolist())) != self.groups or int(found.max()) >= self.groups:
            raise InputError(f"every group of 0 to {self.groups - 1} needs a token, and no other.")
        with torch.no_grad():
            self.head.copy_(head)
            self.bias.zero_() if bias is None else self.bias.copy_(bias)
        self.group_of.copy_(found)

    def pool(self, tokens: Tensor, pooled: Tensor, real: Tensor) -> Tensor:
        """Return float tensor (B, groups)."""
        found = tokens.new_zeros(len(tokens), self.groups)
        for start in range(0, self.vocabulary, _TOKENS_AT_A_TIME):
            part = slice(start, start + _TOKENS_AT_A_TIME)
            places = self.group_of[part]
            kept = places >= 0
            scores = tokens @ self.head[part][kept].T + self.bias[part][kept]
            scores = scores.masked_fill(~pooled[..., None], 0.0).amax(dim=1)
            weights = torch.log1p(torch.relu(scores))
            index = places[kept].expand(len(tokens), -1)
            found = found.scatter_reduce(1, index, weights, "amax")
        return found

    def get_embedding_dimension(self) -> int:
        """Return the number of groups."""
        return self.groups
