"""Session: a bundle's graph loaded into ONNX Runtime on one device, and running forward passes on it."""

from __future__ import annotations

import ctypes
import os
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tokmarg.bundle.bundle import Bundle
from tokmarg.bundle.graph_contract import GraphContract
from tokmarg.bundle.onnx_reader import read_references
from tokmarg.errors import BundleError, DeviceError
from tokmarg.native import first_line, raised_by

from .block_layout import BlockLayout
from .cores import default_threads
from .cpu import denormals_as_zero, int8_products_saturate
from .cuda import CPU, CUDA, CUDA_OPTIONS, on_cuda
from .device_kv import DeviceKVStore
from .forward import Forward, Outputs, token_distances
from .graph_signature import check_release, check_signature
from .kv_cache import HOST, KVCache, KVStore
from .ort import ort, session_options
from .row_padding import without_padding, without_single_rows

__all__ = ["Device", "Session"]

Device = Literal["auto", "cpu", "cuda"]
#: Releases with wrong results or crashes in the operators used here.
_BAD_RELEASES = ("1.20.0", "1.24.0", "1.24.1")
#: Memory for attention scores is kept from pass to pass up to so many for each head: 256 tokens that see 512, say.
_KEPT_SCORES = 1 << 17

#: Outputs, in the order of :class:`Outputs`.
_HEADS = ("logits", "log_probabilities", "verdict_logits")

#: onnxruntime's sessions of this process.
_alive: list[weakref.ref[ort.InferenceSession]] = []


def _keep_sessions() -> None:
    """Keeps the parent's sessions in a forked child for good: onnxruntime's destructor waits for threads, which a child
    does not have, and could never end."""
    for each in _alive:
        if (session := each()) is not None:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(session))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_keep_sessions)


class Session:
    """The graph of a bundle on one device. Safe to call from several threads of the process that made it.

    Args:
        bundle: whose ``model.onnx`` to load.
        device: ``auto`` takes CUDA where it works; ``cuda`` fails where it does not.
        threads: that compute (None: one per core, within the CPU quota).

    Attributes:
        graph: the bundle's graph contract.
        device: where the graph runs.
        workers: passes that :meth:`run_alone` computes at the same time.
        store: where keys and values lie, those of passes and those that :meth:`run` is given.
        counts: int64 [4], new tokens, rows of logits, and rows of verdict logits of all passes so far, and the passes.

    Raises:
        DeviceError: CUDA was asked for and is not active, or cannot run all of the graph.
        BundleError: the graph cannot be loaded or does not match the manifest.
    """

    def __init__(self, bundle: Bundle, device: Device = "auto", threads: int | None = None) -> None:
        if ort.__version__ in _BAD_RELEASES:
            raise DeviceError(f"onnxruntime {ort.__version__} has known faults: install another release")
        self._process = os.getpid()
        self.graph: GraphContract = bundle.manifest.graph
        for name in bundle.manifest.files:  # the graph's external data among them
            bundle.file(name)
        path = bundle.path / "model.onnx"
        _check_references(bundle, path)
        has_cuda = CUDA in ort.get_available_providers()
        if device == "cuda" and self.graph.by_content:
            raise DeviceError("int8 and int4 bundles run on the CPU: export the guard with --precision fp16 for CUDA")
        if device == "cuda" and not has_cuda:
            raise DeviceError('CUDA was asked for, but this onnxruntime has no CUDA: pip install "tokmarg[gpu]"')
        self.workers = threads or default_threads()
        options = _options(self.graph, self.workers)
        self.device: Literal["cpu", "cuda"] = "cpu"
        if device != "cpu" and has_cuda and not self.graph.by_content:
            try:
                self._session = on_cuda(path, options)
                self.device, self.workers = "cuda", 1
            except DeviceError:
                if device == "cuda":
                    raise
        if self.device == "cpu":
            self._session = _on_cpu(path, options)
        self._pads = self.device == "cpu" and bundle.manifest.precision == "int4" and not self.graph.by_content
        # No __del__ does it: an exception that a caller raises there is lost.
        _alive[:] = [*(each for each in _alive if each() is not None), weakref.ref(self._session)]
        check_release(self._session, str(path))
        self._names = check_signature(self._session, self.graph, str(path))
        self.counts = np.zeros(4, dtype=np.int64)
        self._returning = ort.RunOptions()
        self._returning.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        self.store: KVStore = HOST
        if self.device == "cuda":
            self.store = DeviceKVStore("cuda", (CUDA, CUDA_OPTIONS), len(self._names.pasts), self.graph.kv_dtype)

    def run(self, forward: Forward) -> Outputs:
        """Runs one forward pass on all threads.

        Raises:
            DeviceError: onnxruntime cannot run the pass, or this is another process.
        """
        self.check_process()
        asked = forward
        if self._pads:
            forward = without_single_rows(forward)
        blocks = forward.blocks
        # One content's heads are too few to share out among threads when they are stacked.
        feeds = self._feeds(forward, stack=self.workers == 1 or (blocks is not None and len(blocks.rows) > 1))
        names = self._heads(forward)
        try:
            feeds.update(zip(self._names.pasts, forward.past.moved(self.store).tensors, strict=True))
            heads, tensors = denormals_as_zero(
                lambda: self.store.run(self._session, feeds, names, self._names.presents, self._run_options(forward))
            )
        except Exception as error:  # out of device memory, say
            if not raised_by(error, "onnxruntime"):
                raise
            raise self._failed(forward, first_line(error)) from error
        outputs = self._outputs(forward, dict(zip(names, heads, strict=True)), tensors)
        return without_padding(outputs, asked) if self._pads else outputs

    def run_alone(self, forward: Forward, *, pooled: bool) -> Outputs:
        """Runs a forward pass on the host that one thread computes. Called by as many threads as there are workers.

        Passes side by side take less time than one after the other on all threads, which have to wait for each other a
        thousand times a pass (SmolLM2-135M, 2 threads, two passes of 50 tokens: 46 ms against 76).

        Args:
            forward: the pass.
            pooled: whether a thread of onnxruntime's pool computes it, which has one less than there are workers, or
                the calling one, which the pool helps where it has nothing to do.

        Raises:
            DeviceError: onnxruntime cannot run the pass, or this is another process.
        """
        self.check_process()
        feeds = self._feeds(forward, stack=True)
        feeds.update(zip(self._names.pasts, forward.past.moved(HOST).tensors, strict=True))
        heads = self._heads(forward)
        names = [*heads, *self._names.presents]
        options = self._run_options(forward)
        try:
            if pooled:
                outputs, failure = self._run_in_pool(names, feeds, options)
            else:
                outputs, failure = denormals_as_zero(lambda: self._session.run(names, feeds, options)), ""
        except Exception as error:
            if not raised_by(error, "onnxruntime"):
                raise
            raise self._failed(forward, first_line(error)) from error
        if failure:
            raise self._failed(forward, failure)
        return self._outputs(forward, dict(zip(heads, outputs, strict=False)), tuple(outputs[len(heads) :]))

    def _run_options(self, forward: Forward) -> ort.RunOptions | None:
        """On the CPU, those that give memory back after a pass whose attention takes much of it."""
        return self._returning if self.device == "cpu" and forward.mask.size > _KEPT_SCORES else None

    def _run_in_pool(
        self, names: Sequence[str], feeds: dict[str, Any], options: ort.RunOptions | None
    ) -> tuple[Sequence[Any], str]:
        """The outputs of a pass that one thread of the pool computes, and what went wrong."""
        came: SimpleQueue[tuple[Sequence[Any], str]] = SimpleQueue()
        self._session.run_async(names, feeds, lambda outputs, _, error: came.put((outputs, error)), None, options)
        outputs, error = came.get()
        return outputs, first_line(RuntimeError(error)) if error else ""

    def _feeds(self, forward: Forward, *, stack: bool) -> dict[str, Any]:
        """All inputs but the cache.

        Shapes: ``input_ids`` and ``position_ids`` [1, S], ``attention_mask`` [1, 1, S, P+S], or with ``by_content``
        [B, 1, S, K] (see :class:`tokmarg.engine.block_layout.BlockLayout`).
        """
        mask = forward.mask
        rows = (forward.input_ids, forward.logit_rows, forward.verdict_rows)
        self.counts += [*map(len, rows), 1]
        feeds: dict[str, Any] = {
            "input_ids": np.asarray(forward.input_ids, dtype=np.int64)[None],
            "position_ids": forward.positions[None],
            "attention_mask": mask[None, None],
            "logit_positions": np.asarray(forward.logit_rows, dtype=np.int64),
            "verdict_positions": np.asarray(forward.verdict_rows, dtype=np.int64),
        }
        blocks = forward.blocks
        if self.graph.by_content:
            blocks = blocks or BlockLayout.single(self.graph, forward.past.length, len(forward.input_ids))
            mask = mask.reshape(len(blocks.rows), 1, *mask.shape[-2:])
            feeds |= {"attention_mask": mask, "attention_rows": blocks.rows, "row_places": blocks.places}
            feeds |= {"key_slots": blocks.slots, "stack_heads": np.array([stack])}
            feeds.update(zip(self._names.owns, blocks.own, strict=True))
        if self.graph.sliding_window is not None:
            distances = token_distances(forward.past.positions, forward.positions, blocks)
            feeds["sliding_attention_mask"] = feeds["attention_mask"] & (distances < self.graph.sliding_window)
        return {name: array for name, array in feeds.items() if name in self._names.inputs}

    def _heads(self, forward: Forward) -> list[str]:
        """The outputs that a pass reads, without keys and values."""
        return [name for name in self._names.heads if name in forward.reads or name == "verdict_logits"]

    def _outputs(
        self, forward: Forward, heads: Mapping[str, npt.NDArray[np.float32]], tensors: tuple[Any, ...]
    ) -> Outputs:
        none = np.zeros((1, 0, 0), np.float32)
        logits, log_probabilities, verdict = (heads.get(name, none)[0] for name in _HEADS)
        return Outputs(logits, log_probabilities, verdict, KVCache(tensors, forward.positions, self.store))

    def _failed(self, forward: Forward, why: str) -> DeviceError:
        return DeviceError(f"onnxruntime failed on {self.device} in a pass of {len(forward.input_ids)} tokens: {why}")

    def check_process(self) -> None:
        """Refuses to work in a forked child, where a pass would wait for threads that only the parent has.

        Raises:
            DeviceError: this is not the process that made the session.
        """
        if (here := os.getpid()) != self._process:
            raise DeviceError(
                f"this guard was loaded in process {self._process} and cannot be used in process {here}, forked from "
                "it: onnxruntime's threads exist in the parent only; call Guard.load in the child, or start it with "
                "the spawn method"
            )

    def empty(self) -> KVCache:
        """A cache of no tokens."""
        tensor = np.zeros(self.graph.cache_shape(0), dtype=self.graph.kv_dtype)
        tensors = (tensor,) * len(self.graph.cache_parts)
        return KVCache(tensors, np.zeros(0, dtype=np.int64)).moved(self.store)


def _options(graph: GraphContract, threads: int) -> ort.SessionOptions:
    # Threads wait for each other's work within a pass, a thousand times, but sleep when it ends.
    config = {"session.intra_op.allow_spinning": "1", "session.force_spinning_stop": "1"}
    # Threads of the pool flush denormals to zero. So would the one that makes the first session of a process, for good;
    # that session is not this one, since `int8_products_saturate` has made another.
    if int8_products_saturate() and graph.by_content:
        config["session.x64quantprecision"] = "1"
    return session_options(threads, config | {"session.set_denormal_as_zero": "1"})


def _on_cpu(path: Path, options: ort.SessionOptions) -> ort.InferenceSession:
    # Passes come in many shapes, and a plan for each is never freed. The arena keeps what the largest pass took, which
    # `_KEPT_SCORES` bounds; without it most of what a pass writes is new memory, page by page.
    options.enable_mem_pattern = False
    options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
    try:
        return ort.InferenceSession(str(path), options, providers=[CPU], enable_fallback=0)
    except Exception as error:
        if not raised_by(error, "onnxruntime"):
            raise
        raise BundleError(f"{path}: onnxruntime cannot load the graph: {first_line(error)}") from error


def _check_references(bundle: Bundle, path: Path) -> None:
    """Refuses a graph that reads a file which the manifest does not list, or that may never end."""
    references = read_references(path)
    for name in sorted(references.files):
        if name not in bundle.manifest.files:
            raise BundleError(f"{path}: has weights in {name!r:.100}, which the manifest's files do not list")
    for name in sorted(references.loops):
        raise BundleError(f"{path}: has a {name}, but a pass must end: export the model without loops")
