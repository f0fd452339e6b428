"""llama.cpp for `benchmarks/peers.py --shape`, through llama-cpp-python's binding of its C functions."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import Any

from verdict_engines import Job, StepEngine


class LlamaCpp(StepEngine):
    """A context whose first sequence is the prefix; messages are sequences that share its cells.

    With or without flash attention, and many messages in one batch or one after the other: whichever a trial finds
    faster.
    """

    TOGETHER = 16

    def __init__(self, job: Job, form: str) -> None:
        import llama_cpp

        super().__init__(job)
        self.api, self.job, self.batches = llama_cpp, job, True
        llama_cpp.llama_backend_init()
        settings = llama_cpp.llama_model_default_params()
        self.model = llama_cpp.llama_model_load_from_file(os.fsencode(job["forms"][form]), settings)
        if self.model is None:
            raise RuntimeError("llama.cpp does not load the file")
        self.columns = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        self.batch = llama_cpp.llama_batch_init(2048, 0, 1)
        self.context: Any = None
        self._open(flash=True)

    def _open(self, flash: bool) -> None:
        api, settings = self.api, self.api.llama_context_default_params()
        if self.context is not None:
            api.llama_free(self.context)
        settings.n_ctx, settings.n_batch, settings.n_ubatch = 4096, 2048, 512
        settings.n_seq_max, settings.kv_unified = self.TOGETHER + 1, True
        settings.n_threads = settings.n_threads_batch = self.job["threads"]
        settings.n_outputs_max = self.TOGETHER + 1  # else logits of all tokens have their place in memory
        settings.flash_attn_type = int(flash)
        self.context = api.llama_init_from_model(self.model, settings)
        self.memory, self.prefix = api.llama_get_memory(self.context), len(self.job["prefix"])
        self._decode([(0, 0, self.job["prefix"])])

    def tune(self) -> None:
        some, best = range(min(len(self.messages), 4)), {}
        for flash in (True, False):
            self._open(flash)
            best[flash] = min(_timed(self.verdict, len(self.messages) - 1) for _ in range(3))
        self._open(best[True] < best[False])
        self._batched(some)
        self.batches = _timed(self._batched, some) < _timed(super().together, some)

    def _decode(self, parts: Sequence[tuple[int, int, Sequence[int]]]) -> None:
        """Feeds tokens (sequence, position of the first, tokens) and looks for the most probable ones after each."""
        import numpy as np

        batch, row, ends = self.batch, 0, []
        for sequence, start, tokens in parts:
            for i, token in enumerate(tokens):
                batch.token[row], batch.pos[row], batch.n_seq_id[row] = token, start + i, 1
                batch.seq_id[row][0], batch.logits[row] = sequence, i == len(tokens) - 1
                row += 1
            ends.append(row - 1)
        batch.n_tokens = row
        if self.api.llama_decode(self.context, batch):
            raise RuntimeError("llama_decode failed")
        for end in ends:
            pointer = self.api.llama_get_logits_ith(self.context, end)
            np.ctypeslib.as_array(pointer, shape=(self.columns,)).argmax()

    def _fork(self, sequence: int) -> None:
        self.api.llama_memory_seq_rm(self.memory, sequence, -1, -1)
        self.api.llama_memory_seq_cp(self.memory, 0, sequence, -1, -1)

    def restart(self, tokens: Sequence[int]) -> None:
        self._fork(1)
        self._decode([(1, self.prefix, tokens)])
        self.fed = self.prefix + len(tokens)

    def step(self, token: int) -> None:
        self._decode([(1, self.fed, [token])])
        self.fed += 1

    def together(self, chosen: Sequence[int]) -> None:
        (self._batched if self.batches else super().together)(chosen)

    def _batched(self, chosen: Sequence[int]) -> None:
        for first in range(0, len(chosen), self.TOGETHER):
            messages = [self.messages[i] for i in chosen[first : first + self.TOGETHER]]
            for sequence in range(1, len(messages) + 1):
                self._fork(sequence)
            self._decode([(s, self.prefix, m["ids"]) for s, m in enumerate(messages, 1)])
            for place in range(max(len(m["verdict"]) for m in messages) - 1):
                self._decode(
                    [
                        (s, self.prefix + len(m["ids"]) + place, [m["verdict"][place]])
                        for s, m in enumerate(messages, 1)
                        if place < len(m["verdict"]) - 1
                    ]
                )
            for sequence in range(1, len(messages) + 1):
                self.api.llama_memory_seq_rm(self.memory, sequence, -1, -1)


def _timed(judge: Callable[[Any], object], what: Any) -> float:
    started = time.perf_counter()
    judge(what)
    return time.perf_counter() - started
