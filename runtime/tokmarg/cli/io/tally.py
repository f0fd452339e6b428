"""What a run came to: counts, one warning, and the exit code."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from tokmarg.errors import ERROR_TYPES, ContentError
from tokmarg.results import LOW_COVERAGE, MethodResult, Result

__all__ = ["Tally"]

DONE, FAILED, FLAGGED = 0, 1, 3


@dataclass(slots=True)
class Tally:
    """Counts over the records of a run."""

    scored: int = 0
    flagged: int = 0
    low_coverage: int = 0
    not_converged: int = 0
    errors: Counter[str] = field(default_factory=Counter)  # by type
    first_error: ContentError | None = None

    @property
    def failed(self) -> int:
        """Records that could not be scored."""
        return self.errors.total()

    @property
    def records(self) -> int:
        """All records."""
        return self.scored + self.failed

    def add(self, outcome: Result | MethodResult | ContentError) -> str | None:
        """Counts a record; returns the warning that the first one with low coverage is due."""
        if isinstance(outcome, ContentError):
            self.errors[outcome.type] += 1
            self.first_error = self.first_error or outcome
            return None
        self.scored += 1
        self.flagged += outcome.flagged
        self.not_converged += not outcome.converged
        if isinstance(outcome, MethodResult) or outcome.coverage is None or outcome.coverage >= LOW_COVERAGE:
            return None
        self.low_coverage += 1
        if self.low_coverage > 1:
            return None
        return (
            f"coverage of record {outcome.id!r:.40} is {outcome.coverage:.2g}, below {LOW_COVERAGE}: "
            "wrong template, wrong model, or an attack (said once; the summary counts)"
        )

    def to_dict(self) -> dict[str, Any]:
        """The counts as JSON."""
        first = self.first_error and {"type": self.first_error.type, "message": str(self.first_error)}
        return {
            **asdict(replace(self, errors=Counter(), first_error=None)),
            "errors": dict(self.errors),
            "first_error": first,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Tally:
        """The counts of :meth:`to_dict`.

        Raises:
            ValueError: they are none.
        """
        try:
            first = None if data["first_error"] is None else ContentError(**data["first_error"])
            found = cls(**{**data, "errors": Counter(dict(data["errors"])), "first_error": first})
        except (TypeError, KeyError) as error:
            raise ValueError(f"no counts: {error}") from None
        of_scored = (found.flagged, found.low_coverage, found.not_converged)
        counts = (found.scored, *of_scored, *found.errors.values())
        if not all(type(n) is int and 0 <= n < 2**63 for n in counts) or max(of_scored) > found.scored:
            raise ValueError("counts that cannot be")
        if not found.errors.keys() <= ERROR_TYPES.keys() or bool(found.errors) != (first is not None):
            raise ValueError("counts of errors that cannot be")
        return found

    def summary(self) -> str:
        """The closing line."""
        failed = f"{self.failed:,} failed"
        if self.errors:
            failed += f" ({', '.join(f'{n:,} {kind}' for kind, n in sorted(self.errors.items()))})"
        return (
            f"{self.scored:,} scored, {self.flagged:,} flagged, {failed}, "
            f"{self.low_coverage:,} low coverage, {self.not_converged:,} not converged"
        )

    def failure(self) -> str | None:
        """Why the run as a whole failed: not one record could be scored."""
        if self.first_error is None or self.scored:
            return None
        what = "the record" if self.failed == 1 else f"none of the {self.failed:,} records"
        verb = "could not be scored" if self.failed == 1 else "could be scored; the first"
        return f"{what} {verb}: {self.first_error.type}: {self.first_error}"

    def exit_code(self, fail_on_flagged: bool) -> int:
        """0; 1 if no record could be scored; with ``fail_on_flagged`` 3 for a flag, else 1 for an error row."""
        if self.failure() is not None:
            return FAILED
        if fail_on_flagged and self.flagged:
            return FLAGGED
        return FAILED if fail_on_flagged and self.failed else DONE
