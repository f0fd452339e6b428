"""tokmarg: per-label probabilities from generative guard models, offline.

from tokmarg import Guard

guard = Guard.load("bundle-folder")
result = guard.score("How do I pick a lock?")
result.labels["S2"].probability
"""

from typing import TYPE_CHECKING

from .errors import BundleError, BundleNotFoundError, ContentError, DeviceError, SpecError, TokmargError
from .results import Marginal, MethodResult, Result, Thresholds

if TYPE_CHECKING:
    from tokmarg.prompt.builder import Prompt

    from .guard import Guard, Record

    __version__: str


def __getattr__(name: str) -> object:
    # Loading the guard loads onnxruntime, numpy and tokenizers: `tokmarg --help` need not wait for them.
    if name in ("Guard", "Record", "Prompt"):
        from tokmarg import guard

        return getattr(guard, name)
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("tokmarg")
        except PackageNotFoundError:  # a source tree that was never installed
            return "0+unknown"
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "BundleError",
    "BundleNotFoundError",
    "ContentError",
    "DeviceError",
    "Guard",
    "Marginal",
    "MethodResult",
    "Prompt",
    "Record",
    "Result",
    "SpecError",
    "Thresholds",
    "TokmargError",
    "__version__",
]
