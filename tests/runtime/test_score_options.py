"""ScoreOptions checks itself and names the option that is wrong."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import numpy as np
import pytest

from tokmarg import OptionError, ScoreOptions, Thresholds, TokmargError
from tokmarg.score_options import MAX_NODES


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("tolerance", value) for value in (0, -1e-9, 1.5, math.nan, math.inf, "0.1", None, True, [0.1])),
        *(("max_nodes", value) for value in (0, -1, 2.5, math.nan, MAX_NODES + 1, "2", None, True)),
        *(("top_p", value) for value in (0, 1.01, math.nan, "x")),
        *(("eps", value) for value in (-0.1, 1.1, math.nan, "x")),
        *(("prior", value) for value in (0, 1, -0.1, 1.5, math.nan, "0.1", True)),
        *(("max_depth", value) for value in (0, 65, 1.0, "x")),
        *(("method", value) for value in ("best", "", None, 1)),
        *(("on_overflow", value) for value in ("windows", None, True)),
        *(("work", value) for value in (1, "yes", None)),
        *(("thresholds", value) for value in (0.5, {"unsafe": 0.5}, "0.5")),
    ],
)
def test_a_wrong_value_names_its_option(name: str, value: object) -> None:
    with pytest.raises(OptionError, match=rf"^{name} ") as caught:
        ScoreOptions(**{name: value})  # type: ignore[arg-type]
    assert isinstance(caught.value, (TokmargError, ValueError))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "values",
    [
        {"prior": 1e-9, "tolerance": 1, "max_nodes": MAX_NODES, "top_p": 1, "eps": 0, "max_depth": 64},
        {"tolerance": np.float32(0.1), "max_nodes": np.int64(5), "thresholds": Thresholds(0.3)},
    ],
)
def test_borders_and_numpy_numbers_are_taken(values: dict[str, Any]) -> None:
    options = ScoreOptions(**values)
    assert all(getattr(options, name) == value for name, value in values.items())


def test_of_changes_some_and_knows_no_others() -> None:
    base = ScoreOptions(max_nodes=7)
    assert ScoreOptions.of(None) == ScoreOptions()
    assert ScoreOptions.of(base, tolerance=0.1) == ScoreOptions(max_nodes=7, tolerance=0.1)
    with pytest.raises(OptionError, match="'max_node' is no option"):
        ScoreOptions.of(base, max_node=3)
    with pytest.raises(OptionError, match="options must be"):
        ScoreOptions.of({"max_nodes": 3})  # type: ignore[arg-type]


def test_options_are_values() -> None:
    options = ScoreOptions(thresholds=Thresholds(0.2, {"S1": 0.3}))
    assert pickle.loads(pickle.dumps(options)) == copy.deepcopy(options) == options
    with pytest.raises(AttributeError):
        options.tolerance = 0.5  # type: ignore[misc]
