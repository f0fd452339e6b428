"""Scratch files and folders: none of them is left, however the process ends, as long as it is not killed.

Each is registered before it is made, removed when its block ends, and at the end of the process where an exception came
in between. Who ends the process at once calls :func:`remove_scratch` first.
"""

from __future__ import annotations

import atexit
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .system_calls import by_system, file_status

__all__ = ["forget", "register", "remove_scratch", "scratch_path"]

#: Scratch files and folders, and the process that makes them: a forked child removes none of its parent's.
_paths: dict[str, int] = {}
#: Rounds of removing a folder into which a native library may still write.
_ROUNDS = 100


@contextmanager
def scratch_path(folder: Path) -> Iterator[Path]:
    """A path in a folder at which nothing is; what the block puts there is removed when it ends."""
    path = folder / f".tokmarg-{secrets.token_hex(8)}"
    try:
        register(path)
        yield path
    finally:
        _remove(path)
        forget(path)


def register(path: str | os.PathLike[str]) -> None:
    """Has what is at a path removed at the end of the process."""
    _paths[os.path.abspath(path)] = os.getpid()  # the current folder may be another by then


def forget(path: str | os.PathLike[str]) -> None:
    """Lets what is at a path stay."""
    _paths.pop(os.path.abspath(path), None)


@atexit.register
def remove_scratch() -> None:
    """Removes all scratch files and folders of the process, which ends now."""
    for path, process in list(_paths.items()):
        if process != os.getpid():
            continue
        for _ in range(_ROUNDS):
            shutil.rmtree(path, ignore_errors=True)
            if not os.path.isdir(path):
                break
        if os.path.lexists(path):
            os.unlink(path)


def _remove(path: Path) -> None:
    try:
        if (status := file_status(path)) is not None:
            (shutil.rmtree if stat.S_ISDIR(status.st_mode) else os.unlink)(path)
    except OSError as error:  # of the system: no permission any more, a disk that is gone
        if not by_system(error):
            raise
