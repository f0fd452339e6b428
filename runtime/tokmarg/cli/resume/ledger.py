"""The ledger of a folder of outputs: which of them are whole, and what they were made from.

It is a file ``.tokmarg-run`` in the folder, of JSON lines that are sealed one by one like those of a journal
(:mod:`.journal`), and stays there: a later ``--resume`` scores what is new. An output is skipped if its ledger line has
the fingerprint of this run (:mod:`.fingerprint`: the input's sha256, the bundle, every setting) and its own bytes.

    {"name": "2024/a.parquet", "run": {...}, "output": [size, sha256], "tally": {...}, "seal": ...}
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from tokmarg.cli.io.tally import Tally
from tokmarg.errors import TokmargError

from .hashing_reader import digests
from .journal import JOURNAL, decode_line, encode_line, mismatch, open_locked, write_all

__all__ = ["Ledger"]


class Ledger:
    """The open ledger of a folder, locked against other processes; a context manager.

    Args:
        folder: that exists.

    Raises:
        OSError: it cannot be opened or created.
        TokmargError: another process has locked it.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._stream = open_locked(os.path.join(folder, JOURNAL))
        self._entries: dict[str, Mapping[str, Any]] = {}
        *lines, torn = self._stream.read().split(b"\n")
        for line in lines:
            entry, _ = decode_line(line, "") or ({}, "")
            if isinstance(entry, dict) and isinstance(entry.get("name"), str):
                self._entries[entry["name"]] = entry  # the last one of a name counts
        self._stream.seek(-len(torn), os.SEEK_END)
        self._stream.truncate()  # what was not written whole

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def tally_of(self, name: str, run: Mapping[str, Any]) -> Tally | None:
        """The counts of an output that is whole; None for one that is to be made.

        Args:
            name: of the output, in the folder.
            run: the fingerprint of this run.

        Raises:
            TokmargError: it is whole, and of a run with another fingerprint.
        """
        entry, path = self._entries.get(name), os.path.join(self._folder, name)
        if entry is None or not os.path.isfile(path):
            return None
        try:
            with open(path, "rb", buffering=0) as output:
                if list(digests(output, ())[:2]) != entry["output"]:
                    return None
            tally = Tally.from_dict(entry["tally"])
            reason = mismatch(entry["run"], run, True)
        except (KeyError, TypeError, ValueError, AttributeError):
            return None
        if reason:
            raise TokmargError(f"{path}: is whole, but {reason}; delete it to score its input anew")
        return tally

    def add(self, name: str, run: Mapping[str, Any], tally: Tally) -> None:
        """Adds an output that has its name; on return that is on the disk."""
        with open(os.path.join(self._folder, name), "rb", buffering=0) as output:
            size, sha256, _ = digests(output, ())
        entry = {"name": name, "run": run, "output": [size, sha256], "tally": tally.to_dict()}
        line, _ = encode_line(entry, "")
        write_all(self._stream, line)
        os.fsync(self._stream.fileno())
