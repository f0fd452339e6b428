"""Options that several commands share, with the same meaning in each."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import click

from tokmarg.arguments import MAX_THREADS
from tokmarg.errors import OptionError
from tokmarg.results import MAX_DEPTH, METHODS
from tokmarg.score_options import MAX_NODES, ScoreOptions

__all__ = [
    "InputOptions",
    "Number",
    "Probability",
    "bundle",
    "calibration",
    "calibration_argument",
    "check_scoring",
    "check_thresholds",
    "data",
    "device",
    "label_map",
    "labelled_records",
    "no_verify",
    "records",
    "role",
    "score_options",
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


def check_thresholds(threshold: float | None, thresholds_file: object) -> None:
    """Refuses ``--threshold`` beside ``--thresholds``."""
    if threshold is not None and thresholds_file is not None:
        raise click.UsageError("--threshold and --thresholds exclude each other.")


def check_scoring(
    threshold: float | None, thresholds_file: str | None, calibration_file: str | None, scoring: ScoreOptions
) -> None:
    """Refuses options of ``tokmarg score`` that do not go together."""
    check_thresholds(threshold, thresholds_file)
    if calibration_file not in (None, "none") and scoring.method != "exact":
        raise click.UsageError(f"--calibration is for --method exact, not {scoring.method}.")
    if scoring.prior is not None and scoring.method != "exact":
        raise click.UsageError(f"--prior is for --method exact, not {scoring.method}.")


def calibration_argument(calibration_file: str | None) -> str | Literal[False] | None:
    """The argument ``calibration`` of :meth:`tokmarg.Guard.load` for the value of ``--calibration``."""
    return False if calibration_file == "none" else calibration_file


device = click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)


def _warn_of_quota(ctx: click.Context, param: click.Parameter, value: int | None) -> int | None:
    """Warns of more threads than a control group's quota keeps busy."""
    from tokmarg.engine.cores import cpu_quota

    if value is not None and (quota := cpu_quota()) is not None and value > math.ceil(quota):
        processors = "processor" if quota == 1 else "processors"
        click.echo(
            f"Warning: --threads {value}: the CPU quota of this container or service is {quota:g} {processors}; more "
            "threads only use it up sooner",
            err=True,
        )
    return value


threads = click.option(
    "--threads",
    type=click.IntRange(1, MAX_THREADS),
    metavar="N",
    callback=_warn_of_quota,
    help="CPU threads. [default: one per core, within the CPU quota]",
)
no_verify = click.option("--no-verify", is_flag=True, help="Skip the sha256 check of the bundle.")
role = click.option("--role", type=click.Choice(["user", "assistant"]), help="Role of bare texts. [default: user]")

data = click.option("--data", required=True, type=_FILE, metavar="FILE", help="JSONL, JSON, CSV or TSV with labels.")
label_map = click.option("--label-map", type=_FILE, metavar="FILE", help="TOML: joins another taxonomy.")


@dataclass(frozen=True, slots=True)
class InputOptions:
    """How an input is read; None where the command line does not say."""

    format: Any
    text_field: str | None
    delimiter: str | None
    encoding: str | None


def _checked(check: str) -> Callable[[click.Context, click.Parameter, str | None], str | None]:
    """Checks an option's value with a function of :mod:`tokmarg.records`."""

    def convert(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
        import tokmarg.records

        try:
            return None if value is None else str(getattr(tokmarg.records, check)(value))
        except OptionError as error:
            raise click.BadParameter(f"{error}.", ctx, param) from None

    return convert


def input_options(formats: Sequence[str], text_field: str | None) -> Callable[[F], Callable[..., Any]]:
    """Adds the options that say how an input is read; the command gets them as one argument ``reading``.

    Args:
        formats: choices of ``--input-format``.
        text_field: default, which is shown; None where ``--text-field`` may not be given with every format.
    """
    where = "Column or JSON field with the text."
    added = [
        click.option("--input-format", type=click.Choice(formats), help="[default: the extension's]"),
        click.option("--text-field", default=text_field, metavar="NAME", help=f"{where} [default: text]"),
        click.option(
            "--delimiter",
            metavar="C",
            callback=_checked("check_delimiter"),
            help="Between CSV fields: one character, or tab. [default: found in the header]",
        ),
        click.option(
            "--encoding",
            metavar="NAME",
            callback=_checked("check_encoding"),
            help="Of input without a byte order mark, such as cp1252. [default: utf-8]",
        ),
    ]

    def decorate(command: F) -> Callable[..., Any]:
        @functools.wraps(command)
        def with_reading(
            *args: Any, input_format: Any, text_field: Any, delimiter: Any, encoding: Any, **values: Any
        ) -> Any:
            return command(*args, reading=InputOptions(input_format, text_field, delimiter, encoding), **values)

        decorated: Callable[..., Any] = with_reading
        for option in reversed(added):  # as decorators do: the last one first
            decorated = option(decorated)
        return decorated

    return decorate


records = input_options(["jsonl", "json", "csv", "tsv", "lines", "parquet", "arrow", "feather"], None)
labelled_records = input_options(["jsonl", "json", "csv", "tsv"], "text")

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
    "prior": {
        "type": Probability(0, 1, min_open=True, max_open=True),
        "metavar": "X",
        "help": "Base rate: how many of the contents are unsafe here, in place of the calibration's share.",
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
    "on_role": {
        "type": click.Choice(["skip", "error"]),
        "help": "Turns of a system, developer or tool that the guard has no place for: left out, or not scored.",
    },
    "work": {
        "is_flag": True,
        "help": "Say what each content took: passes, tokens, verdict nodes (not in columns).",
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
                show_default="is_flag" not in _SCORE_OPTIONS[name],
                **_SCORE_OPTIONS[name],
            )
            decorated = option(decorated)
        return decorated

    return decorate
