"""Files that are on the disk as a whole or not at all: they get their name when all of them is written.

Until then a file has no name at all, where the system can do that (Linux, with most file systems): a process that is
killed leaves nothing. Elsewhere it is a scratch file (:mod:`tokmarg.scratch`) in the same folder.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import BinaryIO

from .documents import naming
from .scratch import scratch_path
from .system_calls import by_system, file_status

__all__ = ["UnnamedFile", "unnamed_file", "write_whole"]


class UnnamedFile:
    """A file in a folder that has no name yet.

    Attributes:
        stream: to write to, and to read.
    """

    def __init__(self, stream: BinaryIO, folder: Path, scratch: Path | None) -> None:
        self.stream, self._folder, self._scratch = stream, folder, scratch

    def name(self, path: Path) -> None:
        """Puts the file to the disk and gives it a name in its folder; what has the name now is replaced.

        Raises:
            OSError: that is not possible.
        """
        self.stream.flush()
        os.fsync(self.stream.fileno())  # on the disk before it has its name
        with nullcontext(self._scratch) if self._scratch is not None else scratch_path(self._folder) as scratch:
            if self._scratch is None:
                _link(self.stream, scratch)
            os.replace(scratch, path)


@contextmanager
def unnamed_file(folder: Path) -> Iterator[UnnamedFile]:
    """A new file in a folder, which is gone when the block ends without having given it a name.

    Raises:
        OSError: there is no such folder, or no permission.
    """
    if (stream := _nameless(folder)) is not None:
        with stream:
            yield UnnamedFile(stream, folder, None)
        return
    with scratch_path(folder) as scratch, scratch.open("x+b") as stream:
        yield UnnamedFile(stream, folder, scratch)


def write_whole(path: str | os.PathLike[str], data: bytes) -> None:
    """Writes a file; one that is there is replaced, whole or not at all, and keeps its permissions.

    A link stays, and what it leads to is replaced. Devices and pipes are written to.

    Raises:
        OSError: it cannot be written; names it.
    """
    final = Path(os.path.realpath(path))
    with naming(path):
        try:
            mode = final.stat().st_mode
        except FileNotFoundError:
            mode = None
        if mode is not None and not stat.S_ISREG(mode):
            with open(final, "wb") as device:
                device.write(data)
            return
        with unnamed_file(final.parent) as file:
            file.stream.write(data)
            if mode is not None and hasattr(os, "fchmod"):
                os.fchmod(file.stream.fileno(), stat.S_IMODE(mode))
            file.name(final)


def _nameless(folder: Path) -> BinaryIO | None:
    """A file without a name; None where the system has none that can be given one later."""
    if not hasattr(os, "O_TMPFILE") or file_status("/proc/self/fd") is None:
        return None
    try:
        return os.fdopen(os.open(folder, os.O_TMPFILE | os.O_RDWR, 0o666), "w+b")
    except OSError as error:
        if not by_system(error):
            raise
        return None  # what is really wrong with the folder, a file with a name will tell


def _link(stream: BinaryIO, path: Path) -> None:
    """Gives a file without a name one."""
    folder = os.open(path.parent, os.O_RDONLY)  # linkat, which alone follows the link in /proc, wants a folder
    try:
        os.link(f"/proc/self/fd/{stream.fileno()}", path.name, dst_dir_fd=folder)
    finally:
        os.close(folder)
