"""tokmarg: per-label probabilities from generative guard models, offline.

from tokmarg import Guard

guard = Guard.load("bundle-folder")
result = guard.score("How do I pick a lock?")
result.labels["S2"].probability
"""

from importlib.metadata import PackageNotFoundError, version

from .errors import BundleError, BundleNotFoundError, ContentError, DeviceError, SpecError, TokmargError
from .guard import Guard, Record
from .prompt import Prompt
from .result import Marginal, Result, Thresholds

try:
    __version__ = version("tokmarg")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"

__all__ = [
    "BundleError",
    "BundleNotFoundError",
    "ContentError",
    "DeviceError",
    "Guard",
    "Marginal",
    "Prompt",
    "Record",
    "Result",
    "SpecError",
    "Thresholds",
    "TokmargError",
    "__version__",
]
