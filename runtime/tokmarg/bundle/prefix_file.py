"""The policy prefix: keys and values of the prompt text before the content, computed once and kept in a file.

A file holds, per role mode, ``{role}.token_ids`` int64 [P] and per layer ``{role}.{i}.key`` and ``{role}.{i}.value``
[1, kv_heads, P, head_dim] (safetensors). A bundle's own is ``prefix.safetensors``; those of policies that are given
at load time lie in the user's cache folder.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import safe_open
from safetensors.numpy import save_file

from tokmarg.engine.kv_cache import HOST, KVCache, heads_by_token, key_and_value
from tokmarg.engine.prefix_cache import Prefix
from tokmarg.errors import BundleError
from tokmarg.native import PanicError, first_line, without_panic
from tokmarg.prompt.spec import Role

from .graph_contract import GraphContract

__all__ = ["read_prefixes", "write_prefixes"]


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
        return without_panic(lambda: _read(path, roles, graph))
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
            cache = KVCache(tuple(tensors), np.arange(len(ids), dtype=np.int64))
            found[role] = Prefix(tuple(int(i) for i in ids), cache)
    return found
