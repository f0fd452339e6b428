"""Running the graph: one ONNX Runtime session, its device, and its key/value tensors."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from .bundle import Bundle, GraphContract
from .cuda import CPU, CUDA, CUDA_OPTIONS, on_cuda
from .devicestore import DeviceStore
from .errors import BundleError, DeviceError
from .graphfile import read_references
from .keyvalues import HOST, KeyValues, Store
from .oneop import saturates
from .onnx_runtime import ort
from .shield import first_line

__all__ = ["Contents", "Device", "Session"]

Device = Literal["auto", "cpu", "cuda"]
#: Releases with wrong results or crashes in the operators used here.
_BAD_RELEASES = ("1.20.0", "1.24.0", "1.24.1")


@dataclass(frozen=True, slots=True)
class Contents:
    """The B contents of a pass through a graph whose attention goes content by content (``graph.by_content``).

    Each has S places for its new tokens and T for cached ones of its own; what stands at places that it does not need
    is never seen.

    Attributes:
        rows: int64 [B, S], which new token of the pass stands at each place.
        places: int64 [N], at which of the B * S places each new token of the pass stands.
        own: key 0, value 0, key 1, ... of the contents' own cached tokens, [2 * layers, B, kv_heads, T, head_dim].
        positions: int64 [B, T], theirs.
    """

    rows: npt.NDArray[np.int64]
    places: npt.NDArray[np.int64]
    own: npt.NDArray[Any]
    positions: npt.NDArray[np.int64]

    @classmethod
    def one(cls, graph: GraphContract, count: int) -> Contents:
        """All ``count`` new tokens of a pass are of one content, which has none of its own in the cache."""
        own = np.zeros((2 * graph.layers, 1, graph.kv_heads, 0, graph.head_dim), dtype=graph.kv_dtype)
        places = np.arange(count, dtype=np.int64)
        return cls(places[None], places, own, np.zeros((1, 0), dtype=np.int64))


class Session:
    """The graph of a bundle on one device. Safe to call from several threads of the process that made it.

    Args:
        bundle: whose ``model.onnx`` to load.
        device: ``auto`` takes CUDA where it works; ``cuda`` fails where it does not.
        threads: intra-op threads (None: one per core).

    Raises:
        DeviceError: CUDA was asked for and is not active, or cannot run all of the graph.
        BundleError: the graph cannot be loaded or does not match the manifest.
    """

    def __init__(self, bundle: Bundle, device: Device = "auto", threads: int | None = None) -> None:
        if ort.__version__ in _BAD_RELEASES:
            raise DeviceError(f"onnxruntime {ort.__version__} has known faults: install another release")
        if device not in ("auto", "cpu", "cuda"):
            raise DeviceError(f"device must be auto, cpu or cuda, not {device!r}")
        self._process = os.getpid()
        self.graph: GraphContract = bundle.manifest.graph
        for name in bundle.manifest.files:  # the graph's external data among them
            bundle.file(name)
        path = bundle.path / "model.onnx"
        _check_references(bundle, path)
        has_cuda = CUDA in ort.get_available_providers()
        if device == "cuda" and self.graph.by_content:
            raise DeviceError("int8 bundles run on the CPU: export the guard with --precision fp16 for CUDA")
        if device == "cuda" and not has_cuda:
            raise DeviceError('CUDA was asked for, but this onnxruntime has no CUDA: pip install "tokmarg[gpu]"')
        options = ort.SessionOptions()
        options.log_severity_level = 3
        # Threads wait for each other's work within a pass, a thousand times, but sleep when it ends.
        options.add_session_config_entry("session.intra_op.allow_spinning", "1")
        options.add_session_config_entry("session.force_spinning_stop", "1")
        if threads is not None:
            options.intra_op_num_threads = threads
        if self.graph.by_content and saturates():
            options.add_session_config_entry("session.x64quantprecision", "1")
        self.device: Literal["cpu", "cuda"] = "cpu"
        if device != "cpu" and has_cuda and not self.graph.by_content:
            try:
                self._session = on_cuda(path, options)
                self.device = "cuda"
            except DeviceError:
                if device == "cuda":
                    raise
        if self.device == "cpu":
            try:
                self._session = ort.InferenceSession(str(path), options, providers=[CPU], enable_fallback=0)
            except Exception as error:  # onnxruntime raises its own types, none of them public
                raise BundleError(f"{path}: onnxruntime cannot load the graph: {first_line(error)}") from error
        self._check(str(path))
        #: Where keys and values lie, those of passes and those that :meth:`run` is given.
        self.store: Store = HOST
        if self.device == "cuda":
            self.store = DeviceStore("cuda", (CUDA, CUDA_OPTIONS), len(self._pasts), self.graph.kv_dtype)

    def run(
        self,
        input_ids: Sequence[int],
        positions: npt.NDArray[np.int64],
        mask: npt.NDArray[np.bool_],
        past: KeyValues,
        logit_rows: Sequence[int],
        verdict_rows: Sequence[int] = (),
        contents: Contents | None = None,
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], KeyValues]:
        """One forward pass.

        Args:
            input_ids: S new tokens.
            positions: int64 [S].
            mask: bool [S, P+S], True where the row's token sees the column's; with ``contents`` [B, S, P+T+S] of
                their places.
            past: cache of P tokens; one that lies elsewhere than ``store`` is copied there.
            logit_rows: K indices into the new tokens.
            verdict_rows: N more, where the columns of ``graph.verdict_token_ids`` are enough; none without those.
            contents: of a graph that is ``by_content``; None if all new tokens are of one.

        Returns:
            logits float32 [K, columns of the head], float32 [N, verdict_token_ids] (N = 0 without those), and the new
            tokens' keys and values, in ``store``; with ``contents`` those at their places, [B, kv_heads, S, head_dim].

        Raises:
            DeviceError: onnxruntime cannot run the pass, or this is another process.
        """
        self.check_process()
        feeds: dict[str, Any] = {
            "input_ids": np.asarray(input_ids, dtype=np.int64)[None],
            "position_ids": positions[None],
            "attention_mask": mask[None, None],
            "logit_positions": np.asarray(logit_rows, dtype=np.int64),
            "verdict_positions": np.asarray(verdict_rows, dtype=np.int64),
        }
        if self.graph.by_content:
            contents = contents or Contents.one(self.graph, len(input_ids))
            mask = mask.reshape(len(contents.rows), 1, *mask.shape[-2:])
            feeds |= {"attention_mask": mask, "attention_rows": contents.rows, "row_places": contents.places}
            feeds.update(zip(self._owns, contents.own, strict=True))
        if self.graph.sliding_window is not None:
            distances = _distances(past.positions, positions, contents)
            feeds["sliding_attention_mask"] = feeds["attention_mask"] & (distances < self.graph.sliding_window)
        feeds = {name: array for name, array in feeds.items() if name in self._inputs}
        try:
            feeds.update(zip(self._pasts, past.moved(self.store).tensors, strict=True))
            heads, tensors = self.store.run(self._session, feeds, self._heads, self._presents)
        except Exception as error:  # out of device memory, say: onnxruntime raises its own types, none of them public
            raise DeviceError(
                f"onnxruntime failed on {self.device} in a pass of {len(input_ids)} tokens: {first_line(error)}"
            ) from error
        narrow = np.zeros((0, 0), np.float32) if self.graph.verdict_token_ids is None else heads[1][0]
        return heads[0][0], narrow, KeyValues(tensors, positions, self.store)

    def check_process(self) -> None:
        """Refuses to work in a forked child, where a pass would wait for threads that only the parent has.

        Raises:
            DeviceError: this is not the process that made the session.
        """
        if (here := os.getpid()) != self._process:
            raise DeviceError(
                f"this guard was loaded in process {self._process} and cannot be used in process {here}, forked from "
                "it: onnxruntime's threads stay behind; call Guard.load in the child, or start it with the spawn method"
            )

    def __del__(self) -> None:
        # onnxruntime's destructor waits for its threads, which a forked child does not have: the child could never end.
        # There the session stays where it is, for good.
        if os.getpid() != getattr(self, "_process", os.getpid()) and hasattr(self, "_session"):
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._session))

    def empty(self) -> KeyValues:
        """A cache of no tokens."""
        g = self.graph
        tensor = np.zeros((1, g.kv_heads, 0, g.head_dim), dtype=g.kv_dtype)
        return KeyValues((tensor,) * (2 * g.layers), np.zeros(0, dtype=np.int64)).moved(self.store)

    def _check(self, where: str) -> None:
        """Compares the graph's inputs and outputs with the manifest."""
        g = self.graph
        inputs = {i.name: (i.type, i.shape) for i in self._session.get_inputs()}
        outputs = {o.name: (o.type, o.shape) for o in self._session.get_outputs()}
        layers = sum(name.startswith("past_key_values.") and name.endswith(".key") for name in inputs)
        if layers != g.layers:
            raise BundleError(
                f"{where}: graph has {layers} layers of keys and values, not {g.layers} as the manifest says"
            )
        pairs = [f"{i}.{part}" for i in range(layers) for part in ("key", "value")]
        kv = f"tensor({'float' if g.kv_dtype == 'float32' else 'float16'})"
        columns = g.vocab_size if g.head_token_ids is None else len(g.head_token_ids)
        wanted: list[tuple[dict[str, tuple[str, list[Any]]], str, str, dict[int, int]]] = [
            (inputs, "input_ids", "tensor(int64)", {0: 1}),
            (inputs, "position_ids", "tensor(int64)", {0: 1}),
            (inputs, "logit_positions", "tensor(int64)", {}),
            (outputs, "logits", "tensor(float)", {2: columns}),
        ]
        heads = ["logits"]
        if g.verdict_token_ids is not None:
            heads.append("verdict_logits")
            wanted.append((inputs, "verdict_positions", "tensor(int64)", {}))
            wanted.append((outputs, "verdict_logits", "tensor(float)", {2: len(g.verdict_token_ids)}))
        if g.by_content:
            wanted += [(inputs, name, "tensor(int64)", {}) for name in ("attention_rows", "row_places")]
            wanted += [(inputs, f"own_key_values.{name}", kv, {1: g.kv_heads, 3: g.head_dim}) for name in pairs]
        for name in pairs:
            wanted.append((inputs, f"past_key_values.{name}", kv, {1: g.kv_heads, 3: g.head_dim}))
            wanted.append((outputs, f"present.{name}", kv, {1: g.kv_heads, 3: g.head_dim}))
        masks = ["attention_mask", "sliding_attention_mask"] if g.sliding_window is not None else ["attention_mask"]
        found = [m for m in masks if m in inputs]
        if masks[-1] not in found:
            raise BundleError(f"{where}: graph input {masks[-1]} is missing")
        wanted += [(inputs, name, "tensor(bool)", {}) for name in found]
        for table, name, kind, dims in wanted:
            if name not in table:
                raise BundleError(f"{where}: graph has no {name}, which the manifest's graph table implies")
            actual, shape = table[name]
            fixed = [(i, shape[i], n) for i, n in dims.items() if len(shape) > i and isinstance(shape[i], int)]
            wrong = next((f"dimension {i} is {a}, not {n}" for i, a, n in fixed if a != n), None)
            if actual != kind or wrong:
                raise BundleError(f"{where}: graph {name}: {wrong or f'is {actual}, not {kind}'} as the manifest says")
        known = {name for table, name, _, _ in wanted if table is inputs}
        if unknown := sorted(set(inputs) - known):
            raise BundleError(f"{where}: graph input {unknown[0]} is unknown to this tokmarg")
        self._inputs = frozenset(inputs)
        self._heads = heads
        self._pasts, self._owns, self._presents = (
            [f"{side}.{name}" for name in pairs] for side in ("past_key_values", "own_key_values", "present")
        )


def _distances(
    past: npt.NDArray[np.int64], positions: npt.NDArray[np.int64], contents: Contents | None
) -> npt.NDArray[np.int64]:
    """How far in front of each token those stand that it may see: [S, P+S], or [B, 1, S, P+T+S] of contents' places."""
    if contents is None:
        queries, keys = positions, np.concatenate([past, positions])
    else:
        queries = positions[contents.rows][:, None]
        shared = np.broadcast_to(past, (len(queries), len(past)))
        keys = np.concatenate([shared, contents.positions, queries[:, 0]], axis=1)[:, None]
    distances: npt.NDArray[np.int64] = queries[..., :, None] - keys[..., None, :]
    return distances


def _check_references(bundle: Bundle, path: Path) -> None:
    """Refuses a graph that reads a file which the manifest does not vouch for, or that may never end."""
    references = read_references(path)
    for name in sorted(references.files):
        if name not in bundle.manifest.files:
            raise BundleError(f"{path}: has weights in {name!r:.100}, which the manifest's files do not list")
    for name in sorted(references.loops):
        raise BundleError(f"{path}: has a {name}, but a pass must end: export the model without loops")
