"""Vectors, attributes, filters and the durable collection.

Knows nothing about how vectors were made: everything here takes arrays and texts.
"""

from embedworks._core.lazy import attach as _attach

__getattr__, __dir__, __all__ = _attach(
    __name__,
    {
        "Analyzer": "analysis",
        "BM25Index": "bm25",
        "BatchResult": "results",
        "Collection": "collection",
        "Condition": "where",
        "ExactIndex": "exact",
        "Explanation": "results",
        "Hit": "results",
        "FixedDimensionEncoder": "multivector.muvera",
        "HybridSettings": "modes",
        "MaxSimIndex": "multivector.maxsim",
        "MuveraIndex": "multivector.muvera",
        "Passage": "highlight",
        "PlaidIndex": "multivector.plaid",
        "ProductQuantizer": "quantized.product",
        "QuantizedIndex": "quantized.index",
        "SEARCH_MODES": "modes",
        "SIMILARITIES": "exact",
        "STOP_WORDS": "analysis",
        "SearchMode": "modes",
        "StorageRow": "multivector.storage",
        "TokenMatrix": "multivector.tokens",
        "best_passage": "highlight",
        "convex_combination": "fusion",
        "evaluate": "filtering",
        "expand_terms": "feedback",
        "maxsim": "multivector.maxsim",
        "parse_where": "where",
        "pool_documents": "multivector.pooling",
        "pool_tokens": "multivector.pooling",
        "rank_weights": "feedback",
        "reciprocal_rank_fusion": "fusion",
        "rocchio": "feedback",
        "standardize": "fusion",
        "storage_bytes": "multivector.storage",
        "storage_report": "multivector.storage",
        "topk": "exact",
    },
)
