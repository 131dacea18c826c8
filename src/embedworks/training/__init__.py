"""Training: settings, recipes, run folders, trainers, and `adapt`, which ties them together.

Knows nothing about HTTP or the command line.
"""

from embedworks._core.lazy import attach as _attach

__getattr__, __dir__, __all__ = _attach(
    __name__,
    {
        "AdaptResult": "_adapt",
        "AdaptSettings": "settings",
        "ChunkingSettings": "settings",
        "EvaluationSettings": "settings",
        "MergeSettings": "settings",
        "NegativeSettings": "settings",
        "PairSettings": "settings",
        "Plan": "budget",
        "RECIPES": "recipes",
        "ReadingSettings": "settings",
        "RunFolder": "run_folder",
        "RunSearcher": "_search",
        "SYSTEM_LABELS": "_search",
        "SearchSettings": "settings",
        "SplitSettings": "settings",
        "StaticSettings": "settings",
        "TransformerSettings": "settings",
        "adapt": "_adapt",
        "evaluate_run_folder": "_search",
        "index_documents": "_adapt",
        "load_recipe": "recipes",
        "open_run": "_search",
        "rank_judged_queries": "_search",
        "parse_duration": "budget",
        "search": "_search",
        "train_transformer": "transformer",
    },
)
