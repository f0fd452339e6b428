"""tokmarg beside its peers, all in one run: `python benchmarks/peers.py [--shape 1b] [--llama PYTHON] ...`.

The reference guard's weights judge the same messages in every peer, with the same token ids and threads, and with the
policy prefix cached. Each peer is a process of its own (benchmarks/peer.py), since their packages do not go into one
environment; the processes live side by side and take turns round by round, so that what else the machine does meets all
alike. A peer whose packages are missing is a row that says so. benchmarks/README.md tells how to set up, and what each
peer does.

With --shape other weights of a real size take their place: random ones (benchmarks/shape_peers.py).

Times are of all messages in a round; of each message the median over the rounds counts.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from messages import MESSAGES
from peer import PEERS, Peer
from peer_facts import facts, load_average, prefix_and_rests
from peer_process import PeerProcess
from peer_weights import make_forms
from shape_peers import compare
from shapes import SHAPES

LIMIT = 20  # tokens to generate at most


@dataclass
class Running:
    """A peer's process, and its answers so far."""

    peer: Peer
    process: PeerProcess = field(default_factory=PeerProcess)
    release: str = ""
    loading: float | None = None
    peak: float | None = None
    times: dict[int, list[float]] = field(default_factory=dict)
    flagged: dict[int, bool] = field(default_factory=dict)

    def start(self, name: str, python: str, job: Path, threads: int) -> None:
        """Starts the process and waits until it has scored two messages."""
        answer = self.process.start(python, "peer.py", [name, str(job)], threads)
        self.release, self.loading = answer.get("ready", ""), answer.get("loading")

    def round(self, chosen: list[int]) -> None:
        """Scores some messages."""
        answer = self.process.ask(chosen) if chosen else {}
        self.peak = answer.get("peak", self.peak)
        for i, time, flagged in zip(chosen, answer.get("times", ()), answer.get("flagged", ()), strict=False):
            self.times.setdefault(i, []).append(time)
            self.flagged[i] = flagged


def main() -> None:
    parser = argparse.ArgumentParser(description="Time tokmarg beside its peers.")
    parser.add_argument("--llama", metavar="PYTHON", help="of an environment with llama-cpp-python")
    parser.add_argument("--genai", metavar="PYTHON", help="of an environment with onnxruntime-genai")
    parser.add_argument("--openvino", metavar="PYTHON", help="of an environment with openvino-genai; with --shape")
    parser.add_argument("--shape", choices=list(SHAPES), help="random weights of a real size (benchmarks/shapes.py)")
    parser.add_argument("--layers", type=int, help="of the shape [default: all; 4 of 8b's]")
    parser.add_argument("--bundle", help="[default: the installed reference guard]")
    parser.add_argument("--work", type=Path, default=Path("peers-work"), metavar="DIR", help="keeps the peers' weights")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--messages", type=int, default=32, help="how many of the 32, half of them harmless")
    parser.add_argument("--peers", help="names, joined by commas [default: all]")
    arguments = parser.parse_args()
    pythons = {"main": sys.executable, "llama": arguments.llama, "genai": arguments.genai}
    if arguments.shape:
        return compare(arguments, pythons | {"openvino": arguments.openvino})
    names = ["tokmarg", *(n for n in (arguments.peers or ",".join(PEERS)).split(",") if n != "tokmarg")]
    if unknown := set(names) - set(PEERS):
        parser.error(f"no peer {min(unknown)!r}; there are {', '.join(PEERS)}")
    texts = MESSAGES[: arguments.messages]
    forms, failed = make_forms(arguments.work, pythons, {f for n in names if (f := PEERS[n].form)})
    with tempfile.TemporaryDirectory() as scratch:
        job = Path(scratch) / "job.json"
        described = describe(texts, arguments.bundle, arguments.threads) | {"forms": forms}
        job.write_text(json.dumps(described), encoding="utf-8")
        running = {}
        for name in names:
            peer = PEERS[name]
            one = running[name] = Running(peer)
            python = pythons[peer.environment]
            if python is None:
                one.process.failed = f"not installed: give --{peer.environment}"
            elif peer.form in failed:
                one.process.failed = f"no weights: {failed[peer.form]}"
            else:
                one.start(name, python, job, arguments.threads)
            print(f"{name}: {one.process.failed or one.release}", file=sys.stderr, flush=True)
        load = load_average()
        for number in range(arguments.rounds):
            for one in running.values():
                every = range(len(texts))
                # Neighbours are one harmless and one harmful message; a slow peer takes some pairs in each round.
                one.round([i for i in every if not one.peer.slow or i // 2 % arguments.rounds == number])
            print(f"round {number + 1} of {arguments.rounds}", file=sys.stderr, flush=True)
        for one in running.values():
            one.process.stop()
    sizes = [len(message["ids"]) for message in described["messages"]]
    print(facts(arguments.threads, arguments.rounds, sizes, len(described["prefix"]), load))
    print(table(running, len(texts)))
    return None


def describe(texts: list[str], bundle: str | None, threads: int) -> dict[str, Any]:
    """The job of benchmarks/peer.py: token ids and what counts as a verdict."""
    from tokenizers import Tokenizer

    from tokmarg import Guard
    from tokmarg.bundle.installed import find_bundle
    from tokmarg.results import MethodResult

    folder = find_bundle(bundle)
    guard = Guard.load(folder, device="cpu", threads=threads, calibration=False)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))

    def encoded(text: str) -> list[int]:
        ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    prefix, rests = prefix_and_rests(guard, texts)
    messages, lead = [], ""
    for text, ids in zip(texts, rests, strict=True):
        result = guard.score(text, method="greedy", max_depth=LIMIT)
        verdict = (isinstance(result, MethodResult) and result.verdict) or ""
        lead = verdict[: len(verdict) - len(verdict.lstrip())]  # the space or lines that the guard begins with
        messages.append({"text": text, "ids": ids, "verdict_tokens": len(encoded(verdict)) + 1})
    return {
        "bundle": str(folder),
        "threads": threads,
        "prefix": prefix,
        "messages": messages,
        "ends": [encoded(end)[0] for end in guard.spec.verdict.terminators],
        "unsafe": encoded(f"{lead}unsafe"),
        "labels": list(guard.labels),
        "limit": LIMIT,
    }


def table(running: dict[str, Running], count: int) -> str:
    """One row for each peer."""
    lines = [
        "| peer | delivers | median ms | mean ms | harmless | harmful | × tokmarg | × packed | right | MB loading | "
        "MB scoring | release |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    means = {name: statistics.mean(each) for name, one in running.items() if (each := _each(one))}
    for name, one in running.items():
        title = f"{one.peer.title} | {one.peer.delivers}"
        each = _each(one)
        if one.process.failed or not each:
            lines.append(f"| {title} | {one.process.failed or 'not measured'} |" + " |" * 9)
            continue
        halves = ["", ""]  # in a pack no message has a time of its own
        if not one.peer.together:
            by_half = [[t for i, t in zip(sorted(one.times), each, strict=True) if i % 2 == half] for half in (0, 1)]
            halves = [f"{statistics.median(times):.1f}" if times else "" for times in by_half]
        ratios = [f"{means[name] / means[ours]:.2f}" if ours in means else "" for ours in ("tokmarg", "tokmarg-packed")]
        right = sum(flagged == bool(i % 2) for i, flagged in one.flagged.items())
        memory = ["" if mb is None else f"{mb:.0f}" for mb in (one.loading, one.peak)]
        cells = [f"{statistics.median(each):.1f}", f"{means[name]:.1f}", *halves]
        cells += [*ratios, f"{right}/{len(one.flagged)}", *memory, one.release]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _each(one: Running) -> list[float]:
    """Milliseconds of each message: the median over its rounds."""
    return [statistics.median(one.times[i]) for i in sorted(one.times)]


if __name__ == "__main__":
    main()
