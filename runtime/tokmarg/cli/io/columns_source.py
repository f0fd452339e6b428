"""Records of a file of columns, for commands: opened late, checked once, and named in what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from tokmarg.dataframes.extras import check_extra
from tokmarg.errors import ContentError, TokmargError

if TYPE_CHECKING:
    from tokmarg.prompt.labels import Role
    from tokmarg.prompt.messages import Record
    from tokmarg.records import ColumnarFormat

__all__ = ["ColumnsSource"]

#: Rows that are read at a time, of the contents' columns.
_ROWS = 1024


class ColumnsSource:
    """A file of columns whose rows are records. All columns that will be read are read once, when it is made.

    Args:
        path, format: of the file.
        text_field: column of the texts; None takes ``text`` and ``messages``, as far as they are there.
        whole: all columns will be read, not those of the contents alone.

    Attributes:
        file: the open file.
        done: share of its rows that have been read.

    Raises:
        OSError: it cannot be opened.
        TokmargError: pyarrow is missing, the file is damaged, or has no column of contents; names file and column.
    """

    def __init__(self, path: str, format: ColumnarFormat, text_field: str | None, whole: bool) -> None:
        check_extra("arrow", "pyarrow", what=f"{format} ({path})")
        from tokmarg.dataframes.columnar_file import open_columnar
        from tokmarg.dataframes.contents import ContentColumns

        self.file, self.done = open_columnar(path, format), 0.0
        try:
            self._columns = ContentColumns.choose(self.file.schema, text_field, None, id="id")
        except TokmargError as error:
            raise TokmargError(f"{path}: {error}{'' if text_field else ' (--text-field names another)'}") from None
        self.file.check(None if whole else self._columns.names)

    def records(self, role: Role | None, start: int) -> Iterator[Record | ContentError]:
        """The records after the first ``start`` ones.

        Args:
            role: of bare texts.
        """
        from dataclasses import replace

        columns, number = replace(self._columns, role=role), start
        for batch in self.file.batches(columns.names, start, _ROWS):
            for at, record in enumerate(columns.of(batch, number + 1), number + 1):
                self.done = at / self.file.rows
                yield record
            number += batch.num_rows
