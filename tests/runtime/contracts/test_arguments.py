"""Arguments of a wrong type or out of range are refused in one line that names them, in Python and in commands."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.command_line import Run
from tokmarg import Guard, OptionError, ScoreOptions, Thresholds
from tokmarg.arguments import MAX_FOLDS, MAX_SAMPLES, MAX_SEED, MAX_SEGMENTS, MAX_THREADS
from tokmarg.calibration import Calibration, Guarantee, Target, read_thresholds
from tokmarg.evaluation import Example, calibrate, evaluate, read_label_map, read_labelled
from tokmarg.explanation import explain
from tokmarg.score_options import MAX_NODES

DATA = '{"text": "gun", "labels": ["A"]}\n{"text": "hello", "labels": []}\n' * 12
HUGE = 10**5000  # no double, and too long for repr


class Unprintable:
    """Its repr fails."""

    def __repr__(self) -> str:
        raise RuntimeError("no")


NO_NUMBERS = ("0.5", None, True, [0.5], Unprintable(), math.nan, HUGE, np.array([0.5, 0.5]))
NO_INTEGERS = ("2", 2.5, math.nan, math.inf, True, [2], Unprintable(), HUGE, -HUGE)


def kind(value: object) -> str:
    """A parameter's id."""
    return value.replace("\0", "NUL") if isinstance(value, str) else type(value).__name__


@pytest.fixture(scope="module")
def guard(word_bundle: Path) -> Guard:
    return Guard.load(word_bundle, device="cpu", threads=1)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("arguments") / "data.jsonl"
    path.write_text(DATA, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def examples(guard: Guard, data: Path) -> list[Example]:
    return read_labelled(data, guard.labels)


def refused(call: Callable[[], object], name: str) -> None:
    with pytest.raises(OptionError) as caught:
        call()
    message = str(caught.value)
    assert message.startswith(f"{name} ")
    assert "\n" not in message
    assert len(message) < 300


@pytest.mark.parametrize("value", [*NO_NUMBERS, 2.0, -0.1, -math.inf, 1.0000001], ids=kind)
def test_thresholds(value: Any) -> None:
    refused(lambda: Thresholds(value), "thresholds.unsafe")
    refused(lambda: Thresholds(0.5, {"S1": 0.2, "S2": value}), "thresholds.labels['S2']")
    refused(lambda: ScoreOptions(tolerance=value), "tolerance")


@pytest.mark.parametrize("labels", [None, 0.5, "S1", [("S1", 0.5)], {1: 0.5}, {None: 0.5}])
def test_labels_of_thresholds(labels: Any) -> None:
    refused(lambda: Thresholds(0.5, labels), "thresholds.labels")


def test_thresholds_are_plain_numbers_of_their_own() -> None:
    labels = {"S1": np.float32(0.25), "S2": math.inf, "S3": Fraction(1, 2)}
    thresholds = Thresholds(np.int64(1), labels)  # type: ignore[arg-type]
    labels["S1"] = np.float32(0.75)
    assert thresholds == Thresholds(1.0, {"S1": 0.25, "S2": math.inf, "S3": 0.5})
    assert {type(value) for value in (thresholds.unsafe, *thresholds.labels.values())} == {float}


def test_thresholds_of_infinity_never_flag(guard: Guard) -> None:
    assert not guard.score("gun", thresholds=Thresholds(math.inf, {"A": math.inf})).flagged
    assert guard.score("gun", thresholds=Thresholds(0.0)).flagged


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("threads", value) for value in (*NO_INTEGERS, -1, 0, MAX_THREADS + 1)),
        *(("device", value) for value in ("gpu", "", None, 0, ["cpu"], np.array(["cpu", "cuda"]))),
        *(("verify", value) for value in (None, 1, "no")),
        *(("bundle", value) for value in (123, b"bundle", True, ["x"], "a\0b")),
        *(("policy", value) for value in (123, b"x", ["labels"], True, "a\0b")),
        *(("calibration", value) for value in (True, 0, 1.5, b"x", {"schema_version": 1}, "a\0b")),
    ],
    ids=kind,
)
def test_load(word_bundle: Path, name: str, value: Any) -> None:
    refused(lambda: Guard.load(**{"bundle": word_bundle, "device": "cpu", name: value}), name)


def test_load_takes_paths_and_numpy_integers(word_bundle: Path) -> None:
    threads: Any = np.int64(1)
    for bundle in (word_bundle, str(word_bundle)):
        assert Guard.load(bundle, device="cpu", threads=threads).score("gun").flagged


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("samples", value) for value in (*NO_INTEGERS, None, -1, MAX_SAMPLES + 1)),
        *(("threshold", value) for value in (*NO_NUMBERS, 1.5, -0.5, math.inf)),
        *(("methods", value) for value in ("exact", None, 1, [1], b"exact")),
        *(("examples", value) for value in ("text", ["text"], [None], None, 5)),
        *(("guard", value) for value in (None, "bundle", 5)),
        *(("data", value) for value in (None, 5, b"x")),
        *(("max_nodes", value) for value in (math.nan, MAX_NODES + 1)),
    ],
    ids=kind,
)
def test_evaluate(guard: Guard, examples: list[Example], name: str, value: Any) -> None:
    arguments: dict[str, Any] = {"guard": guard, "examples": examples, "samples": 0, name: value}
    refused(lambda: evaluate(**arguments), name)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("folds", value) for value in (*NO_INTEGERS, None, 1, 0, -3, MAX_FOLDS + 1)),
        *(("seed", value) for value in (*NO_INTEGERS, None, -1, MAX_SEED + 1)),
        *(("method", value) for value in ("best", None, 3, ["platt"])),
        *(("target", value) for value in (0.9, ["recall>=0.9"], Guarantee("fnr", 0.1))),
        *(("guarantee", value) for value in ("fnr=0.1", 0.1, Target("recall", 0.9))),
        *(("certify", value) for value in ("A", 5, [5])),
        *(("label_map", value) for value in (5, b"x", ["map"])),
        *(("role", value) for value in ("system", 5, ["user"])),
        *(("text_field", value) for value in (None, 5)),
        *(("format", value) for value in ("xml", 5)),
        *(("data", value) for value in (None, 5, b"x")),
        *(("guard", value) for value in (None, "bundle")),
    ],
    ids=kind,
)
def test_calibrate(guard: Guard, data: Path, name: str, value: Any) -> None:
    arguments: dict[str, Any] = {"guard": guard, "data": data, name: value}
    refused(lambda: calibrate(**arguments), name)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("depth", value) for value in (*NO_INTEGERS, None, 0, -1, 65)),
        *(("most_segments", value) for value in (*NO_INTEGERS, None, 0, -1, MAX_SEGMENTS + 1)),
        *(("least", value) for value in (*NO_NUMBERS, 1.0, -0.1, math.inf)),
        *(("by_words", value) for value in (None, 1, "yes")),
        *(("guard", value) for value in (None, "bundle")),
        *(("tolerance", value) for value in (math.nan, 0)),
    ],
    ids=kind,
)
def test_explain(guard: Guard, name: str, value: Any) -> None:
    arguments: dict[str, Any] = {"guard": guard, "content": "gun", name: value}
    refused(lambda: explain(**arguments), name)


@pytest.mark.parametrize("value", [*NO_NUMBERS, 0, 1, 1.5, -1, math.inf], ids=kind)
def test_guarantee_and_target(value: Any) -> None:
    refused(lambda: Guarantee("fnr", value), "guarantee: level")
    refused(lambda: Guarantee("fnr", 0.1, value), "guarantee: confidence")
    if type(value) is not int or value not in (0, 1):
        refused(lambda: Target("recall", value), "target: level")
        refused(lambda: Target("fpr", value), "target: level")


@pytest.mark.parametrize("wrong", ["recal", None, 5])
def test_names_of_guarantee_and_target(wrong: Any) -> None:
    refused(lambda: Guarantee(wrong, 0.1), "guarantee: risk")
    refused(lambda: Target(wrong, 0.1), "target: quantity")
    refused(lambda: Guarantee("fnr", 0.1, 0.9, wrong), "guarantee: simultaneous")


@pytest.mark.parametrize("value", [None, 5, b"x", "a\0b"])
def test_paths(value: Any) -> None:
    refused(lambda: read_thresholds(value, ["A"]), "path")
    refused(lambda: read_labelled(value, ["A"]), "path")
    refused(lambda: read_label_map(value, ["A"]), "path")
    refused(lambda: Calibration.read(value), "path")


# The command line


@pytest.mark.parametrize(
    ("command", "option", "values"),
    [
        ("bench", "--seconds", ("nan", "inf", "-inf", "0", "86401", "x")),
        ("bench", "--threads", ("0", "-1", "1025", "2.5", "nan")),
        ("score", "--threads", ("0", "-1", "1025", "2.5", "nan")),
        ("score", "--max-nodes", ("0", "-1", str(MAX_NODES + 1), "nan", "1e3")),
        ("score", "--tolerance", ("nan", "inf", "0", "2")),
        ("score", "--threshold", ("nan", "inf", "2", "-1")),
        ("explain", "--depth", ("0", "65", "nan")),
        ("explain", "--max-segments", ("0", str(MAX_SEGMENTS + 1), "nan")),
        ("explain", "--least", ("nan", "1", "-1")),
        ("evaluate", "--bootstrap", ("-1", str(MAX_SAMPLES + 1), "nan")),
        ("evaluate", "--threshold", ("nan", "inf", "2")),
        ("calibrate", "--folds", ("1", str(MAX_FOLDS + 1), "nan")),
        ("calibrate", "--seed", ("-1", str(MAX_SEED + 1), "nan")),
        ("calibrate", "--confidence", ("nan", "0", "1")),
    ],
)
def test_commands(tokmarg: Run, data: Path, command: str, option: str, values: tuple[str, ...]) -> None:
    given = ["--data", str(data)] if command in ("evaluate", "calibrate") else []
    for value in values:
        result = tokmarg(command, *given, option, value)
        assert result.exit_code == 2, (value, result.output)
        assert f"Invalid value for '{option}'" in result.stderr
