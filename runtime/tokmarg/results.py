"""What a score is: probabilities with certified bounds, and the JSON they become."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Literal, get_args

from .arguments import check_number, check_type, number

__all__ = [
    "CALIBRATIONS",
    "LOW_COVERAGE",
    "MAX_DEPTH",
    "METHODS",
    "CalibrationMethod",
    "Marginal",
    "Method",
    "MethodResult",
    "Raw",
    "Result",
    "Thresholds",
    "Work",
    "any_flagged",
]

Method = Literal[
    "exact",
    "token",
    "fixed-place",
    "any-place",
    "greedy",
    "probability-uncertainty",
    "entropy-uncertainty",
    "logtoku",
]
#: All of them; :mod:`tokmarg.scoring.methods` says what each is.
METHODS: tuple[Method, ...] = get_args(Method)
#: What maps raw probabilities to calibrated ones; :mod:`tokmarg.calibration.fitting` says what each is.
CalibrationMethod = Literal["platt", "isotonic", "temperature", "beta"]
CALIBRATIONS: tuple[CalibrationMethod, ...] = get_args(CalibrationMethod)
#: Coverage below this counts as low: the model would rather say something that is no verdict at all.
LOW_COVERAGE = 0.5
#: Tokens that a verdict may have at most: the space that a prompt leaves after it.
MAX_DEPTH = 64


@dataclass(frozen=True, slots=True)
class Marginal:
    """Probability of one event, summed over all verdicts in which it happens.

    ``lower <= probability <= upper``; the bounds certify the truncation of the search (not rounding or
    quantization) and ``probability`` is their middle.
    """

    probability: float
    lower: float
    upper: float
    flagged: bool = False


def any_flagged(unsafe: Marginal, labels: Iterable[Marginal | None]) -> bool:
    """Whether a content counts as flagged: by ``unsafe``, or by a label."""
    return unsafe.flagged or any(marginal.flagged for marginal in labels if marginal is not None)


@dataclass(frozen=True, slots=True)
class Thresholds:
    """When a content counts as flagged: P(unsafe) >= ``unsafe``, or a label >= its own threshold.

    Each is a number from 0 (always) to 1, or ``math.inf`` (never).

    Raises:
        OptionError: a value is no such number, or a label no text; names which.
    """

    unsafe: float = 0.5
    labels: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_type("thresholds.labels", self.labels, Mapping, "a mapping from labels to numbers")
        for label in self.labels:
            check_type("thresholds.labels", label, str, "named by texts")
        labels = {label: _threshold(f"thresholds.labels[{label!r:.60}]", at) for label, at in self.labels.items()}
        # Its own, so that nobody changes them later, and plain types, which are pickled and compared as they look.
        object.__setattr__(self, "labels", labels)
        object.__setattr__(self, "unsafe", _threshold("thresholds.unsafe", self.unsafe))


def _threshold(name: str, value: object) -> float:
    limit = number(value)
    check_number(name, value, 0 <= limit <= 1 or limit == math.inf, "[0, 1] or be math.inf (flags nothing)")
    return limit


@dataclass(frozen=True, slots=True)
class Raw:
    """What the guard itself says, before calibration: see :class:`Result`."""

    unsafe: Marginal
    labels: Mapping[str, Marginal | None]

    def to_dict(self) -> dict[str, object]:
        """``unsafe``, ``labels`` and ``bounds`` as in :meth:`Result.to_dict`."""
        return {
            "unsafe": self.unsafe.probability,
            "labels": {k: None if m is None else m.probability for k, m in self.labels.items()},
            "bounds": {
                "unsafe": [self.unsafe.lower, self.unsafe.upper],
                **{k: None if m is None else [m.lower, m.upper] for k, m in self.labels.items()},
            },
        }


@dataclass(frozen=True, slots=True)
class Work:
    """What the model did for one content.

    Attributes:
        passes: forward passes that carried tokens of it, alone or with other contents'; each window has its own.
        tokens: of it that they carried: those of its prompts after the policy's, without what a cache had of them, and
            those of verdicts.
        nodes: verdict nodes at which the model was evaluated.
    """

    passes: int
    tokens: int
    nodes: int


@dataclass(frozen=True, slots=True)
class Result:
    """The scores of one content.

    Attributes:
        id: passed through from the record.
        flagged: P(unsafe) or some label's probability reached its threshold.
        unsafe: P(verdict is unsafe).
        labels: label id -> marginal, in the policy's order; None where the label does not exist in the role mode.
        coverage: raw full-vocabulary probability mass that the model puts on the verdict grammar; None with the
            ``verdict`` head. Low coverage means: wrong template, wrong model, or an attack.
        converged: every interval is at most ``tolerance`` wide and no threshold lies inside one.
        method: scoring method.
        model: name of the model in the bundle's manifest.
        truncated: the content was scored in overlapping windows, or without its oldest messages.
        calibrated: ``unsafe`` and ``labels`` went through a calibration (:mod:`tokmarg.calibration.calibration`).
        evaluated_nodes: trie nodes at which the model was evaluated.
        events: what else the guard's verdict says, such as ``refusal`` -> marginal; None where the role mode has no
            such event. Empty for most guards. Never calibrated.
        suspicious: what is odd about the content, from :data:`tokmarg.prompt.injection.SUSPICIONS`; it changes no
        number.
        raw: ``unsafe`` and ``labels`` before calibration; None where there is none.
        work: what the content took, with the option ``work``.
    """

    id: object
    flagged: bool
    unsafe: Marginal
    labels: Mapping[str, Marginal | None]
    coverage: float | None
    converged: bool
    method: str
    model: str
    truncated: bool = False
    calibrated: bool = False
    evaluated_nodes: int = 0
    events: Mapping[str, Marginal | None] = field(default_factory=dict)
    suspicious: tuple[str, ...] = ()
    raw: Raw | None = None
    skipped: Mapping[str, int] = field(default_factory=dict)
    index: int | None = None
    role: str | None = None
    work: Work | None = None

    def to_dict(self) -> dict[str, object]:
        """The JSONL row: plain types only, labels in the policy's order; ``events`` only where the guard has any,
        ``suspicious`` and ``skipped`` only where there is something to say, ``raw`` only with a calibration, ``work``
        only with the option, ``index`` and ``role`` only where not the last message was asked for."""
        others = {**self.labels, **self.events}
        events = {k: None if m is None else m.probability for k, m in self.events.items()}
        return {
            "schema_version": 1,
            "id": self.id,
            **({} if self.index is None else {"index": self.index, "role": self.role}),
            "flagged": self.flagged,
            "unsafe": self.unsafe.probability,
            "labels": {k: None if m is None else m.probability for k, m in self.labels.items()},
            **({"events": events} if events else {}),
            "bounds": {
                "unsafe": [self.unsafe.lower, self.unsafe.upper],
                **{k: None if m is None else [m.lower, m.upper] for k, m in others.items()},
            },
            "coverage": self.coverage,
            "converged": self.converged,
            "method": self.method,
            "model": self.model,
            "truncated": self.truncated,
            "calibrated": self.calibrated,
            **({"suspicious": list(self.suspicious)} if self.suspicious else {}),
            **({"skipped": dict(self.skipped)} if self.skipped else {}),
            **({} if self.raw is None else {"raw": self.raw.to_dict()}),
            **({} if self.work is None else {"work": asdict(self.work)}),
        }


@dataclass(frozen=True, slots=True)
class MethodResult:
    """The scores of one content by another method than ``exact``: numbers of that method, with no bounds.

    Attributes:
        id: passed through from the record.
        flagged: the score of ``unsafe`` reached its threshold, or a label's its own. The labels' thresholds do not
            count for the methods with an uncertainty, whose label scores are conditional on ``unsafe``.
        scores: label id -> score, in the policy's order, then ``unsafe``; None where the label does not exist in the
            role mode. ``any-place`` may exceed 1.
        converged: nothing was cut off by ``max_depth`` (generated verdicts) or the budget of paths (``any-place``).
        method: scoring method.
        model: name of the model in the bundle's manifest.
        truncated: the content was scored in overlapping windows, or without its oldest messages.
        verdict: the generated text, of the methods that generate one.
        uncertainty: of the methods that have one; NaN where the formula has no value.
        evaluated_nodes: token paths at which the model was evaluated.
        suspicious, skipped, index, role, work: as in :class:`Result`.
    """

    id: object
    flagged: bool
    scores: Mapping[str, float | None]
    converged: bool
    method: str
    model: str
    truncated: bool = False
    verdict: str | None = None
    uncertainty: float | None = None
    evaluated_nodes: int = 0
    suspicious: tuple[str, ...] = ()
    skipped: Mapping[str, int] = field(default_factory=dict)
    index: int | None = None
    role: str | None = None
    work: Work | None = None

    def to_dict(self) -> dict[str, object]:
        """The JSONL row: the fields of :meth:`Result.to_dict`, null where the method has none, and its own."""
        uncertain = self.uncertainty is not None and not math.isnan(self.uncertainty)
        return {
            "schema_version": 1,
            "id": self.id,
            **({} if self.index is None else {"index": self.index, "role": self.role}),
            "flagged": self.flagged,
            "unsafe": None,
            "labels": None,
            "bounds": None,
            "coverage": None,
            "converged": self.converged,
            "method": self.method,
            "model": self.model,
            "truncated": self.truncated,
            "calibrated": False,
            "scores": dict(self.scores),
            "verdict": self.verdict,
            "uncertainty": self.uncertainty if uncertain else None,
            **({"suspicious": list(self.suspicious)} if self.suspicious else {}),
            **({"skipped": dict(self.skipped)} if self.skipped else {}),
            **({} if self.work is None else {"work": asdict(self.work)}),
        }
