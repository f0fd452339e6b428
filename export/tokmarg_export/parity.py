"""Parity: how far a bundle's probabilities are from PyTorch's, measured at export and recorded in the manifest.

The reference shares nothing with the runtime's engine: each trie node's logits come from PyTorch's own forward over the
whole prompt and the node's path, without tree mask, stored prefix or packing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import torch

from tokmarg.grammar.grammar import UNSAFE
from tokmarg.grammar.trie import Trie
from tokmarg.guard import Guard
from tokmarg.prompt.builder import Prompt, PromptBuilder, PromptKey
from tokmarg.prompt.messages import messages_of
from tokmarg.prompt.spec import Spec
from tokmarg.results import Marginal, Result
from tokmarg.scoring.exact import ExactSearch
from tokmarg_export.model.layer_by_layer import last_logits
from tokmarg_export.model.loaded_model import LoadedModel
from tokmarg_export.model.stored_parameters import is_stored

from .errors import ExportError
from .progress import Share

__all__ = ["PROBES", "Parity", "conversation", "measure_parity", "probe_prompts"]

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
    share: Share = lambda share: None,
) -> Parity:
    """Scores the probes with the bundle in ``folder`` and with PyTorch.

    Args:
        folder: the bundle.
        loaded: the model it was made from.
        prompter, tries: of its spec.
        device: where the bundle runs; PyTorch runs where the model is.
        share: is told how much is done.
    """
    guard = Guard.load(folder, device=device, verify=False)
    full = guard.manifest.graph.head == "full"
    contents = [conversation(prompter.spec, text) for text in PROBES]
    scored = [guard.score(content, tolerance=_TOLERANCE, max_nodes=_MAX_NODES) for content in contents]
    del guard  # frees its weights before PyTorch's are read
    prompts = probe_prompts(prompter)
    searches = [[_search(tries[prompt.role, prompt.label]) for prompt in of_content] for of_content in prompts]
    pairs = zip(chain(*prompts), chain(*searches), strict=True)
    _evaluate([(prompt.token_ids, search) for prompt, search in pairs], loaded, share)
    differences: list[float] = []
    coverage, nodes = 0.0, 0
    for ours, of_content, their_searches in zip(scored, prompts, searches, strict=True):
        coverages = []
        for prompt, search in zip(of_content, their_searches, strict=True):
            theirs = search.result()
            nodes += theirs.evaluated
            for event, bounds in theirs.bounds.items():
                mine = _marginal(ours, event if prompt.label is None else prompt.label)
                if mine is not None:
                    differences += [abs(mine.lower - bounds.lower), abs(mine.upper - bounds.upper)]
            coverages += [] if theirs.coverage is None else [theirs.coverage]
        if ours.coverage is not None:
            coverage = max(coverage, abs(ours.coverage - min(coverages)))
    dtype = str(loaded.model.dtype).removeprefix("torch.")
    return Parity(
        f"PyTorch {torch.__version__} {dtype}",
        len(PROBES),
        nodes,
        max(differences),
        sum(differences) / len(differences),
        coverage if full else None,
    )


def _search(trie: Trie) -> ExactSearch:
    return ExactSearch(trie, tolerance=_TOLERANCE, max_nodes=_MAX_NODES, thresholds={UNSAFE: 0.5})


def _marginal(result: Result, event: str) -> Marginal | None:
    return result.unsafe if event == UNSAFE else result.labels.get(event, result.events.get(event))


def probe_prompts(prompter: PromptBuilder) -> list[tuple[Prompt, ...]]:
    """The prompts of each probe."""
    return [prompter.prompts(messages_of(conversation(prompter.spec, text))) for text in PROBES]


def conversation(spec: Spec, text: str) -> list[dict[str, str]]:
    """The text as a message of the first role that the guard judges, after a question where it is an answer."""
    role = spec.roles[0]
    before = [{"role": "user", "content": "Hello."}] if role == "assistant" and spec.template.turns != "any" else []
    return [*before, {"role": role, "content": text}]


@torch.inference_mode()
def _evaluate(searches: Sequence[tuple[Sequence[int], ExactSearch]], loaded: LoadedModel, share: Share) -> None:
    """Runs searches to their end, every node's logits from a forward pass of its own.

    Weights that are in their file are read once for a node of each search.
    """
    model = loaded.model
    stored, rounds = is_stored(model), 0
    while wanted := [(ids, search, node) for ids, search in searches for node in search.wanted(1)]:
        paths = [[*ids, *node.path] for ids, _, node in wanted]
        logits = last_logits(model, paths) if stored else [_last_logits(model, path) for path in paths]
        for (_, search, node), row in zip(wanted, logits, strict=True):
            search.feed(node, row.float().cpu().numpy())
        rounds += 1
        share(min(1.0, rounds / _MAX_NODES))


def _last_logits(model: Any, ids: Sequence[int]) -> torch.Tensor:
    row: torch.Tensor = model(
        input_ids=torch.tensor([ids], device=model.device), use_cache=False, logits_to_keep=1
    ).logits[0, -1]
    return row
