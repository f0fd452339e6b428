"""Records to packs to results: encodes contents, groups those that share forward passes, and collects their results.

Record --encode--> EncodedRecord --packs--> [EncodedRecord] --run--> searches --Scorer.result--> Result
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from collections.abc import Sequence as GenericSequence
from functools import cached_property
from typing import Any

from tokmarg.engine.batch import PACK_TOKENS
from tokmarg.engine.batch_invariant import BatchInvariantEngine
from tokmarg.engine.packed import PackedEngine
from tokmarg.engine.prefix import shared_tokens
from tokmarg.engine.sequence import Sequence
from tokmarg.grammar.trie import Trie
from tokmarg.prompt.builder import Prompt, PromptKey
from tokmarg.prompt.encoded_record import EncodedRecord
from tokmarg.prompt.injection import InjectionDetector
from tokmarg.prompt.labels import Role
from tokmarg.prompt.messages import Content, Message, Record, messages_of
from tokmarg.prompt.windows import longest, windows
from tokmarg.scoring.exact import ExactSearch
from tokmarg.scoring.first_label import FirstLabelSearch
from tokmarg.scoring.free_decoding import PathReader
from tokmarg.scoring.methods import UNCERTAINTIES, WHOLE_VOCABULARY
from tokmarg.scoring.scorers import ExactScorer, GuardInfo, MethodScorer, Scorer

from .errors import ContentError, OptionError, SpecError, TokmargError
from .loading import GuardParts
from .results import METHODS, Method, MethodResult, Result, Thresholds
from .score_options import OnOverflow, ScoreOptions

__all__ = ["Pipeline"]

#: A record's searches, run to their end: by window, then by prompt.
Searches = GenericSequence[GenericSequence[Any]]
Contents = Iterable[Content | Record | ContentError]
#: Of a content beyond the context window, where windows were not asked for.
_WAY_OUT = "(--on-overflow window, on_overflow=window in Python, scores it in overlapping windows)"


class Pipeline:
    """Scores records in packs.

    Args:
        parts: of the guard.
    """

    def __init__(self, parts: GuardParts) -> None:
        self._parts, self._prompt_builder, self._prefixes = parts, parts.prompt_builder, parts.prefixes
        self._columns = parts.bundle.manifest.graph.columns
        self._detector = InjectionDetector(parts.spec, parts.encoder)
        kind = BatchInvariantEngine if parts.session.graph.by_content else PackedEngine
        self._engine: BatchInvariantEngine | PackedEngine = kind(parts.session, parts.own_policy)
        labels = tuple(label.id for label in parts.spec.labels)
        self._info = GuardInfo(labels, parts.spec.events, parts.bundle.manifest.model_id)

    def score(self, contents: Contents, options: ScoreOptions) -> Iterator[list[Result | MethodResult | ContentError]]:
        """The results of a stream, one list for each pack; a content that cannot be scored has its error there.

        Raises:
            TokmargError: the options do not go with the bundle.
        """
        self.check_method(options.method)
        return self._results(contents, self.scorer(options), options)

    def _results(
        self, contents: Contents, scorer: Scorer[Any], options: ScoreOptions
    ) -> Iterator[list[Result | MethodResult | ContentError]]:
        calibration = self._parts.calibration if options.method == "exact" else None
        thresholds = self._raw_thresholds(options)
        for pack in self.packs(contents, options.max_tokens, options.on_overflow):
            outcomes: list[Result | MethodResult | ContentError] = []
            for outcome in self.run(pack, scorer.search):
                if isinstance(outcome, ContentError):
                    outcomes.append(outcome)
                else:
                    result = scorer.result(*outcome)
                    outcomes.append(result if calibration is None else calibration.apply(result, thresholds))
            yield outcomes

    def unfold(
        self, contents: Iterable[Content | Record], options: ScoreOptions
    ) -> Iterator[list[tuple[Prompt, Trie, ExactSearch]] | ContentError]:
        """Each content's prompts, each with the verdict trie and the search that has expanded it; or the error."""
        scorer = self._exact_scorer(options, Thresholds())
        for pack in self.packs(contents, options.max_tokens):
            for outcome in self.run(pack, scorer.search):
                if isinstance(outcome, ContentError):
                    yield outcome
                else:
                    record, searches = outcome
                    pairs = zip(record.windows[0], searches[0], strict=True)
                    yield [(prompt, self._parts.tries[prompt.role, prompt.label], search) for prompt, search in pairs]

    def scorer(self, options: ScoreOptions) -> Scorer[Any]:
        """What searches each prompt and makes the results of one call.

        Raises:
            TokmargError: the options do not go with the bundle.
        """
        spec, thresholds = self._parts.spec, options.thresholds
        if thresholds and (unknown := sorted(set(thresholds.labels) - set(self._info.labels))):
            raise SpecError(f"threshold for {unknown[0]!r}, which is no label of {spec.name}")
        if options.method != "exact":
            default = Thresholds(spec.threshold)
            return MethodScorer(self._info, self._readers, thresholds or default, options, columns=self._columns)
        return self._exact_scorer(options, self._raw_thresholds(options))

    def _raw_thresholds(self, options: ScoreOptions) -> Thresholds:
        """Thresholds on raw probabilities, which are what is searched."""
        calibration, thresholds = self._parts.calibration, options.thresholds
        if calibration is None:
            return thresholds or Thresholds(self._parts.spec.threshold)
        return calibration.thresholds() if thresholds is None else calibration.raw_thresholds(thresholds)

    def _exact_scorer(self, options: ScoreOptions, thresholds: Thresholds) -> ExactScorer:
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

    def encode(
        self, content: Content | Record | ContentError, max_tokens: int | None, on_overflow: OnOverflow | None
    ) -> EncodedRecord | ContentError:
        """Encodes a record; the error of one that cannot be scored."""
        if isinstance(content, ContentError):
            return content
        record = content if isinstance(content, Record) else Record(content)
        try:
            messages = messages_of(record.content, record.role)
            if max_tokens is not None:
                self._prompt_builder.check_tokens(messages, max_tokens)
            return self._encode(record, messages, on_overflow)
        except ContentError as error:
            error.id = record.id
            return error

    def _encode(
        self, record: Record, messages: GenericSequence[Message], on_overflow: OnOverflow | None
    ) -> EncodedRecord:
        try:
            return EncodedRecord(record.id, (self.prompts(messages),), False, self._detector.detect(messages))
        except ContentError as error:
            if on_overflow is None or error.type != "content_too_long":
                raise
            if on_overflow == "error":
                raise ContentError(error.type, f"{error} {_WAY_OUT}") from None
        overlapping = tuple(windows(self._prompt_builder, messages))
        if not overlapping:  # a tokenizer may drop every character of a text
            raise ContentError("empty_text", "the last message has no tokens")
        return EncodedRecord(record.id, overlapping, True, self._detector.detect(messages))

    def prompts(self, messages: GenericSequence[Message]) -> tuple[Prompt, ...]:
        """The prompts of a content that fits into the context window.

        Raises:
            ContentError: it does not, or cannot be scored for another reason.
        """
        prompts = self._prompt_builder.prompts(messages)
        if (tokens := longest(prompts)) > self._prompt_builder.max_tokens:
            raise self._prompt_builder.too_long(f"{tokens:,} tokens with the prompt")
        return prompts

    def packs(
        self,
        contents: Iterable[Content | Record | ContentError],
        max_tokens: int | None,
        on_overflow: OnOverflow | None = None,
    ) -> Iterator[list[EncodedRecord | ContentError]]:
        """Consecutive records that share passes. Where a pack ends depends on the records alone.

        Args:
            contents: what to encode. Where reading them fails, those before come out first, and then the exception.
            max_tokens: as in :class:`ScoreOptions`.
            on_overflow: the same; None, for callers that have no windows, is ``error`` without a word of them.
        """
        pack: list[EncodedRecord | ContentError] = []
        tokens = 0
        try:
            for content in contents:
                record = self.encode(content, max_tokens, on_overflow)
                size = 0 if isinstance(record, ContentError) else self._new_tokens(record)
                if pack and (tokens + size > self._engine.pack_tokens or len(pack) == self._engine.pack_contents):
                    yield pack
                    pack, tokens = [], 0
                pack.append(record)
                tokens += size
        except Exception:  # of the caller's own iterator, or mapping; an interrupt does not wait for a pack
            if pack:
                yield pack
            raise
        if pack:
            yield pack

    def _new_tokens(self, record: EncodedRecord) -> int:
        """Prompt tokens of a record that passes must carry: those after the prefix, and after what prompts share."""
        count = 0
        for trunk, *others in record.windows:
            count += len(trunk.token_ids) - self._prefixes[trunk.role].shared(trunk.token_ids)
            count += sum(len(p.token_ids) - shared_tokens(trunk.token_ids, p.token_ids) for p in others)
        return count

    def run(
        self, pack: GenericSequence[EncodedRecord | ContentError], search: Callable[[Prompt], Any]
    ) -> Iterator[tuple[EncodedRecord, Searches] | ContentError]:
        """Runs the searches of a pack.

        Args:
            pack: of :meth:`packs`.
            search: makes the search of a prompt.

        Yields:
            each record with its searches; or its error.
        """
        sequences: dict[int, list[list[Sequence[Any]]]] = {}  # place in the pack -> of each window
        by_role: dict[Role, list[list[Sequence[Any]]]] = {}
        for i, record in enumerate(pack):
            if isinstance(record, EncodedRecord):
                sequences[i] = [_branches(prompts, search) for prompts in record.windows]
                by_role.setdefault(record.role, []).extend(sequences[i])
        for role, of_role in by_role.items():
            for group in _groups(of_role):
                self._engine.run(self._prefixes[role], group)
        for i, record in enumerate(pack):
            if isinstance(record, ContentError):
                yield record
            elif errors := [each.error for each in itertools.chain(*sequences[i]) if each.error is not None]:
                errors[0].id = record.id
                yield errors[0]
            else:
                yield record, [[each.search for each in window] for window in sequences[i]]


def _branches(prompts: GenericSequence[Prompt], search: Callable[[Prompt], Any]) -> list[Sequence[Any]]:
    """One sequence for each prompt of a content; the later ones branch off the first."""
    sequences: list[Sequence[Any]] = []
    for prompt in prompts:
        trunk = sequences[0] if sequences else None
        sequences.append(Sequence(prompt.token_ids, search(prompt), trunk=trunk))
    return sequences


def _groups(windows: GenericSequence[GenericSequence[Sequence[Any]]]) -> Iterator[list[Sequence[Any]]]:
    """Sequences that run together. Windows of one long content run one by one: together they would not fit the memory
    of a pass."""
    for long, group in itertools.groupby(windows, lambda window: len(window[0].token_ids) > 2 * PACK_TOKENS):
        if long:
            yield from (list(window) for window in group)
        else:
            yield list(itertools.chain(*group))
