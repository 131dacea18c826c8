"""What vectors of a dimension can and cannot express, in theory, at best and by a model.

Bounds and constructions, vectors optimised without any text, LIMIT-like collections, and the
same questions asked of a model.
"""

from embedworks._core.lazy import attach as _attach

__getattr__, __dir__, __all__ = _attach(
    __name__,
    {
        "CRITICAL_N": "capacity",
        "LIMIT_PATTERNS": "limit_data",
        "CriticalN": "free_embeddings",
        "DimensionLimits": "measurement",
        "FreeEmbeddings": "free_embeddings",
        "LimitPattern": "limit_data",
        "LimitsReport": "measurement",
        "QrelLimits": "measurement",
        "SubsetCheck": "capacity",
        "all_subsets": "capacity",
        "average_query_strength": "limit_data",
        "critical_n": "free_embeddings",
        "critical_n_fit": "capacity",
        "cyclic_polytope_embeddings": "capacity",
        "cyclic_polytope_queries": "capacity",
        "limit_attributes": "limit_data",
        "load_limit": "limit_data",
        "load_limit_qrels": "limit_data",
        "make_limit": "limit_data",
        "make_limit_patterns": "limit_data",
        "margin_ceiling": "capacity",
        "max_subsets": "capacity",
        "measure_limits": "measurement",
        "min_dimension": "capacity",
        "optimize_free_embeddings": "free_embeddings",
        "qrel_graph_density": "limit_data",
        "qrel_limits": "measurement",
        "random_subsets": "capacity",
        "verify_subsets": "capacity",
    },
)
