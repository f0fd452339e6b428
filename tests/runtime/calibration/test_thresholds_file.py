from __future__ import annotations

from pathlib import Path

import pytest

from tokmarg import Thresholds, TokmargError
from tokmarg.calibration.thresholds_file import read_thresholds

LABELS = ("S1", "S2")


def read(folder: Path, text: str | bytes, name: str = "limits.toml") -> Thresholds:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_thresholds(path, LABELS)


def test_toml(tmp_path: Path) -> None:
    assert read(tmp_path, "unsafe = 0.7\n[labels]\nS1 = 0.3\nS2 = 1\n") == Thresholds(0.7, {"S1": 0.3, "S2": 1.0})


def test_json(tmp_path: Path) -> None:
    assert read(tmp_path, '{"labels": {"S2": 0}}', "limits.JSON") == Thresholds(0.5, {"S2": 0.0})


@pytest.mark.parametrize("text", ["", "\ufeffunsafe = 0.5", "[labels]"])
def test_what_is_left_out_keeps_its_default(tmp_path: Path, text: str | bytes) -> None:
    assert read(tmp_path, text) == Thresholds()


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("[labels]\nS3 = 0.5", ["labels.S3", "S1, S2"]),
        ("S1 = 0.5", ["S1", "labels, unsafe"]),
        ("unsafe = 1.5", ["unsafe", "1.5"]),
        ("unsafe = -0.1", ["unsafe", "-0.1"]),
        ("unsafe = nan", ["unsafe", "nan"]),
        ("unsafe = inf", ["unsafe", "inf"]),
        ("[labels]\nS1 = 2", ["labels.S1", "2"]),
        ('unsafe = "0.5"', ["unsafe", "number"]),
        ("unsafe = true", ["unsafe", "number"]),
        ("labels = 3", ["labels", "table"]),
        ("unsafe 0.5", ["line 1"]),
        (b"unsafe = \xff", ["utf-8"]),
    ],
)
def test_malformed_toml_names_file_and_field(tmp_path: Path, text: str | bytes, parts: list[str]) -> None:
    with pytest.raises(TokmargError) as caught:
        read(tmp_path, text)
    message = str(caught.value)
    assert "limits.toml" in message
    assert all(part in message for part in parts)
    assert "\n" not in message


@pytest.mark.parametrize("text", ["[0.5]", "0.5", "{", '{"unsafe": NaN}', '{"unsafe": null}', "[" * 200_000])
def test_malformed_json_is_refused(tmp_path: Path, text: str | bytes) -> None:
    with pytest.raises(TokmargError, match=r"limits\.json"):
        read(tmp_path, text, "limits.json")
