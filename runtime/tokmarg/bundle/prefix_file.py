"""The prefix file: keys and values of the policy prefix, the prompt text before the content (safetensors).

A file holds, per role mode, ``{role}.token_ids`` int64 [P] and per layer ``{role}.{i}.key`` and ``{role}.{i}.value``
[1, kv_heads, P, head_dim], float32 or float16. A bundle's own is ``prefix.safetensors``; those of policies that are
given at load time lie in the user's cache folder (:mod:`tokmarg.engine.prefix_cache`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from safetensors import safe_open
from safetensors.numpy import save, save_file

from tokmarg.errors import BundleError
from tokmarg.native import PanicError, first_line, raised_by, without_panic

from .graph_contract import GraphContract

__all__ = ["StoredPrefix", "prefix_bytes", "read_prefixes", "write_prefixes"]

Array = npt.NDArray[Any]
#: What names a role mode: ``user`` or ``assistant``.
R = TypeVar("R", bound=str)
#: Key and value of a layer, [1, kv_heads, P, head_dim] each -> the tensors that a reader wants of that layer.
Arrange = Callable[[Array, Array], tuple[Array, ...]]


@dataclass(frozen=True, slots=True)
class StoredPrefix:
    """Prefix of one role mode, as arrays.

    Attributes:
        token_ids: of the prefix, P of them.
        tensors: key 0, value 0, key 1, value 1, ..., each [1, kv_heads, P, head_dim]; or what ``arrange`` made of them.
    """

    token_ids: tuple[int, ...]
    tensors: tuple[Array, ...]


def write_prefixes(path: Path, prefixes: Mapping[R, StoredPrefix], *, half: bool = False) -> None:
    """Writes a prefix file; with ``half`` keys and values as float16, which readers turn into the graph's type.

    Raises:
        OSError, safetensors.SafetensorError: it cannot be written.
    """
    save_file(_tensors(prefixes, half), path)


def prefix_bytes(prefixes: Mapping[R, StoredPrefix]) -> bytes:
    """A prefix file as bytes."""
    return bytes(save(_tensors(prefixes, False)))


def _tensors(prefixes: Mapping[R, StoredPrefix], half: bool) -> dict[str, Array]:
    tensors: dict[str, Array] = {}
    for role, prefix in prefixes.items():
        tensors[f"{role}.token_ids"] = np.asarray(prefix.token_ids, dtype=np.int64)
        for i, tensor in enumerate(prefix.tensors):
            tensors[f"{role}.{i // 2}.{'value' if i % 2 else 'key'}"] = np.ascontiguousarray(
                tensor, np.float16 if half else None
            )
    return tensors


def read_prefixes(
    path: Path, roles: Iterable[R], graph: GraphContract, arrange: Arrange = lambda key, value: (key, value)
) -> dict[R, StoredPrefix]:
    """Reads a prefix file.

    Args:
        path: the file.
        roles: role modes that it must hold.
        graph: whose shapes and type the tensors must have, or are converted to.
        arrange: applied to each layer as it is read, so that no two forms of the whole file are in memory at once.

    Raises:
        BundleError: a tensor is missing or of the wrong shape; names file and tensor.
    """
    try:
        return without_panic(lambda: {role: _read(path, role, graph, arrange) for role in roles})
    except BundleError:
        raise
    # A hostile header: sizes that do not add up, types that numpy lacks, and whatever else the library trips over.
    except (Exception, PanicError) as error:
        if not raised_by(error, "safetensors", "numpy"):
            raise
        raise BundleError(f"{path}: {first_line(error)}") from error


def _read(path: Path, role: str, graph: GraphContract, arrange: Arrange) -> StoredPrefix:
    with safe_open(path, framework="numpy") as stored:
        ids = stored.get_tensor(f"{role}.token_ids")
        if ids.ndim != 1 or ids.dtype != np.int64:
            raise BundleError(f"{path}: {role}.token_ids: is {ids.dtype} {list(ids.shape)}, not int64 [P]")
        if len(ids) and not 0 <= ids.min() <= ids.max() < graph.vocab_size:
            raise BundleError(f"{path}: {role}.token_ids: holds ids that are not below {graph.vocab_size:,}")
        shape = (1, graph.kv_heads, len(ids), graph.head_dim)
        tensors: list[Array] = []
        for i in range(graph.layers):
            layer = []
            for name in (f"{role}.{i}.key", f"{role}.{i}.value"):
                tensor = stored.get_tensor(name)
                if tensor.shape != shape:
                    raise BundleError(f"{path}: {name}: has shape {list(tensor.shape)}, not {list(shape)}")
                if tensor.dtype not in (np.float32, np.float16):
                    raise BundleError(f"{path}: {name}: is {tensor.dtype}, not float32 or float16")
                layer.append(np.ascontiguousarray(tensor, dtype=graph.kv_dtype))
            tensors += arrange(*layer)
    return StoredPrefix(tuple(int(i) for i in ids), tuple(tensors))
