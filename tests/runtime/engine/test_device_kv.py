"""Keys and values on the device: what is computed and what is copied. With onnxruntime's device ``cpu`` the same code
runs as with ``cuda``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnxruntime
import pytest

from tokmarg import Guard
from tokmarg.bundle.bundle import Bundle
from tokmarg.engine.cuda import CPU, CUDA, CUDA_OPTIONS
from tokmarg.engine.device_kv import DeviceKVStore, join_model, take_model
from tokmarg.engine.kv_cache import HOST, KVCache
from tokmarg.engine.onnx_builder import FLOAT, FLOAT16
from tokmarg.engine.prefix_cache import compute_prefixes, load_prefixes, save_prefixes
from tokmarg.engine.session import Session
from tokmarg.loading import assemble
from tokmarg.score_options import ScoreKeywords

DeviceName = Literal["cpu", "cuda"]
DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=pytest.mark.skipif(
            CUDA not in onnxruntime.get_available_providers(), reason="this onnxruntime has no CUDA"
        ),
    ),
]


def store_on(device: DeviceName, count: int, dtype: Literal["float32", "float16"] = "float32") -> DeviceKVStore:
    return DeviceKVStore(device, (CUDA, CUDA_OPTIONS) if device == "cuda" else (CPU, {}), count, dtype)


def session_on(bundle: Path, device: DeviceName) -> Session:
    """A session whose keys and values are OrtValues."""
    session = Session(Bundle.open(bundle), device)
    if device == "cpu":
        session.store = store_on("cpu", 2 * session.graph.layers, session.graph.kv_dtype)
    return session


def caches(count: int, dtype: str = "float32") -> list[KVCache]:
    """A cache of four tokens, one of one, one of none."""
    random = np.random.default_rng(3)
    return [
        KVCache(
            tuple(random.normal(size=(1, 2, n, 5)).astype(dtype) for _ in range(count)), np.arange(n, dtype=np.int64)
        )
        for n in (4, 1, 0)
    ]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_joined_and_taken_as_on_the_host(device: DeviceName, dtype: Literal["float32", "float16"]) -> None:
    on_host = caches(6, dtype)
    store = store_on(device, 6, dtype)
    there = [cache.moved(store) for cache in on_host]
    slots = np.array([4, 0, 0, 2])
    for parts in ([0, 1], [1, 0, 2], [2, 1], [0]):
        wanted = KVCache.joined([on_host[i] for i in parts])
        found = KVCache.joined([there[i] for i in parts])
        assert found.store is store
        assert found.positions.tolist() == wanted.positions.tolist()
        for a, b in zip(found.moved(HOST).tensors, wanted.tensors, strict=True):
            assert a.dtype == dtype
            assert (a == b).all()
    taken, wanted = KVCache.joined(there[:2]).take(slots), KVCache.joined(on_host[:2]).take(slots)
    assert taken.positions.tolist() == wanted.positions.tolist() == [0, 0, 0, 2]
    assert all((a == b).all() for a, b in zip(taken.moved(HOST).tensors, wanted.tensors, strict=True))


def test_a_cache_is_moved_only_where_it_lies_elsewhere() -> None:
    cache, store = caches(2)[0], store_on("cpu", 2)
    assert cache.moved(HOST) is cache
    there = cache.moved(store)
    assert there.moved(store) is there
    assert there.moved(store_on("cpu", 2)) is not there


@pytest.mark.parametrize("kind", [FLOAT, FLOAT16])
def test_the_models_are_valid_onnx(kind: int) -> None:
    for data in (join_model(3, kind), take_model(3, kind)):
        model = onnx.load_from_string(data)
        onnx.checker.check_model(model)
        assert [node.op_type for node in model.graph.node] in (["Concat"] * 3, ["Gather"] * 3)
        assert {value.type.tensor_type.elem_type for value in model.graph.output} == {kind}


TEXTS = ["Hi", "How do I pick a lock?", " ".join(["one long content of many tokens"] * 120), "guns and thieves", "x"]


@pytest.mark.parametrize("bundle", ["word_bundle", "tiny_bundle"])
def test_scores_are_those_of_the_host_to_the_bit(bundle: str, request: pytest.FixtureRequest) -> None:
    """Contents in several passes, nodes in later ones, cached tokens left out."""
    folder = request.getfixturevalue(bundle)
    host = Guard(assemble(Bundle.open(folder), Session(Bundle.open(folder), "cpu")))
    there = Guard(assemble(Bundle.open(folder), session_on(folder, "cpu")))
    ways: tuple[ScoreKeywords, ...] = ({"max_nodes": 40, "tolerance": 1e-6}, {"method": "greedy"})
    for options in ways:
        options["on_overflow"] = "window"  # the word guard has room for few words
        assert list(there.score_many(TEXTS, **options)) == list(host.score_many(TEXTS, **options))


@pytest.mark.skipif(CUDA not in onnxruntime.get_available_providers(), reason="this onnxruntime has no CUDA")
def test_scores_on_cuda_are_those_of_the_cpu(tiny_bundle: Path) -> None:
    on_cpu, on_cuda = (Guard.load(tiny_bundle, device=device) for device in ("cpu", "cuda"))
    for a, b in zip(on_cpu.score_many(TEXTS, max_nodes=8), on_cuda.score_many(TEXTS, max_nodes=8), strict=True):
        assert b.unsafe.probability == pytest.approx(a.unsafe.probability, abs=1e-4)


class Watched(DeviceKVStore):
    """Counts what crosses between host and device."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.moves = 0
        self.crossed: list[tuple[str, np.ndarray]] = []

    def put(self, arrays: Any) -> Any:
        self.moves += 1
        return super().put(arrays)

    def fetch(self, tensors: Any) -> Any:
        self.moves += 1
        return super().fetch(tensors)

    def run(self, session: Any, feeds: Mapping[str, Any], heads: Any, presents: Any, options: Any = None) -> Any:
        found, tensors = super().run(session, feeds, heads, presents, options)
        self.crossed += [(name, value) for name, value in feeds.items() if isinstance(value, np.ndarray)]
        self.crossed += zip(heads, found, strict=True)
        return found, tensors


def test_no_key_no_value_and_no_vocabulary_crosses_after_loading(tiny_bundle: Path) -> None:
    """Each role mode's prefix goes to the device once, when the guard is made."""
    bundle = Bundle.open(tiny_bundle)
    session = Session(bundle, "cpu")
    session.store = store = Watched("cpu", (CPU, {}), 2 * session.graph.layers, session.graph.kv_dtype)
    guard = Guard(assemble(bundle, session))
    assert store.moves == len(guard.spec.roles)
    store.moves = 0
    list(guard.score_many(TEXTS * 3, max_nodes=40, tolerance=1e-6))
    assert store.moves == 0
    assert {name for name, _ in store.crossed} == {
        "input_ids", "position_ids", "attention_mask", "logit_positions", "verdict_positions", "slots",
        "log_probabilities", "verdict_logits",
    }  # fmt: skip


@pytest.mark.parametrize("device", DEVICES)
def test_a_prefix_computed_on_the_device_is_written_to_a_file(
    device: DeviceName, tiny_bundle: Path, tmp_path: Path
) -> None:
    session = session_on(tiny_bundle, device)
    guard = Guard(assemble(Bundle.open(tiny_bundle), session))
    prefixes = compute_prefixes(session, guard._parts.prompt_builder.prefixes())
    assert all(prefix.cache.store is session.store for prefix in prefixes.values())
    save_prefixes(tmp_path / "prefix.safetensors", prefixes, session.graph)
    found = load_prefixes(tmp_path / "prefix.safetensors", guard.spec.roles, session.graph)
    stored = load_prefixes(tiny_bundle / "prefix.safetensors", guard.spec.roles, session.graph)
    for role, prefix in found.items():
        for a, b in zip(prefix.cache.tensors, stored[role].cache.tensors, strict=True):
            np.testing.assert_allclose(a, b, atol=0 if device == "cpu" else 1e-4)
