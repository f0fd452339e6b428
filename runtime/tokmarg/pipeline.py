"""Records to prompts to passes: what is encoded, and what shares passes with what."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Sequence as GenericSequence
from typing import Any

from tokmarg.engine.batch import PACK_TOKENS
from tokmarg.engine.packed import Engine
from tokmarg.engine.prefix_cache import Prefix, shared_tokens
from tokmarg.engine.sequence import Sequence
from tokmarg.prompt.builder import Prompt, PromptBuilder
from tokmarg.prompt.injection import Suspicions
from tokmarg.prompt.labels import Role
from tokmarg.prompt.messages import Content, Message, Record, messages_of
from tokmarg.prompt.windows import EncodedRecord, longest, windows

from .errors import ContentError
from .score_options import OnOverflow

__all__ = ["Pipeline"]


class Pipeline:
    """Encodes records and runs them in packs.

    Args:
        prompter: makes the prompts.
        suspicions: looks at the contents.
        prefixes: role mode -> stored policy prefix.
        engine: runs them.
    """

    def __init__(
        self, prompter: PromptBuilder, suspicions: Suspicions, prefixes: Mapping[Role, Prefix], engine: Engine
    ) -> None:
        self._prompter, self._suspicions, self._prefixes, self._engine = prompter, suspicions, prefixes, engine

    def ready(self, content: Content | Record | ContentError, on_overflow: OnOverflow) -> EncodedRecord | ContentError:
        """Encodes a record; the error of one that cannot be scored."""
        if isinstance(content, ContentError):
            return content
        record = content if isinstance(content, Record) else Record(content)
        try:
            return self._encoded(record, messages_of(record.content, record.role), on_overflow)
        except ContentError as error:
            error.id = record.id
            return error

    def whole(self, messages: GenericSequence[Message]) -> tuple[Prompt, ...]:
        """The prompts of a content that fits.

        Raises:
            ContentError: it does not, or cannot be scored for another reason.
        """
        prompts = self._prompter.prompts(messages)
        if (tokens := longest(prompts)) > self._prompter.max_tokens:
            raise self._prompter.too_long(f"{tokens:,} tokens with the prompt")
        return prompts

    def _encoded(self, record: Record, messages: GenericSequence[Message], on_overflow: OnOverflow) -> EncodedRecord:
        try:
            return EncodedRecord(record.id, (self.whole(messages),), False, self._suspicions.of(messages))
        except ContentError as error:
            if on_overflow != "window" or error.type != "content_too_long":
                raise
        found = tuple(windows(self._prompter, messages))
        if not found:  # a tokenizer may drop every character of a text
            raise ContentError("empty_text", "the last message has no tokens")
        return EncodedRecord(record.id, found, True, self._suspicions.of(messages))

    def packs(self, records: Iterable[EncodedRecord | ContentError]) -> Iterator[list[EncodedRecord | ContentError]]:
        """Consecutive records that share passes. Where a pack ends depends on the records alone."""
        pack: list[EncodedRecord | ContentError] = []
        tokens = 0
        for record in records:
            size = 0 if isinstance(record, ContentError) else self._new_tokens(record)
            if pack and (tokens + size > self._engine.pack_tokens or len(pack) == self._engine.pack_contents):
                yield pack
                pack, tokens = [], 0
            pack.append(record)
            tokens += size
        if pack:
            yield pack

    def _new_tokens(self, ready: EncodedRecord) -> int:
        count = 0
        for trunk, *others in ready.windows:
            count += len(trunk.token_ids) - self._prefixes[trunk.role].shared(trunk.token_ids)
            count += sum(len(p.token_ids) - shared_tokens(trunk.token_ids, p.token_ids) for p in others)
        return count

    def run(
        self, pack: GenericSequence[EncodedRecord | ContentError], search: Callable[[Prompt], Any]
    ) -> Iterator[list[list[Any]] | ContentError]:
        """Scores a pack.

        Args:
            pack: of :meth:`packs`.
            search: makes the search of a prompt.

        Yields:
            the searches of each record, by window and prompt, run to their end; or its error.
        """
        jobs: dict[int, list[list[Sequence[Any]]]] = {}
        by_role: dict[Role, list[list[Sequence[Any]]]] = {}
        for i, ready in enumerate(pack):
            if isinstance(ready, EncodedRecord):
                jobs[i] = [_branches(prompts, search) for prompts in ready.windows]
                by_role.setdefault(ready.role, []).extend(jobs[i])
        for role, of_role in by_role.items():
            for group in _groups(of_role):
                self._engine.run(self._prefixes[role], group)
        for i, ready in enumerate(pack):
            if isinstance(ready, ContentError):
                yield ready
            elif errors := [job.error for job in itertools.chain(*jobs[i]) if job.error is not None]:
                errors[0].id = ready.id
                yield errors[0]
            else:
                yield [[job.search for job in window] for window in jobs[i]]


def _branches(prompts: GenericSequence[Prompt], search: Callable[[Prompt], Any]) -> list[Sequence[Any]]:
    """One job for each prompt of a content; the later ones branch off the first."""
    found: list[Sequence[Any]] = []
    for prompt in prompts:
        found.append(Sequence(prompt.token_ids, search(prompt), trunk=found[0] if found else None))
    return found


def _groups(windows: GenericSequence[GenericSequence[Sequence[Any]]]) -> Iterator[list[Sequence[Any]]]:
    """Jobs that run together. Windows of one long content run one by one: together they would not fit the memory of a
    pass."""
    for long, group in itertools.groupby(windows, lambda jobs: len(jobs[0].token_ids) > 2 * PACK_TOKENS):
        if long:
            yield from (list(jobs) for jobs in group)
        else:
            yield list(itertools.chain(*group))
