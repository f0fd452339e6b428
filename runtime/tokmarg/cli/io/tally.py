"""Counts over the records of a run: its summary line, the warning of low coverage, and the exit code."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import click

from tokmarg.cli.process.exit_codes import DONE, FAILED, FLAGGED
from tokmarg.cli.render.terminal import printable
from tokmarg.errors import ERROR_TYPES, ContentError
from tokmarg.results import LOW_COVERAGE, MethodResult, Result

__all__ = ["Tally"]

#: Kinds of what was left out that the summary names; types of parts come from the data.
_KINDS = 10


@dataclass(slots=True)
class Tally:
    """Counts over the records of a run."""

    scored: int = 0
    flagged: int = 0
    low_coverage: int = 0
    not_converged: int = 0
    errors: Counter[str] = field(default_factory=Counter)  # by type
    first_error: ContentError | None = None
    further: int = 0  # rows that are not the first of their record: single messages of a conversation
    skipped: Counter[str] = field(default_factory=Counter)  # what contents held that was left out
    _of_record: Mapping[str, int] = field(default_factory=dict, init=False, compare=False)  # skipped in its last row

    @property
    def failed(self) -> int:
        """Rows that could not be scored."""
        return self.errors.total()

    @property
    def records(self) -> int:
        """All records."""
        return self.scored + self.failed - self.further

    def add(self, outcome: Result | MethodResult | ContentError, further: bool = False) -> str | None:
        """Counts a row; returns a warning for the first one with low coverage.

        Args:
            outcome: of the row.
            further: the row is not the first of its record.
        """
        self.further += further
        if not further:
            self._of_record = {}
        if isinstance(outcome, ContentError):
            self.errors[outcome.type] += 1
            self.first_error = self.first_error or outcome
            return None
        self.scored += 1
        self.flagged += outcome.flagged
        self.not_converged += not outcome.converged
        if outcome.skipped:  # a conversation's later rows have what its earlier ones have, and more
            self.skipped += Counter(outcome.skipped) - Counter(self._of_record)
            self._of_record = outcome.skipped
        if isinstance(outcome, MethodResult) or outcome.coverage is None or outcome.coverage >= LOW_COVERAGE:
            return None
        self.low_coverage += 1
        if self.low_coverage > 1:
            return None
        return (
            f"coverage of record {outcome.id!r:.40} is {outcome.coverage:.2g}, below {LOW_COVERAGE}: "
            "wrong template, wrong model, or an attack (said once; the summary counts)"
        )

    def merge(self, other: Tally) -> None:
        """Adds the counts of another run."""
        for name in ("scored", "flagged", "low_coverage", "not_converged", "further"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.errors += other.errors
        self.skipped += other.skipped
        self.first_error = self.first_error or other.first_error

    def to_dict(self) -> dict[str, Any]:
        """The counts as JSON."""
        first = self.first_error and {"type": self.first_error.type, "message": str(self.first_error)}
        counts = ("scored", "flagged", "low_coverage", "not_converged", "further")
        return {
            **{name: getattr(self, name) for name in counts},
            "errors": dict(self.errors),
            "first_error": first,
            "skipped": dict(self.skipped),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Tally:
        """The counts of :meth:`to_dict`.

        Raises:
            ValueError: the data are no valid counts.
        """
        try:
            data = {"further": 0, "skipped": {}, **data}  # which older journals do not have
            first = None if data["first_error"] is None else ContentError(**data["first_error"])
            counters = {name: Counter(dict(data[name])) for name in ("errors", "skipped")}
            tally = cls(**{**data, **counters, "first_error": first})
        except (TypeError, KeyError) as error:
            raise ValueError(f"no counts: {error}") from None
        among_scored = (tally.flagged, tally.low_coverage, tally.not_converged)
        counts = (tally.scored, *among_scored, tally.further, *tally.errors.values(), *tally.skipped.values())
        if not all(type(n) is int and 0 <= n < 2**63 for n in counts) or max(among_scored) > tally.scored:
            raise ValueError("counts that cannot be")
        if tally.records < 0 or not all(isinstance(name, str) for name in tally.skipped):
            raise ValueError("counts that cannot be")
        if not tally.errors.keys() <= ERROR_TYPES.keys() or bool(tally.errors) != (first is not None):
            raise ValueError("counts of errors that cannot be")
        return tally

    def report(self) -> None:
        """Prints the closing line, and what went wrong, on stderr."""
        click.echo(printable(self.summary()), err=True)
        if failure := self.failure():
            click.echo(f"Error: {printable(failure)}", err=True)

    def summary(self) -> str:
        """The closing line."""
        failed = f"{self.failed:,} failed"
        if self.errors:
            failed += f" ({', '.join(f'{n:,} {kind}' for kind, n in sorted(self.errors.items()))})"
        most = sorted(self.skipped.items(), key=lambda item: (-item[1], item[0]))[:_KINDS]
        skipped = ", ".join(f"{n:,} {what}" for what, n in most) + (", ..." if len(self.skipped) > _KINDS else "")
        return (
            f"{self.scored:,} scored, {self.flagged:,} flagged, {failed}, "
            f"{self.low_coverage:,} low coverage, {self.not_converged:,} not converged"
            + (f"; skipped: {skipped}" if skipped else "")
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
