"""Bundle lookup: by folder, by $TOKMARG_BUNDLE, or by the name of a bundle installed as a Python package."""

from __future__ import annotations

import os
import stat
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

from tokmarg.errors import BundleNotFoundError
from tokmarg.system_calls import file_status

__all__ = ["DEFAULT_BUNDLE", "ENTRY_POINTS", "find_bundle", "installed_bundles"]

#: Installed bundle that is used when none is named.
DEFAULT_BUNDLE = "reference-guard"
#: Entry-point group of installed bundles.
ENTRY_POINTS = "tokmarg.bundles"


def installed_bundles() -> dict[str, Path]:
    """Bundles installed as Python packages: entry-point name -> folder.

    An entry point of the group ``tokmarg.bundles`` names a package; the bundle is that package's folder. The package
    itself is not imported.
    """
    bundles: dict[str, Path] = {}
    for point in entry_points(group=ENTRY_POINTS):
        top, *below = point.value.partition(":")[0].split(".")  # find_spec("a.b") would import a
        try:
            spec = find_spec(top)
        except (ImportError, ValueError):
            continue  # a broken package must not hide the others
        folders = [Path(location, *below) for location in (spec and spec.submodule_search_locations) or ()]
        if folder := next((folder for folder in folders if folder.is_dir()), None):
            bundles.setdefault(point.name, folder)
    return bundles


def find_bundle(name: str | os.PathLike[str] | None) -> Path:
    """Folder of a bundle given as path, as name of an installed bundle, or not at all.

    Without a name: $TOKMARG_BUNDLE, else the installed bundle ``reference-guard``.

    Raises:
        BundleNotFoundError: says how to get one.
    """
    if name is None:
        name = os.environ.get("TOKMARG_BUNDLE") or None
    if name is not None and (status := file_status(name)) is not None and stat.S_ISDIR(status.st_mode):
        return Path(name)
    installed = installed_bundles()
    if name is None:
        if DEFAULT_BUNDLE in installed:
            return installed[DEFAULT_BUNDLE]
        raise BundleNotFoundError(
            f"no bundle: give one (--bundle DIR, or $TOKMARG_BUNDLE), or install {DEFAULT_BUNDLE!r}; "
            "tokmarg-export makes a bundle from any instruction-tuned model"
        )
    if str(name) in installed:
        return installed[str(name)]
    known = f"; installed bundles: {', '.join(sorted(installed))}" if installed else ""
    raise BundleNotFoundError(f"{name}: no such folder and no installed bundle of this name{known}")
