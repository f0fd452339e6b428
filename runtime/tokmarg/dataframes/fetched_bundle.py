"""Bundles at a URL: fetched once a machine into the user's cache folder, every file checked by its sha256.

The folder bears the sha256 of the bundle's manifest, so a bundle that changes at its URL is another folder. Processes
that ask at the same time wait for the one that fetches; a fetch that was cut off leaves nothing.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from tokmarg.bundle.bundle import Bundle
from tokmarg.bundle.manifest import MANIFEST, Manifest
from tokmarg.cache_folder import cache_folder
from tokmarg.documents import read_document
from tokmarg.errors import BundleError, BundleNotFoundError
from tokmarg.scratch import scratch_path
from tokmarg.system_calls import make_folders

from .extras import check_extra
from .storage import one_line, open_storage

if TYPE_CHECKING:
    import fsspec

__all__ = ["fetch_bundle", "is_url", "manifest_sha256_at"]

#: Bytes that are read at a time, and of a manifest at most.
_CHUNK, _MANIFEST = 2**22, 2**24


def is_url(bundle: object) -> bool:
    """Whether a bundle is named by a URL that fsspec knows, such as ``s3://models/guard`` or ``https://...``."""
    return isinstance(bundle, str) and "://" in bundle


def fetch_bundle(url: str, *, manifest_sha256: str | None = None, folder: Path | None = None) -> Path:
    """The folder of a bundle that lies at a URL; fetched if this machine has not got it, or not whole.

    Args:
        url: of the bundle's folder; any that fsspec knows.
        manifest_sha256: of ``manifest.json``, as ``sha256sum`` says it. Without it, whoever can write to the URL
            decides what is loaded.
        folder: to keep bundles in; by default ``bundles`` in the user's cache folder.

    Raises:
        BundleNotFoundError: there is no bundle.
        BundleError: a file differs from the manifest, or the manifest from ``manifest_sha256``; names it.
        TokmargError: fsspec, or its package for the URL's protocol, is not installed.
    """
    check_extra("ray", "fsspec", "filelock", what="a bundle at a URL")
    from filelock import FileLock

    system, root = open_storage(url)
    manifest = _read(system, root, url)
    sha256 = hashlib.sha256(manifest).hexdigest()
    if manifest_sha256 is not None and sha256 != manifest_sha256:
        raise BundleError(f"{url}/{MANIFEST}: has the sha256 {sha256}, not {manifest_sha256:.64}")
    parent = folder or _bundles()
    make_folders(parent)
    final = parent / sha256
    with FileLock(parent / f"{sha256}.lock"):  # let go by the system where its holder is killed
        if not _is_whole(final):
            with scratch_path(parent) as scratch:
                scratch.mkdir()
                (scratch / MANIFEST).write_bytes(manifest)
                _fetch(system, root, url, scratch)
                shutil.rmtree(final, ignore_errors=True)  # damaged
                os.rename(scratch, final)
    return final


def manifest_sha256_at(url: str) -> str:
    """sha256 of the manifest that lies at a URL now.

    Raises:
        BundleNotFoundError, BundleError, TokmargError: as :func:`fetch_bundle` does.
    """
    check_extra("ray", "fsspec", what="a bundle at a URL")
    return hashlib.sha256(_read(*open_storage(url), url)).hexdigest()


def _bundles() -> Path:
    base = cache_folder()
    if base is None:  # Windows has no user ids, and a folder of temporary files for each user
        base = Path(tempfile.gettempdir(), f"tokmarg-{os.getuid()}" if hasattr(os, "getuid") else "tokmarg")
    return base / "bundles"


def _read(system: fsspec.AbstractFileSystem, root: str, url: str) -> bytes:
    try:
        with system.open(f"{root}/{MANIFEST}", "rb") as stream:
            data: bytes = stream.read(_MANIFEST)
    except FileNotFoundError:
        raise BundleNotFoundError(f"{url}: no bundle here ({MANIFEST} is missing)") from None
    except OSError as error:
        raise BundleError(f"{url}/{MANIFEST}: cannot be read: {one_line(error)}") from None
    return data


def _is_whole(folder: Path) -> bool:
    try:
        Bundle.open(folder).verify()
    except BundleError:
        return False
    return True


def _fetch(system: fsspec.AbstractFileSystem, root: str, url: str, folder: Path) -> None:
    """Fetches the files that the manifest in a folder names, and checks each."""
    manifest = Manifest.parse(read_document(folder / MANIFEST, BundleError, format="json"), f"{url}/{MANIFEST}")
    for name, (sha256, size) in manifest.files.items():
        digest, got = hashlib.sha256(), 0
        try:
            with system.open(f"{root}/{name}", "rb") as stream, (folder / name).open("wb") as file:
                while got <= size and (chunk := stream.read(_CHUNK)):
                    digest.update(chunk)
                    file.write(chunk)
                    got += len(chunk)
        except OSError as error:
            raise BundleError(f"{url}/{name}: cannot be fetched: {one_line(error)}") from None
        if (digest.hexdigest(), got) != (sha256, size):
            raise BundleError(f"{url}/{name}: differs from the manifest there (size or sha256)")
