"""The contents of a table's rows: a column of texts, a column of conversations, or both.

A text column holds strings of any Arrow kind: ``string``, ``large_string``, ``string_view``, dictionaries and runs of
them. A column of conversations holds lists of structs with ``role`` and ``content``, of which ``content`` may be a list
of parts; or JSON texts of such lists.

A column of another type is an error of the table. What is wrong with a value (null, not UTF-8, no JSON) is an error of
its row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from tokmarg.documents import unique_json
from tokmarg.errors import ContentError, TokmargError
from tokmarg.prompt.labels import Role
from tokmarg.prompt.messages import Record
from tokmarg.records.json_objects import NESTING, is_deep

from .column_types import is_messages, is_text

__all__ = ["ContentColumns"]

#: Reads the value of a row; raises ContentError.
Reader = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class ContentColumns:
    """Which columns hold the contents.

    Attributes:
        text, messages: names of columns; of a row with both, one must be null.
        role: of bare texts.
        id: column of ids, which need not be there for results that stand beside their rows.
    """

    text: str | None
    messages: str | None
    role: Role | None = None
    id: str | None = None

    @classmethod
    def choose(
        cls, schema: pa.Schema, text: str | None, messages: str | None, role: Role | None = None, id: str | None = None
    ) -> ContentColumns:
        """The columns that were named, or ``text`` and ``messages`` as far as they are there.

        Raises:
            TokmargError: there is no such column, or it cannot hold contents; names it.
        """
        if text is None and messages is None:
            text, messages = (name if name in schema.names else None for name in ("text", "messages"))
            if text is None and messages is None:
                raise TokmargError(f"there is no column 'text' or 'messages' {_columns(schema)}")
        for name, accepts, wanted in ((text, is_text, "text"), (messages, is_messages, "conversation")):
            if name is not None:
                kind = _only(schema, name).type
                if not accepts(kind):
                    raise TokmargError(f"column {name!r:.60} is of type {kind!s:.80}, which holds no {wanted}")
        return cls(text, messages, role, id if id in schema.names else None)

    @property
    def names(self) -> list[str]:
        """Of the columns."""
        return list(dict.fromkeys(name for name in (self.id, self.text, self.messages) if name is not None))

    def of(self, batch: pa.RecordBatch, first: int = 1) -> Iterator[Record | ContentError]:
        """The contents of a batch, row by row.

        Args:
            batch: rows with the columns.
            first: number of its first row, which is the id of a row without one.
        """
        columns = [_values(batch.column(name)) for name in (self.text, self.messages) if name is not None]
        ids = [None] * batch.num_rows if self.id is None else map(_id, _values(batch.column(self.id)))
        for number, (id, *values) in enumerate(zip(ids, *columns, strict=True), first):
            own = number if id is None or id == "" else id
            try:
                yield Record(self._content(values), own, self.role)
            except ContentError as error:
                error.id = own
                yield error

    def _content(self, values: list[Any]) -> Any:
        """The content of a row; ``role`` goes with a text alone."""
        readers = [(self.text, _text), (self.messages, _messages)]
        given = zip([(name, read) for name, read in readers if name is not None], values, strict=True)
        found = [(name, read, value) for (name, read), value in given if value is not None]
        if len(found) > 1:
            raise ContentError(
                "invalid_record", f"the row has both {self.text} and {self.messages}; it needs one of them"
            )
        if not found:
            names = " and ".join(name for name in (self.text, self.messages) if name is not None)
            raise ContentError("invalid_record", f"{names:.60} must be a text, not null")
        name, read, value = found[0]
        if isinstance(value, UnicodeDecodeError):
            message = f"{name:.60} is not valid UTF-8 at byte {value.start + 1}"
            raise ContentError("invalid_encoding", message)
        return read(value)


def _only(schema: pa.Schema, name: str) -> pa.Field:
    """The one column of a name."""
    if (count := schema.names.count(name)) != 1:
        has = f"are {count} columns" if count else "is no column"
        raise TokmargError(f"there {has} {name!r:.60} {_columns(schema)}")
    return schema.field(name)


def _columns(schema: pa.Schema) -> str:
    return f"(columns: {', '.join(map(repr, schema.names)) or 'none':.300})"


def _values(column: pa.Array) -> list[Any]:
    """The values of a column; for one that is not UTF-8 the error."""
    try:
        return list(column.to_pylist(maps_as_pydicts="lossy"))
    except UnicodeDecodeError:
        return [_value(scalar) for scalar in column]


def _value(scalar: pa.Scalar) -> Any:
    try:
        return scalar.as_py(maps_as_pydicts="lossy")
    except UnicodeDecodeError as error:
        return error


def _text(value: str) -> str:
    return value


def _messages(value: Any) -> Any:
    """A conversation: from a column of lists, or of JSON texts."""
    if not isinstance(value, str):
        return value
    try:
        messages = unique_json(value)
    except RecursionError:
        raise ContentError("invalid_record", "messages are no valid JSON: nested too deeply") from None
    except ValueError as error:
        raise ContentError("invalid_record", f"messages are no valid JSON: {error}") from None
    if not isinstance(messages, list):
        raise ContentError("invalid_record", "messages must be a JSON list")
    if is_deep(messages, NESTING):
        raise ContentError("invalid_record", "messages are nested too deeply")
    return messages


def _id(value: Any) -> Any:
    """An id as JSON can hold it: a text, a number, true or false; a text of anything else."""
    if value is None or isinstance(value, (str, bool, int)):
        return value
    return value if isinstance(value, float) and value - value == 0 else str(value)
