"""Scoring methods other than ``exact``: the search that each runs, and the scores that it gives.

    greedy                   1 for each event that the generated verdict names, else 0
    token                    probability of the token that completes a label of the generated verdict
    fixed-place              running product of those probabilities
    any-place                mass of all nucleus paths at the places where they complete a label
    probability-uncertainty  probabilities of the first label after the forced ``unsafe``, and an uncertainty; at a cut
    entropy-uncertainty      fitted on data (:func:`tokmarg.scoring.uncertainty.fit_cut`) it decides whether one label
    logtoku                  or two are predicted

The first four read the whole vocabulary, so they need the ``full`` head. Sources: arXiv:2511.22312 (``token``,
``fixed-place`` and ``any-place`` are its methods 1, 2 and 3); Ma et al. 2025 (``logtoku``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tokmarg.grammar.grammar import UNSAFE
from tokmarg.results import Method
from tokmarg.score_options import ScoreOptions

from .any_place import AnyPlaceSearch
from .first_label import FirstLabelSearch
from .free_decoding import PathReader
from .greedy import GreedySearch
from .method_scores import MethodScores
from .probabilities import softmax
from .uncertainty import entropy_uncertainty, logtoku, probability_uncertainty

__all__ = ["UNCERTAINTIES", "WHOLE_VOCABULARY", "MethodSearch", "ScoringMethod"]

#: Methods that read every token's probability.
WHOLE_VOCABULARY: tuple[Method, ...] = ("token", "fixed-place", "any-place", "greedy")
UNCERTAINTIES: Mapping[Method, Callable[..., float]] = {
    "probability-uncertainty": probability_uncertainty,
    "entropy-uncertainty": entropy_uncertainty,
    "logtoku": logtoku,
}

MethodSearch = GreedySearch | AnyPlaceSearch | FirstLabelSearch


class ScoringMethod:
    """One method with its options, for one role mode: makes searches, and reads scores from those that have ended.

    Args:
        reader: of the role mode.
        options: ``method`` (not ``exact``, which is :class:`tokmarg.scoring.exact.ExactSearch`), ``top_p``, ``eps`` and
            ``max_depth``.
        columns: token id -> column of the logits (None = the full vocabulary).
    """

    def __init__(self, reader: PathReader, options: ScoreOptions, columns: Mapping[int, int] | None) -> None:
        self._reader, self._options, self._columns = reader, options, columns

    def search(self) -> MethodSearch:
        """The search for a new prompt.

        Raises:
            SpecError: the verdict grammar has no place for the method.
        """
        options = self._options
        if options.method in UNCERTAINTIES:
            return FirstLabelSearch(self._reader.trie, self._columns)
        if options.method == "any-place":
            return AnyPlaceSearch(self._reader, top_p=options.top_p, eps=options.eps, max_depth=options.max_depth)
        return GreedySearch(self._reader, options.max_depth)

    def scores(self, search: MethodSearch) -> MethodScores:
        """The scores of a search that has ended."""
        method = self._options.method
        labels = [label.id for label in self._reader.trie.grammar.labels]
        if isinstance(search, FirstLabelSearch):
            z = search.logits()
            values = dict(zip(labels, softmax(z).tolist(), strict=True)) | {UNSAFE: search.unsafe()}
            return MethodScores(values, True, search.evaluated, uncertainty=UNCERTAINTIES[method](z))
        zeros = dict.fromkeys([*labels, UNSAFE], 0.0)
        if isinstance(search, AnyPlaceSearch):
            return MethodScores(zeros | search.scores(), not search.exhausted, search.evaluated)
        completed = search.fixed_place_scores if method == "fixed-place" else search.token_scores
        if method == "greedy":
            completed = dict.fromkeys(completed, 1.0)
        return MethodScores(zeros | completed, search.ended, search.path.depth, verdict=search.text)
