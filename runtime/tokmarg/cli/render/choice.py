"""The renderer that ``--format`` names."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from tokmarg.cli.io.source import is_columnar

if TYPE_CHECKING:
    from tokmarg.guard import Guard
    from tokmarg.results import Method, Thresholds

    from .renderer import Renderer

__all__ = ["renderer_of"]


def renderer_of(
    format: str,
    guard: Guard,
    method: Method,
    thresholds: Thresholds,
    categories: str,
    *,
    colour: bool = False,
    with_ids: bool,
) -> Renderer:
    """The renderer of a format.

    Args:
        format: of the output.
        guard, method, thresholds: that made the outcomes.
        categories: of OpenAI's format.
        colour: of a table: the output is a terminal.
        with_ids: of columns: they do not stand beside those of an input.

    Raises:
        SpecError: the guard has no table of OpenAI's categories.
    """
    from tokmarg.openai_format import openai_table

    from .columns import Columns
    from .jsonl import JsonLines
    from .openai import OpenAI
    from .table import Table

    if is_columnar(format):
        return Columns(guard, method, with_ids)
    if format == "jsonl":
        return JsonLines()
    if format == "openai":
        return OpenAI(thresholds, openai_table(categories, guard.spec.openai, guard.labels, guard.path))
    titles = {label.id: label.title for label in guard.spec.labels}
    return Table(titles, colour=colour and not os.environ.get("NO_COLOR"))
