"""The guards that a server has, by the names that clients know them by."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from tokmarg.calibration import read_thresholds
from tokmarg.calibration.calibration import default_thresholds
from tokmarg.calibration.prior_shift import with_prior
from tokmarg.errors import TokmargError
from tokmarg.guard import Guard
from tokmarg.openai_format import OpenAITable
from tokmarg.results import Thresholds
from tokmarg.score_options import ScoreOptions

from .async_guard import AsyncGuard
from .problems import RequestError

__all__ = ["DEFAULT_ALIASES", "GuardFiles", "GuardHost", "HostedGuard"]

#: Names that OpenAI's clients send: the first guard answers to them.
DEFAULT_ALIASES = (
    "omni-moderation-latest",
    "omni-moderation-2024-09-26",
    "text-moderation-latest",
    "text-moderation-stable",
)


@dataclass(frozen=True, slots=True)
class GuardFiles:
    """What of a guard is read again while the server runs.

    Attributes:
        calibration: a file; None for the bundle's own, False for none.
        thresholds: a file, or None for those of the calibration or the spec.
        threshold: of ``unsafe``, in place of a file.
    """

    calibration: str | Literal[False] | None = None
    thresholds: Path | None = None
    threshold: float | None = None

    def read(self, guard: Guard) -> tuple[Guard, Thresholds | None]:
        """The guard with its calibration read anew, and the thresholds.

        Raises:
            TokmargError: a file cannot be read, or does not fit the guard.
        """
        renewed = guard.recalibrated(self.calibration)
        if self.thresholds is not None:
            return renewed, read_thresholds(self.thresholds, guard.labels)
        return renewed, None if self.threshold is None else Thresholds(self.threshold)


@dataclass(slots=True)
class HostedGuard:
    """One guard of a server.

    Attributes:
        name: that clients ask for.
        guard: scores.
        options: of every content, where a request does not say otherwise.
        table: for OpenAI's categories; None for label ids.
        files: what is read again.
    """

    name: str
    guard: AsyncGuard
    options: ScoreOptions
    table: OpenAITable | None
    files: GuardFiles = field(default_factory=GuardFiles)

    @property
    def thresholds(self) -> Thresholds:
        """When a content counts as flagged, on the probabilities that results show."""
        if self.options.thresholds is not None:
            return self.options.thresholds
        guard = self.guard.guard
        return default_thresholds(with_prior(guard.calibration, self.options.prior), guard.spec)


class GuardHost:
    """All guards of a server.

    Args:
        guards: at least one, with names that differ; the first is asked where a request names none.
        aliases: other name -> name of a guard. Responses name the model id, by which a guard is known, too.

    Raises:
        TokmargError: two guards have one name, or an alias leads nowhere.
    """

    def __init__(self, guards: Sequence[HostedGuard], aliases: Mapping[str, str] | None = None) -> None:
        self._guards = {hosted.name: hosted for hosted in guards}
        if len(self._guards) < len(guards):
            names = [hosted.name for hosted in guards]
            twice = next(name for name in names if names.count(name) > 1)
            raise TokmargError(f"two bundles are called {twice!r}: give one another name, --bundle NAME=FOLDER")
        model_ids = {hosted.guard.guard.manifest.model_id: hosted.name for hosted in reversed(guards)}
        self._aliases = model_ids | dict.fromkeys(DEFAULT_ALIASES, guards[0].name) | dict(aliases or {})
        for alias, name in self._aliases.items():
            if name not in self._guards:
                raise TokmargError(
                    f"alias {alias!r} means {name!r}, which is no bundle here (bundles: {self._known()})"
                )

    def __iter__(self) -> Iterator[HostedGuard]:
        return iter(self._guards.values())

    def _known(self) -> str:
        return ", ".join(self._guards)

    def of(self, model: object) -> HostedGuard:
        """The guard that a request names; the first one where it names none.

        Raises:
            RequestError: 404, there is none of this name; 400, it is no name.
        """
        if model is None:
            return next(iter(self))
        if not isinstance(model, str):
            raise RequestError(400, f"model must be a string, not {model!r:.60}", param="model")
        name = model if model in self._guards else self._aliases.get(model, model)
        if name not in self._guards:
            message = f"there is no model {model!r:.100} (models: {self._known()})"
            raise RequestError(404, message, code="model_not_found", param="model")
        return self._guards[name]

    def reload(self) -> None:
        """Reads calibrations and thresholds again: all of them, or where one fails none.

        Raises:
            TokmargError: a file cannot be read, or does not fit its guard.
        """
        renewed = [(hosted, *hosted.files.read(hosted.guard.guard)) for hosted in self]
        for hosted, guard, _ in renewed:
            with_prior(guard.calibration, hosted.options.prior)  # refuses a calibration that no prior can shift
        for hosted, guard, thresholds in renewed:
            hosted.guard.replace(guard)
            hosted.options = replace(hosted.options, thresholds=thresholds)
