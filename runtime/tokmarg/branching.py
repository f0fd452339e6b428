"""Which records of a pack begin alike, beyond the policy prefix, and so have keys and values in common.

Where the messages of a conversation are judged one by one, the prompt of the last of each role holds what the others
begin with: it is the trunk, and they are its branches.

    [ policy prefix ][ message 1 ][ message 2 ][ message 3 ][ suffix ]     the trunk, judges message 3
                                 [ suffix ]                                 judges message 1
                                              [ suffix ]                    judges message 2

Trunks run first, and leave their keys and values in a prompt cache. So a branch has the bits of the same conversation
on its own. The beginning is shared within a role mode: most templates name the judged role before the conversation.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from collections.abc import Sequence as GenericSequence
from typing import Any, NamedTuple

from tokmarg.engine.batch import PACK_SIZES
from tokmarg.engine.prefix import shared_tokens
from tokmarg.engine.sequence import Carried, Sequence
from tokmarg.prompt.builder import Prompt
from tokmarg.prompt.encoded_record import EncodedRecord
from tokmarg.prompt.labels import Role

from .errors import ContentError

__all__ = ["Stages", "WindowSequences", "branch_tokens", "in_stages", "run_together", "sequences_of"]

#: Tokens beyond which a window is long.
_LONG = 2 * PACK_SIZES["cpu"].tokens
#: The sequences of one record: by window, then by prompt.
WindowSequences = list[list[Sequence[Any]]]


class Stages(NamedTuple):
    """Places in a pack, by what has to run before what: branches after their trunks."""

    alone: list[int]
    trunks: list[int]
    branches: list[int]


def in_stages(pack: GenericSequence[EncodedRecord | ContentError]) -> Stages:
    """The records of a pack; errors are left out."""
    stages = Stages([], [], [])
    for _, run in itertools.groupby(enumerate(pack), _conversation):
        by_role: dict[Role, list[int]] = {}
        for i, record in run:
            if isinstance(record, EncodedRecord):
                by_role.setdefault(record.role, []).append(i)
        for *earlier, last in by_role.values():
            (stages.trunks if earlier else stages.alone).append(last)
            stages.branches.extend(earlier)
    return stages


def _conversation(numbered: tuple[int, EncodedRecord | ContentError]) -> object:
    """What consecutive records of one conversation have in common; an error, or a record in windows, shares nothing."""
    number, record = numbered
    if isinstance(record, ContentError) or record.conversation is None or len(record.windows) > 1:
        return number
    return ("conversation", id(record.conversation))


def sequences_of(record: EncodedRecord, search: Callable[[Prompt], Any]) -> WindowSequences:
    """One sequence for each prompt of a record; in a window, those after the first branch off it.

    Args:
        record: what is scored.
        search: makes the search of a prompt.
    """
    found: WindowSequences = []
    carried = Carried()
    for prompts in record.windows:
        of_window: list[Sequence[Any]] = []
        for prompt in prompts:
            trunk = of_window[0] if of_window else None
            of_window.append(Sequence(prompt.token_ids, search(prompt), trunk, carried=carried))
        found.append(of_window)
    return found


def branch_tokens(trunk: Prompt, branch: Prompt) -> int:
    """Tokens of a prompt that its trunk does not have."""
    return len(branch.token_ids) - shared_tokens(trunk.token_ids, branch.token_ids[:-1])


def run_together(windows: GenericSequence[list[Sequence[Any]]]) -> Iterator[list[list[Sequence[Any]]]]:
    """Windows that run together. Long ones run one by one, as do those of one long content: together they would not fit
    the memory of a pass."""
    for long, group in itertools.groupby(windows, lambda window: len(window[0].token_ids) > _LONG):
        if long:
            yield from ([window] for window in group)
        else:
            yield list(group)
