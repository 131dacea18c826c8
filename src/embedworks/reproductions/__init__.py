"""Claims of papers, tested here: arms, seeds, an effect with its interval, and a verdict.

A reproduction is one comparison that decides a claim, the controls that must hold beside it, and
what would falsify it, all written down before it runs. `reproduce` runs it and can be killed and
resumed; the result is one JSON file, from which its page is made. The room uses only what the
rest of the library makes public, as an outsider would. One file per paper in ``papers``.
"""

from embedworks._core.lazy import attach as _attach

__getattr__, __dir__, __all__ = _attach(
    __name__,
    {
        "AdapterStudent": "students",
        "Annotate": "loop",
        "Arm": "framework",
        "ArmSummary": "results",
        "Blend": "blends",
        "ClassWorld": "worlds",
        "Comparison": "comparisons",
        "ComparisonResult": "results",
        "Context": "framework",
        "FrozenVectors": "students",
        "GradedWorld": "worlds",
        "Outcome": "framework",
        "REPRODUCTIONS": "registry",
        "Reproduction": "framework",
        "ReproductionResult": "results",
        "RetrievalWorld": "worlds",
        "StaticStudent": "students",
        "Student": "students",
        "TrainingLog": "loop",
        "TransformerStudent": "students",
        "Tuning": "framework",
        "acl_retrieval": "real_data",
        "batch_fields": "loop",
        "class_rows": "blends",
        "classification_outcome": "scores",
        "cosqa_task": "real_data",
        "data_file": "real_data",
        "estimate": "comparisons",
        "frozen_fields": "loop",
        "graded_outcome": "scores",
        "graded_spans": "tasks",
        "knn_hits": "scores",
        "module_classes": "tasks",
        "near_copy": "rewrites",
        "pair_retrieval": "blends",
        "paraphrase": "rewrites",
        "planned_batches": "blends",
        "raises_task": "tasks",
        "real_blend": "blends",
        "render_index": "pages",
        "render_page": "pages",
        "render_plot": "plots",
        "reproduce": "runner",
        "retrieval_outcome": "scores",
        "row_batches": "loop",
        "stdlib_retrieval": "worlds",
        "stsb_graded": "real_data",
        "text_classes": "real_data",
        "train_student": "loop",
        "two_classes": "blends",
        "v_measure": "scores",
        "with_mismatches": "worlds",
        "write_pages": "pages",
    },
)
