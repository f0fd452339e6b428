"""How each peer of benchmarks/peers.py scores a message. Imports only what the one peer needs."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from typing import Any

Job = dict[str, Any]
Flagged = bool
#: Scores one message, or several at once; says of each whether it is unsafe.
One = Callable[[int], Flagged]


def tokmarg_guard(job: Job) -> Any:
    from tokmarg import Guard

    return Guard.load(job["bundle"], device="cpu", threads=job["threads"])


def tokmarg_single(job: Job) -> One:
    guard = tokmarg_guard(job)
    return lambda i: guard.score(job["messages"][i]["text"]).flagged


def tokmarg_any_place(job: Job) -> One:
    guard = tokmarg_guard(job)
    return lambda i: guard.score(job["messages"][i]["text"], method="any-place").flagged


def tokmarg_packed(job: Job) -> Callable[[Sequence[int]], list[Flagged]]:
    guard = tokmarg_guard(job)
    return lambda chosen: [r.flagged for r in guard.score_many(job["messages"][i]["text"] for i in chosen)]


def generated(job: Job, i: int, step: Callable[[list[int]], int], foreign: bool = False) -> Flagged:
    """Greedy decoding: ``step`` feeds tokens after what was fed before and gives the most probable next one.

    ``foreign`` weights know no verdict, so they say as many tokens as the guard's own verdict has.
    """
    message = job["messages"][i]
    limit, ends = (message["verdict_tokens"], []) if foreign else (job["limit"], job["ends"])
    tokens = [step(message["ids"])]
    while tokens[-1] not in ends and len(tokens) < limit:
        tokens.append(step(tokens[-1:]))
    return tokens[: len(job["unsafe"])] == job["unsafe"]


class Transformers:
    """The model with the prefix in its cache."""

    def __init__(self, job: Job, dtype: str) -> None:
        import torch
        from transformers import AutoModelForCausalLM, DynamicCache

        torch.set_num_threads(job["threads"])
        self.torch = torch
        self.model = AutoModelForCausalLM.from_pretrained(
            job["forms"]["merged"], dtype=getattr(torch, dtype), attn_implementation="sdpa"
        ).eval()
        self.cache = DynamicCache()
        self.prefix = len(job["prefix"])
        self.feed(job["prefix"])

    def feed(self, tokens: Sequence[int]) -> Any:
        """Feeds tokens; the logits [V] after the last one."""
        with self.torch.inference_mode():
            ids = self.torch.tensor([list(tokens)])
            return self.model(ids, past_key_values=self.cache, use_cache=True, logits_to_keep=1).logits[0, -1]

    def keep(self, tokens: int) -> None:
        """Forgets what was fed after the first ``tokens``."""
        self.cache.crop(tokens)


def transformers_greedy(dtype: str) -> Callable[[Job], One]:
    def make(job: Job) -> One:
        model = Transformers(job, dtype)

        def score(i: int) -> Flagged:
            model.keep(model.prefix)
            return generated(job, i, lambda tokens: int(model.feed(tokens).argmax()))

        return score

    return make


def transformers_any_place(job: Job) -> One:
    """Method 3 of arXiv:2511.22312 as published: recursion, one forward pass for each node, labels by suffix."""
    from transformers import AutoTokenizer

    model = Transformers(job, "float32")
    torch, decode = model.torch, AutoTokenizer.from_pretrained(job["forms"]["merged"]).decode
    top_p, eps, max_depth = 0.99, 0.01, 20

    def score(i: int) -> Flagged:
        ids = job["messages"][i]["ids"]
        start = model.prefix + len(ids)
        scores = dict.fromkeys([*job["labels"], "unsafe"], 0.0)
        model.keep(model.prefix)

        def visit(path: list[int], mass: float) -> None:
            if path:
                model.keep(start + len(path) - 1)
            p, order = torch.softmax(model.feed(path[-1:] or ids), -1).sort(descending=True)
            size = int((p.cumsum(0) <= top_p).sum()) + 1
            children = list(zip(order[:size].tolist(), p[:size].tolist(), strict=True))
            ending = any(token in job["ends"] for token, _ in children)
            for rank, (token, share) in enumerate(children):
                text = decode([*path, token])
                for label in scores:
                    if text.endswith(label):
                        scores[label] += mass * share
                if (token in job["ends"] and share >= 0.7) or (rank == 2 and ending):
                    break
                if len(path) != max_depth and token not in job["ends"] and mass * share >= eps:
                    visit([*path, token], mass * share)

        visit([], 1.0)
        return scores["unsafe"] >= 0.5

    return score


def optimum_greedy(name: str) -> Callable[[Job], One]:
    def make(job: Job) -> One:
        import onnxruntime
        import torch
        from optimum.onnxruntime import ORTModelForCausalLM

        torch.set_num_threads(job["threads"])
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = job["threads"]
        model = ORTModelForCausalLM.from_pretrained(job["forms"][name], session_options=options, use_cache=True)

        def feed(tokens: Sequence[int], past: Any) -> Any:
            ids = torch.tensor([list(tokens)])
            seen = ids.shape[1] + (0 if past is None else past[0][0].shape[2])
            return model(ids, attention_mask=torch.ones(1, seen, dtype=torch.long), past_key_values=past)

        prefix = feed(job["prefix"], None).past_key_values

        def score(i: int) -> Flagged:
            past = prefix

            def step(tokens: list[int]) -> int:
                nonlocal past
                out = feed(tokens, past)
                past = out.past_key_values
                return int(out.logits[0, -1].argmax())

            return generated(job, i, step)

        return score

    return make


def genai_greedy(name: str) -> Callable[[Job], One]:
    def make(job: Job) -> One:
        import numpy as np
        import onnxruntime_genai as genai

        config = genai.Config(job["forms"][name])
        threads = {"intra_op_num_threads": job["threads"]}
        config.overlay(json.dumps({"model": {"decoder": {"session_options": threads}}}))
        model = genai.Model(config)
        parameters = genai.GeneratorParams(model)
        parameters.set_search_options(do_sample=False, max_length=1024, batch_size=1)
        generator = genai.Generator(model, parameters)
        generator.append_tokens(np.array(job["prefix"], dtype=np.int32))
        prefix = len(job["prefix"])

        def score(i: int) -> Flagged:
            generator.rewind_to(prefix)

            def step(tokens: list[int]) -> int:
                if len(tokens) > 1:  # a token that the generator gave is fed by itself
                    generator.append_tokens(np.array(tokens, dtype=np.int32))
                generator.generate_next_token()
                return int(generator.get_next_tokens()[0])

            return generated(job, i, step)

        return score

    return make


def llama_greedy(name: str) -> Callable[[Job], One]:
    def make(job: Job) -> One:
        import llama_cpp
        import numpy as np

        def load(flash: bool) -> Any:
            threads = {"n_threads": job["threads"], "n_threads_batch": job["threads"]}
            llama = llama_cpp.Llama(
                job["forms"][name], n_ctx=1024, n_batch=512, flash_attn=flash, verbose=False, **threads
            )
            llama.eval(job["prefix"])
            return llama

        def trial(flash: bool) -> float:
            llama, best = load(flash), float("inf")
            for _ in range(5):
                llama.n_tokens = len(job["prefix"])
                started = time.perf_counter()
                llama.eval(job["messages"][0]["ids"])
                best = min(best, time.perf_counter() - started)
            llama.close()
            return best

        llama = load(trial(True) < trial(False))  # which is faster depends on the machine
        prefix, columns = len(job["prefix"]), llama.n_vocab()

        def score(i: int) -> Flagged:
            llama.n_tokens = prefix  # eval() drops what the cache holds after that

            def step(tokens: list[int]) -> int:
                llama.eval(tokens)
                pointer = llama_cpp.llama_get_logits_ith(llama.ctx, -1)
                return int(np.ctypeslib.as_array(pointer, shape=(columns,)).argmax())

            return generated(job, i, step, foreign=name == "shipped")

        return score

    return make
