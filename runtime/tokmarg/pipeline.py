"""Records to packs to results: encodes contents, groups those that share forward passes, and collects their results.

Record --encode--> EncodedRecord --packs--> [EncodedRecord] --run--> searches --Scorer.result--> Result
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from collections.abc import Sequence as GenericSequence
from typing import Any

from tokmarg.engine.batch_invariant import BatchInvariantEngine
from tokmarg.engine.cpu import release_free_memory
from tokmarg.engine.packed import PackedEngine
from tokmarg.engine.prompt_cache import PromptCache, new_prompt_cache
from tokmarg.engine.sequence import Sequence
from tokmarg.engine.waiting_line import SequenceGroup, WaitingLine
from tokmarg.grammar.trie import Trie
from tokmarg.prompt.builder import Prompt
from tokmarg.prompt.encoded_record import EncodedRecord
from tokmarg.prompt.injection import InjectionDetector
from tokmarg.prompt.judging import of_record
from tokmarg.prompt.labels import Role
from tokmarg.prompt.messages import Content, Conversation, Message, Record, read_conversation
from tokmarg.prompt.windows import longest, windows
from tokmarg.scoring.exact import ExactSearch

from .branching import WindowSequences, branch_tokens, in_stages, run_together, sequences_of
from .errors import ContentError
from .loading import GuardParts
from .results import MethodResult, Result, Thresholds
from .score_call import ScoreCall, ScoreCalls, Searched
from .score_options import OnOverflow, OnRole, ScoreOptions

__all__ = ["Pipeline", "freeing_memory", "outcomes_of", "searched"]

Engine = BatchInvariantEngine | PackedEngine
Contents = Iterable[Content | Record | ContentError]
#: Of a content beyond the context window, where windows were not asked for.
_WAY_OUT = "(--on-overflow window, on_overflow=window in Python, scores it in overlapping windows)"
#: Bytes of a prompt cache that lives as long as a pack, which is what bounds it.
_NO_LIMIT = 2**62


class Pipeline:
    """Scores records in packs.

    Args:
        parts: of the guard.

    Attributes:
        calls: what scores the records of each call.
    """

    def __init__(self, parts: GuardParts) -> None:
        self._parts, self._prompt_builder, self._prefixes = parts, parts.prompt_builder, parts.prefixes
        self._detector = InjectionDetector(parts.spec, parts.encoder)
        self._engine = self._new_engine(parts.prompt_cache)
        self.calls = ScoreCalls(parts)

    def _new_engine(self, cache: PromptCache[Any] | None) -> Engine:
        kind = BatchInvariantEngine if self._parts.session.graph.by_content else PackedEngine
        return kind(self._parts.session, self._parts.own_policy, cache)

    def score(self, contents: Contents, options: ScoreOptions) -> Iterator[list[Result | MethodResult | ContentError]]:
        """The results of a stream, one list for each pack; a content that cannot be scored has its error there.

        Raises:
            TokmargError: the options do not go with the bundle.
        """
        return self._results(contents, self.calls.of(options))

    def _results(self, contents: Contents, call: ScoreCall) -> Iterator[list[Result | MethodResult | ContentError]]:
        for pack in self.packs(contents, call.options, call.options.on_overflow):
            yield [
                outcome if isinstance(outcome, ContentError) else call.result(outcome)
                for outcome in self.run(pack, call.scorer.search)
            ]

    def groups(self, record: EncodedRecord, search: Callable[[Prompt], Any]) -> list[SequenceGroup]:
        """What the engine runs for a record: a group of sequences for each window, with the searches of its prompts."""
        return [SequenceGroup(window, self._prefixes[record.role]) for window in sequences_of(record, search)]

    def serve(self, line: WaitingLine) -> None:
        """Runs what stands in a line (of :meth:`groups`), until none will come."""
        self._engine.serve(line)

    def unfold(
        self, contents: Iterable[Content | Record], options: ScoreOptions
    ) -> Iterator[list[tuple[Prompt, Trie, ExactSearch]] | ContentError]:
        """Each content's prompts, each with the verdict trie and the search that has expanded it; or the error."""
        scorer = self.calls.exact_scorer(options, Thresholds())
        for pack in self.packs(contents, options):
            for outcome in self.run(pack, scorer.search):
                if isinstance(outcome, ContentError):
                    yield outcome
                else:
                    pairs = zip(outcome.record.windows[0], outcome.searches[0], strict=True)
                    yield [(prompt, self._parts.tries[prompt.role, prompt.label], search) for prompt, search in pairs]

    def encode(
        self, content: Content | Record | ContentError, options: ScoreOptions, on_overflow: OnOverflow | None
    ) -> EncodedRecord | ContentError:
        """Encodes a record; the error of one that cannot be scored."""
        if isinstance(content, ContentError):
            return content
        record = content if isinstance(content, Record) else Record(content)
        try:
            conversation = self.read(record, options.on_role)
            if options.max_tokens is not None:
                self._prompt_builder.check_tokens(conversation.messages, options.max_tokens)
            return self._encode(record, conversation, on_overflow)
        except ContentError as error:
            return of_record(error, record)

    def read(self, record: Record, on_role: OnRole = "skip") -> Conversation:
        """What the guard's template gets of a record.

        Raises:
            ContentError: the record cannot be read.
        """
        template = self._parts.spec.template
        return read_conversation(
            record.content,
            record.role,
            places=template.messages,
            in_turn=template.turns != "any",
            on_role=on_role,
            index=record.index,
        )

    def _encode(self, record: Record, conversation: Conversation, on_overflow: OnOverflow | None) -> EncodedRecord:
        messages = conversation.messages
        truncated = False
        try:
            windows_of: tuple[tuple[Prompt, ...], ...] = (self.prompts(messages),)
        except ContentError as error:
            if on_overflow is None or error.type != "content_too_long":
                raise
            if on_overflow == "error":
                raise ContentError(error.type, f"{error} {_WAY_OUT}") from None
            windows_of, truncated = tuple(windows(self._prompt_builder, messages)), True
            if not windows_of:  # a tokenizer may drop every character of a text
                raise ContentError("empty_text", "the last message has no tokens") from None
        return EncodedRecord(
            record.id,
            windows_of,
            truncated,
            self._detector.detect(messages),
            conversation.skipped,
            record.index,
            None if record.index is None else record.content,
        )

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
        options: ScoreOptions,
        on_overflow: OnOverflow | None = None,
    ) -> Iterator[list[EncodedRecord | ContentError]]:
        """Consecutive records that share passes. Where a pack ends depends on the records alone; records that judge
        messages of one conversation are in one.

        Args:
            contents: what to encode. Where reading them fails, those before come out first, and then the exception.
            options: ``max_tokens`` and ``on_role``.
            on_overflow: as in ``options``; None, for callers that have no windows, is ``error`` without a word of them.
        """
        pack: list[EncodedRecord | ContentError] = []
        tokens, before = 0, None
        try:
            for content in contents:
                record = self.encode(content, options, on_overflow)
                conversation = content.content if isinstance(content, Record) and content.index is not None else None
                size = 0 if isinstance(record, ContentError) else self._new_tokens(record, pack)
                full = tokens + size > self._engine.pack_tokens or len(pack) >= self._engine.pack_contents
                if pack and full and (conversation is None or conversation is not before):
                    yield pack
                    pack, tokens = [], 0
                pack.append(record)
                tokens += size
                before = conversation
        except Exception:  # of the caller's own iterator, or mapping; an interrupt does not wait for a pack
            if pack:
                yield pack
            raise
        if pack:
            yield pack

    def _new_tokens(self, record: EncodedRecord, pack: GenericSequence[EncodedRecord | ContentError]) -> int:
        """Prompt tokens of a record that passes must carry: those after the prefix, and after what prompts share."""
        for each in reversed(pack[-2:]):  # of a user and an assistant in turn
            if record.conversation is None or isinstance(each, ContentError) or each.role != record.role:
                continue
            if each.conversation is record.conversation:
                return sum(branch_tokens(each.windows[0][0], prompt) for prompt in record.windows[0])
        count = 0
        for trunk, *others in record.windows:
            count += len(trunk.token_ids) - self._prefixes[trunk.role].shared(trunk.token_ids)
            count += sum(branch_tokens(trunk, other) for other in others)
        return count

    def run(
        self, pack: GenericSequence[EncodedRecord | ContentError], search: Callable[[Prompt], Any]
    ) -> Iterator[Searched | ContentError]:
        """Runs the searches of a pack.

        Args:
            pack: of :meth:`packs`.
            search: makes the search of a prompt.

        Yields:
            each record with its searches; or its error.
        """
        records = {i: record for i, record in enumerate(pack) if isinstance(record, EncodedRecord)}
        sequences = {i: sequences_of(record, search) for i, record in records.items()}
        stages = in_stages(pack)
        engine = self._engine_for_branches([records[i] for i in stages.trunks])
        for places, with_engine in ((stages.alone, self._engine), (stages.trunks, engine), (stages.branches, engine)):
            by_role: dict[Role, list[list[Sequence[Any]]]] = {}
            for i in places:
                by_role.setdefault(records[i].role, []).extend(sequences[i])
            for role, windows_of_role in by_role.items():
                for together in run_together(windows_of_role):
                    with_engine.run([SequenceGroup(window, self._prefixes[role]) for window in together])
        for i, record in enumerate(pack):
            yield record if isinstance(record, ContentError) else searched(record, sequences[i])

    def _engine_for_branches(self, trunks: GenericSequence[EncodedRecord]) -> Engine:
        """The engine, or one with a prompt cache of its own where the guard's does not hold the trunks."""
        tokens = sum(len(trunk.windows[0][0].token_ids) for trunk in trunks)
        cache = self._parts.prompt_cache
        if not trunks or (cache is not None and cache.max_tokens >= 2 * tokens):  # and what branches add
            return self._engine
        return self._new_engine(new_prompt_cache(self._parts.session.graph, _NO_LIMIT))


def searched(record: EncodedRecord, windows: WindowSequences) -> Searched | ContentError:
    """A record with its searches, once the engine has run its sequences; or its error."""
    for sequence in itertools.chain.from_iterable(windows):
        if sequence.error is not None:
            sequence.error.id, sequence.error.index = record.id, record.index
            sequence.error.role = None if record.index is None else record.role
            return sequence.error
    return Searched(record, [[each.search for each in window] for window in windows], windows[0][0].carried)


def outcomes_of(
    packs: Iterator[list[Result | MethodResult | ContentError]], raising: bool
) -> Iterator[Result | MethodResult | ContentError]:
    """The outcomes of packs, one by one; with ``raising``, errors are raised."""
    for pack in packs:
        for outcome in pack:
            if raising and isinstance(outcome, ContentError):
                raise outcome
            yield outcome


def freeing_memory(packs: Iterator[list[Any]]) -> Iterator[list[Any]]:
    """The packs; after the last one free memory goes back to the system."""
    count = 0
    for pack in packs:
        count += len(pack)
        yield pack
    if count > 1:  # one content leaves little behind, and the next one takes that
        release_free_memory()
