"""Whether a bundle can be written to a folder, and nothing but a bundle would be lost by it. Loads nothing heavy.

A new bundle takes the place of nothing, of an empty folder or, by force, of another bundle.
"""

from __future__ import annotations

import errno
import json
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokmarg.errors import TokmargError
from tokmarg.system_calls import by_system

from .manifest import MANIFEST

__all__ = ["Source", "check_apart", "check_output"]

#: What is read ("the model") and where it is.
Source = tuple[str, Path]

_ELSEWHERE = "choose another folder"


def check_output(output: Path, sources: Iterable[Source], *, force: bool) -> None:
    """Refuses a folder that cannot become a bundle, or would lose something else than a bundle.

    Args:
        output: folder of the new bundle.
        sources: files and folders that are read for it; a path that does not exist counts as none.
        force: whether a bundle at ``output`` may be replaced.

    Raises:
        TokmargError: names the folder and the way out.
    """
    try:
        if output.name == "..":
            raise TokmargError(f"{output}: names no folder")
        if os.path.islink(output):
            raise TokmargError(f"{output}: is a link; give the folder itself")
        check_apart(output, sources, _ELSEWHERE)
        if os.path.lexists(output):
            _check_replaceable(output, force)
        _check_writable(output)
    except OSError as error:
        if not by_system(error):
            raise
        raise TokmargError(f"{output}: {error.strerror or error}") from None


def check_apart(output: Path, sources: Iterable[Source], way_out: str) -> None:
    """Refuses a file or folder that is, contains or lies in what is read.

    Args:
        output: file or folder that is to be written.
        sources: files and folders that are read for it; a path that does not exist counts as none.
        way_out: what to do, for the message.

    Raises:
        TokmargError: names both.
        OSError: one of them cannot be looked at.
    """
    for what, path in sources:
        if relation := _relation(output, path):
            raise TokmargError(f"{output}: {relation} {what} ({path}); {way_out}")


def _relation(output: Path, path: Path) -> str | None:
    """How an output overlaps with something that is read; None if it does not."""
    if not path.exists():
        return None
    if output.exists():
        if output.samefile(path):
            return "is"
        if any(output.samefile(parent) for each in (path.absolute(), path.resolve()) for parent in each.parents):
            return "contains"
    parents = output.resolve().parents
    return "lies in" if any(parent.exists() and parent.samefile(path) for parent in parents) else None


def _check_replaceable(output: Path, force: bool) -> None:
    """Refuses something that exists, and is neither an empty folder nor, by force, a bundle."""
    if not output.is_dir():
        raise TokmargError(f"{output}: is no folder; {_ELSEWHERE}")
    if output.samefile(Path.cwd()):
        raise TokmargError(f"{output}: is the current folder, which cannot be replaced; name a folder in it")
    if output.is_mount():
        raise TokmargError(f"{output}: is a mount point, which cannot be replaced; name a folder in it")
    if not os.access(output, os.R_OK | os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    if not any(output.iterdir()):
        return
    if foreign := _foreign(output):
        raise TokmargError(f"{output}: is not empty, and no bundle: {foreign}; {_ELSEWHERE}, or empty this one")
    if not force:
        raise TokmargError(f"{output}: is a bundle; --force (in Python force=True) replaces it")


def _foreign(folder: Path) -> str | None:
    """Why a folder is not a bundle and nothing but a bundle, of whatever version."""
    manifest = folder / MANIFEST
    if manifest.is_symlink() or not manifest.is_file():
        return f"{MANIFEST} is missing"
    try:
        document: Any = json.loads(manifest.read_bytes())
        files, version = dict(document["files"]), document["schema_version"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return f"{MANIFEST} is not a bundle's"
    if not isinstance(version, int) or "model.onnx" not in files:
        return f"{MANIFEST} is not a bundle's"
    for path in sorted(folder.iterdir()):
        if path.name not in files and path.name != MANIFEST:
            return f"{path.name} is not a file of it"
        if path.is_symlink() or not path.is_file():
            return f"{path.name} is no plain file"
    return None


def _check_writable(output: Path) -> None:
    """Writes a byte into a file without a name, in the nearest parent that exists."""
    parent = next(parent for parent in output.absolute().parents if os.path.lexists(parent))
    with tempfile.TemporaryFile(dir=parent, buffering=0) as scratch:
        scratch.write(b"0")
