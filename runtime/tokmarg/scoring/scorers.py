"""Scorers: the search that each prompt of a content gets, and the result that a content's searches make.

    Scorer          the protocol that the guard and its pipeline use
    ExactScorer     marginals with certified bounds -> Result
    MethodScorer    the other methods -> MethodResult

Results are raw: a calibration, where a guard has one, is applied by the guard.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from tokmarg.grammar.branch_priors import BranchPriors
from tokmarg.grammar.grammar import UNSAFE
from tokmarg.grammar.trie import Trie
from tokmarg.prompt.builder import Prompt, PromptKey
from tokmarg.prompt.encoded_record import EncodedRecord
from tokmarg.results import Marginal, MethodResult, Result, Thresholds, any_flagged
from tokmarg.score_options import ScoreOptions

from .aggregation import join_label_marginals, join_label_scores, join_window_marginals, join_window_scores
from .exact import Bounds, ExactSearch
from .free_decoding import PathReader
from .methods import MethodSearch, ScoringMethod

__all__ = ["ExactScorer", "GuardInfo", "MethodScorer", "Scorer"]

R = TypeVar("R", Result, MethodResult, covariant=True)


class Scorer(Protocol, Generic[R]):
    """Scoring by one method, with the options of one call."""

    def search(self, prompt: Prompt) -> Any:
        """A search for the prompt, see :class:`tokmarg.engine.sequence.Search`."""

    def result(self, record: EncodedRecord, searches: Sequence[Sequence[Any]]) -> R:
        """The raw result of a record, given its searches by window and prompt."""


@dataclass(frozen=True, slots=True)
class GuardInfo:
    """Facts about the guard that every result repeats.

    Attributes:
        labels: label ids, in the policy's order.
        events: names of the other events, without ``unsafe``.
        model: the model's name.
    """

    labels: tuple[str, ...]
    events: tuple[str, ...]
    model: str


class ExactScorer:
    """Marginals with certified bounds.

    Args:
        guard: labels, events and model.
        tries: verdict tries.
        thresholds: when a content counts as flagged, on raw probabilities; those of ``options`` are not read, as they
            may be meant for calibrated ones.
        options: ``tolerance`` and ``max_nodes``, see :class:`tokmarg.scoring.exact.ExactSearch`.
        columns: token id -> column of the logits (None = the full vocabulary).
        branch_priors: see :class:`tokmarg.scoring.exact.ExactSearch`.
    """

    def __init__(
        self,
        guard: GuardInfo,
        tries: Mapping[PromptKey, Trie],
        thresholds: Thresholds,
        options: ScoreOptions,
        *,
        columns: Mapping[int, int] | None,
        branch_priors: BranchPriors | None = None,
    ) -> None:
        self._guard, self._tries, self._thresholds, self._options = guard, tries, thresholds, options
        self._columns, self._branch_priors = columns, branch_priors

    def search(self, prompt: Prompt) -> ExactSearch:
        unsafe, labels = self._thresholds.unsafe, self._thresholds.labels
        thresholds: dict[str, float | tuple[float, ...]] = {**labels, UNSAFE: unsafe}
        if prompt.label is not None:  # its `unsafe` is the label, and the highest label is the content's `unsafe`
            thresholds = {UNSAFE: (unsafe, labels.get(prompt.label, unsafe))}
        return ExactSearch(
            self._tries[prompt.role, prompt.label],
            tolerance=self._options.tolerance,
            max_nodes=self._options.max_nodes,
            thresholds=thresholds,
            columns=self._columns,
            branch_priors=self._branch_priors,
        )

    def result(self, record: EncodedRecord, searches: Sequence[Sequence[ExactSearch]]) -> Result:
        thresholds, windows = self._thresholds, []
        for prompts, of_window in zip(record.windows, searches, strict=True):
            by_label = [(prompt.label, search.result()) for prompt, search in zip(prompts, of_window, strict=True)]
            windows.append(join_label_marginals(by_label, thresholds.unsafe))
        marginals = join_window_marginals(windows)
        bounds = marginals.bounds
        unsafe = _marginal(bounds[UNSAFE], thresholds.unsafe)
        labels = {
            label: _marginal(bounds[label], thresholds.labels.get(label)) if label in bounds else None
            for label in self._guard.labels
        }
        return Result(
            id=record.id,
            flagged=any_flagged(unsafe, labels.values()),
            unsafe=unsafe,
            labels=labels,
            coverage=marginals.coverage,
            converged=marginals.converged,
            method="exact",
            model=self._guard.model,
            truncated=record.truncated,
            evaluated_nodes=marginals.evaluated,
            events={k: _marginal(bounds[k], None) if k in bounds else None for k in self._guard.events},
            suspicious=record.suspicious,
            skipped=record.skipped,
            index=record.index,
            role=None if record.index is None else record.role,
        )


def _marginal(bounds: Bounds, threshold: float | None) -> Marginal:
    flagged = threshold is not None and bounds.middle >= threshold
    return Marginal(bounds.middle, bounds.lower, bounds.upper, flagged)


class MethodScorer:
    """A method of :mod:`tokmarg.scoring.methods`.

    Args:
        guard: labels and model.
        readers: read the paths of each trie.
        thresholds: when a content counts as flagged, on the method's scores; those of ``options`` are not read.
        options: see :class:`tokmarg.scoring.methods.ScoringMethod`.
        columns: token id -> column of the logits (None = the full vocabulary).
    """

    def __init__(
        self,
        guard: GuardInfo,
        readers: Mapping[PromptKey, PathReader],
        thresholds: Thresholds,
        options: ScoreOptions,
        *,
        columns: Mapping[int, int] | None,
    ) -> None:
        self._guard, self._thresholds, self._method = guard, thresholds, options.method
        self._methods = {key: ScoringMethod(reader, options, columns) for key, reader in readers.items()}

    def search(self, prompt: Prompt) -> MethodSearch:
        return self._methods[prompt.role, prompt.label].search()

    def result(self, record: EncodedRecord, searches: Sequence[Sequence[MethodSearch]]) -> MethodResult:
        windows = []
        for prompts, of_window in zip(record.windows, searches, strict=True):
            by_label = [
                (prompt.label, self._methods[prompt.role, prompt.label].scores(search))
                for prompt, search in zip(prompts, of_window, strict=True)
            ]
            windows.append(join_label_scores(by_label))
        scores = join_window_scores(windows)
        # Label scores of a method with an uncertainty are conditional on `unsafe` and flag nothing.
        label_thresholds = {} if scores.uncertainty is not None else self._thresholds.labels
        return MethodResult(
            id=record.id,
            flagged=scores.values[UNSAFE] >= self._thresholds.unsafe
            or any(scores.values.get(label, -1.0) >= limit for label, limit in label_thresholds.items()),
            scores={event: scores.values.get(event) for event in (*self._guard.labels, UNSAFE)},
            converged=scores.complete,
            method=self._method,
            model=self._guard.model,
            truncated=record.truncated,
            verdict=scores.verdict,
            uncertainty=scores.uncertainty,
            evaluated_nodes=scores.evaluated,
            suspicious=record.suspicious,
            skipped=record.skipped,
            index=record.index,
            role=None if record.index is None else record.role,
        )
