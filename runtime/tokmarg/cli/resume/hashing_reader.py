"""A reader of the input file that computes the sha256 of the bytes it reads, and digests of parts of files."""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections.abc import Iterable
from typing import Any, BinaryIO, Protocol

__all__ = ["Digest", "HashingReader", "count_lines", "digests", "prefix_digest"]

_CHUNK = 1 << 20


class Digest(Protocol):
    """A running sha256."""

    def update(self, data: bytes | memoryview, /) -> None: ...
    def hexdigest(self) -> str: ...


def digests(stream: BinaryIO, at: Iterable[int]) -> tuple[int, str, dict[int, str]]:
    """Size and sha256 of a whole file, and the sha256 of its first n bytes for every n in ``at`` that it has."""
    running, sizes, done = hashlib.sha256(), sorted(set(at)), 0
    at_size: dict[int, str] = {}
    stream.seek(0)
    while chunk := stream.read(_CHUNK):
        part = memoryview(chunk)
        while sizes and sizes[0] <= done + len(part):
            step = sizes.pop(0) - done
            running.update(part[:step])
            part, done = part[step:], done + step
            at_size[done] = running.hexdigest()
        running.update(part)
        done += len(part)
    if sizes and sizes[0] == 0:  # of an empty file
        at_size[0] = running.hexdigest()
    return done, running.hexdigest(), at_size


def prefix_digest(stream: BinaryIO, size: int) -> Digest:
    """The running sha256 after the first ``size`` bytes of a file."""
    running = hashlib.sha256()
    stream.seek(0)
    while size and (chunk := stream.read(min(size, _CHUNK))):
        running.update(chunk)
        size -= len(chunk)
    return running


def count_lines(stream: BinaryIO, before: int, newline: bytes = b"\n") -> int:
    """Newlines in the first ``before`` bytes of a file; one of several bytes stands where a character does."""
    stream.seek(0)
    count = 0
    while before and (chunk := stream.read(min(before, _CHUNK))):
        if len(newline) == 1:
            count += chunk.count(newline)
        else:
            count += sum(match.start() % len(newline) == 0 for match in re.finditer(re.escape(newline), chunk))
        before -= len(chunk)
    return count


class HashingReader(io.RawIOBase):
    """A raw stream over an open file that hashes its bytes in order, each once, even if it is read again.

    Args:
        file: the file.
        skipped: bytes at the start that will not be read: they are hashed at once.
    """

    def __init__(self, file: BinaryIO, skipped: int = 0) -> None:
        self._file = file
        self._sha256, self._hashed = prefix_digest(file, skipped), skipped
        file.seek(0)

    @property
    def hashed(self) -> tuple[int, str]:
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
