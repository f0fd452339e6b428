"""Several input files, by a folder or a pattern, and the output file of each in a folder.

    --input posts          every file of a known format (or, with --input-format, of any name) in the folder and those
                           inside it; no hidden ones, nor _such
    --input 'posts/*.csv'  the files that a pattern (* ? [...], ** for folders) is about
    --output scores        scores/2024/a.parquet for posts/2024/a.parquet; scores/b.csv.jsonl for posts/b.csv

An output's name follows from its input's, so that a later run finds it.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .source import Source, is_columnar

if TYPE_CHECKING:
    from tokmarg.cli.options import InputOptions

__all__ = ["ScoredFile", "is_file_set", "scored_files"]


@dataclass(frozen=True, slots=True)
class ScoredFile:
    """An input file, and the output that it gives.

    Attributes:
        source: the input.
        output: path of the output.
        name: the output's, in the folder of outputs; with ``/`` on every system.
        format: of the output.
    """

    source: Source
    output: str
    name: str
    format: str


def is_file_set(path: str | None) -> bool:
    """Whether an input names a folder, or is a pattern. A file that has the pattern's own name is that file."""
    if path is None or os.path.isfile(path):
        return False
    return os.path.isdir(path) or glob.has_magic(path)


def scored_files(path: str, output: str, reading: InputOptions, format: str | None) -> list[ScoredFile]:
    """The files of a set, in the order of their names.

    Args:
        path: a folder or a pattern.
        output: the folder of outputs; what is in it is no input.
        reading: how inputs are read.
        format: of all outputs; None is an input's own format of columns, and JSON lines for text.

    Raises:
        click.UsageError: there is no such file, or the folder of outputs is that of the inputs.
    """
    root = Path(path if os.path.isdir(path) else _fixed_part(path))
    outputs = Path(os.path.realpath(output))
    if outputs == Path(os.path.realpath(root)):
        raise click.UsageError(f"--output: {output}: is the folder of the input files.")
    if outputs.exists() and not outputs.is_dir():
        raise click.UsageError(f"--output: {output}: must be a folder, for a file for each input.")
    found = []
    for each in sorted(_known(root, reading.format is not None) if os.path.isdir(path) else _matching(path)):
        if outputs in Path(os.path.realpath(each)).parents or not each.is_file():
            continue
        source = Source.choose((), str(each), reading)
        own = format or (str(source.format) if is_columnar(source.format) else "jsonl")
        name = each.relative_to(root).as_posix()
        if not _has_format(name, own):
            name = f"{name}.{own if is_columnar(own) else 'jsonl'}"
        found.append(ScoredFile(source, str(Path(output, name)), name, own))
    if not found:
        raise click.UsageError(f"--input: {path}: there is no file of a known format.")
    return found


def _known(folder: Path, whatever: bool) -> Iterator[Path]:
    """The files of a folder whose extensions name a format, or ``whatever`` they are called."""
    from tokmarg.records import columnar_format_of, format_of

    for each in folder.rglob("*"):
        if any(part[0] in "._" for part in each.relative_to(folder).parts):
            continue
        if whatever or format_of(each.name) or columnar_format_of(each.name):
            yield each


def _matching(pattern: str) -> Iterator[Path]:
    return map(Path, glob.iglob(pattern, recursive=True))


def _fixed_part(pattern: str) -> Path:
    """The folder of a pattern: what comes before the first part that has any magic."""
    parts = Path(pattern).parts
    fixed = next(i for i, part in enumerate(parts) if glob.has_magic(part))
    return Path(*parts[:fixed])


def _has_format(name: str, format: str) -> bool:
    from tokmarg.records import columnar_format_of, format_of

    return (columnar_format_of(name) or format_of(name)) == ("jsonl" if not is_columnar(format) else format)
