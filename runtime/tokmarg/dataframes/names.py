"""Names of columns, which are known without pyarrow."""

from __future__ import annotations

__all__ = ["COLUMN"]

#: Of the struct column that results become.
COLUMN = "tokmarg"
