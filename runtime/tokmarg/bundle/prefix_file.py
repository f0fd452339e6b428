"""The policy prefix: keys and values of the prompt text before the content, computed once and kept in a file.

A file holds, per role mode, ``{role}.token_ids`` int64 [P] and per layer ``{role}.{i}.key`` and ``{role}.{i}.value``
[1, kv_heads, P, head_dim] (safetensors). A bundle's own is ``prefix.safetensors``; those of policies that are given
at load time lie in the user's cache folder.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from tokmarg.engine.kv_cache import HOST, KeyValues, heads_by_token, key_and_value
from tokmarg.engine.session import Forward, Session
from tokmarg.errors import BundleError
from tokmarg.native import PanicError, first_line, shielded
from tokmarg.prompt.builder import Prompter
from tokmarg.prompt.spec import Role

from .bundle import GraphContract, Manifest

__all__ = [
    "Prefix",
    "cache_folder",
    "cached_prefixes",
    "compute_prefixes",
    "read_prefixes",
    "shared_tokens",
    "write_prefixes",
]


@dataclass(frozen=True, slots=True)
class Prefix:
    """Keys and values of a role mode's policy prefix, and the token ids they belong to."""

    token_ids: tuple[int, ...]
    cache: KeyValues

    def shared(self, token_ids: Sequence[int]) -> int:
        """How many leading tokens a prompt shares with the prefix (its last token always stays to be fed)."""
        return shared_tokens(self.token_ids, token_ids[:-1])


def shared_tokens(a: Sequence[int], b: Sequence[int]) -> int:
    """How many leading tokens two sequences share."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def compute_prefixes(session: Session, prompter: Prompter) -> dict[Role, Prefix]:
    """Runs each role mode's policy prefix through the graph."""
    found = {}
    for role in prompter.spec.roles:
        ids = prompter.prefix_ids(role)
        mask = np.tri(len(ids), dtype=np.bool_)
        positions = np.arange(len(ids), dtype=np.int64)
        cache = session.run(Forward(ids, positions, mask, session.empty(), [0])).new
        found[role] = Prefix(ids, cache)
    return found


def write_prefixes(path: Path, prefixes: Mapping[Role, Prefix], graph: GraphContract, *, half: bool = False) -> None:
    """Writes a prefix file; with ``half`` keys and values as float16, which readers turn into the graph's type."""
    tensors = {}
    for role, prefix in prefixes.items():
        tensors[f"{role}.token_ids"] = np.asarray(prefix.token_ids, dtype=np.int64)
        found: Iterable[npt.NDArray[Any]] = prefix.cache.moved(HOST).tensors
        if graph.by_content:
            found = (part for rows in found for part in key_and_value(rows, graph.kv_heads))
        for i, tensor in enumerate(found):
            tensors[f"{role}.{i // 2}.{'value' if i % 2 else 'key'}"] = np.ascontiguousarray(
                tensor, np.float16 if half else None
            )
    save_file(tensors, path)


def read_prefixes(path: Path, roles: Iterable[Role], graph: GraphContract) -> dict[Role, Prefix]:
    """Reads a prefix file.

    Raises:
        BundleError: a tensor is missing or of the wrong shape; names file and tensor.
    """
    try:
        return shielded(lambda: _read(path, roles, graph))
    except BundleError:
        raise
    # A hostile header: sizes that do not add up, types that numpy lacks, and whatever else the library trips over.
    except (Exception, PanicError) as error:
        raise BundleError(f"{path}: {first_line(error)}") from error


def _read(path: Path, roles: Iterable[Role], graph: GraphContract) -> dict[Role, Prefix]:
    found: dict[Role, Prefix] = {}
    with safe_open(path, framework="numpy") as stored:
        for role in roles:
            ids = stored.get_tensor(f"{role}.token_ids")
            if ids.ndim != 1 or ids.dtype != np.int64:
                raise BundleError(f"{path}: {role}.token_ids: is {ids.dtype} {list(ids.shape)}, not int64 [P]")
            if len(ids) and not 0 <= ids.min() <= ids.max() < graph.vocab_size:
                raise BundleError(f"{path}: {role}.token_ids: holds ids that are not below {graph.vocab_size:,}")
            shape = (1, graph.kv_heads, len(ids), graph.head_dim)
            tensors: list[npt.NDArray[Any]] = []
            for i in range(graph.layers):
                layer = []
                for name in (f"{role}.{i}.key", f"{role}.{i}.value"):
                    tensor = stored.get_tensor(name)
                    if tensor.shape != shape:
                        raise BundleError(f"{path}: {name}: has shape {list(tensor.shape)}, not {list(shape)}")
                    if tensor.dtype not in (np.float32, np.float16):
                        raise BundleError(f"{path}: {name}: is {tensor.dtype}, not float32 or float16")
                    layer.append(np.ascontiguousarray(tensor, dtype=graph.kv_dtype))
                tensors += [heads_by_token(*layer)] if graph.by_content else layer
            cache = KeyValues(tuple(tensors), np.arange(len(ids), dtype=np.int64))
            found[role] = Prefix(tuple(int(i) for i in ids), cache)
    return found


def cache_folder() -> Path:
    """Where prefixes of policies given at load time are kept: ``tokmarg`` in the user's cache folder."""
    home = Path.home()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = home / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    return base / "tokmarg"


def cached_prefixes(manifest: Manifest, session: Session, prompter: Prompter) -> dict[Role, Prefix]:
    """The prefixes of a policy that is not the bundle's: from the cache folder, else computed and kept there."""
    spec = prompter.spec
    expected = {role: prompter.prefix_ids(role) for role in spec.roles}
    # What the keys and values depend on: the graph and its weights, the token ids, and where they are computed.
    sums = sorted(entry for name, entry in manifest.files.items() if name.startswith("model."))
    key = hashlib.sha256(repr((sums, expected, session.device)).encode()).hexdigest()
    path = cache_folder() / f"prefix-{key[:40]}.safetensors"
    if path.is_file():
        try:
            found = read_prefixes(path, spec.roles, manifest.graph)
            if all(found[role].token_ids == ids for role, ids in expected.items()):
                return found
        except BundleError:
            pass  # a damaged cache file is written anew
    prefixes = compute_prefixes(session, prompter)
    # No room or no permission is no obstacle: the next load computes it again.
    with suppress(OSError, SafetensorError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".prefix-", dir=path.parent) as scratch:
            write_prefixes(Path(scratch) / path.name, prefixes, manifest.graph)
            (Path(scratch) / path.name).replace(path)
    return prefixes
