"""A field twice in one object, of which readers differ in which they take, is refused wherever JSON or CSV is read."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support import word_guard
from tokmarg import Guard, TokmargError
from tokmarg.bundle.bundle import Bundle
from tokmarg.calibration.calibration import Calibration
from tokmarg.calibration.thresholds_file import read_thresholds
from tokmarg.documents import strict_json, unique_json
from tokmarg.errors import ContentError
from tokmarg.evaluation.dataset import read_labelled
from tokmarg.prompt.messages import Record
from tokmarg.prompt.policy import apply_policy
from tokmarg.prompt.spec import Spec
from tokmarg.records import read_records
from tokmarg.tokenizer import Encoder

LABELS = ("A", "B")


def calibration(path: Path) -> object:
    return Calibration.read(path)


def policy(path: Path) -> object:
    return apply_policy(Spec.parse(word_guard.SPEC, "spec"), path)


@pytest.mark.parametrize(
    ("read", "text", "field"),
    [
        (policy, '{"exclude": ["A"], "exclude": ["B"]}', "exclude"),
        (policy, '{"labels": [{"id": "X", "name": "a", "name": "b"}]}', "name"),
        (calibration, '{"schema_version": 1, "schema_version": 1}', "schema_version"),
        (calibration, '{"labels": {"A": {"method": "platt", "method": "beta"}}}', "method"),
        (lambda path: read_thresholds(path, LABELS), '{"unsafe": 0.1, "unsafe": 0.9}', "unsafe"),
        (lambda path: read_thresholds(path, LABELS), '{"labels": {"A": 0, "A": 1}}', "A"),
    ],
)
def test_files(read: Callable[[Path], object], text: str, field: str, tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_text(text)
    with pytest.raises(TokmargError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert f"field {field!r} is there twice" in str(caught.value)


def test_a_calibration_of_a_bundle(tmp_path: Path) -> None:
    """With the right sums: the bundle is read as far as its calibration."""
    bundle = word_guard.write(tmp_path)
    text = b'{"schema_version": 1, "method": "platt", "method": "beta"}'
    (bundle / "calibration.json").write_bytes(text)
    manifest = json.loads((bundle / "manifest.json").read_bytes())
    manifest["files"]["calibration.json"] = {"sha256": hashlib.sha256(text).hexdigest(), "size": len(text)}
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(TokmargError, match=r"calibration\.json: not valid JSON: field 'method' is there twice"):
        Guard.load(bundle, device="cpu")


def test_manifests_and_tokenizers(tmp_path: Path) -> None:
    bundle = word_guard.write(tmp_path)
    for name in ("manifest.json", "tokenizer.json"):
        text = (bundle / name).read_text(encoding="utf-8")
        field = next(iter(json.loads(text)))
        (tmp_path / name).write_text("{" + f'"{field}": 7, ' + text.lstrip()[1:], encoding="utf-8")
    (bundle / "manifest.json").write_bytes((tmp_path / "manifest.json").read_bytes())
    with pytest.raises(TokmargError, match=r"manifest\.json: not valid JSON: field '\w+' is there twice"):
        Bundle.open(bundle)
    with pytest.raises(TokmargError, match=r"tokenizer\.json: .*field '\w+' is there twice"):
        Encoder((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("line", "field"),
    [
        ('{"text": "hello", "text": "gun"}', "text"),
        ('{"text": "hello", "id": 1, "id": 2}', "id"),
        ('{"text": "hello", "t\\u0065xt": "gun"}', "text"),  # one name, spelt in two ways
        ('{"messages": [{"role": "user", "role": "assistant", "content": "hello"}]}', "role"),
        ('{"messages": [{"role": "user", "content": "hello", "content": "gun"}]}', "content"),
        ('{"text": "hello", "meta": {"a": 1, "a": 2}}', "a"),
    ],
)
def test_records_are_error_rows(line: str, field: str, tmp_path: Path) -> None:
    data = f'{{"text": "a"}}\n{line}\n{{"text": "b", "n": NaN}}\n'.encode()
    first, second, third = read_records(io.BytesIO(data), "jsonl")
    assert (first, third) == (Record("a", 1), Record("b", 3))
    assert isinstance(second, ContentError)
    assert (second.type, second.id) == ("invalid_record", 2)
    assert str(second) == f"not valid JSON: field {field!r} is there twice"
    (tmp_path / "d.jsonl").write_bytes(data)
    with pytest.raises(TokmargError, match=r"d\.jsonl, line 2: .* is there twice"):
        read_labelled(tmp_path / "d.jsonl", LABELS)


@pytest.mark.parametrize("column", ["labels", "known", "unsafe", "id", "text"])
def test_csv_columns(column: str, tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text(f"text,labels,{column}{'' if column in ('text', 'labels') else f',{column}'}\n")
    with pytest.raises(TokmargError, match=f"d.csv: the CSV input has 2 columns '{column}'"):
        read_labelled(tmp_path / "d.csv", LABELS)


def test_columns_that_nobody_reads_may_be_there_twice(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text("text,labels,note,note\nhello,A,1,2\n")
    assert len(read_labelled(tmp_path / "d.csv", LABELS)) == 1
    (record,) = read_records(io.BytesIO(b"text,labels,labels\nhello,A,B\n"), "csv")
    assert record == Record("hello", 1)


@pytest.mark.parametrize("read", [strict_json, unique_json])
def test_names_that_differ(read: Callable[[str], Any]) -> None:
    assert read('{"a": {"a": [{"a": 1}, {"a": 2}]}, "A": 3, "": 4}') == {
        "a": {"a": [{"a": 1}, {"a": 2}]},
        "A": 3,
        "": 4,
    }
