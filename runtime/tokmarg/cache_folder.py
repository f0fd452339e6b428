"""The user's cache folder: what is kept there between loads, with checksums. It is never needed.

A file bears its own sha256 in its name, ``<name>-<sha256><suffix>``: one whose bytes have changed is removed and made
anew. That detects damage, not forgery. No folder, a full disk, no permission or an unreadable file is no obstacle.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from .system_calls import make_folders, system_errors_suppressed
from .whole_file import unnamed_file

__all__ = ["cache_folder", "is_whole", "keep", "recall"]

T = TypeVar("T")


def cache_folder() -> Path | None:
    """Where it is: ``tokmarg`` in the user's cache folder.

    None where there is no such folder: a container's user may have no home.
    """
    # The home is asked for last, and only where it is needed. Relative paths are none: they name a folder by chance.
    if sys.platform == "win32":
        base = _absolute(os.environ.get("LOCALAPPDATA")) or _home("AppData", "Local")
    elif sys.platform == "darwin":
        base = _home("Library", "Caches")
    else:
        base = _absolute(os.environ.get("XDG_CACHE_HOME")) or _home(".cache")
    return None if base is None else base / "tokmarg"


def recall(name: str, suffix: str, read: Callable[[Path], T | None]) -> T | None:
    """What ``read`` makes of the file that is kept under a name; None where there is none.

    Args:
        name, suffix: of :func:`keep`.
        read: file -> its content; None where it is damaged, and thus removed.
    """
    if (folder := cache_folder()) is not None:
        with system_errors_suppressed():
            for path in sorted(folder.glob(f"{name}-*{suffix}")):
                if is_whole(path) and (found := read(path)) is not None:
                    return found
                path.unlink()
    return None


def keep(name: str, suffix: str, data: Callable[[], bytes]) -> None:
    """Keeps a file of these bytes, which are not asked for where there is no folder.

    Args:
        name: without characters that mean something in a pattern of file names.
        suffix: with its dot.
        data: makes the bytes.
    """
    if (folder := cache_folder()) is not None:
        with system_errors_suppressed():
            make_folders(folder)
            with unnamed_file(folder) as file:
                content = data()
                file.stream.write(content)
                file.name(folder / f"{name}-{hashlib.sha256(content).hexdigest()}{suffix}")


def is_whole(path: Path) -> bool:
    """Whether a file has the sha256 that is in its name.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as stream:
        return path.stem.endswith(f"-{hashlib.file_digest(stream, 'sha256').hexdigest()}")


def _absolute(path: str | None) -> Path | None:
    return Path(path) if path and os.path.isabs(path) else None


def _home(*below: str) -> Path | None:
    try:
        home = Path.home()
    except RuntimeError:  # no HOME, and no entry in the password database
        return None
    return home.joinpath(*below) if home.is_absolute() else None
