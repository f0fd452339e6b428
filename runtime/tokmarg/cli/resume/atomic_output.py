"""An output file that appears complete or not at all, and that a later run can resume, however this one ends.

The output gets its name when the last row is written. Until then the rows are in a file beside it, and the journal
(:mod:`.journal`) records how many of them are valid.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from types import TracebackType
from typing import Any, BinaryIO

from tokmarg.errors import TokmargError

from .hashing_reader import digests, prefix_digest
from .journal import JOURNAL, PART, Checkpoint, Journal, mismatch, sync_folder, write_all

__all__ = ["AtomicOutput", "can_be_atomic"]

#: Seconds between forced writes to the disk. A killed process loses nothing by it, a power failure this much work.
_SYNC = 1.0


def can_be_atomic(output: str) -> bool:
    """Whether an output is a regular file, or does not exist yet. Devices and pipes are written directly."""
    try:
        return stat.S_ISREG(os.stat(output).st_mode)
    except FileNotFoundError:
        return True


class AtomicOutput:
    """An unfinished output; a context manager. Nothing on the disk changes before :meth:`begin`.

    Args:
        output: the file; if it is a link, its target.
        resume: continue after the last checkpoint of the last run, if there is one.
        converted: the output is made from the file of rows at the end (:meth:`finish`), and is not that file.

    Attributes:
        checkpoint: the last one of the run: after :meth:`recall` that of the run to resume; None at the start.

    Raises:
        TokmargError: the output cannot be written, another process writes it, or an unfinished run has written rows and
            ``resume`` is false.
    """

    def __init__(self, output: str, resume: bool, converted: bool = False) -> None:
        self._name, self._resume, self._converted = output, resume, converted
        self._final = os.path.realpath(output)
        self._part_path = self._final + PART
        self._part: BinaryIO | None = None
        self._already_renamed = False  # a run that ended between the renaming and the removal of its journal
        self._synced = time.monotonic()
        self._kept = 0
        self.checkpoint: Checkpoint | None = None
        with self._naming_errors():
            if os.path.exists(self._final) and not os.access(self._final, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            self._journal = Journal(self._final + JOURNAL)
        if not resume and self._journal.checkpoints and os.path.exists(self._part_path):
            records = self._journal.checkpoints[-1].records
            self._journal.close()
            raise TokmargError(
                f"{output}: an unfinished run has {records:,} rows of it: --resume continues after them, or delete "
                f"{self._part_path} to start anew"
            )

    def __enter__(self) -> AtomicOutput:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._journal:
            if self._part is not None:
                self._part.close()
                if self._journal.run is None:  # the header of its journal could not be written
                    os.unlink(self._part_path)

    @property
    def input_sizes(self) -> list[int]:
        """For which n :meth:`recall` needs the sha256 of the first n bytes of the input."""
        return [checkpoint.read[0] for checkpoint in self._journal.checkpoints] if self._resume else []

    def check(self, run: Mapping[str, Any], whole: bool = True) -> None:
        """Refuses to resume a run with another fingerprint.

        Args:
            run: the fingerprint of this run, :func:`tokmarg.cli.resume.fingerprint.fingerprint`, or with ``whole``
                false a part of it.

        Raises:
            TokmargError: the last run has another fingerprint.
        """
        if not self._resume or self._journal.run is None:
            return
        if reason := mismatch(self._journal.run, run, whole):
            way_out = f"delete {self._part_path} and {self._journal.path} to start anew"
            raise TokmargError(f"{self._name}: cannot be resumed: {reason}; {way_out}")

    def recall(self, run: Mapping[str, Any], input: Mapping[int, str]) -> None:
        """Finds the last valid checkpoint of the run to resume.

        Args:
            run: the fingerprint of this run, :func:`tokmarg.cli.resume.fingerprint.fingerprint`.
            input: n -> the sha256 of the first n bytes of the input, for the n in :attr:`input_sizes`.

        Raises:
            TokmargError: the last run has another fingerprint.
        """
        self._run = run
        if not self._resume or self._journal.run is None:
            return
        self.check(run)
        checkpoints = self._journal.checkpoints
        path = self._part_path
        if checkpoints and checkpoints[-1].done and not os.path.exists(path):
            path, self._already_renamed = self._final, True
            if self._converted:  # its rows were removed when the output had its name
                last = checkpoints[-1]
                self._already_renamed = os.path.exists(path) and input.get(last.read[0]) == last.read[1]
                if self._already_renamed:
                    self.checkpoint, self._valid, self._kept = last, len(checkpoints), last.records
                return
        with ExitStack() as stack, self._naming_errors():
            try:
                rows: BinaryIO = stack.enter_context(open(path, "rb"))
            except FileNotFoundError:
                return
            _, _, output = digests(rows, [checkpoint.output for checkpoint in checkpoints])
        for number in range(len(checkpoints), 0, -1):
            last = checkpoints[number - 1]
            if input.get(last.read[0]) == last.read[1] and output.get(last.output) == last.sha256:
                self.checkpoint, self._valid, self._kept = last, number, last.records
                break
        self._already_renamed = self._already_renamed and self.checkpoint is not None and self.checkpoint.done

    def begin(self) -> None:
        """Continues the last run after :attr:`checkpoint`, or starts a new one; deletes what was written otherwise."""
        with self._naming_errors():
            if self.checkpoint is None:
                self._journal.clear()
                self._part = open(self._part_path, "w+b", buffering=0)  # noqa: SIM115 (closed by __exit__)
                self._length, self._sha256 = 0, prefix_digest(self._part, 0)
                with suppress(FileNotFoundError):  # a file that replaces another keeps its permissions
                    os.chmod(self._part_path, stat.S_IMODE(os.stat(self._final).st_mode))
                self._journal.begin(self._run)
            else:
                self._journal.truncate(self._valid)
                if not self._already_renamed:
                    self._part = open(self._part_path, "r+b", buffering=0)  # noqa: SIM115 (closed by __exit__)
                    self._length = self.checkpoint.output
                    self._sha256 = prefix_digest(self._part, self._length)
                    self._part.truncate(self._length)
                    self._part.seek(self._length)

    def write(
        self, rows: str | bytes, *, records: int, input: int, read: tuple[int, str], tally: Mapping[str, Any]
    ) -> None:
        """Writes the rows of a pack, and a checkpoint.

        Args:
            rows: the rows, with their last newline; or the bytes of a message.
            records, input, read, tally: of the :class:`Checkpoint`.
        """
        assert self._part is not None
        data = rows if isinstance(rows, bytes) else rows.encode("utf-8", "backslashreplace")
        with self._naming_errors():
            try:
                write_all(self._part, data)
            except OSError:
                with suppress(OSError):  # no partial rows
                    self._part.truncate(self._length)
                raise
            self._length += len(data)
            self._sha256.update(data)
            sync = time.monotonic() - self._synced >= _SYNC
            if sync:
                os.fsync(self._part.fileno())
            self.checkpoint = Checkpoint(records, input, self._length, self._sha256.hexdigest(), read, tally)
            self._journal.append(self.checkpoint, sync)
            self._kept = records
            if sync:
                self._synced = time.monotonic()

    def finish(
        self,
        read: tuple[int, str],
        tally: Mapping[str, Any],
        *,
        convert: Callable[[str], None] | None = None,
        named: Callable[[], None] = lambda: None,
    ) -> None:
        """Gives the output its name: all rows are written.

        Args:
            read, tally: of the last :class:`Checkpoint`.
            convert: writes the output from the file of rows, whose path it is given.
            named: called when the output has its name, before the journal is removed.
        """
        with self._naming_errors():
            if not self._already_renamed:
                assert self._part is not None
                os.fsync(self._part.fileno())
                records = self.checkpoint.records if self.checkpoint is not None else 0
                digest = self._sha256.hexdigest()
                last = Checkpoint(records, read[0], self._length, digest, read, tally, done=True)
                self._journal.append(last, sync=True)
                self._part.close()
                self._part = None
                if convert is None:
                    os.replace(self._part_path, self._final)
                else:
                    convert(self._part_path)
                    os.unlink(self._part_path)
                sync_folder(self._final)
            named()
            self._journal.remove()

    def discard(self) -> None:
        """Deletes the rows and the journal."""
        assert self._part is not None
        with self._naming_errors():
            self._journal.clear()
            self._part.close()
            self._part = None
            os.unlink(self._part_path)

    def remove_left(self) -> None:
        """Removes what a run left that ended when its output was whole; that stays."""
        with self._naming_errors():
            with suppress(FileNotFoundError):
                os.unlink(self._part_path)
            self._journal.remove()

    def kept(self) -> str:
        """Says, for people, how many rows a run that ends now can be resumed after; empty if none."""
        return f"{self._kept:,} rows are kept, --resume continues after them" if self._kept else ""

    @contextmanager
    def _naming_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            kept = f"; {self.kept()}" if self._kept else ""
            raise TokmargError(f"{self._name}: {error.strerror or error}{kept}") from error
