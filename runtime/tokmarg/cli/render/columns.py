"""Scores as columns: the rows of a pack as one message, of which the file is written at the end of the run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from tokmarg.dataframes.names import COLUMN
from tokmarg.documents import to_json
from tokmarg.errors import ContentError

from .renderer import Outcome

if TYPE_CHECKING:
    from tokmarg.dataframes.result_type import ResultType
    from tokmarg.guard import Guard
    from tokmarg.prompt.messages import Record
    from tokmarg.results import Method

__all__ = ["Columns"]


class Columns:
    """Renders outcomes as Arrow messages: a struct column ``tokmarg``, and ids where they stand beside nothing else.

    Args:
        guard: whose outcomes they are.
        method: that made them.
        with_ids: a first column ``id``, of texts: JSON where an id is none.
    """

    def __init__(self, guard: Guard, method: Method, with_ids: bool) -> None:
        self._guard, self._method, self._with_ids = guard, method, with_ids

    @cached_property
    def schema(self) -> Any:
        """Of the messages."""
        import pyarrow as pa

        ids = [pa.field("id", pa.string())] if self._with_ids else []
        return pa.schema([*ids, pa.field(COLUMN, self._type.struct)])

    @cached_property
    def _type(self) -> ResultType:
        from tokmarg.dataframes.result_type import ResultType

        return ResultType.of(self._guard.spec, self._guard.calibration, self._method)

    def after(self, schema: Any) -> Any:
        """A table's schema with the results' columns."""
        for field in self.schema:
            schema = schema.append(field)
        return schema

    def note(self, record: Record | ContentError) -> str:
        """Empty: a row needs nothing of the content."""
        return ""

    def rows(self, outcomes: Sequence[tuple[Outcome, str]]) -> bytes:
        """The rows of a pack as a message."""
        import pyarrow as pa

        from tokmarg.dataframes.result_array import result_array
        from tokmarg.dataframes.scored_file import encoded

        results = result_array([outcome for outcome, _ in outcomes], self._type)
        ids = [pa.array([_id(outcome.id) for outcome, _ in outcomes], pa.string())] if self._with_ids else []
        return encoded(pa.RecordBatch.from_arrays([*ids, results], schema=self.schema))

    def decoded(self, path: str) -> Iterator[Any]:
        """The record batches of a file of such messages."""
        from tokmarg.dataframes.scored_file import decoded

        return decoded(path, self.schema)


def _id(id: object) -> str:
    return id.encode("utf-8", "backslashreplace").decode() if isinstance(id, str) else to_json(id)
