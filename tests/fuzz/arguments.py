"""Python arguments that are fuzzed: values of any type, each of which is refused by name or within its range."""

from __future__ import annotations

import dataclasses
import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.fuzz.mutate import HOSTILE
from tests.support.documents import REMOVED
from tokmarg import Guard, OptionError, ScoreOptions, Thresholds
from tokmarg.calibration import Guarantee, Target
from tokmarg.errors import BundleNotFoundError

__all__ = ["make_argument", "pass_argument"]

_VALUES = [value for value in HOSTILE if value is not REMOVED] + [-0.5, 1.5, 2, 5e-324, 1024, 2**20 + 1, "exact", "cpu"]


def _thresholds(*given: Any) -> None:
    found = Thresholds(*given)
    assert all(0 <= value <= 1 or value == math.inf for value in (found.unsafe, *found.labels.values()))


def _load(**given: Any) -> None:
    try:
        Guard.load(**{"bundle": "no such bundle", **given})
    except BundleNotFoundError:  # nothing to object to: only then it is looked for
        return
    raise AssertionError("loaded")


def _option(name: str) -> Callable[[Any], object]:
    return lambda value: ScoreOptions(**{name: value})


def _load_argument(name: str) -> Callable[[Any], object]:
    return lambda value: _load(**{name: value})


#: First words of the message -> what takes the value.
_TAKERS: dict[str, Callable[[Any], object]] = {
    "thresholds.unsafe": _thresholds,
    "thresholds.labels": lambda value: _thresholds(0.5, value),
    "thresholds.labels['A']": lambda value: _thresholds(0.5, {"A": value}),
    "guarantee: risk": lambda value: Guarantee(value, 0.1),
    "guarantee: level": lambda value: Guarantee("fnr", value),
    "guarantee: confidence": lambda value: Guarantee("fpr", 0.1, value),
    "target: quantity": lambda value: Target(value, 0.1),
    "target: level": lambda value: Target("recall", value),
    **{field.name: _option(field.name) for field in dataclasses.fields(ScoreOptions)},
    **{name: _load_argument(name) for name in ("device", "threads", "verify", "policy", "calibration")},
}


def make_argument(rng: random.Random) -> bytes:
    """The name of an argument, and a value."""
    return json.dumps({"name": rng.choice([*_TAKERS]), "value": rng.choice(_VALUES)}).encode()


def pass_argument(path: Path) -> None:
    """Passes it on; a refusal names the argument."""
    case = json.loads(path.read_bytes())
    try:
        _TAKERS[case["name"]](case["value"])
    except OptionError as error:
        assert str(error).startswith(case["name"]), error  # noqa: PT017
        raise
