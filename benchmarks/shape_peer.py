"""One peer of a shape in a process of its own: `PYTHON shape_peer.py NAME JOB.json`, started by shape_peers.py.

It talks in lines of JSON: `{"ready": ...}` when it has judged one message; a question `[ROW, [message, ...]]` makes it
judge messages, and answer with their times; an empty line ends it.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peer import answer_questions, forget_peak

Job = dict[str, Any]


@dataclass(frozen=True)
class ShapePeer:
    """How a peer is started, and what it is for the table.

    Attributes:
        engine: its class, of verdict_engines.py or llama_cpp_engine.py, by module and name.
        form: of the weights, see shape_weights.py.
        package: whose release the table has.
        environment: whose interpreter runs it.
        batches: it judges messages together; else one after the other.
    """

    title: str
    engine: str
    form: str
    package: str
    environment: str = "main"
    batches: bool = True

    def make(self, job: Job) -> Any:
        module, _, name = self.engine.partition(".")
        return getattr(__import__(module), name)(job, self.form)


def _llama(kind: str) -> ShapePeer:
    engine = "llama_cpp_engine.LlamaCpp"
    return ShapePeer(f"llama.cpp, {kind.upper()}", engine, f"{kind}.gguf", "llama-cpp-python", "llama")


def _openvino(bits: int) -> ShapePeer:
    engine, form = "verdict_engines.OpenVINOGenAI", f"openvino-int{bits}"
    return ShapePeer(f"OpenVINO GenAI, int{bits}", engine, form, "openvino-genai", "openvino")


SHAPE_PEERS = {
    "tokmarg-int8": ShapePeer("tokmarg, int8", "verdict_engines.Tokmarg", "int8", "tokmarg"),
    "tokmarg-int4": ShapePeer("tokmarg, int4", "verdict_engines.Tokmarg", "int4", "tokmarg"),
    "llama-q8_0": _llama("q8_0"),
    "llama-q4_0": _llama("q4_0"),
    "llama-q4_k_m": _llama("q4_k_m"),
    "openvino-int8": _openvino(8),
    "openvino-int4": _openvino(4),
    "genai-int4": ShapePeer(
        "onnxruntime-genai, int4", "verdict_engines.OnnxRuntimeGenAI", "genai-int4", "onnxruntime-genai", "genai", False
    ),
    "transformers-bf16": ShapePeer(
        "transformers, bf16, compiled", "verdict_engines.Transformers", "checkpoint", "transformers", batches=False
    ),
}


def main() -> None:
    peer, job = SHAPE_PEERS[sys.argv[1]], json.loads(Path(sys.argv[2]).read_text(encoding="utf-8"))

    def load() -> Any:
        engine = peer.make(job)
        engine.verdict(0)
        return engine

    answer_questions(peer.package, load, lambda engine, question: {"times": ask(engine, *question)})


def ask(engine: Any, row: str, chosen: list[int]) -> list[Any]:
    """Milliseconds of each message; ``together``: of all. ``warm`` and ``work`` are no times."""
    if row == "warm":
        engine.tune()
        for i in chosen[:2]:
            engine.unsafe(i)
            engine.verdict(i)
        engine.together(chosen[:4])
        forget_peak()
        return []
    if row == "work":
        return [engine.work(i) for i in chosen]
    if row == "together":
        return [timed(engine.together, chosen)]
    return [timed(getattr(engine, row), i) for i in chosen]


def timed(judge: Callable[[Any], object], what: Any) -> float:
    started = time.perf_counter()
    judge(what)
    return (time.perf_counter() - started) * 1e3


if __name__ == "__main__":
    main()
