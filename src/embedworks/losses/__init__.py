"""Objectives: the pure maths in `functional`, one composable contrastive objective over it.

Knows nothing of data sources or trainers.
"""

from embedworks._core.lazy import attach as _attach

__getattr__, __dir__, __all__ = _attach(
    __name__,
    {
        "Aligner": "alignment",
        "AllLayers": "views",
        "BatchInfo": "batch_info",
        "CANDIDATES": "settings",
        "ColumnEmbedder": "packing",
        "Columns": "packing",
        "ContrastInputs": "_contrast",
        "ContrastiveLoss": "contrastive",
        "EntropyLoss": "entropy",
        "FixedPairs": "views",
        "GenerationLoss": "generation",
        "GradedLoss": "graded",
        "GuideSettings": "settings",
        "GuideVectors": "contrastive",
        "JointRankingLoss": "joint_ranking",
        "LayerDimLoss": "nested",
        "MaskSettings": "settings",
        "Mixer": "contrastive",
        "NegativeWeightSettings": "settings",
        "OBJECTIVES": "presets",
        "ObjectiveSettings": "settings",
        "PCACompress": "alignment",
        "Queue": "contrastive",
        "RandomLayerDim": "views",
        "SampleWeightSettings": "settings",
        "Schedule": "schedules",
        "ScoreKL": "alignment",
        "SigmoidLoss": "sigmoid",
        "SourceLosses": "by_source",
        "TargetSettings": "settings",
        "TeacherSettings": "settings",
        "TemperatureSettings": "settings",
        "TokenTargetLoss": "token_target",
        "VectorKL": "alignment",
        "View": "views",
        "ViewSampler": "views",
        "alignment": "alignment",
        "contrast": "_contrast",
        "functional": "functional",
        "next_token_loss": "generation",
        "objective": "presets",
        "starbucks_pairs": "views",
    },
)
