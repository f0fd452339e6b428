"""Thresholds file: reads flagging thresholds from TOML or (``.json``) JSON.

unsafe = 0.5          # optional

[labels]              # optional
S1 = 0.3
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from tokmarg.arguments import check_path
from tokmarg.documents import Fields, read_document
from tokmarg.errors import TokmargError
from tokmarg.results import Thresholds

__all__ = ["read_thresholds"]


def read_thresholds(path: str | os.PathLike[str], labels: Sequence[str]) -> Thresholds:
    """Reads a thresholds file.

    Args:
        path: the file.
        labels: label ids that may have a threshold.

    Raises:
        TokmargError: the file cannot be read or is malformed, or a field is unknown or outside [0, 1]; names file and
            field.
    """
    check_path("path", path)
    fields = Fields(read_document(path, TokmargError), str(Path(path)), TokmargError)
    fields.only(["unsafe", "labels"])
    own = fields.table("labels", {})
    own.only(labels)
    values = {label: _probability(own, label) for label in own.data}
    if "unsafe" not in fields.data:
        return Thresholds(labels=values)
    return Thresholds(_probability(fields, "unsafe"), values)


def _probability(fields: Fields, key: str) -> float:
    value = fields.get(key, float)
    if not 0 <= value <= 1:  # false for NaN too
        raise fields.fail(key, f"must lie between 0 and 1, not {value!r}")
    return value
