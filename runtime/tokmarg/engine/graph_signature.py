"""Graph signature: names of a graph's inputs and outputs, checked against the bundle's manifest."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from tokmarg.bundle.graph_contract import GraphContract
from tokmarg.errors import BundleError, DeviceError

from .ort import ort

__all__ = ["LEAST_RELEASE", "GraphSignature", "check_release", "check_signature"]

#: Metadata of a graph: the first release of onnxruntime that computes it right, as "1.27".
LEAST_RELEASE = "least_onnxruntime"


@dataclass(frozen=True, slots=True)
class GraphSignature:
    """Names of a graph's inputs and outputs.

    Attributes:
        inputs: all inputs.
        heads: outputs that are logits, or log-probabilities.
        pasts, owns, presents: tensors of the cache, of contents' own cached tokens, and of the new tokens; in the order
            of :attr:`tokmarg.bundle.graph_contract.GraphContract.cache_parts`.
    """

    inputs: frozenset[str]
    heads: tuple[str, ...]
    pasts: tuple[str, ...]
    owns: tuple[str, ...]
    presents: tuple[str, ...]


def check_release(session: ort.InferenceSession, where: str) -> None:
    """Whether this release of onnxruntime computes a graph right: older ones load some that they get wrong.

    Raises:
        BundleError: the graph says nothing that can be read.
        DeviceError: it names a later release.
    """
    least = session.get_modelmeta().custom_metadata_map.get(LEAST_RELEASE, "0.0")
    if re.fullmatch(r"[0-9]{1,4}\.[0-9]{1,4}", least) is None:
        raise BundleError(f"{where}: {LEAST_RELEASE} must be a release such as 1.27, not {least!r:.60}")
    if _release(ort.__version__) < _release(least):
        raise DeviceError(f"{where}: onnxruntime {ort.__version__} computes this graph wrong: install {least} or newer")


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"[0-9]+", version)[:2])


def check_signature(session: ort.InferenceSession, g: GraphContract, where: str) -> GraphSignature:
    """Compares a graph's inputs and outputs with the manifest.

    Args:
        session: the graph.
        g: what the manifest says.
        where: the graph's file, for messages.

    Raises:
        BundleError: they differ.
    """
    inputs = {i.name: (i.type, i.shape) for i in session.get_inputs()}
    outputs = {o.name: (o.type, o.shape) for o in session.get_outputs()}
    layers = len({name.split(".")[1] for name in inputs if name.startswith("past_key_values.")})
    if layers != g.layers:
        raise BundleError(f"{where}: graph has {layers} layers of keys and values, not {g.layers} as the manifest says")
    shape_of_cache = {1: g.head_dim} if g.by_content else {1: g.kv_heads, 3: g.head_dim}
    kv = f"tensor({'float' if g.kv_dtype == 'float32' else 'float16'})"
    columns = g.vocab_size if g.head_token_ids is None else len(g.head_token_ids)
    wanted: list[tuple[dict[str, tuple[str, list[Any]]], str, str, dict[int, int]]] = [
        (inputs, "input_ids", "tensor(int64)", {0: 1}),
        (inputs, "position_ids", "tensor(int64)", {0: 1}),
        (inputs, "logit_positions", "tensor(int64)", {}),
        (outputs, "logits", "tensor(float)", {2: columns}),
    ]
    more_heads: list[str] = []
    if g.verdict_token_ids is not None:
        more_heads = ["verdict_logits", *(["log_probabilities"] if g.log_probabilities else [])]
        wanted.append((inputs, "verdict_positions", "tensor(int64)", {}))
        wanted += [(outputs, name, "tensor(float)", {2: len(g.verdict_token_ids)}) for name in more_heads]
    if g.by_content:
        wanted += [(inputs, name, "tensor(int64)", {}) for name in ("attention_rows", "row_places", "key_slots")]
        wanted.append((inputs, "stack_heads", "tensor(bool)", {0: 1}))
        wanted += [(inputs, f"own_key_values.{part}", kv, shape_of_cache) for part in g.cache_parts]
    for part in g.cache_parts:
        wanted.append((inputs, f"past_key_values.{part}", kv, shape_of_cache))
        wanted.append((outputs, f"present.{part}", kv, shape_of_cache))
    masks = ["attention_mask", "sliding_attention_mask"] if g.sliding_window is not None else ["attention_mask"]
    present = [m for m in masks if m in inputs]
    if masks[-1] not in present:
        raise BundleError(f"{where}: graph input {masks[-1]} is missing")
    wanted += [(inputs, name, "tensor(bool)", {}) for name in present]
    for table, name, kind, dims in wanted:
        if name not in table:
            raise BundleError(
                f"{where}: graph has no {name}, which the manifest's graph table implies: export the bundle again"
            )
        actual, shape = table[name]
        fixed = [(i, shape[i], n) for i, n in dims.items() if len(shape) > i and isinstance(shape[i], int)]
        wrong = next((f"dimension {i} is {a}, not {n}" for i, a, n in fixed if a != n), None)
        if actual != kind or wrong:
            raise BundleError(f"{where}: graph {name}: {wrong or f'is {actual}, not {kind}'} as the manifest says")
    known = {name for table, name, _, _ in wanted if table is inputs}
    if unknown := sorted(set(inputs) - known):
        raise BundleError(f"{where}: graph input {unknown[0]} is unknown to this tokmarg")
    sides = ("past_key_values", "own_key_values", "present")
    names = [tuple(f"{side}.{part}" for part in g.cache_parts) for side in sides]
    return GraphSignature(frozenset(inputs), ("logits", *more_heads), *names)
