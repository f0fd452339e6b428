"""tokmarg beside its peers at a real size: `python benchmarks/peers.py --shape 1b`.

One checkpoint of random weights (shapes.py), of which every peer gets its own form (shape_weights.py). The messages
have beliefs (beliefs.py), which are what tokmarg's searches see, and say which verdict the others generate.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from messages import MESSAGES
from peer_facts import facts, load_average, prefix_and_rests
from peer_process import PeerProcess
from shape_peer import SHAPE_PEERS, ShapePeer
from shape_weights import make_form
from shapes import SHAPES

ROWS = ("unsafe", "verdict", "together")


@dataclass
class Running:
    """A peer's process, and its answers so far."""

    peer: ShapePeer
    process: PeerProcess = field(default_factory=PeerProcess)
    release: str = ""
    cold: float | None = None
    loading: float | None = None
    peak: float | None = None
    times: dict[str, dict[int, list[float]]] = field(default_factory=lambda: {row: {} for row in ROWS})

    def start(self, name: str, python: str, job: Path, threads: int) -> None:
        started = time.perf_counter()
        answer = self.process.start(python, "shape_peer.py", [name, str(job)], threads)
        self.cold = time.perf_counter() - started
        self.release, self.loading = answer.get("ready", ""), answer.get("loading")

    def ask(self, row: str, chosen: list[int]) -> list[Any]:
        answer = self.process.ask([row, chosen])
        self.peak = answer.get("peak", self.peak)
        times: list[Any] = answer.get("times", [])
        for i, taken in zip(chosen, times, strict=False):
            if row in ROWS:
                self.times[row].setdefault(i, []).append(taken)
        return times

    def each(self, row: str) -> dict[int, float]:
        """Milliseconds of each message: the median over its rounds."""
        return {i: statistics.median(times) for i, times in self.times[row].items()}


def compare(arguments: argparse.Namespace, pythons: Mapping[str, str | None]) -> None:
    """Runs the peers in turn and prints the table."""
    shape, threads = SHAPES[arguments.shape], arguments.threads
    names = arguments.peers.split(",") if arguments.peers else list(SHAPE_PEERS)
    texts = MESSAGES[: arguments.messages]

    def form(name: str) -> str:
        return str(make_form(name, arguments.shape, arguments.layers, arguments.work, pythons))

    job = describe(shape.spec, form("int8"), texts, threads)
    running = {name: Running(SHAPE_PEERS[name]) for name in names}
    for one in running.values():
        try:
            if pythons[one.peer.environment] is None:
                one.process.failed = f"not installed: give --{one.peer.environment}"
            else:
                job["forms"][one.peer.form] = form(one.peer.form)
        except Exception as error:  # one form that fails is one row less
            one.process.failed = f"no weights: {type(error).__name__}: {str(error).strip().splitlines()[-1]:.200}"
    every = list(range(len(texts)))
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "job.json"
        file.write_text(json.dumps(job), encoding="utf-8")
        for name, one in running.items():
            if not one.process.failed:
                one.start(name, str(pythons[one.peer.environment]), file, threads)
                one.ask("warm", every)
            print(f"{name}: {one.process.failed or one.release}", file=sys.stderr, flush=True)
    load = load_average()
    for number in range(arguments.rounds):
        for one in running.values():
            for row in ROWS:
                one.ask(row, every)
        print(f"round {number + 1} of {arguments.rounds}", file=sys.stderr, flush=True)
    work = [one.ask("work", every) for name, one in running.items() if name.startswith("tokmarg")]
    for one in running.values():
        one.process.stop()
    sizes = [len(message["ids"]) for message in job["messages"]]
    print(facts(threads, arguments.rounds, sizes, len(job["prefix"]), load))
    print(f"{described(arguments.shape, arguments.layers)} {of_verdicts(job, next(filter(None, work), []))}\n")
    print(table(running, len(texts)))


def describe(spec: str, bundle: str, texts: list[str], threads: int) -> dict[str, Any]:
    """The job of shape_peer.py: token ids, beliefs, and the verdicts that they make."""
    from beliefs import Belief

    from tokmarg import Guard

    guard = Guard.load(bundle, device="cpu", threads=threads)
    believing = Guard.load("reference-guard", device="cpu", threads=threads, calibration=False)

    def belief(text: str) -> Belief:
        said = believing.score(text, tolerance=1e-5, max_nodes=600)  # labels of harmless messages are rare
        marginals = {label: said.labels[label] for label in guard.labels}
        return Belief.of(
            said.unsafe.probability, {label: m.probability if m else 0.0 for label, m in marginals.items()}
        )

    prefix, rests = prefix_and_rests(guard, texts)
    trie = guard._parts.tries["user", None]
    messages = []
    for text, ids in zip(texts, rests, strict=True):
        one = belief(text)
        verdict, lead = one.verdict(trie), one.lead(trie)
        fields = {"verdict": verdict, "lead": lead, "unsafe": one.unsafe, "labels": one.labels}
        messages.append({"text": text, "ids": ids, **fields})
    others = [text for text in MESSAGES if text not in texts] or MESSAGES
    return {
        "threads": threads,
        "prefix": prefix,
        "messages": messages,
        "priors": priors(guard, {text: belief(text) for text in others}),
        "forms": {},
    }


def priors(guard: Any, beliefs: Mapping[str, Any]) -> list[list[float]]:
    """The branch priors that an export with those messages as calibration texts would have found."""
    from beliefs import install

    from tokmarg_export.branch_priors import mean_branch_shares

    install(guard, {tuple(guard.prompt(text).token_ids): belief for text, belief in beliefs.items()})
    return mean_branch_shares(guard, beliefs)


def described(name: str, layers: int | None) -> str:
    """What the weights are."""
    shape = SHAPES[name]
    kept, all_ = layers or shape.layers or shape.config["num_hidden_layers"], shape.config["num_hidden_layers"]
    cut = "" if kept == all_ else f", cut to {kept} of its {all_} layers"
    return f"{shape.title}'s shape{cut}, random weights, the spec {shape.spec}."


def of_verdicts(job: dict[str, Any], work: list[list[int]]) -> str:
    """How long verdicts are, and what tokmarg's searches take."""
    lengths = [len(message["verdict"]) for message in job["messages"]]
    said = [f"{min(part)} to {max(part)}" for part in (lengths[::2], lengths[1::2])]
    text = f"Verdicts: {said[0]} tokens for the harmless messages, {said[1]} for the harmful ones"
    if work:
        halves = [[statistics.mean(column) for column in zip(*part, strict=True)] for part in (work[::2], work[1::2])]
        text += ". tokmarg int8: " + "; ".join(
            f"{kind} {nodes:.1f} nodes, {passes:.1f} passes of {tokens:.0f} tokens in all"
            for kind, (nodes, passes, tokens) in zip(("harmless", "harmful"), halves, strict=True)
        )
    return text + "."


def table(running: Mapping[str, Running], count: int) -> str:
    """One row for each peer."""
    lines = [
        "| peer | P(unsafe) ms | harmless ms | harmful ms | many, ms each | MB loading | MB scoring | cold start s "
        "| release |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for one in running.values():
        if one.process.failed or not one.times["together"]:
            lines.append(f"| {one.peer.title} | {one.process.failed or 'not measured'} |" + " |" * 7)
            continue
        unsafe, verdict = one.each("unsafe"), one.each("verdict")
        halves = [[verdict[i] for i in verdict if i % 2 == half] for half in (0, 1)]
        cells = [f"{statistics.median(times):.1f}" for times in (unsafe.values(), *halves)]
        cells.append(f"{one.each('together')[0] / count:.1f}{'' if one.peer.batches else ' (one by one)'}")
        cells += ["" if mb is None else f"{mb:,.0f}" for mb in (one.loading, one.peak)]
        cells += ["" if one.cold is None else f"{one.cold:.1f}", one.release]
        lines.append(f"| {one.peer.title} | {' | '.join(cells)} |")
    return "\n".join(lines)
