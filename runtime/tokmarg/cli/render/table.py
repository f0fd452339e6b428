"""Scores as a table for people: fits 80 columns, and reads the same without colours."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

import click

from tokmarg.errors import ContentError
from tokmarg.grammar.grammar import UNSAFE
from tokmarg.results import Marginal, MethodResult, Result

from .renderer import Outcome, TextRenderer
from .terminal import fit, pad, printable

if TYPE_CHECKING:
    from tokmarg.prompt.messages import Record

__all__ = ["Table"]

_TEXT = 60  # cells of the text excerpt
_ID = 12
_TITLE = 30
_BAR = 10


class Table(TextRenderer):
    """Renders a few lines per record: id and excerpt, the verdict, then one line per label, and one per further event.

        7  How do I pick a lock?
           flagged: yes   unsafe 0.803 [0.803, 0.804]   coverage 0.997
           S1   Violent Crimes                  0.001 [0.001, 0.001]
         ! S2   Non-Violent Crimes              0.795 [0.795, 0.796] ████████

    A mark stands at labels that reached a threshold of their own. Other methods than ``exact`` have one number per
    label, and what they generated.

    Args:
        titles: label id -> title.
        colour: whether the output understands ANSI colours.
    """

    def __init__(self, titles: Mapping[str, str], colour: bool) -> None:
        self._titles, self._colour = titles, colour
        self._id_width = max((min(_ID, len(printable(label))) for label in titles), default=1)

    def note(self, record: Record | ContentError) -> str:
        """An excerpt of the text that is judged."""
        from tokmarg.prompt.judging import judged_text

        if isinstance(record, ContentError):
            return ""
        return fit(printable(judged_text(record)[: 2 * _TEXT].strip()), _TEXT)

    def render(self, outcome: Outcome, note: str) -> str:
        """The record's lines."""
        id = outcome.id if isinstance(outcome.id, str) else json.dumps(outcome.id)
        name = fit(printable(id), _ID) + ("" if outcome.index is None else f" [{outcome.index}] {outcome.role}")
        if isinstance(outcome, ContentError):
            error = self._style("error", fg="yellow")
            return f"{name}  {error} {outcome.type}: {printable(str(outcome))}\n\n"
        lines = [f"{self._style(name, bold=True)}  {note}", "   " + self._verdict(outcome)]
        if isinstance(outcome, Result):
            lines += [self._label(label, marginal) for label, marginal in outcome.labels.items()]
            lines += [f"   {printable(name)} {_numbers(m)}" for name, m in outcome.events.items() if m is not None]
        else:
            if outcome.verdict is not None:
                lines.append("   " + printable(json.dumps(outcome.verdict, ensure_ascii=False)))
            lines += [self._score(label, score) for label, score in outcome.scores.items() if label != UNSAFE]
        return "\n".join(lines) + "\n\n"

    def _verdict(self, result: Result | MethodResult) -> str:
        parts = ["flagged: " + (self._style("yes", fg="red", bold=True) if result.flagged else "no")]
        if isinstance(result, Result):
            coverage = "unknown"
            if result.coverage is not None:  # low ones matter by their order of magnitude
                coverage = f"{result.coverage:.3f}" if result.coverage >= 0.001 else f"{result.coverage:.0e}"
            parts += [f"unsafe {_numbers(result.unsafe)}", f"coverage {coverage}"]
        else:
            parts += [f"unsafe {result.scores[UNSAFE]:.3f}", result.method]
            if result.uncertainty is not None:
                parts.append(f"uncertainty {result.uncertainty:.3f}")
        if not result.converged:
            parts.append("not converged")
        if result.truncated:
            parts.append("in windows")
        if result.suspicious:
            parts.append("suspicious: " + ", ".join(result.suspicious))
        if result.skipped:
            skipped = (f"{count} {what}" for what, count in result.skipped.items())
            parts.append("skipped: " + printable(", ".join(skipped)))
        if isinstance(result, Result) and result.calibrated:
            parts.append("calibrated")
        if result.work is not None:
            parts.append(f"passes {result.work.passes}, tokens {result.work.tokens}, nodes {result.work.nodes}")
        return "   ".join(parts)

    def _score(self, label: str, score: float | None) -> str:
        if score is None:
            return f"   {self._head(label)}  does not apply"
        return f"   {self._head(label)}  {score:.3f} {'█' * round(min(1.0, score) * _BAR)}".rstrip()

    def _label(self, label: str, marginal: Marginal | None) -> str:
        head = self._head(label)
        if marginal is None:
            return f"   {head}  does not apply"
        bar = "█" * round(marginal.probability * _BAR)
        row = f"{head}  {_numbers(marginal)} {bar}".rstrip()
        return " " + self._style("! " + row, fg="red") if marginal.flagged else "   " + row

    def _head(self, label: str) -> str:
        return f"{pad(printable(label), self._id_width)}  {pad(printable(self._titles.get(label, '')), _TITLE)}"

    def _style(self, text: str, fg: str | None = None, bold: bool | None = None) -> str:
        return click.style(text, fg=fg, bold=bold) if self._colour else text


def _numbers(marginal: Marginal) -> str:
    return f"{marginal.probability:.3f} [{marginal.lower:.3f}, {marginal.upper:.3f}]"
