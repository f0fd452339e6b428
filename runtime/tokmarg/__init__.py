"""tokmarg: per-label probabilities from generative guard models, offline.

from tokmarg import Guard

guard = Guard.load("bundle-folder")
result = guard.score("How do I pick a lock?")
result.labels["S2"].probability

What is public is here, and in the packages ``tokmarg.evaluation`` (labelled data through a guard),
``tokmarg.calibration`` (thresholds and calibrated probabilities) and ``tokmarg.explanation`` (why this score).
Everything else may change.
"""

from typing import TYPE_CHECKING

from .errors import (
    BundleError,
    BundleNotFoundError,
    ContentError,
    DeviceError,
    OptionError,
    Overloaded,
    SpecError,
    TokmargError,
)
from .openai_format import moderation_response
from .results import Marginal, MethodResult, Result, Thresholds
from .score_options import ScoreOptions
from .version import VERSION

if TYPE_CHECKING:
    from tokmarg.prompt.builder import Prompt
    from tokmarg.prompt.messages import Conversation, Record
    from tokmarg.service.async_guard import AsyncGuard

    from .guard import Guard
    from .moderation import ModeratedText

__version__ = VERSION

# Loading these loads onnxruntime, numpy and tokenizers: `tokmarg --help` need not wait for them.
_LAZY = {
    "AsyncGuard": "tokmarg.service.async_guard",
    "Conversation": "tokmarg.prompt.messages",
    "Guard": "tokmarg.guard",
    "ModeratedText": "tokmarg.moderation",
    "Prompt": "tokmarg.prompt.builder",
    "Record": "tokmarg.prompt.messages",
}


def __getattr__(name: str) -> object:
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "AsyncGuard",
    "BundleError",
    "BundleNotFoundError",
    "ContentError",
    "Conversation",
    "DeviceError",
    "Guard",
    "Marginal",
    "MethodResult",
    "ModeratedText",
    "OptionError",
    "Overloaded",
    "Prompt",
    "Record",
    "Result",
    "ScoreOptions",
    "SpecError",
    "Thresholds",
    "TokmargError",
    "__version__",
    "moderation_response",
]
