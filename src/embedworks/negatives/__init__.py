"""Negatives: finding documents that look relevant and are not.

Knows nothing about losses.
"""

from embedworks._core.lazy import attach as _attach

__getattr__, __dir__, __all__ = _attach(
    __name__,
    {
        "CachedGuide": "guides",
        "Candidates": "rules",
        "ConsistencyReport": "consistency",
        "Corpus": "corpus",
        "DenseRetriever": "retrievers",
        "EmbeddingQueue": "queue",
        "MinedNegatives": "mining",
        "Miner": "miner",
        "MinerSettings": "settings",
        "MiningReport": "audit",
        "MiningResult": "audit",
        "Mixture": "mixing",
        "NEGATIVE_RULES": "rules",
        "NegativeMixer": "mixing",
        "NegativeRule": "rules",
        "Rescorer": "retrievers",
        "Retriever": "retrievers",
        "RuleKind": "rules",
        "SearchRetriever": "retrievers",
        "absolute_limit": "rules",
        "adaptive_limit": "rules",
        "mine_hard_negatives": "mining",
        "mix_listwise": "mixing",
        "mix_pairwise": "mixing",
        "positive_ranks": "miner",
        "rank_consistency_filter": "consistency",
        "relative_limit": "rules",
    },
)
