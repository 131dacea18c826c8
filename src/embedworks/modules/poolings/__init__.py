"""Ways from token states to one vector, as sentence-transformers modules.

Each reads ``token_embeddings`` and a mask, and writes ``sentence_embedding``. The mask is
``pooling_mask`` where the features have one (see `InstructedTransformer`), else
``attention_mask``; padding never counts, on either side. Mean, maximum and first token are
sentence-transformers' own ``Pooling``.
"""

from embedworks.modules.poolings.base import POOLINGS, TokenPooling
from embedworks.modules.poolings.fixed import (
    LastTokenPooling,
    MaskedMeanPooling,
    PowerMeanPooling,
    WeightedMeanPooling,
)
from embedworks.modules.poolings.learned import (
    LatentAttentionPooling,
    LearnedQueryPooling,
    MLPPooling,
    SelfAttentionPooling,
)

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
