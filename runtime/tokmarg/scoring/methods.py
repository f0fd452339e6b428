"""The scoring methods beside ``exact``: which search each runs, and the numbers that come out of it.

    greedy                   1 for what the generated verdict names, else 0
    token                    probability of the token that completes a label of the generated verdict
    fixed-place              running product of those probabilities
    any-place                mass of all nucleus paths at the places where they complete a label
    probability-uncertainty  probabilities of the first label behind the forced ``unsafe``, and an uncertainty that
    entropy-uncertainty      says, at a cut fitted on data (:func:`tokmarg.scoring.uncertainty.fit_cut`), whether one
    label logtoku                  or two are predicted

The first four read the whole vocabulary, so they need the ``full`` head. Sources: arXiv:2511.22312; Ma et al. 2025.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from tokmarg.grammar.grammar import UNSAFE
from tokmarg.results import Method

from .any_place import AnyPlace
from .first_label import FirstLabel
from .free_decoding import Reader
from .greedy import Greedy
from .uncertainty import entropy_uncertainty, logtoku, probability_uncertainty, softmax

__all__ = ["UNCERTAINTIES", "WHOLE_VOCABULARY", "Scores", "Scoring", "join"]

#: Methods that read every token's probability.
WHOLE_VOCABULARY: tuple[Method, ...] = ("token", "fixed-place", "any-place", "greedy")
UNCERTAINTIES: Mapping[Method, Callable[..., float]] = {
    "probability-uncertainty": probability_uncertainty,
    "entropy-uncertainty": entropy_uncertainty,
    "logtoku": logtoku,
}


@dataclass(frozen=True, slots=True)
class Scores:
    """What a method says of one content.

    Attributes:
        values: every label of the role mode, and ``unsafe`` -> score.
        complete: nothing was cut off by ``max_depth`` (generated verdicts) or the budget (any-place).
        evaluated: token paths at which the model was evaluated.
        verdict: the generated text, where the method generates one.
        uncertainty: where the method has one; NaN where its formula has no value.
    """

    values: Mapping[str, float]
    complete: bool
    evaluated: int
    verdict: str | None = None
    uncertainty: float | None = None


class Scoring:
    """One method with its settings, for one role mode.

    Args:
        method: not ``exact``, which is :class:`tokmarg.scoring.exact.ExactSearch`.
        reader: of the role mode.
        columns: token id -> column of the logits (None = the full vocabulary).
        top_p, eps, max_depth: see :class:`AnyPlace` and :class:`Greedy`.
    """

    def __init__(
        self,
        method: Method,
        reader: Reader,
        *,
        columns: Mapping[int, int] | None,
        top_p: float,
        eps: float,
        max_depth: int,
    ) -> None:
        self._method, self._reader, self._columns = method, reader, columns
        self._top_p, self._eps, self._max_depth = top_p, eps, max_depth

    def search(self) -> Greedy | AnyPlace | FirstLabel:
        """The search for a new content.

        Raises:
            SpecError: the verdict grammar has no place for the method.
        """
        if self._method in UNCERTAINTIES:
            return FirstLabel(self._reader.trie, self._columns)
        if self._method == "any-place":
            return AnyPlace(self._reader, top_p=self._top_p, eps=self._eps, max_depth=self._max_depth)
        return Greedy(self._reader, self._max_depth)

    def scores(self, search: Greedy | AnyPlace | FirstLabel) -> Scores:
        """The scores of a search that has ended."""
        labels = [label for label, _ in self._reader.trie.grammar.labels]
        if isinstance(search, FirstLabel):
            z = search.logits()
            values = dict(zip(labels, softmax(z).tolist(), strict=True)) | {UNSAFE: search.unsafe()}
            return Scores(values, True, search.evaluated, uncertainty=UNCERTAINTIES[self._method](z))
        zeros = dict.fromkeys([*labels, UNSAFE], 0.0)
        if isinstance(search, AnyPlace):
            return Scores(zeros | search.scores(), not search.exhausted, search.evaluated)
        found = search.fixed_place_scores if self._method == "fixed-place" else search.token_scores
        if self._method == "greedy":
            found = dict.fromkeys(found, 1.0)
        return Scores(zeros | found, search.ended, search.path.depth, verdict=search.text)


def join(parts: Sequence[Scores]) -> Scores:
    """The scores of a content in windows: the highest of each label; verdict and uncertainty are those of the window
    whose ``unsafe`` is highest, and so are the labels of a method with an uncertainty (they are conditional on it)."""
    top = max(parts, key=lambda part: part.values[UNSAFE])
    values = top.values
    if top.uncertainty is None:
        values = {event: max(part.values[event] for part in parts) for event in values}
    evaluated = sum(part.evaluated for part in parts)
    return replace(top, values=values, complete=all(part.complete for part in parts), evaluated=evaluated)
