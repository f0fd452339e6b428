"""Options that stand in several commands, where they mean the same in each."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

import click

__all__ = [
    "Probability",
    "bundle",
    "calibration",
    "chosen",
    "data",
    "device",
    "label_map",
    "labelled_format",
    "labelled_text_field",
    "max_nodes",
    "no_verify",
    "on_overflow",
    "role",
    "threads",
    "tolerance",
]

_FILE = click.Path(path_type=Path)


class Probability(click.FloatRange):
    """A number from 0 to 1; click's own range lets NaN pass."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Reads the number."""
        number = float(super().convert(value, param, ctx))
        if math.isnan(number):
            self.fail(f"{value!r} is not a number.", param, ctx)
        return number


bundle = click.option(
    "--bundle", metavar="BUNDLE", help="Folder, or name of an installed bundle. [default: $TOKMARG_BUNDLE]"
)
calibration = click.option(
    "--calibration",
    "calibration_file",
    metavar="FILE|none",
    help="From tokmarg calibrate; none for raw probabilities. [default: the bundle's, if any]",
)


def chosen(calibration_file: str | None) -> str | Literal[False] | None:
    """What :meth:`tokmarg.Guard.load` takes for ``--calibration``."""
    return False if calibration_file == "none" else calibration_file


device = click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
threads = click.option(
    "--threads", type=click.IntRange(min=1), metavar="N", help="CPU threads. [default: one per core]"
)
no_verify = click.option("--no-verify", is_flag=True, help="Skip the sha256 check of the bundle.")
tolerance = click.option(
    "--tolerance",
    type=Probability(0, 1, min_open=True),
    default=1e-3,
    show_default=True,
    metavar="X",
    help="Widest interval with which an exact score counts as converged.",
)
max_nodes = click.option(
    "--max-nodes",
    type=click.IntRange(min=1),
    default=256,
    show_default=True,
    metavar="N",
    help="Verdict nodes to expand for an exact score at most.",
)
on_overflow = click.option(
    "--on-overflow",
    type=click.Choice(["error", "window"]),
    default="error",
    show_default=True,
    help="Content beyond the context window: not scored, or overlapping windows.",
)
role = click.option("--role", type=click.Choice(["user", "assistant"]), help="Role of bare texts. [default: user]")

# Of the commands that read labelled records.
data = click.option("--data", required=True, type=_FILE, metavar="FILE", help="JSONL or CSV with labels.")
labelled_format = click.option("--input-format", type=click.Choice(["jsonl", "csv"]), help="[default: the extension's]")
labelled_text_field = click.option(
    "--text-field", default="text", show_default=True, metavar="NAME", help="Field or column with the text."
)
label_map = click.option("--label-map", type=_FILE, metavar="FILE", help="TOML: joins another taxonomy.")
