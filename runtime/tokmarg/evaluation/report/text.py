"""Texts of the report: names of runs, and texts that UTF-8 can hold."""

from __future__ import annotations

import os
import re

from tokmarg.evaluation.evaluation import Run

__all__ = ["clean", "data_name", "run_name", "several_bundles"]


def clean(text: str) -> str:
    """The text with a mark in place of each half of a surrogate pair, which UTF-8 cannot hold."""
    return re.sub("[\ud800-\udfff]", "\ufffd", text)


def data_name(data: str) -> str:
    """The name of the records' file, without its path on this machine."""
    return clean(os.path.basename(data) or data)


def run_name(run: Run, several: bool) -> str:
    """The method, after the bundle where there are several."""
    return clean(f"{run.bundle}, {run.method}" if several else run.method)


def several_bundles(runs: tuple[Run, ...]) -> bool:
    """Whether the runs are of more than one bundle."""
    return len({run.bundle for run in runs}) > 1
