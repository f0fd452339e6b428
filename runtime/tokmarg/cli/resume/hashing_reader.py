"""The input file, with a sha256 of what has really been read of it."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterable
from typing import Any, BinaryIO, Protocol

__all__ = ["Digest", "Witness", "count_lines", "digests", "prefix_digest"]

_CHUNK = 1 << 20


class Digest(Protocol):
    """A running sha256."""

    def update(self, data: bytes | memoryview, /) -> None: ...
    def hexdigest(self) -> str: ...


def digests(stream: BinaryIO, at: Iterable[int]) -> tuple[int, str, dict[int, str]]:
    """Size and sha256 of a whole file, and the sha256 of its first n bytes for every n in ``at`` that it has."""
    running, wanted, done = hashlib.sha256(), sorted(set(at)), 0
    found: dict[int, str] = {}
    stream.seek(0)
    while chunk := stream.read(_CHUNK):
        part = memoryview(chunk)
        while wanted and wanted[0] <= done + len(part):
            step = wanted.pop(0) - done
            running.update(part[:step])
            part, done = part[step:], done + step
            found[done] = running.hexdigest()
        running.update(part)
        done += len(part)
    if wanted and wanted[0] == 0:  # of an empty file
        found[0] = running.hexdigest()
    return done, running.hexdigest(), found


def prefix_digest(stream: BinaryIO, size: int) -> Digest:
    """The running sha256 behind the first ``size`` bytes of a file."""
    running = hashlib.sha256()
    stream.seek(0)
    while size and (chunk := stream.read(min(size, _CHUNK))):
        running.update(chunk)
        size -= len(chunk)
    return running


def count_lines(stream: BinaryIO, before: int) -> int:
    """Newlines in the first ``before`` bytes of a file."""
    stream.seek(0)
    count = 0
    while before and (chunk := stream.read(min(before, _CHUNK))):
        count += chunk.count(b"\n")
        before -= len(chunk)
    return count


class Witness(io.RawIOBase):
    """A raw stream over an open file that hashes its bytes in order, once each, whatever is read twice.

    Args:
        file: the file.
        known: bytes at the start that are not read again: they are hashed at once.
    """

    def __init__(self, file: BinaryIO, known: int = 0) -> None:
        self._file = file
        self._sha256, self._hashed = prefix_digest(file, known), known
        file.seek(0)

    @property
    def seen(self) -> tuple[int, str]:
        """How many bytes from the start have been read, and their sha256."""
        return self._hashed, self._sha256.hexdigest()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._file.fileno()

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def readinto(self, buffer: Any) -> int:
        at = self._file.tell()
        data = self._file.read(len(buffer))
        new = memoryview(data)[max(0, self._hashed - at) :]
        self._sha256.update(new)
        self._hashed += len(new)
        buffer[: len(data)] = data
        return len(data)
