"""Records to packs to results: encodes contents, groups those that share forward passes, and collects their results.

Record --encode--> EncodedRecord --packs--> [EncodedRecord] --run--> searches --Scorer.result--> Result
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Sequence as GenericSequence
from typing import Any, TypeVar

from tokmarg.engine.batch import PACK_TOKENS
from tokmarg.engine.packed import Engine
from tokmarg.engine.prefix_cache import Prefix, shared_tokens
from tokmarg.engine.sequence import Sequence
from tokmarg.prompt.builder import Prompt, PromptBuilder
from tokmarg.prompt.injection import Suspicions
from tokmarg.prompt.labels import Role
from tokmarg.prompt.messages import Content, Message, Record, messages_of
from tokmarg.prompt.windows import EncodedRecord, longest, windows
from tokmarg.results import MethodResult, Result
from tokmarg.scoring.scorers import Scorer

from .errors import ContentError
from .score_options import OnOverflow

__all__ = ["Pipeline"]

R = TypeVar("R", Result, MethodResult)
#: A record's searches, run to their end: by window, then by prompt.
Searches = GenericSequence[GenericSequence[Any]]


class Pipeline:
    """Scores records in packs.

    Args:
        prompt_builder: makes the prompts.
        suspicions: looks for prompt injection in the contents.
        prefixes: role mode -> policy prefix.
        engine: runs the passes.
    """

    def __init__(
        self, prompt_builder: PromptBuilder, suspicions: Suspicions, prefixes: Mapping[Role, Prefix], engine: Engine
    ) -> None:
        self._prompt_builder, self._suspicions = prompt_builder, suspicions
        self._prefixes, self._engine = prefixes, engine

    def score(
        self, contents: Iterable[Content | Record | ContentError], scorer: Scorer[R], on_overflow: OnOverflow
    ) -> Iterator[list[R | ContentError]]:
        """The results of a stream, one list for each pack; a content that cannot be scored has its error there."""
        for pack in self.packs(contents, on_overflow):
            yield [
                outcome if isinstance(outcome, ContentError) else scorer.result(*outcome)
                for outcome in self.run(pack, scorer.search)
            ]

    def encode(self, content: Content | Record | ContentError, on_overflow: OnOverflow) -> EncodedRecord | ContentError:
        """Encodes a record; the error of one that cannot be scored."""
        if isinstance(content, ContentError):
            return content
        record = content if isinstance(content, Record) else Record(content)
        try:
            return self._encode(record, messages_of(record.content, record.role), on_overflow)
        except ContentError as error:
            error.id = record.id
            return error

    def _encode(self, record: Record, messages: GenericSequence[Message], on_overflow: OnOverflow) -> EncodedRecord:
        try:
            return EncodedRecord(record.id, (self.prompts(messages),), False, self._suspicions.of(messages))
        except ContentError as error:
            if on_overflow != "window" or error.type != "content_too_long":
                raise
        overlapping = tuple(windows(self._prompt_builder, messages))
        if not overlapping:  # a tokenizer may drop every character of a text
            raise ContentError("empty_text", "the last message has no tokens")
        return EncodedRecord(record.id, overlapping, True, self._suspicions.of(messages))

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
        self, contents: Iterable[Content | Record | ContentError], on_overflow: OnOverflow
    ) -> Iterator[list[EncodedRecord | ContentError]]:
        """Consecutive records that share passes. Where a pack ends depends on the records alone."""
        pack: list[EncodedRecord | ContentError] = []
        tokens = 0
        for content in contents:
            record = self.encode(content, on_overflow)
            size = 0 if isinstance(record, ContentError) else self._new_tokens(record)
            if pack and (tokens + size > self._engine.pack_tokens or len(pack) == self._engine.pack_contents):
                yield pack
                pack, tokens = [], 0
            pack.append(record)
            tokens += size
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
                self._engine.run(role, group)
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
