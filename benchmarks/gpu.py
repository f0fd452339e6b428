"""tokmarg on a GPU, beside transformers: `python benchmarks/gpu.py [--shape 135m] [--shape 1b]`.

Guards with random weights (benchmarks/gpu_guards.py) are exported here. Of each: whether the whole graph runs on CUDA,
how far its bounds are from PyTorch's, and a message's on its own from those in a batch; then what one message takes and
many, beside transformers with the same weights in float16, token ids and cached policy prefix; then how that grows.

What is wrong ends the program with status 1; no time does.
"""

# Called gpu and not cuda: PyTorch imports a package cuda, and would find this file.
from __future__ import annotations

import argparse
import platform
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime
import torch
import transformers
from gpu_guards import PRECISIONS, Transformers, make
from graphs import machine
from growth import text_of
from messages import MESSAGES
from shapes import SHAPES

from tokmarg import Guard, Result
from tokmarg.bundle.bundle import Bundle
from tokmarg.engine.gpu_info import gpu_memory_used, gpu_name
from tokmarg.engine.prefix import shared_tokens
from tokmarg.engine.roofline import matrix_peak, read_products
from tokmarg.engine.session import Session
from tokmarg.loading import assemble, build_tries, prompt_builder_of
from tokmarg.tokenizer import Encoder
from tokmarg_export.bundle_writer import build_bundle
from tokmarg_export.errors import ExportError
from tokmarg_export.model.loaded_model import LoadedModel
from tokmarg_export.parity import measure_parity
from tokmarg_export.spec_library import choose_spec, resolve_spec

LENGTHS = (10, 40, 160, 500, 1000, 2000)
BATCHES = (1, 4, 16, 64, 256)
TOKENS = (2, 6)  # of a verdict: a harmless one, and one with a label
TOGETHER = 32  # messages that transformers takes in one batch
BATCH_TOLERANCE = 1e-5  # how far the rest of a batch may move a probability in float32

Device = Literal["cpu", "cuda"]


def main() -> None:
    parser = argparse.ArgumentParser(description="Check and time tokmarg on a GPU.")
    parser.add_argument("--shape", action="append", choices=list(PRECISIONS), help="[default: all]")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda", help="cpu: to try the script")
    parser.add_argument("--layers", type=int, help="fewer than the shape has, to try the script")
    parser.add_argument("--rounds", type=int, default=20)
    arguments = parser.parse_args()
    device: Device = arguments.device
    if device == "cuda" and not torch.cuda.is_available():
        parser.error("PyTorch finds no CUDA device here; --device cpu tries the script without one")
    print(
        f"{gpu_name() if device == 'cuda' else machine()}; onnxruntime {onnxruntime.__version__}, torch "
        f"{torch.__version__}, transformers {transformers.__version__}, Python {platform.python_version()}. "
        f"{arguments.rounds} rounds."
    )
    wrong: list[str] = []
    for name in arguments.shape or PRECISIONS:
        with tempfile.TemporaryDirectory() as scratch:
            loaded = make(name, device, arguments.layers)
            guard = check(name, loaded, Path(scratch), device, wrong)
            times(guard, loaded, device, arguments.rounds)
            growth(guard, arguments.rounds)
    if wrong:
        sys.exit("wrong: " + "; ".join(wrong))


def check(name: str, loaded: LoadedModel, scratch: Path, device: Device, wrong: list[str]) -> Guard:
    """Exports a model in its precisions and tells what is right; the guard of the last."""
    spec = resolve_spec(*choose_spec(SHAPES[name].spec, loaded.model_id), loaded)
    print(f"\n## {name}\n")
    print("| precision | bundle MB | on the GPU MB | nodes on CUDA | from PyTorch fp32: max | mean | batch: max |")
    print("|---|---|---|---|---|---|---|")
    for precision in PRECISIONS[name]:
        folder = scratch / precision
        build_bundle(loaded, spec, folder, precision=precision, verify=False)
        bundle = Bundle.open(folder)
        before = gpu_memory_used() or 0
        session = Session(bundle, device)
        guard = Guard(assemble(bundle, session))
        taken = (gpu_memory_used() or 0) - before
        prompter = prompt_builder_of(guard.spec, Encoder(loaded.tokenizer_json), loaded.max_positions)
        parity = measure_parity(folder, loaded, prompter, build_tries(prompter), device)
        try:
            parity.check(precision)
        except ExportError as error:
            wrong.append(f"{name} {precision}: {error}")
        moved = batch_effect(guard)
        if precision == "fp32" and moved > BATCH_TOLERANCE:
            wrong.append(f"{name} {precision}: batching moves a probability by {moved:.1e}")
        size = sum(file.stat().st_size for file in folder.iterdir())
        print(
            f"| {precision} | {size / 1e6:,.0f} | {taken / 1e6:,.0f} | {placement(session)} | "
            f"{parity.max_probability_difference:.1e} | {parity.mean_probability_difference:.1e} | {moved:.1e} |",
            flush=True,
        )
    return guard


def placement(session: Session) -> str:
    """How many of the graph's nodes run on CUDA. A session that is on CUDA has recorded it."""
    if session.device == "cpu":
        return "none"
    counts: Counter[str] = Counter()
    for part in session._session.get_provider_graph_assignment_info():
        counts[part.ep_name] += len(part.get_nodes())
    return f"{counts['CUDAExecutionProvider']} of {counts.total()}"


def batch_effect(guard: Guard) -> float:
    """Largest change of a message's bounds between a batch of one, a batch, and the batch in another order."""
    options: Any = {"tolerance": 1e-9, "max_nodes": 6}
    texts = MESSAGES[:24]
    single = [guard.score(text, **options) for text in texts]
    packed = list(guard.score_many(texts, **options))
    reversed_ = list(guard.score_many(texts[::-1], **options))[::-1]
    return max(max(apart(a, b), apart(a, c), apart(b, c)) for a, b, c in zip(single, packed, reversed_, strict=True))


def apart(a: Result, b: Result) -> float:
    """The largest difference of two results' bounds."""
    pairs = [(a.unsafe, b.unsafe), *((a.labels[label], b.labels[label]) for label in a.labels)]
    return max(max(abs(x.lower - y.lower), abs(x.upper - y.upper)) for x, y in pairs if x and y)


def times(guard: Guard, loaded: LoadedModel, device: Device, rounds: int) -> None:
    """One message after the other, and many."""
    prompts = [list(guard.prompt(text).token_ids) for text in MESSAGES]
    shared = min(shared_tokens(prompts[0], prompt) for prompt in prompts)
    ids = [prompt[shared:] for prompt in prompts]
    reference = Transformers(loaded.model.half() if device == "cuda" else loaded.model, prompts[0][:shared])
    kind = str(reference.model.dtype).removeprefix("torch.")
    sizes = [len(one) for one in ids]
    print(f"\n{min(sizes)} to {max(sizes)} new tokens after a cached prefix of {shared}.\n")

    def verdict(tokens: int) -> object:
        return reference.verdict(ids[next(turns[tokens])], tokens)

    turns: dict[object, Iterator[int]] = {name: cycle(range(8)) for name in ("labels", "nodes", "unsafe", *TOKENS)}
    single: dict[str, Callable[[], object]] = {
        "tokmarg, P(unsafe) (1 node)": lambda: guard.score(MESSAGES[next(turns["unsafe"])], max_nodes=1),
        "tokmarg, 32 nodes": lambda: guard.score(MESSAGES[next(turns["nodes"])], max_nodes=32),
        "tokmarg, all labels (0.001 or 256 nodes)": lambda: guard.score(MESSAGES[next(turns["labels"])]),
    }
    for tokens in TOKENS:
        single[f"transformers {kind}, verdict of {tokens} tokens"] = partial(verdict, tokens)
    print("| one message | p50 ms | p99 ms |\n|---|---|---|")
    for title, taken in timed(single, rounds):
        p50, p99 = np.percentile(taken, (50, 99))
        print(f"| {title} | {p50:.1f} | {p99:.1f} |", flush=True)

    session, needed = guard._session, read_products(guard.path / "model.onnx")
    peak = matrix_peak(guard.manifest.precision, device, None, 2).per_second
    print("\n| many messages | per second | new tokens per second | share of the matrix peak |\n|---|---|---|---|")
    for title, nodes, count in (("P(unsafe) (1 node)", 1, 256), ("all labels (0.001 or 256 nodes)", 256, 64)):
        texts = list(islice(cycle(MESSAGES), count))
        list(guard.score_many(texts[:32], max_nodes=nodes))
        session.counts[:] = 0
        started = time.perf_counter()
        list(guard.score_many(texts, max_nodes=nodes))
        seconds, counts = time.perf_counter() - started, session.counts.tolist()
        share = needed.operations(*counts[:3]) / seconds / peak
        print(f"| tokmarg, {title} | {count / seconds:,.1f} | {counts[0] / seconds:,.0f} | {share:.2%} |", flush=True)
    batches: dict[str, Callable[[], object]] = {
        f"transformers {kind}, batch of {TOGETHER}, {tokens} tokens": partial(
            reference.verdicts, ids[:TOGETHER], tokens
        )
        for tokens in TOKENS
    }
    for title, taken in timed(batches, rounds):
        print(f"| {title} | {TOGETHER / float(np.median(taken)) * 1e3:,.1f} | | |")
    print(f"\nMatrix peak: {peak / 1e12:,.1f} T operations per second ({guard.manifest.precision}).")


def growth(guard: Guard, rounds: int) -> None:
    """P(unsafe) of longer contents and of larger batches."""
    contents = {length: partial(guard.score, text_of(guard, length, "harmless"), max_nodes=1) for length in LENGTHS}
    print("\n| content tokens | P(unsafe) ms |\n|---|---|")
    for length, taken in timed(contents, rounds):
        print(f"| {length:,} | {np.median(taken):.1f} |", flush=True)

    def together(count: int) -> object:
        return list(guard.score_many(islice(cycle(MESSAGES), count), max_nodes=1))

    print("\n| messages in one call | P(unsafe) ms | ms per message |\n|---|---|---|")
    for count, taken in timed({count: partial(together, count) for count in BATCHES}, rounds):
        print(f"| {count} | {np.median(taken):.1f} | {np.median(taken) / count:.2f} |", flush=True)


def timed(runs: Mapping[Any, Callable[[], object]], rounds: int) -> Iterator[tuple[Any, list[float]]]:
    """Milliseconds of each run, in rounds in which all take their turn, after one that does not count."""
    times: dict[Any, list[float]] = {key: [] for key in runs}
    for _ in range(rounds + 1):
        for key, run in runs.items():
            started = time.perf_counter()
            run()
            times[key].append((time.perf_counter() - started) * 1e3)
    for key, taken in times.items():
        yield key, taken[1:]


if __name__ == "__main__":
    main()
