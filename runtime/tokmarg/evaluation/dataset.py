"""Dataset: reads labelled records of any format with fields, and label maps from another taxonomy to the bundle's.

A row says what it knows:

    labels   the labels that apply; with nothing else said, all others do not
    known    the labels that were judged, where not all were; of the others nothing is known
    unsafe   true or false; without it, a row with labels is unsafe, one with none of all labels is not

In JSON these are lists and a boolean. In tables they are columns: ids joined by ``;``, and true or false. An empty cell
of ``known`` or ``unsafe`` says nothing; one of ``labels`` says that none applies, unless ``unsafe`` is true.

A *label map* joins another taxonomy to the bundle's. It is a TOML file with one table, ``[map]``, whose keys are the
data's labels and whose values are one or more of the bundle's, or none (``[]``: such a label tells of ``unsafe``
alone). A bundle's label is true if any label mapped to it is, and false if all of them were judged and none is.
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokmarg.arguments import check_choice, check_path, check_texts, check_type
from tokmarg.documents import Fields
from tokmarg.errors import ContentError, SpecError, TokmargError
from tokmarg.prompt.labels import ROLES, Role
from tokmarg.prompt.messages import Record
from tokmarg.records import (
    FORMATS,
    Format,
    ReadOptions,
    Row,
    check_text,
    format_of,
    formats_shown,
    read_rows,
)
from tokmarg.system_calls import by_system

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


def read_label_map(path: str | os.PathLike[str], labels: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Reads a label map.

    Args:
        path: TOML file.
        labels: the bundle's.

    Raises:
        SpecError: malformed, or maps to a label that the bundle does not have; names file and field.
        OptionError: an argument is of the wrong type; names it.
    """
    check_path("path", path)
    check_texts("labels", labels)
    path = Path(path)
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        if not by_system(error):
            raise
        raise SpecError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:  # wrong UTF-8 and TOML alike, and tables without end
        raise SpecError(f"{path}: not valid TOML: {error}") from None
    document = Fields(data, str(path), SpecError)
    document.only(["map"])
    table = document.table("map")
    mapping = {}
    for name, value in table.data.items():
        targets = (value,) if isinstance(value, str) else table.strings(name)
        for target in targets:
            if target not in labels:
                raise table.fail(name, f"{target!r:.60} is no label of the bundle ({', '.join(labels):.300})")
        mapping[name] = targets
    if not mapping:
        raise document.fail("map", "is empty")
    return mapping


def read_labelled(
    path: str | os.PathLike[str],
    labels: Sequence[str],
    label_map: Mapping[str, Sequence[str]] | None = None,
    *,
    role: Role | None = None,
    text_field: str = "text",
    format: Format | None = None,
    delimiter: str | None = None,
    encoding: str | None = None,
    notice: Callable[[str], object] | None = None,
) -> list[Example]:
    """Reads a file of labelled records: JSONL, JSON, CSV or TSV.

    Args:
        path: the file.
        labels: the bundle's.
        label_map: label of the data -> labels of the bundle; None where they are the same.
        role: role of bare texts.
        text_field: JSON field or column with the text.
        format: ``jsonl``, ``json``, ``csv`` or ``tsv``; None takes what the extension says.
        delimiter: of a table; None looks for it in the header.
        encoding: of a file without byte order mark; None is UTF-8.
        notice: called with one line about a delimiter or encoding that was found and not asked for.

    Raises:
        TokmargError: the file cannot be read, is empty, holds a record that cannot be read, a label that nobody knows,
            an id twice, or nothing that is known of any record; names file and line (of CSV: the record's number).
        OptionError: an argument is of the wrong type; names it.
    """
    _check(path, labels, role, text_field, format)
    path, format = Path(path), _labelled_format(path, format)
    sources = {label: (label,) for label in labels} if label_map is None else label_map
    examples: list[Example] = []
    first_used: dict[str, int] = {}  # id -> number of its record
    place = "line" if format == "jsonl" else "record"
    options = ReadOptions(
        role, text_field, delimiter, encoding, ("labels", "known", "unsafe"), notice or (lambda message: None)
    )
    for number, row in enumerate(_rows(path, format, options), 1):
        where = f"{path}, {place} {number}"
        if isinstance(row, ContentError):
            raise TokmargError(f"{where}: {row}")
        record, fields = row
        if format in ("csv", "tsv"):
            fields = _cells(fields)
        if "id" in fields:
            key = json.dumps(record.id)
            if key in first_used:
                raise TokmargError(f"{where}: id {key:.60} was used in {place} {first_used[key]} already")
            first_used[key] = number
        try:
            examples.append(_example(record, fields, sources, labels))
        except TokmargError as error:
            raise TokmargError(f"{where}: {error}") from None
    if not examples:
        raise TokmargError(f"{path}: is empty")
    if not any(example.labels or example.unsafe is not None for example in examples):
        raise TokmargError(f"{path}: no record says anything: it needs labels or unsafe")
    return examples


def _labelled_format(path: str | os.PathLike[str], given: Format | None) -> Format:
    format = given or format_of(os.fspath(path))
    if format is None:
        raise TokmargError(f"{path}: its extension names no format ({formats_shown()}); add --input-format")
    if format == "lines":
        raise TokmargError(f"{path}: plain lines carry no labels; JSONL or CSV do")
    return format


def _check(path: object, labels: object, role: object, text_field: object, format: object) -> None:
    check_path("path", path)
    check_texts("labels", labels)
    check_type("text_field", text_field, str, "a text")
    if format is not None:
        check_choice("format", format, FORMATS)
    if role is not None:
        check_choice("role", role, ROLES)


def _rows(path: Path, format: Format, options: ReadOptions) -> Iterator[Row | ContentError]:
    """The rows of a file, with errors that name it."""
    try:
        with path.open("rb") as stream:
            check_text(stream.read(16))
            stream.seek(0)
            yield from read_rows(stream, format, options)
    except OSError as error:
        if not by_system(error):
            raise
        raise TokmargError(f"{path}: cannot be read: {error.strerror or error}") from None
    except TokmargError as error:  # a table without the text column, or with a column twice
        raise TokmargError(f"{path}: {error}") from None


def _cells(cells: Mapping[str, str]) -> dict[str, Any]:
    """A CSV row as the object that JSONL would hold."""
    row: dict[str, Any] = {"id": cells["id"]} if cells.get("id") else {}
    if said := cells.get("unsafe", "").strip():
        row["unsafe"] = {"true": True, "false": False}.get(said.lower(), said)
    for field in ("labels", "known"):
        names = [name.strip() for name in cells.get(field, "").split(";")]
        row[field] = [name for name in names if name] or None
    if "labels" in cells and row["labels"] is None and row.get("unsafe") is not True:
        row["labels"] = []
    return row


def _example(
    record: Record, row: Mapping[str, Any], sources: Mapping[str, Sequence[str]], labels: Sequence[str]
) -> Example:
    given = _names(row, "labels", sources)
    known = _names(row, "known", sources)
    unsafe = row.get("unsafe")
    if unsafe is not None and not isinstance(unsafe, bool):
        raise TokmargError(f"unsafe must be true or false, not {json.dumps(unsafe):.60}")
    if given is None:
        return Example(record, {}, unsafe)
    judged = set(sources) if known is None else set(known) | set(given)
    truths = {}
    for label in labels:
        of_label = [source for source, targets in sources.items() if label in targets]
        if any(source in given for source in of_label):
            truths[label] = True
        elif of_label and all(source in judged for source in of_label):
            truths[label] = False
    if unsafe is None and (given or judged == set(sources)):
        unsafe = bool(given)
    return Example(record, truths, unsafe)


def _names(row: Mapping[str, Any], field: str, sources: Mapping[str, Sequence[str]]) -> set[str] | None:
    value = row.get(field)
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise TokmargError(f"{field} must be a list of strings")
    for name in value:
        if name not in sources:
            raise TokmargError(
                f"{field}: {name!r:.60} is none of {', '.join(sources):.300}; a label map (--label-map FILE) joins "
                "another taxonomy"
            )
    return set(value)
