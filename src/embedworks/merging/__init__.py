"""Merging models: per-tensor methods as pure functions, and a registry of them by name.

Knows nothing about training.
"""

from embedworks._core.lazy import attach as _attach

__getattr__, __dir__, __all__ = _attach(
    __name__,
    {
        "MERGE_METHODS": "methods",
        "MergeInput": "streaming",
        "MergeMethod": "methods",
        "MergeReport": "streaming",
        "breadcrumbs": "sparse",
        "dare": "sparse",
        "della": "sparse",
        "functional": "functional",
        "karcher": "functional",
        "linear": "functional",
        "merge": "models",
        "merge_files": "streaming",
        "merge_models": "models",
        "model_stock": "functional",
        "multi_slerp": "functional",
        "nuslerp": "functional",
        "ram": "sparse",
        "sce": "sparse",
        "slerp": "functional",
        "sparse": "sparse",
        "task_arithmetic": "functional",
        "ties": "sparse",
    },
)
