"""Where results stand in a table: under one struct column, or as flat columns whose names have a prefix."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from tokmarg.arguments import check_type
from tokmarg.errors import OptionError, TokmargError

from .result_type import ResultType

__all__ = ["Placement"]


@dataclass(frozen=True, slots=True)
class Placement:
    """The columns that results are appended as.

    Attributes:
        into: name of the one struct column.
        prefix: of the names of flat columns, in its place; None for the struct.
        type: of the results.

    Raises:
        OptionError: a name is no text, or flat columns would have one name twice.
    """

    into: str
    prefix: str | None
    type: ResultType

    def __post_init__(self) -> None:
        check_type("into", self.into, str, "the name of a column")
        check_type("prefix", self.prefix, (str, type(None)), "the beginning of column names, or None")
        if twice := [name for name, count in Counter(self.schema.names).items() if count > 1]:
            raise OptionError(f"prefix: two flat columns would be {twice[0]!r:.60}: labels' names do not allow it")

    @property
    def schema(self) -> pa.Schema:
        """The columns alone."""
        struct = self.type.struct
        if self.prefix is None:
            return pa.schema([pa.field(self.into, struct)])
        return pa.schema(_flat_fields(self.prefix, struct))

    def after(self, schema: pa.Schema) -> pa.Schema:
        """A table's schema with the columns.

        Raises:
            TokmargError: the table has one of them already.
        """
        taken = set(schema.names)
        for name in self.schema.names:
            if name in taken:
                other = "into= another name" if self.prefix is None else "prefix= another beginning"
                raise TokmargError(f"the table has a column {name!r:.60} already: give {other}")
        for field in self.schema:
            schema = schema.append(field)
        return schema

    def columns(self, results: pa.StructArray) -> list[pa.Array]:
        """The columns of some results."""
        return [results] if self.prefix is None else list(_flat_arrays(results))


def _flat_fields(name: str, struct: pa.StructType) -> list[pa.Field]:
    flat: list[pa.Field] = []
    for field in struct:
        if pa.types.is_struct(field.type):
            flat += _flat_fields(f"{name}{field.name}_", field.type)
        else:
            flat.append(pa.field(f"{name}{field.name}", field.type))
    return flat


def _flat_arrays(results: pa.StructArray) -> Sequence[pa.Array]:
    flat: list[pa.Array] = []
    for each in results.flatten():
        flat += _flat_arrays(each) if pa.types.is_struct(each.type) else [each]
    return flat
