"""What a run on files has done so far, on disk beside its output, so that ``--resume`` can go on.

    scores.jsonl.tokmarg-part     the rows so far; becomes scores.jsonl when the last one is written
    scores.jsonl.tokmarg-run      this journal; removed when the output has its name

The journal is JSON lines: a header, then one *mark* behind every pack of rows.

    {"schema_version": 1, "run": {...}}            everything the output's bytes depend on (:mod:`.identity`)
    {"records": 32, "input": 1876, "output": 18211, "sha256": ..., "read": [8192, ...], "tally": {...}}

A mark is not believed but checked: it holds if the first ``output`` bytes of the rows have its ``sha256``, and the
first ``read`` bytes of the input, which is what had been read by then, have theirs. So in whatever order a disk or a
crash lets rows and marks survive, no run goes on behind rows that are not there: it goes on behind the last mark that
holds.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, BinaryIO

from ..errors import TokmargError

try:
    import fcntl
except ImportError:  # Windows: two runs that write one output are not told apart there
    fcntl = None  # type: ignore[assignment]

__all__ = ["JOURNAL", "PART", "Journal", "Mark"]

PART, JOURNAL = ".tokmarg-part", ".tokmarg-run"
SCHEMA_VERSION = 1
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
        tally: counts over the records, :meth:`tokmarg.cli.summary.Tally.to_dict`.
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
    def parse(cls, line: bytes) -> Mark | None:
        """Reads a line of the journal; None for one that was not written whole."""
        try:
            data = json.loads(line)
            mark = cls(**{**data, "read": (int(data["read"][0]), str(data["read"][1]))})
            whole = all(type(n) is int and n >= 0 for n in (mark.records, mark.input, mark.output))
        except (ValueError, TypeError, KeyError, IndexError):
            return None
        return mark if whole else None


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
        try:
            self._read()
        except BaseException:
            self._stream.close()
            raise

    def _read(self) -> None:
        *lines, _ = self._stream.read().split(b"\n")  # what follows the last newline was not written whole
        if not lines:
            return
        try:
            header = json.loads(lines[0])
            version, run = header["schema_version"], header["run"]
        except (ValueError, TypeError, KeyError):
            version = run = None
        if version != SCHEMA_VERSION or not isinstance(run, dict):
            raise TokmargError(f"{self.path}: is no journal that this tokmarg can read; delete it to start anew")
        self.run = run
        self._ends.append(len(lines[0]) + 1)
        for line in lines[1:]:
            mark = Mark.parse(line)
            if mark is None:
                return
            self.marks.append(mark)
            self._ends.append(self._ends[-1] + len(line) + 1)

    def clear(self) -> None:
        """Forgets everything; until :meth:`begin` there is nothing to resume."""
        self._stream.truncate(0)
        os.fsync(self._stream.fileno())
        self.run, self.marks, self._ends = None, [], []

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
        write_all(self._stream, json.dumps(entry).encode() + b"\n")


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
