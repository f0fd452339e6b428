"""The Arrow type of results: it follows from the guard's labels, not from the rows.

    flagged     bool
    unsafe      double
    labels      struct<S1: double, ...>                                   in the policy's order
    events      struct<refusal: double, ...>                              of guards that have any
    bounds      struct<unsafe: struct<lower: double, upper: double>, S1: ...>
    raw         struct<unsafe, labels, bounds>                            of calibrated guards
    scores      struct<S1: double, ..., unsafe: double>                   of other methods than exact,
    verdict     string                                                    and so are these
    uncertainty double
    coverage    double
    converged   bool
    truncated   bool
    suspicious  list<string>
    skipped     list<struct<what: string, count: int64>>
    error       struct<type: string, message: string>

All of it may be null. Where a row could not be scored, all but ``error`` is; elsewhere ``error`` is.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from tokmarg.calibration.calibration import Calibration
from tokmarg.prompt.spec import Spec
from tokmarg.results import Method

__all__ = ["ResultType"]

_INTERVAL = pa.struct([("lower", pa.float64()), ("upper", pa.float64())])


@dataclass(frozen=True, slots=True)
class ResultType:
    """Which results a call makes.

    Attributes:
        labels, events: of the guard.
        calibrated: results have raw probabilities, too.
        exact: the method is ``exact``.
    """

    labels: tuple[str, ...]
    events: tuple[str, ...]
    calibrated: bool
    exact: bool

    @classmethod
    def of(cls, spec: Spec, calibration: Calibration | None, method: Method) -> ResultType:
        """That of a guard and a method."""
        exact = method == "exact"
        labels = tuple(label.id for label in spec.labels)
        return cls(labels, spec.events, exact and calibration is not None, exact)

    @property
    def fields(self) -> list[pa.Field]:
        """The fields of a result, in their order."""
        events = [("events", _numbers(self.events))] if self.events and self.exact else []
        raw = [("raw", pa.struct(self._probabilities(())))] if self.calibrated else []
        other = [
            ("scores", _numbers((*self.labels, "unsafe"))),
            ("verdict", pa.string()),
            ("uncertainty", pa.float64()),
        ]
        unsafe, labels, bounds = self._probabilities(self.events if self.exact else ())
        rest = [
            *([] if self.exact else other),
            ("coverage", pa.float64()),
            ("converged", pa.bool_()),
            ("truncated", pa.bool_()),
            ("suspicious", pa.list_(pa.string())),
            ("skipped", pa.list_(pa.struct([("what", pa.string()), ("count", pa.int64())]))),
            ("error", pa.struct([("type", pa.string()), ("message", pa.string())])),
        ]
        return [pa.field(*each) for each in [("flagged", pa.bool_()), unsafe, labels, *events, bounds, *raw, *rest]]

    @property
    def struct(self) -> pa.StructType:
        """The fields as one type."""
        return pa.struct(self.fields)

    def _probabilities(self, events: tuple[str, ...]) -> list[tuple[str, pa.DataType]]:
        bounds = pa.struct([(name, _INTERVAL) for name in ("unsafe", *self.labels, *events)])
        return [("unsafe", pa.float64()), ("labels", _numbers(self.labels)), ("bounds", bounds)]


def _numbers(names: tuple[str, ...]) -> pa.StructType:
    return pa.struct([(name, pa.float64()) for name in names])
