"""The key/value cache of the policy prefix: read from the bundle, or computed once and kept in the user's cache."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from tokmarg.bundle.graph_contract import GraphContract
from tokmarg.bundle.manifest import Manifest
from tokmarg.bundle.prefix_file import StoredPrefix, prefix_bytes, read_prefixes, write_prefixes
from tokmarg.cache_folder import keep, recall
from tokmarg.errors import BundleError

from .forward import Forward
from .kv_cache import HOST, KVCache, heads_by_token, key_and_value
from .prefix import Prefix
from .session import Session

__all__ = [
    "cached_prefixes",
    "compute_prefixes",
    "load_prefixes",
    "read_cached",
    "save_prefixes",
]

R = TypeVar("R", bound=str)
#: Tokens of a prefix that one pass carries.
_PASS_TOKENS = 2048


def compute_prefixes(session: Session, token_ids: Mapping[R, Sequence[int]]) -> dict[R, Prefix]:
    """Runs each role mode's policy prefix through the graph, long ones in several passes: attention takes memory for
    each pair of tokens.

    Args:
        session: the graph.
        token_ids: role mode -> the prefix's tokens.

    Raises:
        DeviceError: onnxruntime cannot run the pass.
    """
    prefixes = {}
    for role, ids in token_ids.items():
        cache = session.empty()
        for start in range(0, max(1, len(ids)), _PASS_TOKENS):
            end = min(start + _PASS_TOKENS, len(ids))
            mask = np.tri(end - start, end, start, dtype=np.bool_)  # [S, P+S]
            positions = np.arange(start, end, dtype=np.int64)
            new = session.run(Forward(ids[start:end], positions, mask, cache, [0])).new
            cache = new if start == 0 else _joined(cache, new, session.graph)
        prefixes[role] = Prefix(tuple(ids), cache)
    return prefixes


def _joined(first: KVCache, second: KVCache, graph: GraphContract) -> KVCache:
    if not graph.by_content:
        return KVCache.joined([first, second])
    tensors = tuple(np.concatenate(layer) for layer in zip(first.tensors, second.tensors, strict=True))
    return KVCache(tensors, np.concatenate([first.positions, second.positions]))


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
    write_prefixes(path, _stored(prefixes, graph), half=half)


def _stored(prefixes: Mapping[R, Prefix], graph: GraphContract) -> dict[R, StoredPrefix]:
    """Prefixes as files have them."""
    stored = {}
    for role, prefix in prefixes.items():
        tensors = prefix.cache.moved(HOST).tensors
        if graph.by_content:
            tensors = tuple(part for rows in tensors for part in key_and_value(rows, graph.kv_heads))
        stored[role] = StoredPrefix(prefix.token_ids, tensors)
    return stored


def cached_prefixes(manifest: Manifest, session: Session, token_ids: Mapping[R, tuple[int, ...]]) -> dict[R, Prefix]:
    """The prefixes of a policy that is not the bundle's: from the cache folder, else computed and kept there.

    Args:
        manifest: of the bundle, whose graph computes them.
        session: the graph.
        token_ids: role mode -> the prefix's tokens.
    """
    # What the keys and values depend on: the graph and its weights, the token ids, and where they are computed.
    sums = sorted(entry for name, entry in manifest.files.items() if name.startswith("model."))
    key = hashlib.sha256(repr((sums, dict(token_ids), session.device)).encode()).hexdigest()[:40]
    name, suffix = f"prefix-{key}", ".safetensors"
    if (stored := recall(name, suffix, lambda path: read_cached(path, token_ids, manifest.graph))) is not None:
        return stored
    prefixes = compute_prefixes(session, token_ids)
    keep(name, suffix, lambda: prefix_bytes(_stored(prefixes, manifest.graph)))
    return prefixes


def read_cached(path: Path, token_ids: Mapping[R, tuple[int, ...]], graph: GraphContract) -> dict[R, Prefix] | None:
    """The prefixes in a file of the cache folder; None where it holds others."""
    try:
        prefixes = load_prefixes(path, token_ids, graph)
    except BundleError:
        return None
    return prefixes if all(prefixes[role].token_ids == ids for role, ids in token_ids.items()) else None
