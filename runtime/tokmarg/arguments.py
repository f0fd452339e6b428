"""Checks of arguments, which name the one that is wrong, and limits that Python and the command line share."""

from __future__ import annotations

import math
import numbers
import os
import re
from collections.abc import Sequence

from .errors import OptionError

__all__ = [
    "MAX_FOLDS",
    "MAX_LEVELS",
    "MAX_SAMPLES",
    "MAX_SEED",
    "MAX_SEGMENTS",
    "MAX_THREADS",
    "byte_count",
    "check_choice",
    "check_integer",
    "check_number",
    "check_path",
    "check_texts",
    "check_type",
    "number",
    "shown",
]

#: A number and its unit.
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(B|[kMG]i?B|)", re.IGNORECASE)
_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_MAX_BYTES = 2**62
#: Threads of a session: more than any machine has cores for; a thousand times as many end a process.
MAX_THREADS = 1024
#: Resamples of a bootstrap, which takes time for each and 8 bytes for each and metric.
MAX_SAMPLES = 2**20
#: Parts of a cross-validation; every part is a fit.
MAX_FOLDS = 1000
MAX_SEED = 2**32 - 1
#: Levels of an occlusion, and parts of a level; every part is a score.
MAX_LEVELS, MAX_SEGMENTS = 64, 2**16


def number(value: object) -> float:
    """The value; NaN, which lies in no range, where it is no number."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        return math.nan
    try:
        return float(value)
    except OverflowError:  # an integer beyond all doubles
        return math.nan


def shown(value: object) -> str:
    """A value as messages quote it, on one line; its type where it cannot be printed."""
    try:
        return f"{' '.join(repr(value).split(chr(10))):.60}"
    except Exception:  # integers of thousands of digits, and whatever a foreign __repr__ raises
        return f"<{type(value).__name__}>"


def check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    """Refuses a value that is none of the choices."""
    if not isinstance(value, str) or value not in choices:
        raise OptionError(f"{name} {shown(value)} is not one of {', '.join(choices)}")


def check_number(name: str, value: object, in_range: bool, interval: str) -> None:
    """Refuses a number outside of an interval."""
    if not in_range:
        raise OptionError(f"{name} must lie in {interval}, not be {shown(value)}")


def check_integer(name: str, value: object, most: int, least: int = 1) -> None:
    """Refuses what is no integer from ``least`` to ``most``."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or not least <= int(value) <= most:
        raise OptionError(f"{name} must be an integer from {least:,} to {most:,}, not {shown(value)}")


def check_type(name: str, value: object, types: type | tuple[type, ...], described: str) -> None:
    """Refuses a value that is of none of the types, which ``described`` names for people."""
    if not isinstance(value, types):
        raise OptionError(f"{name} must be {described}, not {shown(value)}")


def check_path(name: str, value: object, others: str = "") -> None:
    """Refuses what is no path; ``others`` names what else the caller would have taken."""
    path = value.__fspath__() if isinstance(value, os.PathLike) else value
    if not isinstance(path, str) or "\0" in path:
        raise OptionError(f"{name} must be a path{others}, not {shown(value)}")


def check_texts(name: str, value: object) -> None:
    """Refuses what is no sequence of texts; a text alone is a sequence of letters."""
    if (
        not isinstance(value, Sequence)
        or isinstance(value, (str, bytes))
        or not all(isinstance(item, str) for item in value)
    ):
        raise OptionError(f"{name} must be a sequence of texts, not {shown(value)}")


def byte_count(name: str, value: object) -> int:
    """A number of bytes: an integer from 1, or a text such as ``64 MB`` or ``1.5 GiB``.

    Raises:
        OptionError: it is neither.
    """
    if isinstance(value, str) and (found := _SIZE.fullmatch(value.strip())) is not None:
        count = float(found[1]) * _UNITS[found[2].lower()]
        if 1 <= count < _MAX_BYTES:
            return int(count)
    if type(value) is int and 1 <= value < _MAX_BYTES:
        return value
    raise OptionError(f"{name} must be a number of bytes, such as 64000000 or '64 MB', not {shown(value)}")
