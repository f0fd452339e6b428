"""The ``verdict`` table of a spec: leads, terminators and the grammar of what the guard may say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tokmarg.documents import Fields

from .labels import ROLES, Role

__all__ = ["VerdictSpec", "parse_verdict"]

#: Leads and terminators at most, and characters of each.
_MAX_LEADS, _MAX_ENDS, _MAX_TEXT = 16, 64, 2000


@dataclass(frozen=True, slots=True)
class VerdictSpec:
    """The verdicts of a guard, as the spec states them.

    Attributes:
        leads: texts the model may emit before the verdict; ``("",)`` = none, ``("", x)`` = optional x,
            ``(x,)`` = x forced.
        terminators: token strings (special tokens, or plain text such as a newline), each of which ends a verdict.
        grammar: the raw grammar parts, see :mod:`tokmarg.grammar.syntax`; one list for all role modes or one for each.
    """

    leads: tuple[str, ...]
    terminators: tuple[str, ...]
    grammar: tuple[object, ...] | Mapping[Role, tuple[object, ...]]


def parse_verdict(f: Fields) -> VerdictSpec:
    """Reads the ``verdict`` table."""
    f.only(["leads", "terminators", "grammar"])
    grammar: tuple[object, ...] | dict[Role, tuple[object, ...]]
    if isinstance(f.data.get("grammar"), Mapping):
        per_role = f.table("grammar")
        per_role.only(ROLES)
        grammar = {role: tuple(per_role.get(role, list)) for role in ROLES if role in per_role.data}
    else:
        grammar = tuple(f.get("grammar", list))
    verdict = VerdictSpec(f.strings("leads", [""]), f.strings("terminators"), grammar)
    if not verdict.leads or len(set(verdict.leads)) != len(verdict.leads):
        raise f.fail("leads", 'needs at least one text ("" for none), each once')
    if not verdict.terminators or not all(verdict.terminators):
        raise f.fail("terminators", "needs at least one token, none of them empty")
    for key, texts, most in (("leads", verdict.leads, _MAX_LEADS), ("terminators", verdict.terminators, _MAX_ENDS)):
        if len(texts) > most or max(map(len, texts)) > _MAX_TEXT:
            raise f.fail(key, f"must be {most} at most, each of {_MAX_TEXT:,} characters at most")
    return verdict
