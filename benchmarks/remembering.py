"""What the prompt cache saves of contents that grow: `python benchmarks/remembering.py [--bundle BUNDLE] [--rounds 3]`.

Two cases, each of harmless and of harmful sentences:

    answer          an answer of 400 tokens that arrives in chunks of 10, with Guard.moderate, beside a score of each
                    of its beginnings by a guard without a cache, with the same options
    conversation    20 turns (a message of the user and an answer each), scored after each turn, beside the same
                    without a cache

Time and tokens are those of all scores of a case; the rounds take turns, the median counts.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import cycle, islice

import onnxruntime
from graphs import machine
from messages import HARMFUL, HARMLESS

from tokmarg import Guard
from tokmarg.moderation import TOLERANCE

ANSWER, CHUNK, TURNS = 400, 10, 20
KINDS = {"harmless": HARMLESS, "harmful": HARMFUL}
QUESTION = [{"role": "user", "content": "Tell me what you think."}]


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Time scores of contents that grow, with and without the prompt cache."
    )
    parser.add_argument("--bundle", help="[default: the installed reference guard]")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    load = partial(Guard.load, arguments.bundle, device="cpu", threads=arguments.threads)
    plain = load()
    print(f"{machine()}, {arguments.threads} threads, onnxruntime {onnxruntime.__version__}; load average ", end="")
    print(f"{os.getloadavg()[0]:.1f}. {plain.manifest.model_id}, {plain.manifest.precision}.\n")
    print("| content | scores | cached s | fresh s | time, share | tokens, share |\n|---|---|---|---|---|---|")
    for kind, sentences in KINDS.items():
        chunks = list(chunked(plain, sentences))
        beginnings = ["".join(chunks[: n + 1]) for n in range(len(chunks))]
        talk = conversation(sentences)
        cases: dict[str, tuple[int, Callable[[Guard], None], Callable[[Guard], None]]] = {
            f"answer, {kind}": (
                len(chunks),
                partial(moderate, chunks=chunks),
                partial(score_answers, beginnings=beginnings),
            ),
            f"conversation, {kind}": (
                TURNS,
                partial(score_turns, talk=talk),
                partial(score_turns, talk=talk),
            ),
        }
        for name, (scores, cached, fresh) in cases.items():
            measured = []
            for _ in range(arguments.rounds):  # a guard of its own each time: what it remembers is of this case alone
                remembering = load(prompt_cache="256 MB")
                measured.append((*cost(cached, remembering), *cost(fresh, plain)))
            medians = [statistics.median(each) for each in zip(*measured, strict=True)]
            seconds, tokens, fresh_seconds, fresh_tokens = medians
            shares = f"{seconds / fresh_seconds:.3f} | {tokens / fresh_tokens:.3f}"
            print(f"| {name} | {scores} | {seconds:.2f} | {fresh_seconds:.2f} | {shares} |", flush=True)


def cost(work: Callable[[Guard], None], guard: Guard) -> tuple[float, float]:
    """Seconds and tokens that passes carried."""
    before, began = guard._session.counts[0], time.perf_counter()
    work(guard)
    return time.perf_counter() - began, float(guard._session.counts[0] - before)


def chunked(guard: Guard, sentences: list[str]) -> Iterator[str]:
    """A text of about 400 tokens in pieces of about 10."""
    words = " ".join(islice(cycle(sentences), 40)).split(" ")
    chunk, count = "", 0
    while count < ANSWER:
        chunk += words.pop(0) + " "
        if (tokens := guard._parts.encoder.count(chunk)) >= CHUNK:
            yield chunk
            chunk, count = "", count + tokens


def moderate(guard: Guard, chunks: list[str]) -> None:
    """Scores after each chunk, whatever the guard makes of it."""
    parts = list(guard.moderate(chunks, context=QUESTION, every=1, patience=len(chunks) + 1))
    assert len(parts) == len(chunks)


def score_answers(guard: Guard, beginnings: list[str]) -> None:
    for text in beginnings:
        guard.score([*QUESTION, {"role": "assistant", "content": text}], tolerance=TOLERANCE)


def conversation(sentences: list[str]) -> list[dict[str, str]]:
    """20 turns of two messages each."""
    texts = list(islice(cycle(sentences), 2 * TURNS))
    return [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)]


def score_turns(guard: Guard, talk: list[dict[str, str]]) -> None:
    for end in range(2, len(talk) + 1, 2):
        guard.score(talk[:end])


if __name__ == "__main__":
    main()
