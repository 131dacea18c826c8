"""Objectives: the pure maths in `functional`, one composable contrastive objective over it.

Knows nothing of data sources or trainers.
"""

from embedworks._core.lazy import attach as _attach

__getattr__, __dir__, __all__ = _attach(
    __name__,
    {
        "BatchInfo": "batch_info",
        "CANDIDATES": "settings",
        "ColumnEmbedder": "packing",
        "Columns": "packing",
        "ContrastInputs": "_contrast",
        "ContrastiveLoss": "contrastive",
        "GuideSettings": "settings",
        "GuideVectors": "contrastive",
        "MaskSettings": "settings",
        "Mixer": "contrastive",
        "NegativeWeightSettings": "settings",
        "OBJECTIVES": "presets",
        "ObjectiveSettings": "settings",
        "Queue": "contrastive",
        "SampleWeightSettings": "settings",
        "Schedule": "schedules",
        "SourceLosses": "by_source",
        "TargetSettings": "settings",
        "TeacherSettings": "settings",
        "TemperatureSettings": "settings",
        "contrast": "_contrast",
        "functional": "functional",
        "objective": "presets",
        "LayerDimLoss": "nested",
        "starbucks_pairs": "views",
        "RandomLayerDim": "views",
        "FixedPairs": "views",
        "AllLayers": "views",
        "ViewSampler": "views",
        "View": "views",
        "alignment": "alignment",
        "VectorKL": "alignment",
        "ScoreKL": "alignment",
        "PCACompress": "alignment",
        "Aligner": "alignment",
    },
)
