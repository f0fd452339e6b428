"""The key/value cache of the policy prefix: read from the bundle, or computed once and kept in the user's cache."""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError

from tokmarg.bundle.graph_contract import GraphContract
from tokmarg.bundle.manifest import Manifest
from tokmarg.bundle.prefix_file import StoredPrefix, read_prefixes, write_prefixes
from tokmarg.errors import BundleError

from .forward import Forward
from .kv_cache import HOST, KVCache, heads_by_token, key_and_value
from .prefix import Prefix
from .session import Session

__all__ = [
    "cache_folder",
    "cached_prefixes",
    "compute_prefixes",
    "load_prefixes",
    "read_cached",
    "save_prefixes",
]


R = TypeVar("R", bound=str)


def compute_prefixes(session: Session, token_ids: Mapping[R, Sequence[int]]) -> dict[R, Prefix]:
    """Runs each role mode's policy prefix through the graph.

    Args:
        session: the graph.
        token_ids: role mode -> the prefix's tokens.

    Raises:
        DeviceError: onnxruntime cannot run the pass.
    """
    prefixes = {}
    for role, ids in token_ids.items():
        mask = np.tri(len(ids), dtype=np.bool_)  # [P, P]
        positions = np.arange(len(ids), dtype=np.int64)
        cache = session.run(Forward(ids, positions, mask, session.empty(), [0])).new
        prefixes[role] = Prefix(tuple(ids), cache)
    return prefixes


def load_prefixes(path: Path, roles: Iterable[R], graph: GraphContract) -> dict[R, Prefix]:
    """Reads a prefix file into caches on the host.

    Raises:
        BundleError: a tensor is missing or of the wrong shape; names file and tensor.
    """

    def arrange(key: npt.NDArray[Any], value: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], ...]:
        return (heads_by_token(key, value),) if graph.by_content else (key, value)

    return {
        role: Prefix(stored.token_ids, KVCache(stored.tensors, np.arange(len(stored.token_ids), dtype=np.int64)))
        for role, stored in read_prefixes(path, roles, graph, arrange).items()
    }


def save_prefixes(path: Path, prefixes: Mapping[R, Prefix], graph: GraphContract, *, half: bool = False) -> None:
    """Writes a prefix file; with ``half`` keys and values as float16.

    Raises:
        OSError, safetensors.SafetensorError: it cannot be written.
    """
    stored = {}
    for role, prefix in prefixes.items():
        tensors = prefix.cache.moved(HOST).tensors
        if graph.by_content:
            tensors = tuple(part for rows in tensors for part in key_and_value(rows, graph.kv_heads))
        stored[role] = StoredPrefix(prefix.token_ids, tensors)
    write_prefixes(path, stored, half=half)


def cache_folder() -> Path | None:
    """Where prefixes of policies given at load time are kept: ``tokmarg`` in the user's cache folder.

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


def _absolute(path: str | None) -> Path | None:
    return Path(path) if path and os.path.isabs(path) else None


def _home(*below: str) -> Path | None:
    try:
        home = Path.home()
    except RuntimeError:  # no HOME, and no entry in the password database
        return None
    return home.joinpath(*below) if home.is_absolute() else None


def cached_prefixes(manifest: Manifest, session: Session, token_ids: Mapping[R, tuple[int, ...]]) -> dict[R, Prefix]:
    """The prefixes of a policy that is not the bundle's: from the cache folder, else computed and kept there.

    A file there bears its own sha256 in its name, ``prefix-<key>-<sha256>.safetensors``: one whose bytes have changed
    is removed and computed anew. That detects damage, not forgery.

    Args:
        manifest: of the bundle, whose graph computes them.
        session: the graph.
        token_ids: role mode -> the prefix's tokens.
    """
    # What the keys and values depend on: the graph and its weights, the token ids, and where they are computed.
    sums = sorted(entry for name, entry in manifest.files.items() if name.startswith("model."))
    key = hashlib.sha256(repr((sums, dict(token_ids), session.device)).encode()).hexdigest()[:40]
    folder = cache_folder()
    # A full disk, no permission or an unreadable file is no obstacle: the prefixes are computed.
    if folder is not None:
        with suppress(OSError):
            for path in sorted(folder.glob(f"prefix-{key}-*.safetensors")):
                if (stored := read_cached(path, token_ids, manifest.graph)) is not None:
                    return stored
                path.unlink()
    prefixes = compute_prefixes(session, token_ids)
    if folder is not None:
        with suppress(OSError, SafetensorError):
            _write_cached(folder, key, prefixes, manifest.graph)
    return prefixes


def read_cached(path: Path, token_ids: Mapping[R, tuple[int, ...]], graph: GraphContract) -> dict[R, Prefix] | None:
    """The prefixes in a file of the cache folder; None where it is damaged."""
    with path.open("rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    if not path.stem.endswith(f"-{sha256}"):
        return None
    try:
        prefixes = load_prefixes(path, token_ids, graph)
    except BundleError:
        return None
    return prefixes if all(prefixes[role].token_ids == ids for role, ids in token_ids.items()) else None


def _write_cached(folder: Path, key: str, prefixes: Mapping[R, Prefix], graph: GraphContract) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".prefix-", dir=folder) as scratch:
        path = Path(scratch) / "prefix.safetensors"
        save_prefixes(path, prefixes, graph)
        with path.open("r+b") as stream:
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
            os.fsync(stream.fileno())  # on the disk before it has its name
        path.replace(folder / f"prefix-{key}-{sha256}.safetensors")
