"""The ways a call can score: which search each prompt gets, and what result a record's searches make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from tokmarg.calibration.document import Calibration
from tokmarg.grammar.branch_priors import BranchPriors
from tokmarg.grammar.grammar import UNSAFE
from tokmarg.grammar.trie import Trie
from tokmarg.prompt.builder import Prompt
from tokmarg.prompt.encoded_record import EncodedRecord
from tokmarg.prompt.labels import Role
from tokmarg.results import Marginal, Method, MethodResult, Result, Thresholds

from . import aggregation, methods
from .exact import Bounds, ExactSearch
from .free_decoding import Reader
from .methods import Scoring

__all__ = ["ExactScorer", "GuardInfo", "MethodScorer", "PromptKey", "Scorer"]

#: What a prompt asks for: a role mode, and the label where each has a prompt of its own.
PromptKey = tuple[Role, str | None]
R = TypeVar("R", Result, MethodResult, covariant=True)


class Scorer(Protocol, Generic[R]):
    """How one call scores."""

    def search(self, prompt: Prompt) -> Any:
        """A search for the prompt, see :class:`tokmarg.engine.sequence.Search`."""

    def result(self, ready: EncodedRecord, searches: Sequence[Sequence[Any]]) -> R:
        """The result of a record, given its searches by window and prompt."""


@dataclass(frozen=True, slots=True)
class GuardInfo:
    """What every result says of the guard: its labels and other events, by name, and the model's name."""

    labels: tuple[str, ...]
    events: tuple[str, ...]
    model: str


class ExactScorer:
    """Marginals with certified bounds.

    Args:
        guarded: the guard.
        tries: verdict tries.
        limits: when a content counts as flagged; on raw probabilities, which are what is searched.
        tolerance, max_nodes: see :class:`tokmarg.scoring.exact.ExactSearch`.
        columns: token id -> column of the logits (None = the full vocabulary).
        calibration: what results go through.
        guesses: see :class:`tokmarg.scoring.exact.ExactSearch`.
    """

    def __init__(
        self,
        guarded: GuardInfo,
        tries: Mapping[PromptKey, Trie],
        limits: Thresholds,
        *,
        tolerance: float,
        max_nodes: int,
        columns: Mapping[int, int] | None,
        calibration: Calibration | None = None,
        guesses: BranchPriors | None = None,
    ) -> None:
        self._guarded, self._tries, self._limits, self._calibration = guarded, tries, limits, calibration
        self._tolerance, self._max_nodes, self._columns, self._guesses = tolerance, max_nodes, columns, guesses

    def search(self, prompt: Prompt) -> ExactSearch:
        own = self._limits.labels
        thresholds: dict[str, float | tuple[float, ...]] = {**own, UNSAFE: self._limits.unsafe}
        if prompt.label is not None:  # `unsafe` is that label there, and the highest label is the content's `unsafe`
            thresholds = {UNSAFE: (self._limits.unsafe, own.get(prompt.label, self._limits.unsafe))}
        return ExactSearch(
            self._tries[prompt.role, prompt.label],
            tolerance=self._tolerance,
            max_nodes=self._max_nodes,
            thresholds=thresholds,
            columns=self._columns,
            guesses=self._guesses,
        )

    def result(self, ready: EncodedRecord, searches: Sequence[Sequence[ExactSearch]]) -> Result:
        parts = []
        for prompts, found in zip(ready.windows, searches, strict=True):
            of_prompts = [(prompt.label, search.result()) for prompt, search in zip(prompts, found, strict=True)]
            parts.append(aggregation.join_marginals(of_prompts, self._limits.unsafe))
        marginals = aggregation.join_windows(parts)
        bounds, limits = marginals.bounds, self._limits
        unsafe = _marginal(bounds[UNSAFE], limits.unsafe)
        labels = {k: _marginal(bounds[k], limits.labels.get(k)) if k in bounds else None for k in self._guarded.labels}
        events = {k: _marginal(bounds[k], None) if k in bounds else None for k in self._guarded.events}
        result = Result(
            id=ready.id,
            flagged=unsafe.flagged or any(m.flagged for m in labels.values() if m is not None),
            unsafe=unsafe,
            labels=labels,
            coverage=marginals.coverage,
            converged=marginals.converged,
            method="exact",
            model=self._guarded.model,
            truncated=ready.truncated,
            evaluated_nodes=marginals.evaluated,
            events=events,
            suspicious=ready.suspicious,
        )
        return result if self._calibration is None else self._calibration.apply(result, limits)


def _marginal(bounds: Bounds, threshold: float | None) -> Marginal:
    flagged = threshold is not None and bounds.middle >= threshold
    return Marginal(bounds.middle, bounds.lower, bounds.upper, flagged)


class MethodScorer:
    """A method of :mod:`tokmarg.scoring.methods`.

    Args:
        guarded: the guard.
        readers: read the paths of each trie.
        method: which.
        limits: when a content counts as flagged.
        columns: token id -> column of the logits (None = the full vocabulary).
        settings: of :class:`tokmarg.scoring.methods.Scoring`.
    """

    def __init__(
        self,
        guarded: GuardInfo,
        readers: Mapping[PromptKey, Reader],
        method: Method,
        limits: Thresholds,
        *,
        columns: Mapping[int, int] | None,
        **settings: Any,
    ) -> None:
        self._guarded, self._method, self._limits = guarded, method, limits
        self._scorings = {
            asked: Scoring(method, reader, columns=columns, **settings) for asked, reader in readers.items()
        }

    def search(self, prompt: Prompt) -> Any:
        return self._scorings[prompt.role, prompt.label].search()

    def result(self, ready: EncodedRecord, searches: Sequence[Sequence[Any]]) -> MethodResult:
        parts = []
        for prompts, found in zip(ready.windows, searches, strict=True):
            of_prompts = [
                (prompt.label, self._scorings[prompt.role, prompt.label].scores(search))
                for prompt, search in zip(prompts, found, strict=True)
            ]
            parts.append(aggregation.join_scores(of_prompts))
        scores = methods.join(parts)
        own = {} if scores.uncertainty is not None else self._limits.labels
        return MethodResult(
            id=ready.id,
            flagged=scores.values[UNSAFE] >= self._limits.unsafe
            or any(scores.values.get(label, -1.0) >= limit for label, limit in own.items()),
            scores={event: scores.values.get(event) for event in (*self._guarded.labels, UNSAFE)},
            converged=scores.complete,
            method=self._method,
            model=self._guarded.model,
            truncated=ready.truncated,
            verdict=scores.verdict,
            uncertainty=scores.uncertainty,
            evaluated_nodes=scores.evaluated,
            suspicious=ready.suspicious,
        )
