"""The suites that come with the package, a module each; importing this registers them."""

from embedworks.evaluation._suites import (
    bias,
    code,
    core,
    limits,
    long,
    multilingual,
    privacy,
    reasoning,
    robustness,
    words,
)
from embedworks.evaluation.suites import SUITES

__all__ = [
    "SUITES",
    "bias",
    "code",
    "core",
    "limits",
    "long",
    "multilingual",
    "privacy",
    "reasoning",
    "robustness",
    "words",
]
