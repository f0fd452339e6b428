"""Columns in, columns out: tables of contents scored into tables with results (extra ``arrow``)."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .ray_data import GuardScorer, score_dataset
    from .scoring import result_schema, score_batches, score_table, scored_schema
    from .spark import score_dataframe, score_udf, use_this_python

# Loading these loads onnxruntime: what commands need of this package before they score need not wait for it.
_LAZY = dict.fromkeys(("result_schema", "score_batches", "score_table", "scored_schema"), "tokmarg.dataframes.scoring")
_LAZY |= dict.fromkeys(("GuardScorer", "score_dataset"), "tokmarg.dataframes.ray_data")
_LAZY |= dict.fromkeys(("score_dataframe", "score_udf", "use_this_python"), "tokmarg.dataframes.spark")


def __getattr__(name: str) -> object:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "GuardScorer",
    "result_schema",
    "score_batches",
    "score_dataframe",
    "score_dataset",
    "score_table",
    "score_udf",
    "scored_schema",
    "use_this_python",
]
