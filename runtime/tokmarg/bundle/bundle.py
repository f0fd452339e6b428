"""Bundle folder on disk: manifest, graph, tokenizer and prefix cache; data only, nothing executable.

    manifest.json        what is in the folder and how to use it (schema: manifest.schema.json in this package)
    model.onnx (+ .data) the graph
    tokenizer.json       for the `tokenizers` library
    prefix.safetensors   key/value cache of the policy prefix per role mode (:mod:`tokmarg.bundle.prefix_file`)

Loading checks the manifest, sizes and sha256 sums, and refuses files outside the folder.
"""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from tokmarg.documents import read_document
from tokmarg.errors import BundleError, BundleNotFoundError
from tokmarg.system_calls import by_system, file_status

from .manifest import MANIFEST, Manifest

__all__ = ["Bundle"]


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle folder and its parsed manifest."""

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Bundle:
        """Reads the manifest of the bundle in folder ``path``.

        Raises:
            BundleNotFoundError: no such folder, or no manifest in it.
            BundleError: the manifest is unreadable or malformed.
            SpecError: the spec in it is.
        """
        folder = Path(path)
        manifest = folder / MANIFEST
        if (status := file_status(manifest)) is None or not stat.S_ISREG(status.st_mode):
            raise BundleNotFoundError(f"{folder}: no bundle here ({MANIFEST} is missing)")
        if _points_outside(manifest, folder):
            raise BundleError(f"{manifest}: is a link that leaves the bundle")
        data = read_document(manifest, BundleError, format="json")
        return cls(folder, Manifest.parse(data, str(manifest)))

    def file(self, name: str) -> Path:
        """Path of the bundle's file ``name``, after a check of its size.

        Raises:
            BundleError: it is missing, of the wrong size, or a link out of the folder.
        """
        path = self.path / name
        if name not in self.manifest.files:
            raise BundleError(f"{self.path / MANIFEST}: files.{name}: is missing")
        if (status := file_status(path)) is None:
            raise BundleError(f"{path}: is missing; export the bundle again or copy it whole")
        if not stat.S_ISREG(status.st_mode):
            raise BundleError(f"{path}: is no file, but a folder or a device")
        if _points_outside(path, self.path):
            raise BundleError(f"{path}: is a link that leaves the bundle")
        size = self.manifest.files[name][1]
        if status.st_size != size:
            raise BundleError(f"{path}: is {status.st_size:,} bytes, the manifest says {size:,}; copy it again")
        return path

    def verify(self) -> None:
        """Checks size and sha256 of every file; raises as :meth:`verify_file`."""
        for name in self.manifest.files:
            self.verify_file(name)

    def verify_file(self, name: str) -> None:
        """Checks size and sha256 of one file.

        Raises:
            BundleError: it differs from the manifest, or cannot be read; names it.
        """
        path = self.file(name)
        try:
            with path.open("rb") as stream:
                sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError as error:
            if not by_system(error):
                raise
            raise BundleError(f"{path}: cannot be read: {error.strerror}") from None
        if sha256 != self.manifest.files[name][0]:
            raise BundleError(f"{path}: sha256 differs from the manifest; copy or export the bundle again")


def _points_outside(path: Path, folder: Path) -> bool:
    """Whether a file is a link to a place outside the folder."""
    try:
        return os.path.dirname(os.path.realpath(path, strict=True)) != os.path.realpath(folder, strict=True)
    except OSError as error:  # links that lead to each other
        if not by_system(error):
            raise
        return True
