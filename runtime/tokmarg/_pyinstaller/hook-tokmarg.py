"""What PyInstaller does not see by itself: modules that are imported late, data files, and installed bundles.

All bundles that are installed where the application is built go along. ``--exclude-module`` with a bundle's package
leaves it out, for applications that bring a bundle of their own.
"""

from __future__ import annotations

from contextlib import suppress
from importlib.metadata import PackageNotFoundError, entry_points
from typing import Any

from PyInstaller.utils.hooks import collect_data_files, collect_submodules, copy_metadata

from tokmarg.bundle.installed import ENTRY_POINTS

hiddenimports = collect_submodules("tokmarg", filter=lambda name: not name.startswith("tokmarg._pyinstaller"))
datas = [*collect_data_files("tokmarg"), *copy_metadata("tokmarg")]
for library in ("onnxruntime", "onnxruntime-gpu", "numpy", "tokenizers"):  # the journal of a run names their versions
    with suppress(PackageNotFoundError):
        datas += copy_metadata(library)


def hook(hook_api: Any) -> None:
    """Adds the installed bundles: package, files, and the metadata by which they are found."""
    for point in entry_points(group=ENTRY_POINTS):
        package = point.module
        if point.dist is not None and package not in hook_api.analysis.excludes:
            hook_api.add_imports(package)
            hook_api.add_datas([*collect_data_files(package), *copy_metadata(point.dist.name)])
