"""How the cost of a score grows: `python benchmarks/growth.py [--bundle BUNDLE]`.

One thing varies at a time: the length of the content, the number of labels (a policy of its own, given at load), the
number of messages that are scored together. The rounds take turns over all points of a table, and the median counts.
Two contents each, a harmless and a harmful one: verdicts of the second are spelt out label by label.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from itertools import cycle, islice
from typing import Any, TypeVar

import onnxruntime
from graphs import machine
from messages import HARMFUL, HARMLESS, MESSAGES

from tokmarg import Guard
from tokmarg.engine.gpu_info import gpu_name

LENGTHS = (10, 20, 40, 80, 160, 320, 640, 1000, 2000)
LABELS = (2, 5, 14, 30, 60, 100)
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
KINDS = ("harmless", "harmful")
#: What labels are made of: names that nothing in the messages speaks for or against in particular.
SUBJECTS = (
    "Fraud", "Burglary", "Threats", "Stalking", "Insults", "Forgery", "Smuggling", "Vandalism", "Bribery", "Spam",
)  # fmt: skip
PLACES = (
    "at Home", "at Work", "at School", "in Shops", "in Traffic", "in Sports", "on the Net", "on Paper", "by Phone",
    "in Public",
)  # fmt: skip

T = TypeVar("T")


def main() -> None:
    parser = argparse.ArgumentParser(description="Time scores of growing contents, policies and batches.")
    parser.add_argument("--bundle", help="[default: the installed reference guard]")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", choices=["content", "labels", "batch"], help="[default: all three]")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["XDG_CACHE_HOME"] = scratch  # the policies' prefixes leave nothing behind
        guard = load(arguments)
        graph = guard.manifest
        where = gpu_name() if guard.device == "cuda" else machine()
        print(f"{where}, {arguments.threads} threads, onnxruntime {onnxruntime.__version__}; load average ", end="")
        print(f"{os.getloadavg()[0]:.1f}. {graph.model_id}, {graph.precision}, {len(guard.labels)} labels.\n")
        if arguments.only in (None, "content"):
            content(guard, arguments.rounds)
        if arguments.only in (None, "labels"):
            labels(arguments)
        if arguments.only in (None, "batch"):
            batch(guard, arguments.rounds)


def load(arguments: argparse.Namespace, policy: Mapping[str, object] | None = None) -> Guard:
    return Guard.load(
        arguments.bundle,
        device=arguments.device,
        threads=arguments.threads,
        policy=policy,
        calibration=False if policy else None,
    )


def content(guard: Guard, rounds: int) -> None:
    """One message of a given length."""
    texts = {(length, kind): text_of(guard, length, kind) for length in LENGTHS for kind in KINDS}
    medians = timed({key: lambda text=text: guard.score(text) for key, text in texts.items()}, rounds)
    print("| content tokens | harmless ms | nodes | harmful ms | nodes | harmless ms per 100 tokens |")
    print("|---|---|---|---|---|---|")
    for length in LENGTHS:
        cells = []
        for kind in KINDS:
            cells += [f"{medians[length, kind]:.1f}", str(guard.score(texts[length, kind]).evaluated_nodes)]
        print(f"| {length:,} | {' | '.join(cells)} | {medians[length, 'harmless'] / length * 100:.1f} |")
    first, last = 1000, LENGTHS[-1]
    steeper = (medians[last, "harmless"] / medians[first, "harmless"]) / (last / first) - 1
    print(f"\n{last:,} tokens cost {steeper:+.0%} of what is linear from {first:,} tokens on.\n")


def labels(arguments: argparse.Namespace) -> None:
    """One message of about 40 tokens, under policies of a given number of labels."""
    guards = {}
    for count in LABELS:
        names = [f"{subject} {place}" for place in PLACES for subject in SUBJECTS][:count]
        rows = [{"id": f"S{i}", "name": name, "code": f"L{i}"} for i, name in enumerate(names, 1)]
        started = time.perf_counter()
        guards[count] = load(arguments, {"labels": rows}), time.perf_counter() - started
    texts = {"harmless": HARMLESS[0], "harmful": HARMFUL[0]}
    runs: dict[tuple[int, str], Callable[[], Any]] = {
        (count, kind): lambda guard=guard, text=text: guard.score(text)
        for count, (guard, _) in guards.items()
        for kind, text in texts.items()
    }
    medians = timed(runs, arguments.rounds)
    print("| labels | prefix tokens | first load s | harmless ms | nodes | harmful ms | nodes | converged |")
    print("|---|---|---|---|---|---|---|---|")
    for count, (guard, loading) in guards.items():
        prompts = [guard.prompt(text).token_ids for text in MESSAGES[:8]]
        prefix = min(
            next(i for i, (a, b) in enumerate(zip(prompts[0], p, strict=False)) if a != b) for p in prompts[1:]
        )
        cells = []
        for kind, text in texts.items():
            result = guard.score(text)
            cells += [f"{medians[count, kind]:.1f}", str(result.evaluated_nodes)]
        print(f"| {count} | {prefix} | {loading:.1f} | {' | '.join(cells)} | {'yes' if result.converged else 'no'} |")
    print()


def batch(guard: Guard, rounds: int) -> None:
    """Messages of about 40 tokens, half of them harmless, in one call."""
    chosen = {count: list(islice(cycle(MESSAGES), count)) for count in BATCHES}
    runs = {count: lambda texts=texts: list(guard.score_many(texts)) for count, texts in chosen.items()}
    medians = timed(runs, rounds)
    print("| messages in one call | ms | ms per message | messages/s | × one by one |\n|---|---|---|---|---|")
    for count, taken in medians.items():
        per = taken / count
        print(f"| {count} | {taken:.1f} | {per:.1f} | {1000 / per:.1f} | {medians[1] / per:.2f} |")


def text_of(guard: Guard, tokens: int, kind: str) -> str:
    """A text of about so many tokens, of sentences of one kind."""
    sentences = HARMLESS if kind == "harmless" else HARMFUL
    empty = len(guard.prompt("a").token_ids) - 1
    words = " ".join(islice(cycle(sentences), tokens // 20 + 1)).split(" ")
    low, high = 1, len(words)
    while low < high:  # the longest beginning that is not too long
        middle = (low + high + 1) // 2
        fits = len(guard.prompt(" ".join(words[:middle])).token_ids) - empty <= tokens
        low, high = (middle, high) if fits else (low, middle - 1)
    return " ".join(words[:low])


def timed(runs: Mapping[T, Callable[[], object]], rounds: int) -> dict[T, float]:
    """Milliseconds of each run: the median of the rounds, in each of which all take their turn."""
    for run in runs.values():
        run()
    times: dict[T, list[float]] = {key: [] for key in runs}
    for number in range(rounds):
        for key, run in runs.items():
            started = time.perf_counter()
            run()
            times[key].append((time.perf_counter() - started) * 1e3)
        print(f"round {number + 1} of {rounds}", file=sys.stderr, flush=True)
    return {key: statistics.median(each) for key, each in times.items()}


if __name__ == "__main__":
    main()
