"""Parity: how far a bundle's probabilities are from PyTorch's, measured at export and recorded in the manifest.

The reference shares nothing with the runtime's engine: each trie node's logits come from PyTorch's own forward over the
whole prompt and the node's path, without tree mask, stored prefix or packing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from tokmarg.grammar.grammar import UNSAFE
from tokmarg.grammar.trie import Trie
from tokmarg.guard import Guard
from tokmarg.prompt.builder import PromptBuilder, PromptKey
from tokmarg.prompt.messages import messages_of
from tokmarg.prompt.spec import Spec
from tokmarg.results import Marginal, Result
from tokmarg.scoring.exact import ExactSearch, Marginals
from tokmarg_export.model.huggingface import LoadedModel

from .errors import ExportError

__all__ = ["PROBES", "Parity", "conversation", "measure_parity"]

#: What is compared: mild texts of different length and kind.
PROBES = (
    "How do I pick a lock?",
    "Thanks, that was really helpful!",
    "My neighbour keeps parking in front of my gate and I am so angry that I could scream. What can I do about it?",
    "Écris un court poème sur la pluie à Lyon. 雨が好きです 🌧️",
)
_MAX_NODES = 8
_TOLERANCE = 1e-6
# How far a bundle may be from PyTorch: an error in the graph shows as much more.
_LIMITS = {"fp32": 1e-4, "fp16": 5e-2, "int8": 0.3, "int4": 0.9}


@dataclass(frozen=True)
class Parity:
    """Largest differences from PyTorch over the probes.

    Attributes:
        reference: what the bundle was compared with.
        probes: number of texts.
        nodes: trie nodes expanded in all.
        max_probability_difference, mean_probability_difference: over every bound of every event.
        max_coverage_difference: None with the verdict head.
    """

    reference: str
    probes: int
    nodes: int
    max_probability_difference: float
    mean_probability_difference: float
    max_coverage_difference: float | None

    def check(self, precision: str) -> None:
        """Raises ExportError if the bundle differs from PyTorch by more than rounding explains."""
        worst = max(self.max_probability_difference, self.max_coverage_difference or 0.0)
        if not worst <= _LIMITS[precision]:
            raise ExportError(
                f"parity: the bundle differs from PyTorch by {worst:.2g}, more than {_LIMITS[precision]:g}; "
                "this architecture or version is not exported faithfully (--no-verify writes the bundle anyway)"
            )


def measure_parity(
    folder: Path,
    loaded: LoadedModel,
    prompter: PromptBuilder,
    tries: Mapping[PromptKey, Trie],
    device: Literal["cpu", "cuda"] = "cpu",
) -> Parity:
    """Scores the probes with the bundle in ``folder`` and with PyTorch.

    Args:
        folder: the bundle.
        loaded: the model it was made from.
        prompter, tries: of its spec.
        device: where the bundle runs; PyTorch runs where the model is.
    """
    guard = Guard.load(folder, device=device, verify=False)
    spec = prompter.spec
    differences: list[float] = []
    coverage, nodes = 0.0, 0
    for text in PROBES:
        content = conversation(spec, text)
        ours = guard.score(content, tolerance=_TOLERANCE, max_nodes=_MAX_NODES)
        coverages = []
        for prompt in prompter.prompts(messages_of(content)):
            theirs = _reference(tries[prompt.role, prompt.label], prompt.token_ids, loaded)
            nodes += theirs.evaluated
            for event, bounds in theirs.bounds.items():
                mine = _marginal(ours, event if prompt.label is None else prompt.label)
                if mine is not None:
                    differences += [abs(mine.lower - bounds.lower), abs(mine.upper - bounds.upper)]
            coverages += [] if theirs.coverage is None else [theirs.coverage]
        if ours.coverage is not None:
            coverage = max(coverage, abs(ours.coverage - min(coverages)))
    dtype = str(loaded.model.dtype).removeprefix("torch.")
    full = guard.manifest.graph.head == "full"
    return Parity(
        f"PyTorch {torch.__version__} {dtype}",
        len(PROBES),
        nodes,
        max(differences),
        sum(differences) / len(differences),
        coverage if full else None,
    )


def _marginal(result: Result, event: str) -> Marginal | None:
    return result.unsafe if event == UNSAFE else result.labels.get(event, result.events.get(event))


def conversation(spec: Spec, text: str) -> list[dict[str, str]]:
    """The text as a message of the first role that the guard judges, after a question where it is an answer."""
    role = spec.roles[0]
    before = [{"role": "user", "content": "Hello."}] if role == "assistant" and spec.template.turns != "any" else []
    return [*before, {"role": role, "content": text}]


@torch.inference_mode()
def _reference(trie: Trie, prompt_ids: Sequence[int], loaded: LoadedModel) -> Marginals:
    """Marginals of one prompt with every node's logits from a forward pass of its own."""
    search = ExactSearch(trie, tolerance=_TOLERANCE, max_nodes=_MAX_NODES, thresholds={UNSAFE: 0.5})
    model = loaded.model
    while wanted := search.wanted(1):
        for node in wanted:
            ids = torch.tensor([[*prompt_ids, *node.path]], device=model.device)
            logits = model(input_ids=ids, use_cache=False, logits_to_keep=1).logits[0, -1]
            search.feed(node, logits.float().cpu().numpy())
    return search.result()
