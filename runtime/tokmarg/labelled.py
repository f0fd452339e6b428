"""Labelled records: what is known to be true of each content, in the bundle's labels.

A JSONL row says what it knows:

    labels   the labels that apply; with nothing else said, all others do not
    known    the labels that were looked at, where not all were; of the others nothing is known
    unsafe   true or false; without it, a row with labels is unsafe, one with none of all labels is not

A *label map* joins another taxonomy to the bundle's. It is a TOML file with one table, ``[map]``, whose keys are the
data's labels and whose values are one or more of the bundle's, or none (``[]``: such a label tells of ``unsafe``
alone). A bundle's label is true if any label mapped to it is, and false if all of them were looked at and none is.
"""

from __future__ import annotations

import io
import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import ContentError, SpecError, TokmargError
from .fields import Fields
from .guard import Record
from .labels import Role
from .records import read_records

__all__ = ["Example", "read_label_map", "read_labelled"]


@dataclass(frozen=True, slots=True)
class Example:
    """A record and what is known of it.

    Attributes:
        record: the content.
        labels: label of the bundle -> whether it applies; a label that is absent is unknown.
        unsafe: whether the content is unsafe, or None.
    """

    record: Record
    labels: Mapping[str, bool]
    unsafe: bool | None


def read_label_map(path: Path, labels: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Reads a label map.

    Args:
        path: TOML file.
        labels: the bundle's.

    Raises:
        SpecError: malformed, or maps to a label that the bundle does not have; names file and field.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SpecError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:  # wrong UTF-8 and TOML alike, and tables without end
        raise SpecError(f"{path}: not valid TOML: {error}") from None
    document = Fields(data, str(path), SpecError)
    document.only(["map"])
    table = document.table("map")
    found = {}
    for name, value in table.data.items():
        targets = (value,) if isinstance(value, str) else table.strings(name)
        for target in targets:
            if target not in labels:
                raise table.fail(name, f"{target!r:.60} is no label of the bundle ({', '.join(labels):.300})")
        found[name] = targets
    if not found:
        raise document.fail("map", "is empty")
    return found


def read_labelled(
    path: Path,
    labels: Sequence[str],
    label_map: Mapping[str, Sequence[str]] | None = None,
    *,
    role: Role | None = None,
    text_field: str = "text",
) -> list[Example]:
    """Reads a JSONL file of labelled records.

    Args:
        path: the file.
        labels: the bundle's.
        label_map: label of the data -> labels of the bundle; None where they are the same.
        role: role of bare texts.
        text_field: field with the text.

    Raises:
        TokmargError: the file cannot be read, is empty, holds a record that cannot be read, a label that nobody knows,
            an id twice, or nothing that is known of any record; names file and line.
    """
    sources = {label: (label,) for label in labels} if label_map is None else label_map
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise TokmargError(f"{path}: cannot be read: {error.strerror or error}") from None
    found: list[Example] = []
    lines: dict[str, int] = {}
    with io.BytesIO(raw) as stream:
        records = read_records(stream, "jsonl", role=role, text_field=text_field)
        for number, (record, line) in enumerate(zip(records, raw.split(b"\n"), strict=False), 1):
            where = f"{path}, line {number}"
            if isinstance(record, ContentError):
                raise TokmargError(f"{where}: {record}")
            row = json.loads(line.decode("utf-8-sig"))
            if "id" in row:
                key = json.dumps(record.id)
                if key in lines:
                    raise TokmargError(f"{where}: id {key:.60} was used in line {lines[key]} already")
                lines[key] = number
            found.append(_example(record, row, sources, labels, where))
    if not found:
        raise TokmargError(f"{path}: is empty")
    if not any(example.labels or example.unsafe is not None for example in found):
        raise TokmargError(f"{path}: no record says anything: it needs labels or unsafe")
    return found


def _example(
    record: Record, row: Mapping[str, Any], sources: Mapping[str, Sequence[str]], labels: Sequence[str], where: str
) -> Example:
    given = _names(row, "labels", sources, where)
    known = _names(row, "known", sources, where)
    unsafe = row.get("unsafe")
    if unsafe is not None and not isinstance(unsafe, bool):
        raise TokmargError(f"{where}: unsafe must be true or false, not {json.dumps(unsafe):.60}")
    if given is None:
        return Example(record, {}, unsafe)
    looked_at = set(sources) if known is None else set(known) | set(given)
    truths = {}
    for label in labels:
        of_label = [source for source, targets in sources.items() if label in targets]
        if any(source in given for source in of_label):
            truths[label] = True
        elif of_label and all(source in looked_at for source in of_label):
            truths[label] = False
    if unsafe is None and (given or looked_at == set(sources)):
        unsafe = bool(given)
    return Example(record, truths, unsafe)


def _names(row: Mapping[str, Any], field: str, sources: Mapping[str, Sequence[str]], where: str) -> set[str] | None:
    value = row.get(field)
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise TokmargError(f"{where}: {field} must be a list of strings")
    for name in value:
        if name not in sources:
            raise TokmargError(
                f"{where}: {field}: {name!r:.60} is none of {', '.join(sources):.300}; a label map (--label-map FILE) "
                "joins another taxonomy"
            )
    return set(value)
