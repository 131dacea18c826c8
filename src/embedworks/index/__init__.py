"""Vectors, attributes, filters and the durable collection.

Knows nothing about how vectors were made: everything here takes arrays and texts.
"""

from embedworks._core.lazy import attach as _attach

__getattr__, __dir__, __all__ = _attach(
    __name__,
    {
        "Analyzer": "analysis",
        "AttributeTable": "attributes",
        "BM25Index": "bm25",
        "BatchResult": "results",
        "Cardinality": "attributes",
        "Collection": "collection",
        "Condition": "where",
        "ExactIndex": "exact",
        "Explanation": "results",
        "FilteredIndex": "filtered.planned",
        "Hit": "results",
        "HybridSettings": "modes",
        "Neighbors": "protocol",
        "Passage": "highlight",
        "SEARCH_MODES": "modes",
        "SIMILARITIES": "exact",
        "STOP_WORDS": "analysis",
        "SearchMode": "modes",
        "VectorIndex": "protocol",
        "best_passage": "highlight",
        "convex_combination": "fusion",
        "evaluate": "filtering",
        "expand_terms": "feedback",
        "parse_where": "where",
        "rank_weights": "feedback",
        "reciprocal_rank_fusion": "fusion",
        "rocchio": "feedback",
        "standardize": "fusion",
        "topk": "exact",
    },
)
