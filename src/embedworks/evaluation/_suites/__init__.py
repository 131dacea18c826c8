"""The suites that come with the package, a module each; importing this registers them."""

from embedworks.evaluation._suites import core
from embedworks.evaluation.suites import SUITES

__all__ = ["SUITES", "core"]
