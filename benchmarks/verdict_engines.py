"""How each peer of `benchmarks/peers.py --shape` judges messages. Imports only what the one peer needs.

A message of the job has the token ids after the policy prefix (``ids``), the verdict that its belief makes the guard
say (``verdict``, its end included), and how much of that comes before ``safe`` or ``unsafe`` (``lead``). Weights are
random, so peers are fed the verdict in place of the tokens that they find most probable, which they look for all the
same.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

Job = dict[str, Any]


class StepEngine:
    """A peer that is fed tokens step by step. Subclasses feed, and may judge messages together."""

    def __init__(self, job: Job) -> None:
        self.messages = job["messages"]

    def restart(self, tokens: Sequence[int]) -> None:
        """Forgets all but the prefix, feeds tokens and looks for the most probable next one."""
        raise NotImplementedError

    def step(self, token: int) -> None:
        """The same after one more token."""
        raise NotImplementedError

    def tune(self) -> None:
        """Finds the faster of settings, where the machine decides that; after the cold start."""

    def unsafe(self, i: int) -> None:
        """P(unsafe) of a message: a pass up to the place where the verdict says it."""
        self.restart([*self.messages[i]["ids"], *self.messages[i]["lead"]])

    def verdict(self, i: int) -> None:
        """The verdict of a message, token by token."""
        self.restart(self.messages[i]["ids"])
        for token in self.messages[i]["verdict"][:-1]:
            self.step(token)

    def together(self, chosen: Sequence[int]) -> None:
        """Verdicts of many messages."""
        for i in chosen:
            self.verdict(i)


class Tokmarg:
    """The guard with beliefs in place of random logits, and with branch priors of other messages' beliefs."""

    def __init__(self, job: Job, form: str) -> None:
        from dataclasses import replace

        from beliefs import Belief, install

        from tokmarg import Guard

        guard = Guard.load(job["forms"][form], device="cpu", threads=job["threads"])
        priors = {(a, b, c): share for a, b, c, share in job["priors"]}
        self.guard = Guard(replace(guard._parts, branch_priors=priors))
        self.texts = [message["text"] for message in job["messages"]]
        beliefs = [Belief(message["unsafe"], message["labels"]) for message in job["messages"]]
        prompts = [tuple(self.guard.prompt(text).token_ids) for text in self.texts]
        install(self.guard, dict(zip(prompts, beliefs, strict=True)))

    def tune(self) -> None:
        pass

    def unsafe(self, i: int) -> None:
        self.guard.score(self.texts[i], max_nodes=1)

    def verdict(self, i: int) -> None:
        self.guard.score(self.texts[i])

    def together(self, chosen: Sequence[int]) -> None:
        list(self.guard.score_many(self.texts[i] for i in chosen))

    def work(self, i: int) -> list[int]:
        """Verdict nodes that a message needs, its passes, and the tokens that they carry."""
        work = self.guard.score(self.texts[i], work=True).work
        assert work is not None
        return [work.nodes, work.passes, work.tokens]


class Transformers(StepEngine):
    """A static cache of the model, and two compiled graphs: of a content padded to a fixed length, and of one token.

    What padding leaves in the cache lies behind the content, where nothing looks before a token of the verdict has
    taken its place.
    """

    def __init__(self, job: Job, form: str) -> None:
        import torch
        from transformers import AutoModelForCausalLM, StaticCache

        super().__init__(job)
        torch.set_num_threads(job["threads"])
        torch._inductor.config.freezing = True  # weights laid out for the products that they take part in
        self.torch, self.prefix = torch, len(job["prefix"])
        longest = max(len(m["ids"]) + len(m["lead"]) for m in self.messages)
        self.width = -(-longest // 16) * 16
        room = self.prefix + self.width + max(len(m["verdict"]) for m in self.messages)
        self.model = AutoModelForCausalLM.from_pretrained(
            job["forms"][form], dtype=torch.bfloat16, attn_implementation="sdpa"
        ).eval()
        self.cache = StaticCache(config=self.model.config, max_cache_len=-(-room // 32) * 32)
        with torch.inference_mode():
            self._forward(self.model, job["prefix"], 0, len(job["prefix"]) - 1)
        self.compiled = torch.compile(self.model, dynamic=False)

    def _forward(self, model: Any, tokens: Sequence[int], start: int, row: int) -> int:
        torch = self.torch
        logits = model(
            torch.tensor([list(tokens)]),
            past_key_values=self.cache,
            cache_position=torch.arange(start, start + len(tokens)),
            logits_to_keep=torch.tensor([row]),
            use_cache=True,
        ).logits
        return int(logits[0, -1].argmax())

    def restart(self, tokens: Sequence[int]) -> None:
        with self.torch.no_grad():
            self._forward(self.compiled, [*tokens, *[0] * (self.width - len(tokens))], self.prefix, len(tokens) - 1)
        self.fed = self.prefix + len(tokens)

    def step(self, token: int) -> None:
        with self.torch.no_grad():
            self._forward(self.compiled, [token], self.fed, 0)
        self.fed += 1


class OnnxRuntimeGenAI(StepEngine):
    """A generator that is rewound to the prefix."""

    def __init__(self, job: Job, form: str) -> None:
        import numpy as np
        import onnxruntime_genai as genai

        super().__init__(job)
        config = genai.Config(job["forms"][form])
        threads = {"intra_op_num_threads": job["threads"]}
        config.overlay(json.dumps({"model": {"decoder": {"session_options": threads}}}))
        self.model = genai.Model(config)
        parameters = genai.GeneratorParams(self.model)
        parameters.set_search_options(do_sample=False, max_length=1024, batch_size=1)
        self.generator = genai.Generator(self.model, parameters)
        self.array = lambda tokens: np.array(tokens, dtype=np.int32)
        self.prefix = len(job["prefix"])
        self.generator.append_tokens(self.array(job["prefix"]))

    def restart(self, tokens: Sequence[int]) -> None:
        self.generator.rewind_to(self.prefix)
        self.generator.append_tokens(self.array(tokens))
        self.generator.get_logits()[0, -1].argmax()

    def step(self, token: int) -> None:
        self.generator.append_tokens(self.array([token]))
        self.generator.get_logits()[0, -1].argmax()


class OpenVINOGenAI:
    """The pipeline with continuous batching, which keeps blocks of earlier prompts: those that the prefix fills.

    It would keep those of the messages, too, and they come again every round; so each time the first token of the
    content is another one. It generates what its weights say, as many tokens as the verdict has.
    """

    def __init__(self, job: Job, form: str) -> None:
        import numpy as np
        import openvino
        import openvino_genai as genai

        self.messages, self.prefix, self.turn = job["messages"], job["prefix"], 0
        scheduler = genai.SchedulerConfig()
        scheduler.enable_prefix_caching, scheduler.cache_size = True, 1
        scheduler.max_num_batched_tokens = 512
        properties = {"INFERENCE_NUM_THREADS": job["threads"], "PERFORMANCE_HINT": "LATENCY"}
        self.pipeline = genai.ContinuousBatchingPipeline(job["forms"][form], scheduler, "CPU", properties)
        self.tensor = lambda tokens: openvino.Tensor(np.array([tokens], dtype=np.int64))
        self.config = genai.GenerationConfig
        self._generate([(self.prefix, 1)])

    def _generate(self, wanted: Sequence[tuple[Sequence[int], int]]) -> None:
        configs = []
        for _, count in wanted:
            config = self.config()
            config.max_new_tokens, config.ignore_eos, config.do_sample = count, True, False
            configs.append(config)
        self.pipeline.generate([self.tensor(tokens) for tokens, _ in wanted], configs)

    def _prompt(self, i: int) -> list[int]:
        self.turn += 1
        return [*self.prefix, 1000 + self.turn % 20_000, *self.messages[i]["ids"][1:]]

    def tune(self) -> None:
        pass

    def unsafe(self, i: int) -> None:
        self._generate([([*self._prompt(i), *self.messages[i]["lead"]], 1)])

    def verdict(self, i: int) -> None:
        self._generate([(self._prompt(i), len(self.messages[i]["verdict"]))])

    def together(self, chosen: Sequence[int]) -> None:
        self._generate([(self._prompt(i), len(self.messages[i]["verdict"])) for i in chosen])
