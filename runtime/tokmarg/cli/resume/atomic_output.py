"""Rows of one file into another: visible whole or not at all, and resumable whatever ended the run.

The output's name appears when the last row is written. Until then the rows so far are in a file beside it, and
:mod:`.journal` knows how far they go.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from types import TracebackType
from typing import Any, BinaryIO

from tokmarg.errors import TokmargError

from .fingerprint import refusal
from .hashing_reader import digests, prefix_digest
from .journal import JOURNAL, PART, Journal, Mark, sync_folder, write_all

__all__ = ["Batch", "takes"]

#: Seconds between forced writes to the disk. A killed process loses nothing by it, a power failure this much work.
_SYNC = 1.0


def takes(output: str) -> bool:
    """Whether an output can appear at once: a regular file, or nothing yet. Devices and pipes are written directly."""
    try:
        return stat.S_ISREG(os.stat(output).st_mode)
    except FileNotFoundError:
        return True


class Batch:
    """An output in the making; a context manager. What is on disk changes from :meth:`begin` on.

    Args:
        output: the file; if it is a link, what it leads to.
        resume: go on where the last run ended, if there is something to go on with.

    Attributes:
        mark: where the last run ended, once :meth:`recall` has looked for it; None at the start.

    Raises:
        TokmargError: the output cannot be written, another process writes it, or there are rows of an unfinished run
            and they shall not be resumed.
    """

    def __init__(self, output: str, resume: bool) -> None:
        self._name, self._resume = output, resume
        self._final = os.path.realpath(output)
        self._part_path = self._final + PART
        self._part: BinaryIO | None = None
        self._named_already = False  # a run that was cut off behind the renaming
        self._synced = time.monotonic()
        self._kept = 0
        self.mark: Mark | None = None
        with self._failing():
            if os.path.exists(self._final) and not os.access(self._final, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            self._journal = Journal(self._final + JOURNAL)
        if not resume and self._journal.marks and os.path.exists(self._part_path):
            records = self._journal.marks[-1].records
            self._journal.close()
            raise TokmargError(
                f"{output}: an unfinished run has {records:,} rows of it: --resume goes on behind them, or delete "
                f"{self._part_path} to start anew"
            )

    def __enter__(self) -> Batch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._journal:
            if self._part is not None:
                self._part.close()
                if self._journal.run is None:  # its journal could not be begun
                    os.unlink(self._part_path)

    @property
    def wanted(self) -> list[int]:
        """Sizes of beginnings of the input whose sha256 :meth:`recall` needs."""
        return [mark.read[0] for mark in self._journal.marks] if self._resume else []

    def check(self, run: Mapping[str, Any], whole: bool = True) -> None:
        """Refuses to go on with a run that was another one.

        Args:
            run: what this run is, :func:`tokmarg.cli.resume.fingerprint.identify`, or with ``whole`` false a part of
            it.

        Raises:
            TokmargError: the last run was another one.
        """
        if not self._resume or self._journal.run is None:
            return
        if reason := refusal(self._journal.run, run, whole):
            way_out = f"delete {self._part_path} and {self._journal.path} to start anew"
            raise TokmargError(f"{self._name}: cannot be resumed: {reason}; {way_out}")

    def recall(self, run: Mapping[str, Any], input: Mapping[int, str]) -> None:
        """Finds out where to go on.

        Args:
            run: what this run is, :func:`tokmarg.cli.resume.fingerprint.identify`.
            input: the sha256 of beginnings of the input, for the sizes :attr:`wanted`.

        Raises:
            TokmargError: the last run was another one.
        """
        self._run = run
        if not self._resume or self._journal.run is None:
            return
        self.check(run)
        marks = self._journal.marks
        path = self._part_path
        if marks and marks[-1].done and not os.path.exists(path):
            path, self._named_already = self._final, True
        with ExitStack() as stack, self._failing():
            try:
                rows: BinaryIO = stack.enter_context(open(path, "rb"))
            except FileNotFoundError:
                return
            _, _, output = digests(rows, [mark.output for mark in marks])
        for number in range(len(marks), 0, -1):
            mark = marks[number - 1]
            if input.get(mark.read[0]) == mark.read[1] and output.get(mark.output) == mark.sha256:
                self.mark, self._held, self._kept = mark, number, mark.records
                break
        self._named_already = self._named_already and self.mark is not None and self.mark.done

    def begin(self) -> None:
        """Takes the last run up behind :attr:`mark`, or starts anew; what was there is gone then."""
        with self._failing():
            if self.mark is None:
                self._journal.clear()
                self._part = open(self._part_path, "w+b", buffering=0)  # noqa: SIM115 (closed by __exit__)
                self._length, self._sha256 = 0, prefix_digest(self._part, 0)
                with suppress(FileNotFoundError):  # what replaces a file may be read by whom the file could be
                    os.chmod(self._part_path, stat.S_IMODE(os.stat(self._final).st_mode))
                self._journal.begin(self._run)
            else:
                self._journal.cut(self._held)
                if not self._named_already:
                    self._part = open(self._part_path, "r+b", buffering=0)  # noqa: SIM115 (closed by __exit__)
                    self._length = self.mark.output
                    self._sha256 = prefix_digest(self._part, self._length)
                    self._part.truncate(self._length)
                    self._part.seek(self._length)

    def write(self, rows: str, *, records: int, input: int, read: tuple[int, str], tally: Mapping[str, Any]) -> None:
        """Adds the rows of a pack, and marks the place.

        Args:
            rows: the rows, with their last newline.
            records, input, read, tally: of :class:`Mark`.
        """
        assert self._part is not None
        data = rows.encode("utf-8", "backslashreplace")
        with self._failing():
            try:
                write_all(self._part, data)
            except OSError:
                with suppress(OSError):  # whole rows only
                    self._part.truncate(self._length)
                raise
            self._length += len(data)
            self._sha256.update(data)
            sync = time.monotonic() - self._synced >= _SYNC
            if sync:
                os.fsync(self._part.fileno())
            self.mark = Mark(records, input, self._length, self._sha256.hexdigest(), read, tally)
            self._journal.append(self.mark, sync)
            self._kept = records
            if sync:
                self._synced = time.monotonic()

    def finish(self, read: tuple[int, str], tally: Mapping[str, Any]) -> None:
        """Gives the output its name: all rows are written."""
        with self._failing():
            if not self._named_already:
                assert self._part is not None
                os.fsync(self._part.fileno())
                records = self.mark.records if self.mark is not None else 0
                digest = self._sha256.hexdigest()
                self._journal.append(Mark(records, read[0], self._length, digest, read, tally, done=True), sync=True)
                self._part.close()
                self._part = None
                os.replace(self._part_path, self._final)
                sync_folder(self._final)
            self._journal.remove()

    def discard(self) -> None:
        """Forgets the run, rows and all."""
        assert self._part is not None
        with self._failing():
            self._journal.clear()
            self._part.close()
            self._part = None
            os.unlink(self._part_path)

    def kept(self) -> str:
        """What is left of a run that ends now, for people; empty if nothing is."""
        return f"{self._kept:,} rows are kept, --resume goes on behind them" if self._kept else ""

    @contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            kept = f"; {self.kept()}" if self._kept else ""
            raise TokmargError(f"{self._name}: {error.strerror or error}{kept}") from error
