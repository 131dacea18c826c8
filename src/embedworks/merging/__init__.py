"""Merging models: per-tensor methods as pure functions, and a registry of them by name.

Knows nothing about training.
"""

from embedworks._core.lazy import attach as _attach

__getattr__, __dir__, __all__ = _attach(
    __name__,
    {
        "DATA_MERGE_METHODS": "with_data",
        "DataMerge": "_data_merge",
        "DataMergeMethod": "_data_merge",
        "GreedySoup": "soups",
        "MERGE_METHODS": "methods",
        "MergeInput": "streaming",
        "MergeMethod": "methods",
        "MergeReport": "streaming",
        "breadcrumbs": "sparse",
        "cocktail_weights": "soups",
        "combine_adapters": "adapters",
        "collect_fisher": "collecting",
        "collect_grams": "collecting",
        "dare": "sparse",
        "della": "sparse",
        "fisher": "measured",
        "functional": "functional",
        "greedy_soup": "soups",
        "karcher": "functional",
        "linear": "functional",
        "merge": "models",
        "merge_adapters": "adapters",
        "merge_files": "streaming",
        "merge_models": "models",
        "merge_with_data": "with_data",
        "model_stock": "functional",
        "multi_slerp": "functional",
        "nuslerp": "functional",
        "pair_score": "soups",
        "ram": "sparse",
        "regmean": "measured",
        "sce": "sparse",
        "slerp": "functional",
        "sparse": "sparse",
        "task_arithmetic": "functional",
        "ties": "sparse",
    },
)
