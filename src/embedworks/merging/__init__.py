"""Merging models: per-tensor methods as pure functions, and coefficients searched on rows.

Registries of both by name, and `merge`, one call for all. Knows nothing about training.
"""

from embedworks._core.lazy import attach as _attach

__getattr__, __dir__, __all__ = _attach(
    __name__,
    {
        "CoefficientSearch": "search",
        "FORMS": "positions",
        "GridSearch": "searched",
        "MERGE_METHODS": "methods",
        "MergeInput": "streaming",
        "MergeMethod": "methods",
        "MergeReport": "streaming",
        "PARTITIONS": "layers",
        "Probe": "probe",
        "SEARCH_METHODS": "searched",
        "SearchMethod": "searched",
        "SearchOutcome": "search",
        "SearchReport": "searched",
        "TaskVectors": "task_vectors",
        "breadcrumbs": "sparse",
        "chain_coefficients": "positions",
        "combined": "search",
        "dare": "sparse",
        "della": "sparse",
        "functional": "functional",
        "karcher": "functional",
        "linear": "functional",
        "make_position": "positions",
        "merge": "_merge",
        "merge_files": "streaming",
        "merge_models": "models",
        "merge_searched": "searched",
        "model_stock": "functional",
        "multi_slerp": "functional",
        "nuslerp": "functional",
        "part_of": "layers",
        "ram": "sparse",
        "sce": "sparse",
        "search_coefficients": "search",
        "simplex_grid": "search",
        "slerp": "functional",
        "sparse": "sparse",
        "task_arithmetic": "functional",
        "ties": "sparse",
        "weights_of": "layers",
    },
)
