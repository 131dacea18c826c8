"""Objectives: the pure maths in `functional`, one composable contrastive objective over it.

Knows nothing of data sources or trainers.
"""

from embedworks._core.lazy import attach as _attach

__getattr__, __dir__, __all__ = _attach(
    __name__,
    {
        "BatchInfo": "batch_info",
        "CANDIDATES": "settings",
        "ContrastInputs": "objective",
        "GuideSettings": "settings",
        "MaskSettings": "settings",
        "NegativeWeightSettings": "settings",
        "ObjectiveSettings": "settings",
        "SampleWeightSettings": "settings",
        "Schedule": "schedules",
        "TargetSettings": "settings",
        "TeacherSettings": "settings",
        "TemperatureSettings": "settings",
        "contrast": "objective",
        "functional": "functional",
    },
)
