"""The journal of a run from file to file, on disk beside its output, from which ``--resume`` continues.

    scores.jsonl.tokmarg-part     the rows so far; becomes scores.jsonl when the last one is written
    scores.jsonl.tokmarg-run      this journal; removed when the output has its name

The journal is JSON lines: a header, then one *checkpoint* after every pack of rows.

    {"schema_version": 2, "run": {...}, "seal": ...}      the run's fingerprint (:mod:`.fingerprint`)
    {"records": 32, "input": 1876, "output": 18211, "sha256": ..., "read": [8192, ...], "tally": {...}, "seal": ...}

The lines are a hash chain: a line's ``seal`` is the sha256 of the previous line's seal and the line's bytes up to its
own. A torn or changed line, or one of another journal, ends what is read. That detects damage, not forgery.

A checkpoint is verified before it is used: the first ``output`` bytes of the rows must have its ``sha256``, and the
first ``read`` bytes of the input, as far as it had been read by then, theirs. So whichever rows and checkpoints survive
a crash, no run is resumed after rows that are missing: it is resumed after the last valid checkpoint.
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
from tokmarg.scratch import forget, register

try:
    import fcntl
except ImportError:  # Windows: two runs that write one output are not detected there
    fcntl = None  # type: ignore[assignment]

__all__ = ["JOURNAL", "PART", "Checkpoint", "Journal", "decode_line", "encode_line", "mismatch", "open_locked"]

PART, JOURNAL = ".tokmarg-part", ".tokmarg-run"
SCHEMA_VERSION = 2
_SEALED = re.compile(rb'(.*), "seal": "([0-9a-f]{64})"\}', re.DOTALL)
#: Errors of file systems without locks, where two runs that write one output are not detected either.
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The state of a run between two packs.

    Attributes:
        records: number of records done.
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
    def parse(cls, data: Any) -> Checkpoint | None:
        """Reads an entry of the journal; None for one that is no checkpoint."""
        try:
            size, sha256 = data["read"]
            checkpoint = cls(**{**data, "read": (size, sha256)})
        except (ValueError, TypeError, KeyError):
            return None
        valid = (
            all(
                type(n) is int and 0 <= n < 2**63
                for n in (checkpoint.records, checkpoint.input, checkpoint.output, size)
            )
            and checkpoint.input <= size
            and type(checkpoint.sha256) is type(sha256) is str
            and isinstance(checkpoint.tally, dict)
            and type(checkpoint.done) is bool
        )
        return checkpoint if valid else None


def encode_line(entry: Mapping[str, Any], previous_seal: str) -> tuple[bytes, str]:
    """An entry as a line of the journal, and the line's seal."""
    body = json.dumps(entry).encode()[:-1]
    seal = hashlib.sha256(previous_seal.encode() + body).hexdigest()
    return body + f', "seal": "{seal}"}}\n'.encode(), seal


def decode_line(line: bytes, previous_seal: str) -> tuple[Any, str] | None:
    """The entry of a line, which comes without its newline, and the line's seal; None if the seal is wrong."""
    match = _SEALED.fullmatch(line)
    if match is None or hashlib.sha256(previous_seal.encode() + match[1]).hexdigest() != match[2].decode():
        return None
    try:
        return json.loads(match[1] + b"}"), match[2].decode()
    except (ValueError, RecursionError):
        return None


class Journal:
    """The open journal of an output file, locked against other processes.

    Args:
        path: the file, created if it is missing.

    Raises:
        OSError: it cannot be opened or created.
        TokmargError: another process has locked it, or it is no journal that this version can read.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._stream = open_locked(path)
        self.run: Mapping[str, Any] | None = None  # None: no run was started
        self.checkpoints: list[Checkpoint] = []
        self._ends: list[int] = []  # byte after the header, and after each checkpoint
        self._seals: list[str] = []  # of the header, and of each checkpoint
        try:
            self._read()
            if self.run is None:  # until a run is started nobody needs the file
                register(path)
        except BaseException:
            self._stream.close()
            raise

    def _read(self) -> None:
        *lines, _ = self._stream.read().split(b"\n")  # what follows the last newline was not written whole
        if not lines:
            return
        header, seal = decode_line(lines[0], "") or ({}, "")
        run = header.get("run") if isinstance(header, dict) and header.get("schema_version") == SCHEMA_VERSION else None
        if not isinstance(run, dict):
            raise TokmargError(
                f"{self.path}: is damaged, or no journal that this tokmarg can read; delete it to start anew"
            )
        self.run = run
        self._ends.append(len(lines[0]) + 1)
        self._seals.append(seal)
        for line in lines[1:]:
            entry, seal = decode_line(line, seal) or (None, "")
            checkpoint = Checkpoint.parse(entry)
            if checkpoint is None:
                return
            self.checkpoints.append(checkpoint)
            self._ends.append(self._ends[-1] + len(line) + 1)
            self._seals.append(seal)

    def clear(self) -> None:
        """Deletes all entries; until :meth:`begin` there is nothing to resume."""
        self._stream.truncate(0)
        os.fsync(self._stream.fileno())
        self.run, self.checkpoints, self._ends, self._seals = None, [], [], []

    def begin(self, run: Mapping[str, Any]) -> None:
        """Writes the header of a new run, its fingerprint."""
        self._stream.seek(0)
        self._write({"schema_version": SCHEMA_VERSION, "run": run})
        os.fsync(self._stream.fileno())
        sync_folder(self.path)
        self.run = run
        forget(self.path)

    def truncate(self, checkpoints: int) -> None:
        """Deletes all but the first ``checkpoints`` checkpoints."""
        del self.checkpoints[checkpoints:]
        del self._seals[checkpoints + 1 :]
        self._stream.truncate(self._ends[checkpoints])
        self._stream.seek(self._ends[checkpoints])

    def append(self, checkpoint: Checkpoint, sync: bool) -> None:
        """Adds a checkpoint; with ``sync`` it is on the disk on return."""
        self._write(asdict(checkpoint))
        if sync:
            os.fsync(self._stream.fileno())

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes and unlocks the file, and removes it if no run was started."""
        if self._stream.closed:
            return
        forget(self.path)
        if self.run is not None:
            self._stream.close()
        elif os.name == "nt":  # open files cannot be removed there
            self._stream.close()
            os.unlink(self.path)
        else:  # before it is unlocked: another process may open it then
            with self._stream:
                os.unlink(self.path)

    def remove(self) -> None:
        """Removes the file: the output is complete."""
        self.run = None
        self.close()
        sync_folder(self.path)

    def _write(self, entry: Mapping[str, Any]) -> None:
        line, seal = encode_line(entry, self._seals[-1] if self._seals else "")
        write_all(self._stream, line)
        self._seals.append(seal)


def write_all(stream: BinaryIO, data: bytes) -> None:
    """Writes to a raw stream, which may take less than it is given."""
    rest = memoryview(data)
    while rest:
        rest = rest[stream.write(rest) :]


def sync_folder(path: str) -> None:
    """Writes the folder of a file to the disk, so that its names survive a crash. Windows needs no such thing."""
    if os.name == "nt":
        return
    folder = os.open(os.path.dirname(os.path.abspath(path)), os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def open_locked(path: str) -> BinaryIO:
    """Opens a file, created if it is missing, and locks it where the system can."""
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
        stream = os.fdopen(file, "r+b", buffering=0)
        try:
            if fcntl is not None:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The process that had locked it until now may have removed it.
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


def mismatch(before: Mapping[str, Any], now: Mapping[str, Any], whole: bool = True) -> str | None:
    """The first difference between two fingerprints, for people; None if they are equal.

    With ``whole`` false ``now`` may be a part of a fingerprint.
    """
    for name in [*now, *(name for name in before if whole and name not in now)]:
        old, new = before.get(name), now.get(name)
        if old != new:
            if name in ("input", "bundle", "calibration"):
                return f"the {name} is not what it was in the first run"
            return f"{name:.100}: {_short(new)}, but {_short(old)} in the first run"
    return None


def _short(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"{', '.join(f'{name} {item}' for name, item in value.items()):.300}"
    return "not given" if value is None else f"{value!s:.300}"
