"""Options that several commands share, with the same meaning in each."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar

import click

from tokmarg.arguments import MAX_THREADS
from tokmarg.errors import OptionError
from tokmarg.results import MAX_DEPTH, METHODS
from tokmarg.score_options import MAX_NODES, ScoreOptions

__all__ = [
    "Number",
    "Probability",
    "bundle",
    "calibration",
    "calibration_argument",
    "data",
    "device",
    "input_format",
    "label_map",
    "labelled_format",
    "labelled_text_field",
    "no_verify",
    "role",
    "score_options",
    "text_field",
    "threads",
]

F = TypeVar("F", bound=Callable[..., Any])

_FILE = click.Path(path_type=Path)
_DEFAULTS = ScoreOptions()


class Number(click.FloatRange):
    """A number in a range; click's own range lets NaN pass."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Reads the number."""
        number = float(super().convert(value, param, ctx))
        if math.isnan(number):
            self.fail(f"{value!r} is not a number.", param, ctx)
        return number


class Probability(Number):
    """A number from 0 to 1."""


bundle = click.option(
    "--bundle", metavar="BUNDLE", help="Folder, or name of an installed bundle. [default: $TOKMARG_BUNDLE]"
)
calibration = click.option(
    "--calibration",
    "calibration_file",
    metavar="FILE|none",
    help="From tokmarg calibrate; none for raw probabilities. [default: the bundle's, if any]",
)


def calibration_argument(calibration_file: str | None) -> str | Literal[False] | None:
    """The argument ``calibration`` of :meth:`tokmarg.Guard.load` for the value of ``--calibration``."""
    return False if calibration_file == "none" else calibration_file


device = click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
threads = click.option(
    "--threads", type=click.IntRange(1, MAX_THREADS), metavar="N", help="CPU threads. [default: one per core]"
)
no_verify = click.option("--no-verify", is_flag=True, help="Skip the sha256 check of the bundle.")
role = click.option("--role", type=click.Choice(["user", "assistant"]), help="Role of bare texts. [default: user]")

# Of the commands that read records.
input_format = click.option(
    "--input-format", type=click.Choice(["jsonl", "csv", "lines"]), help="[default: the extension's]"
)
text_field = click.option(
    "--text-field", metavar="NAME", help="CSV column or JSONL field with the text. [default: text]"
)

# Of the commands that read labelled records.
data = click.option("--data", required=True, type=_FILE, metavar="FILE", help="JSONL or CSV with labels.")
labelled_format = click.option("--input-format", type=click.Choice(["jsonl", "csv"]), help="[default: the extension's]")
labelled_text_field = click.option(
    "--text-field", default="text", show_default=True, metavar="NAME", help="Field or column with the text."
)
label_map = click.option("--label-map", type=_FILE, metavar="FILE", help="TOML: joins another taxonomy.")

#: Field of ScoreOptions -> type and texts of its option.
_SCORE_OPTIONS: dict[str, dict[str, Any]] = {
    "method": {
        "type": click.Choice(METHODS),
        "help": "What the scores are: exact marginals, or a method of arXiv:2511.22312.",
    },
    "tolerance": {
        "type": Probability(0, 1, min_open=True),
        "metavar": "X",
        "help": "Widest interval with which an exact score counts as converged.",
    },
    "max_nodes": {
        "type": click.IntRange(1, MAX_NODES),
        "metavar": "N",
        "help": "Verdict nodes to expand for an exact score at most.",
    },
    "top_p": {
        "type": Probability(0, 1, min_open=True),
        "metavar": "X",
        "help": "any-place: mass of the nucleus.",
    },
    "eps": {
        "type": Probability(0, 1),
        "metavar": "X",
        "help": "any-place: least mass of a path that is followed.",
    },
    "max_depth": {
        "type": click.IntRange(1, MAX_DEPTH),
        "metavar": "N",
        "help": "any-place: longest path in tokens; greedy, token, fixed-place: most tokens to generate.",
    },
    "max_tokens": {
        "type": click.IntRange(min=1),
        "metavar": "N",
        "help": "Tokens of one content, of all its messages, at most. [default: no limit]",
    },
    "on_overflow": {
        "type": click.Choice(["error", "window"]),
        "help": "Content beyond the context window: not scored, or overlapping windows.",
    },
}


def score_options(*names: str) -> Callable[[F], Callable[..., Any]]:
    """Adds the options for some fields of :class:`ScoreOptions`; the command gets them as one argument ``scoring``.

    Defaults are those of :class:`ScoreOptions`. A value that it refuses is wrong usage.
    """

    def decorate(command: F) -> Callable[..., Any]:
        @functools.wraps(command)
        def with_scoring(*args: Any, **values: Any) -> Any:
            fields = {name: values.pop(name) for name in names}
            try:
                scoring = ScoreOptions(**fields)
            except OptionError as error:
                raise click.UsageError(f"{error}.") from None
            return command(*args, scoring=scoring, **values)

        decorated: Callable[..., Any] = with_scoring
        for name in reversed(names):  # as decorators do: the last one first
            option = click.option(
                f"--{name.replace('_', '-')}",
                default=getattr(_DEFAULTS, name),
                show_default=True,
                **_SCORE_OPTIONS[name],
            )
            decorated = option(decorated)
        return decorated

    return decorate
