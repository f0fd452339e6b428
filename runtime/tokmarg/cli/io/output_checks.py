"""Checks that an output can be written, before a guard is loaded and anything is scored."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from collections.abc import Mapping

import click

from tokmarg.errors import TokmargError

__all__ = ["check_output"]

Name = str | os.PathLike[str]


def check_output(option: str, output: Name, reads: Mapping[str, Name | None], *, anew: bool = False) -> None:
    """Refuses a file that could not be written; leaves what is there as it is. Devices and pipes are not looked at.

    Args:
        option: that names the file.
        output: the file.
        reads: files that the command reads, by what they are.
        anew: the file is replaced by a new one, so that its folder must be writable, too.

    Raises:
        click.UsageError: it is one of the files that are read.
        TokmargError: it is a folder, or there is no folder, permission or space for it.
    """
    name = os.fspath(output)
    for what, other in reads.items():
        if other is not None and os.path.exists(name) and os.path.exists(other) and os.path.samefile(name, other):
            raise click.UsageError(f"{option}: {name}: is the {what} file.")
    try:
        mode = _mode(name)
        if mode is not None and stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if mode is not None and not stat.S_ISREG(mode):
            return
        if not os.path.basename(name):
            raise TokmargError(f"{option}: {name!r} names no file")
        if mode is not None:
            with open(name, "ab"):
                pass
        try:
            _write_into(os.path.dirname(os.path.realpath(name)))
        except PermissionError:
            if mode is None or anew:
                raise
    except OSError as error:
        raise TokmargError(f"{name}: {error.strerror or error}") from None


def _mode(name: str) -> int | None:
    try:
        return os.stat(name).st_mode
    except FileNotFoundError:
        return None


def _write_into(folder: str) -> None:
    """Writes a byte into a file without a name."""
    with tempfile.TemporaryFile(dir=folder, buffering=0) as scratch:
        scratch.write(b"0")
