"""Which prompts of a pack share their beginning, beyond the policy prefix, and so its keys and values.

The prompts of one record branch off its first, each label's after the content. Where the messages of a conversation are
judged one by one, their prompts branch off that of the last message, which holds all the others' conversations:

    [ policy prefix ][ message 1 ][ message 2 ][ message 3 ][ suffix ]     the trunk, judges message 3
                                 [ suffix ]                                 judges message 1
                                              [ suffix ]                    judges message 2

The beginning is shared within a role mode: most templates name the judged role before the conversation.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from collections.abc import Sequence as GenericSequence
from typing import Any

from tokmarg.engine.batch import PACK_TOKENS
from tokmarg.engine.prefix import shared_tokens
from tokmarg.engine.sequence import Sequence
from tokmarg.prompt.builder import Prompt
from tokmarg.prompt.encoded_record import EncodedRecord
from tokmarg.prompt.labels import Role

from .errors import ContentError

__all__ = ["Branches", "branch_tokens", "branched", "run_together"]

#: The sequences of one record: by window, then by prompt.
Branches = list[list[Sequence[Any]]]
#: Tokens that branch off one trunk at most: all of them lie in memory with it.
_BRANCH_TOKENS = 2048


def branched(
    pack: GenericSequence[EncodedRecord | ContentError], search: Callable[[Prompt], Any]
) -> tuple[dict[int, Branches], list[tuple[Role, list[Sequence[Any]]]]]:
    """The sequences of a pack.

    Args:
        pack: consecutive records.
        search: makes the search of a prompt.

    Returns:
        place in the pack -> the record's sequences; and the same sequences in units, a trunk and its branches each,
        with their role mode.
    """
    sequences: dict[int, Branches] = {}
    units: list[tuple[Role, list[Sequence[Any]]]] = []
    for part in _parts(pack):
        records = {i: record for i in part if isinstance(record := pack[i], EncodedRecord)}
        if len(part) == 1:
            for i, record in records.items():
                sequences[i] = [_of_prompts(prompts, search, None) for prompts in record.windows]
                units += [(record.role, of_window) for of_window in sequences[i]]
            continue
        last = _of_prompts(records[part[-1]].windows[0], search, None)
        for i in part:
            sequences[i] = [last if i == part[-1] else _of_prompts(records[i].windows[0], search, last[0])]
        branches = [each for i in part[:-1] for each in sequences[i][0]]
        units.append((records[part[-1]].role, [*last, *branches]))
    return sequences, units


def _parts(pack: GenericSequence[EncodedRecord | ContentError]) -> Iterator[list[int]]:
    """Places of the records that have a trunk together: that of the last one."""
    for _, run in itertools.groupby(enumerate(pack), _conversation):
        by_role: dict[Role | None, list[int]] = {}
        for i, record in run:
            by_role.setdefault(None if isinstance(record, ContentError) else record.role, []).append(i)
        for places in by_role.values():
            part, tokens = [places[0]], 0
            for before, i in itertools.pairwise(places):
                tokens += _tokens_off(pack[i], pack[before])
                if tokens > _BRANCH_TOKENS:
                    yield part
                    part, tokens = [], 0
                part.append(i)
            yield part


def _conversation(numbered: tuple[int, EncodedRecord | ContentError]) -> object:
    """What consecutive records of one conversation have in common; an error, or a record in windows, shares nothing."""
    number, record = numbered
    if isinstance(record, ContentError) or record.conversation is None or len(record.windows) > 1:
        return number
    return ("conversation", id(record.conversation))


def _tokens_off(trunk: EncodedRecord | ContentError, branch: EncodedRecord | ContentError) -> int:
    """Tokens of a record's prompts that another one's first prompt does not have."""
    if isinstance(trunk, ContentError) or isinstance(branch, ContentError):
        return 0
    return sum(branch_tokens(trunk.windows[0][0], prompt) for prompt in branch.windows[0])


def branch_tokens(trunk: Prompt, branch: Prompt) -> int:
    """Tokens of a prompt that its trunk does not have."""
    return len(branch.token_ids) - shared_tokens(trunk.token_ids, branch.token_ids[:-1])


def _of_prompts(
    prompts: GenericSequence[Prompt], search: Callable[[Prompt], Any], trunk: Sequence[Any] | None
) -> list[Sequence[Any]]:
    """One sequence for each prompt of a content; those after the first branch off it, or all off another trunk."""
    sequences: list[Sequence[Any]] = []
    for prompt in prompts:
        own = trunk or (sequences[0] if sequences else None)
        sequences.append(Sequence(prompt.token_ids, search(prompt), trunk=own))
    return sequences


def run_together(units: GenericSequence[list[Sequence[Any]]]) -> Iterator[list[list[Sequence[Any]]]]:
    """Units that run together. They are a trunk and its branches each; long ones run one by one, as do the windows
    of one long content: together they would not fit the memory of a pass."""
    for long, group in itertools.groupby(units, lambda unit: len(unit[0].token_ids) > 2 * PACK_TOKENS):
        if long:
            yield from ([unit] for unit in group)
        else:
            yield list(group)
