"""Options that several commands share."""

from __future__ import annotations

import click
import pytest

from tests.support.command_line import Run
from tokmarg.cli import main
from tokmarg.score_options import MAX_NODES, ScoreOptions

SHARED = ("prior", "tolerance", "max_nodes", "top_p", "eps", "max_depth", "max_tokens", "on_overflow")


@pytest.mark.parametrize(
    ("command", "names"),
    [
        ("score", SHARED),
        ("evaluate", ("prior", "tolerance", "max_nodes", "max_tokens", "on_overflow")),
        ("calibrate", ("tolerance", "max_nodes", "max_tokens", "on_overflow")),
        ("explain", ("prior", "tolerance", "max_nodes", "max_tokens")),
    ],
)
def test_defaults_are_those_of_score_options(command: str, names: tuple[str, ...]) -> None:
    defaults = {option.name: option.default for option in main.commands[command].params}
    assert {name: value for name, value in defaults.items() if name in SHARED} == {
        name: getattr(ScoreOptions(), name) for name in names
    }


def test_a_value_that_score_options_refuses_is_wrong_usage(tokmarg: Run) -> None:
    result = tokmarg("score", "gun", "--max-nodes", MAX_NODES + 1)
    assert result.exit_code == click.UsageError.exit_code
    assert f"Invalid value for '--max-nodes': {MAX_NODES + 1} is not in the range 1<=x<={MAX_NODES}" in result.stderr
