"""The report of an evaluation: one HTML file with everything in it, for a browser without network.

The page is ``report.html`` with ``report.css`` and ``report.js`` inside, and the numbers as JSON. Its own
content-security policy lets nothing run or load but that one script and that one style (by their sha256), so a text
that holds markup stays a text; besides, texts only ever become text nodes.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import os
import re
from importlib.resources import files

from tokmarg.errors import TokmargError
from tokmarg.evaluation.evaluation import Evaluation
from tokmarg.system_calls import by_system
from tokmarg.whole_file import write_whole

from .embedded_data import embedded_data
from .tables import differences_section, summary_table
from .text import clean, data_name

__all__ = ["page_files", "render", "write_report"]


def write_report(evaluation: Evaluation, path: str | os.PathLike[str]) -> None:
    """Writes the report: one HTML file that needs nothing else, neither files nor network.

    It holds the texts of the worst errors.

    Raises:
        TokmargError: the file cannot be written, or tokmarg's own files of the page are missing.
    """
    page = render(evaluation)
    try:
        write_whole(path, page.encode())
    except OSError as error:
        if not by_system(error):
            raise
        raise TokmargError(f"{os.fspath(path)}: cannot be written: {error.strerror or error}") from None


def render(evaluation: Evaluation) -> str:
    """The report as HTML."""
    page, style, script = page_files()
    parts = {
        "title": html.escape(f"{data_name(evaluation.data)}: evaluation"),
        "policy": f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; img-src data:; "
        "base-uri 'none'; form-action 'none'",
        "style": style,
        "script": script,
        "lead": html.escape(_lead(evaluation)),
        "summary": summary_table(evaluation.runs),
        "differences": differences_section(evaluation.runs),
        "data": _json_in_script(embedded_data(evaluation)),
    }
    # One pass: what is filled in is never looked at again.
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], page)


def page_files() -> tuple[str, str, str]:
    """The page's HTML, style and script, which are files of this package.

    Raises:
        TokmargError: one is missing: the package was not installed, or frozen, whole.
    """
    texts = []
    for name in ("report.html", "report.css", "report.js"):
        try:
            texts.append((files(__package__) / name).read_text(encoding="utf-8").replace("\r\n", "\n"))
        except OSError as error:
            if not by_system(error):
                raise
            raise TokmargError(
                f"tokmarg's own file {name}, data of the package {__package__}, cannot be read "
                f"({error.strerror or error}): install tokmarg again, or add its package data to the frozen application"
            ) from None
    page, style, script = texts
    return page, style, script


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _json_in_script(data: object) -> str:
    """JSON that may stand in a script element: nothing in it ends the element or opens a comment."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return re.sub("[<>&\u2028\u2029]", lambda match: f"\\u{ord(match[0]):04x}", text)


def _lead(evaluation: Evaluation) -> str:
    runs = evaluation.runs
    models = ", ".join(dict.fromkeys(f"{run.model} ({run.precision})" for run in runs))
    intervals = f"; 95 % intervals from {evaluation.samples:,} resamples" if evaluation.samples else ""
    return clean(
        f"{len(evaluation.examples):,} records of {data_name(evaluation.data)}, scored by {models}. A label counts as "
        f"predicted where its score reaches {evaluation.threshold:g}{intervals}."
    )
