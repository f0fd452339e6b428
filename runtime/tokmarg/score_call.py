"""What scores the records of one call: the scorer of its method and options, and the calibration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

from tokmarg.calibration.calibration import Calibration
from tokmarg.calibration.prior_shift import with_prior
from tokmarg.engine.sequence import Carried
from tokmarg.prompt.builder import PromptKey
from tokmarg.prompt.encoded_record import EncodedRecord
from tokmarg.scoring.first_label import FirstLabelSearch
from tokmarg.scoring.free_decoding import PathReader
from tokmarg.scoring.methods import UNCERTAINTIES, WHOLE_VOCABULARY
from tokmarg.scoring.scorers import ExactScorer, GuardInfo, MethodScorer, Scorer

from .errors import OptionError, SpecError, TokmargError
from .loading import GuardParts
from .results import METHODS, Method, MethodResult, Result, Thresholds, Work
from .score_options import ScoreOptions

__all__ = ["ScoreCall", "ScoreCalls", "Searched"]


class Searched(NamedTuple):
    """A record whose searches have run to their end.

    Attributes:
        record: as given.
        searches: by window, then by prompt.
        carried: by passes, for all of them.
    """

    record: EncodedRecord
    searches: Sequence[Sequence[Any]]
    carried: Carried


@dataclass(frozen=True, slots=True)
class ScoreCall:
    """What scores the records of one call.

    Attributes:
        scorer: searches each prompt.
        options: as given.
        calibration: that results go through, or None.
        thresholds: on raw probabilities.
    """

    scorer: Scorer[Any]
    options: ScoreOptions
    calibration: Calibration | None
    thresholds: Thresholds

    def result(self, searched: Searched) -> Result | MethodResult:
        """The result of a record."""
        result: Result | MethodResult = self.scorer.result(searched.record, searched.searches)
        if self.options.work:
            result = replace(
                result, work=Work(searched.carried.passes, searched.carried.tokens, result.evaluated_nodes)
            )
        if self.calibration is None or not isinstance(result, Result):
            return result
        return self.calibration.apply(result, self.thresholds)


class ScoreCalls:
    """Makes what scores the records of each call.

    Args:
        parts: of the guard.
    """

    def __init__(self, parts: GuardParts) -> None:
        self._parts, self._columns = parts, parts.bundle.manifest.graph.columns
        labels = tuple(label.id for label in parts.spec.labels)
        self._info = GuardInfo(labels, parts.spec.events, parts.bundle.manifest.model_id)

    def of(self, options: ScoreOptions) -> ScoreCall:
        """What scores the records of one call.

        Raises:
            TokmargError: the options do not go with the bundle.
        """
        self.check_method(options.method)
        is_exact, thresholds = options.method == "exact", options.thresholds
        # A prior that nothing can be shifted to is refused here.
        calibration = with_prior(self._parts.calibration, options.prior) if is_exact else None
        if thresholds and (unknown := sorted(set(thresholds.labels) - set(self._info.labels))):
            raise SpecError(f"threshold for {unknown[0]!r}, which is no label of {self._parts.spec.name}")
        if calibration is None:
            raw = thresholds or Thresholds(self._parts.spec.threshold)
        else:  # raw probabilities are what is searched
            raw = calibration.thresholds() if thresholds is None else calibration.raw_thresholds(thresholds)
        scorer = self.exact_scorer(options, raw) if is_exact else self._method_scorer(options, raw)
        return ScoreCall(scorer, options, calibration, raw)

    def _method_scorer(self, options: ScoreOptions, thresholds: Thresholds) -> MethodScorer:
        if options.prior is not None:
            raise OptionError(f"prior is for the method exact, not {options.method}, whose scores are not calibrated")
        return MethodScorer(self._info, self._readers, thresholds, options, columns=self._columns)

    def exact_scorer(self, options: ScoreOptions, thresholds: Thresholds) -> ExactScorer:
        priors = self._parts.branch_priors
        return ExactScorer(
            self._info, self._parts.tries, thresholds, options, columns=self._columns, branch_priors=priors
        )

    def check_method(self, method: Method) -> None:
        """Checks that a method goes with the bundle.

        Raises:
            TokmargError: it does not; says why.
        """
        path = self._parts.bundle.path
        if method not in METHODS:
            raise OptionError(f"method {method!r:.60} is not one of {', '.join(METHODS)}")
        if method in WHOLE_VOCABULARY and self._columns is not None:
            raise TokmargError(
                f"{path}: method {method} reads the probabilities of the whole vocabulary, but the bundle has "
                "the verdict head: export it with --head full"
            )
        if method in UNCERTAINTIES:
            for (role, _), reader in self._readers.items():
                try:
                    FirstLabelSearch(reader.trie)
                except SpecError as error:
                    raise SpecError(f"{path}: method {method}: {error} ({role} messages)") from None

    @cached_property
    def _readers(self) -> dict[PromptKey, PathReader]:
        terminators = self._parts.spec.verdict.terminators
        return {key: PathReader(trie, self._parts.encoder, terminators) for key, trie in self._parts.tries.items()}
