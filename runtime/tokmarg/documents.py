"""JSON and TOML documents: reading a file, and typed access to its fields with errors that name file and field."""

from __future__ import annotations

import hashlib
import json
import math
import os
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

from .errors import TokmargError
from .system_calls import by_system

__all__ = [
    "Fields",
    "document_sha256",
    "has_surrogate",
    "naming",
    "read_document",
    "strict_json",
    "to_json",
    "unique_json",
]

T = TypeVar("T")
#: Size limit of a document, in bytes.
_MAX_BYTES = 16 * 2**20
_REQUIRED: Any = object()
_NAMES = {str: "a string", int: "an integer", float: "a number", bool: "true or false", dict: "a table", list: "a list"}


@contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Names the file in an OSError of a write to it, as on a full disk: Python names it only where it is opened."""
    try:
        yield
    except OSError as error:
        if error.filename is None and by_system(error):
            error.filename = os.fspath(path)
        raise


def document_sha256(document: object) -> str:
    """sha256 of a document as JSON, whatever the order of its keys; paths count as their text."""
    return hashlib.sha256(json.dumps(document, sort_keys=True, default=str).encode()).hexdigest()


class Fields:
    """One table of a parsed document.

    ``where`` is the document's name and ``path`` the table's place in it; both appear in every message.
    Raises ``error`` (a TokmargError class) for a missing field, a wrong type, or an unknown field.
    """

    def __init__(self, data: object, where: str, error: type[TokmargError], path: str = "") -> None:
        self.where, self.error, self.path = where, error, path
        if not isinstance(data, Mapping):
            raise self.fail("", f"must be a table, not {type(data).__name__}")
        self.data = data

    def fail(self, key: str, message: str) -> TokmargError:
        """The error for field ``key``; the caller raises it."""
        parts = (f"{part:.200}" for part in (self.path, key) if part)
        field = ".".join(part if part.isprintable() else ascii(part) for part in parts)
        return self.error(f"{self.where}: {field}: {message}" if field else f"{self.where}: {message}")

    def get(self, key: str, kind: type[T], default: Any = _REQUIRED) -> T:
        """Field ``key``, which must be of type ``kind`` (an integer passes for a float)."""
        if key not in self.data:
            if default is _REQUIRED:
                raise self.fail(key, "is missing")
            return default  # type: ignore[no-any-return]
        value = self.data[key]
        if value is None and default is None:
            return None  # type: ignore[return-value]
        if kind is float and isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**53:
            value = float(value)
        if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
            raise self.fail(key, f"must be {_NAMES.get(kind, kind.__name__)}, not {_shown(value)}")
        if kind is int and abs(cast(int, value)) >= 2**63:
            raise self.fail(key, "is a number beyond 64 bits")
        return self._valid(key, value)

    def table(self, key: str, default: Any = _REQUIRED) -> Fields:
        """Field ``key`` as a table of its own."""
        value = self.get(key, dict, default)
        return Fields(value, self.where, self.error, f"{self.path}.{key}".lstrip("."))

    def tables(self, key: str, default: Any = _REQUIRED) -> list[Fields]:
        """Field ``key`` as a list of tables."""
        values = self.get(key, list, default)
        return [Fields(v, self.where, self.error, f"{self.path}.{key}[{i}]".lstrip(".")) for i, v in enumerate(values)]

    def strings(self, key: str, default: Any = _REQUIRED) -> tuple[str, ...]:
        """Field ``key`` as a list of strings."""
        values = self.get(key, list, default)
        for value in values:
            if not isinstance(value, str):
                raise self.fail(key, f"must be a list of strings, not of {_shown(value)}")
            self._valid(key, value)
        return tuple(values)

    def text_table(self, key: str, default: Any = _REQUIRED) -> dict[str, str]:
        """Field ``key`` as a table of strings."""
        table = self.get(key, dict, default)
        for name, value in table.items():
            if not isinstance(value, str):
                raise self.fail(f"{key}.{name}", f"must be a string, not {_shown(value)}")
            self._valid(f"{key}.{name}", value)
        return dict(table)

    def only(self, allowed: Iterable[str]) -> None:
        """Refuses unknown fields: a misspelt option must not be ignored."""
        allowed = set(allowed)
        for key in self.data:
            if key not in allowed:
                raise self.fail(f"{key!s:.60}", f"is not a known field (known: {', '.join(sorted(allowed))})")

    def _valid(self, key: str, value: T) -> T:
        """The value; refuses text that is not Unicode."""
        if isinstance(value, str) and has_surrogate(value):
            raise self.fail(key, "holds a lone surrogate")
        return value


def read_document(
    path: str | os.PathLike[str], error: type[Exception], *, format: Literal["json", "toml"] | None = None
) -> Any:
    """Reads and parses a JSON or TOML file of at most 16 MiB.

    Args:
        path: the file, UTF-8 with or without byte order mark.
        error: exception class for everything that goes wrong.
        format: of the file; None takes JSON for the extension ``.json`` in any case, TOML for all others.

    Returns:
        the parsed document; for :class:`Fields`.

    Raises:
        error: the file is too large, cannot be read or parsed; one line that names it.
    """
    path = Path(path)
    if format is None:
        format = "json" if path.suffix.lower() == ".json" else "toml"
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise error(f"{path}: larger than {_MAX_BYTES // 2**20} MiB")
        text = path.read_bytes().decode("utf-8-sig")
        return strict_json(text) if format == "json" else tomllib.loads(text)
    except OSError as failure:
        if not by_system(failure):
            raise
        raise error(f"{path}: cannot be read: {failure.strerror or failure}") from None
    except (ValueError, RecursionError) as failure:  # malformed UTF-8, JSON or TOML; tables nested too deeply
        raise error(f"{path}: not valid {format.upper()}: {failure}") from None


def has_surrogate(text: str) -> bool:
    """JSON can spell half of a surrogate pair; no tokenizer takes it."""
    return not text.isascii() and any("\ud800" <= c <= "\udfff" for c in text)


def _shown(value: object) -> str:
    """A wrong value for a message: short, and of tables and lists the kind alone."""
    if type(value) is int and abs(value) >= 2**63:
        return "a number beyond 64 bits"
    return "a table" if isinstance(value, Mapping) else "a list" if isinstance(value, list) else f"{value!r:.60}"


def strict_json(text: str | bytes) -> Any:
    """Parses JSON as the standard has it: UTF-8, no NaN, no infinity, and no field twice (parsers differ in which
    of the two they take).

    Raises:
        ValueError: it is not that.
        RecursionError: it is nested too deeply.
    """
    if isinstance(text, bytes):  # json would guess UTF-16 and UTF-32
        text = text.decode("utf-8-sig")
    return json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse, parse_float=_finite)


def unique_json(text: str) -> Any:
    """Parses JSON as Python does, but refuses a field twice: files from elsewhere may hold NaN in ignored fields.

    Raises:
        ValueError: it is not that.
        RecursionError: it is nested too deeply.
    """
    return json.loads(text, object_pairs_hook=_unique)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"field {twice!r:.60} is there twice")
    return table


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"number {digits:.60} is too large")
    return number


def to_json(row: object) -> str:
    """One line of JSON in ASCII: an id survives any encoding, terminal or line splitter, whatever it holds."""
    return json.dumps(row, allow_nan=False)
