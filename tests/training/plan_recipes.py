"""A small plan that uses most of what stages can do, for the tests of plans."""

from __future__ import annotations

from typing import Any


def two_stages(base: str) -> dict[str, Any]:
    """Two short stages over the folder ``docs``: mining, mixing, a queue, three losses, a merge."""
    return {
        "kind": "plan",
        "name": "tiny",
        "holdout": 0.3,
        "model": {
            "base": base,
            "max_tokens": 32,
            "prompts": {"classes": {"instruction": "find the module"}},
        },
        "stages": [
            {
                "name": "first",
                "data": [{"name": "pairs", "documents": "docs", "limit": 120}],
                "objective": {
                    "candidates": ["documents", "own_negatives", "queue"],
                    "temperature": {"value": 0.1, "learned": True},
                },
                "negatives": {
                    "mine": {"count": 2, "on_empty": "random", "rules": []},
                    "queue": 24,
                    "mixer": {},
                },
                "batches": {"batch_size": 8, "no_duplicates": True},
                "steps": 6,
                "save_every": 2,
                "learning_rate": 1e-3,
            },
            {
                "name": "second",
                "data": [
                    {"name": "pairs", "documents": "docs", "limit": 60},
                    {
                        "name": "classes",
                        "documents": "docs",
                        "form": "classes",
                        "limit": 60,
                        "options": {"num_negatives": 2},
                    },
                    {"name": "graded", "documents": "docs", "form": "graded", "limit": 60},
                ],
                "objective": "rzen",
                "losses": {
                    "order": {"sources": ["graded"], "cosent": 0.05, "batch_size": 16},
                    "class": {"sources": ["classes"], "objective": "qzhou/class"},
                },
                "batches": {"batch_size": 8, "strategy": "one_source"},
                "steps": 6,
                "save_every": 2,
                "learning_rate": 1e-3,
                "merge": {"weights": [0.25, 0.75]},
            },
        ],
        "evaluation": {"documents": "docs", "max_queries": 20, "max_corpus": 60},
    }
