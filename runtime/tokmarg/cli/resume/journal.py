"""What a run on files has done so far, on disk beside its output, so that ``--resume`` can go on.

    scores.jsonl.tokmarg-part     the rows so far; becomes scores.jsonl when the last one is written
    scores.jsonl.tokmarg-run      this journal; removed when the output has its name

The journal is JSON lines: a header, then one *mark* behind every pack of rows.

    {"schema_version": 2, "run": {...}, "seal": ...}      everything the output's bytes depend on (:mod:`.identity`)
    {"records": 32, "input": 1876, "output": 18211, "sha256": ..., "read": [8192, ...], "tally": {...}, "seal": ...}

The *seal* is the sha256 of the seal before it and the line's bytes up to its own, so that a line that was torn or
changed, or is another journal's, ends what is read. That shows damage, not bad faith: anybody can make a journal.

A mark is not believed but checked: it holds if the first ``output`` bytes of the rows have its ``sha256``, and the
first ``read`` bytes of the input, which is what had been read by then, have theirs. So in whatever order a disk or a
crash lets rows and marks survive, no run goes on behind rows that are not there: it goes on behind the last mark that
holds.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, BinaryIO

from tokmarg.errors import TokmargError

try:
    import fcntl
except ImportError:  # Windows: two runs that write one output are not told apart there
    fcntl = None  # type: ignore[assignment]

__all__ = ["JOURNAL", "PART", "Journal", "Mark", "sealed"]

PART, JOURNAL = ".tokmarg-part", ".tokmarg-run"
SCHEMA_VERSION = 2
_SEALED = re.compile(rb'(.*), "seal": "([0-9a-f]{64})"\}', re.DOTALL)
#: What file systems without locks say. An output there is as good as anywhere, as long as one run writes it.
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


@dataclass(frozen=True, slots=True)
class Mark:
    """A place between two packs.

    Attributes:
        records: of the input that are done.
        input: byte of the input where the next record starts.
        output: bytes of the rows so far.
        sha256: of those bytes.
        read: how many bytes of the input had been read for them (some ahead), and their sha256.
        tally: counts over the records, :meth:`tokmarg.cli.io.tally.Tally.to_dict`.
        done: whether that was all of the input.
    """

    records: int
    input: int
    output: int
    sha256: str
    read: tuple[int, str]
    tally: Mapping[str, Any] = field(default_factory=dict)
    done: bool = False

    @classmethod
    def parse(cls, data: Any) -> Mark | None:
        """Reads an entry of the journal; None for one that is no mark."""
        try:
            size, sha256 = data["read"]
            mark = cls(**{**data, "read": (size, sha256)})
        except (ValueError, TypeError, KeyError):
            return None
        whole = (
            all(type(n) is int and 0 <= n < 2**63 for n in (mark.records, mark.input, mark.output, size))
            and mark.input <= size
            and type(mark.sha256) is type(sha256) is str
            and isinstance(mark.tally, dict)
            and type(mark.done) is bool
        )
        return mark if whole else None


def sealed(entry: Mapping[str, Any], before: str) -> tuple[bytes, str]:
    """An entry as a line of the journal, and its seal; ``before`` is the seal of the line before it."""
    body = json.dumps(entry).encode()[:-1]
    seal = hashlib.sha256(before.encode() + body).hexdigest()
    return body + f', "seal": "{seal}"}}\n'.encode(), seal


def opened(line: bytes, before: str) -> tuple[Any, str] | None:
    """The entry of a line, without its newline, and its seal; None if the seal is not the one that belongs there."""
    match = _SEALED.fullmatch(line)
    if match is None or hashlib.sha256(before.encode() + match[1]).hexdigest() != match[2].decode():
        return None
    try:
        return json.loads(match[1] + b"}"), match[2].decode()
    except (ValueError, RecursionError):
        return None


class Journal:
    """The opened journal of an output file; no other process has it open meanwhile.

    Args:
        path: the file, made if it is missing.

    Raises:
        OSError: it cannot be opened or made.
        TokmargError: another process has it, or it is no journal of this tokmarg.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._stream = _locked(path)
        self.run: Mapping[str, Any] | None = None  # None: nothing was begun
        self.marks: list[Mark] = []
        self._ends: list[int] = []  # byte behind the header, and behind each mark
        self._seals: list[str] = []  # theirs
        try:
            self._read()
        except BaseException:
            self._stream.close()
            raise

    def _read(self) -> None:
        *lines, _ = self._stream.read().split(b"\n")  # what follows the last newline was not written whole
        if not lines:
            return
        header, seal = opened(lines[0], "") or ({}, "")
        run = header.get("run") if isinstance(header, dict) and header.get("schema_version") == SCHEMA_VERSION else None
        if not isinstance(run, dict):
            raise TokmargError(
                f"{self.path}: is damaged, or no journal that this tokmarg can read; delete it to start anew"
            )
        self.run = run
        self._ends.append(len(lines[0]) + 1)
        self._seals.append(seal)
        for line in lines[1:]:
            entry, seal = opened(line, seal) or (None, "")
            mark = Mark.parse(entry)
            if mark is None:
                return
            self.marks.append(mark)
            self._ends.append(self._ends[-1] + len(line) + 1)
            self._seals.append(seal)

    def clear(self) -> None:
        """Forgets everything; until :meth:`begin` there is nothing to resume."""
        self._stream.truncate(0)
        os.fsync(self._stream.fileno())
        self.run, self.marks, self._ends, self._seals = None, [], [], []

    def begin(self, run: Mapping[str, Any]) -> None:
        """Writes the header of a new run."""
        self._stream.seek(0)
        self._write({"schema_version": SCHEMA_VERSION, "run": run})
        os.fsync(self._stream.fileno())
        sync_folder(self.path)
        self.run = run

    def cut(self, marks: int) -> None:
        """Forgets all but the first ``marks`` marks."""
        del self.marks[marks:]
        del self._seals[marks + 1 :]
        self._stream.truncate(self._ends[marks])
        self._stream.seek(self._ends[marks])

    def append(self, mark: Mark, sync: bool) -> None:
        """Adds a mark, with ``sync`` all the way to the disk."""
        self._write(asdict(mark))
        if sync:
            os.fsync(self._stream.fileno())

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Lets go of it. A journal of nothing is removed."""
        if self._stream.closed:
            return
        if self.run is not None:
            self._stream.close()
        elif os.name == "nt":  # open files cannot be removed there
            self._stream.close()
            os.unlink(self.path)
        else:  # while it is locked: the next process that opens it would lose it
            with self._stream:
                os.unlink(self.path)

    def remove(self) -> None:
        """Removes it: the output is whole."""
        self.run = None
        self.close()
        sync_folder(self.path)

    def _write(self, entry: Mapping[str, Any]) -> None:
        line, seal = sealed(entry, self._seals[-1] if self._seals else "")
        write_all(self._stream, line)
        self._seals.append(seal)


def write_all(stream: BinaryIO, data: bytes) -> None:
    """Writes to a raw stream, which may take less than it is given."""
    rest = memoryview(data)
    while rest:
        rest = rest[stream.write(rest) :]


def sync_folder(path: str) -> None:
    """Makes the names in a file's folder last; where folders cannot be opened, they do so by themselves."""
    if os.name == "nt":
        return
    folder = os.open(os.path.dirname(os.path.abspath(path)), os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _locked(path: str) -> BinaryIO:
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
        stream = os.fdopen(file, "r+b", buffering=0)
        try:
            if fcntl is not None:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The process that had it until now may have removed it.
            if os.path.samestat(os.fstat(stream.fileno()), os.stat(path)):
                return stream
        except BlockingIOError:
            stream.close()
            raise TokmargError(f"{path}: another process is at work on this output") from None
        except FileNotFoundError:
            pass
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return stream
            stream.close()
            raise
        stream.close()
