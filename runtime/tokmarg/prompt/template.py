"""Prompt template of a spec: how messages and policy become prompt text.

The template is plain text with three placeholders and nothing that can loop, call or branch, so a hostile spec has
nothing to run:

    {{policy}}         one ``policy_item`` per label of the role mode; it may use {{id}}, {{name}}, {{code}} and
                       {{definition}}. With ``policy.aggregate = "max"`` that of one label: each has a prompt of its own
    {{conversation}}   the messages, each through ``messages.<role>``, where {{content}} stands for its text
    {{role}}           the display name (``roles``) of the role that is judged, the last message's
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from tokmarg.documents import Fields
from tokmarg.grammar.syntax import PLACEHOLDER

from .labels import CONTEXT_ROLES, ROLES, ContextRole, Role

__all__ = ["Template", "Turns", "parse_template"]

Turns = Literal["alternating", "any", "pair"]
_TURNS: tuple[Turns, ...] = ("alternating", "any", "pair")


@dataclass(frozen=True, slots=True)
class Template:
    """A prompt template; the module docstring describes its placeholders.

    Attributes:
        text: the whole prompt with placeholders and the names of special tokens; one for all role modes or one for
            each.
        policy_item: text of one label.
        roles: role -> display name; a role that is absent cannot be judged.
        messages: role -> text around a message; ``system`` and ``tool`` where the template has a place for such turns.
        strip: messages lose surrounding white space, as in the author's template.
        turns: ``alternating`` = user first, then in turn (as Llama Guard's template demands); ``pair`` = one user
            message and at most one assistant message after it; ``any`` = any order. Turns of the system and of tools do
            not count.
    """

    text: str | Mapping[Role, str]
    policy_item: str
    roles: Mapping[Role, str]
    messages: Mapping[Role | ContextRole, str]
    strip: bool
    turns: Turns


def parse_template(f: Fields) -> Template:
    """Reads the ``template`` table."""
    f.only(["text", "policy_item", "roles", "messages", "strip", "turns"])
    turns = f.get("turns", str, "any")
    if turns not in _TURNS:
        raise f.fail("turns", f'must be "alternating", "any" or "pair", not {turns!r:.60}')
    texts = f.text_table("text") if isinstance(f.data.get("text"), Mapping) else None
    template = Template(
        text=f.get("text", str) if texts is None else cast("dict[Role, str]", texts),
        policy_item=f.get("policy_item", str),
        roles=cast("dict[Role, str]", f.text_table("roles")),
        messages=cast("dict[Role | ContextRole, str]", f.text_table("messages")),
        strip=f.get("strip", bool, False),
        turns=turns,
    )
    known, needed = {"policy", "conversation", "role"}, {"conversation"}
    if isinstance(template.text, str):
        _check_placeholders(f, "text", template.text, known, needed)
    for key, text in texts.items() if texts is not None else ():
        if key not in ROLES:
            raise f.fail(f"text.{key}", f"is not a role (roles: {', '.join(ROLES)})")
        _check_placeholders(f, f"text.{key}", text, known, needed)
    _check_placeholders(f, "policy_item", template.policy_item, {"id", "name", "code", "definition"}, set())
    if not template.roles:
        raise f.fail("roles", "names no role that can be judged")
    tables: tuple[tuple[str, Mapping[Any, str], tuple[str, ...]], ...] = (
        ("roles", template.roles, ROLES),
        ("messages", template.messages, (*ROLES, *CONTEXT_ROLES)),
    )
    for table, values, known_roles in tables:
        for role, text in values.items():
            if role not in known_roles:
                raise f.fail(f"{table}.{role}", f"is not a role (roles: {', '.join(known_roles)})")
            expected = {"content"} if table == "messages" else set()
            _check_placeholders(f, f"{table}.{role}", text, expected, expected)
    for role in template.roles:
        if role not in template.messages:
            raise f.fail(f"messages.{role}", "is missing, but the role can be judged")
        if texts is not None and role not in texts:
            raise f.fail(f"text.{role}", "is missing, but the role can be judged")
    return template


def _check_placeholders(f: Fields, key: str, text: str, known: set[str], needed: set[str]) -> None:
    used = PLACEHOLDER.findall(text)
    for name in used:
        if name not in known:
            raise f.fail(key, f"unknown placeholder {{{{{name:.60}}}}} (known: {', '.join(sorted(known)) or 'none'})")
    for name in needed:
        if used.count(name) != 1:
            raise f.fail(key, f"must hold {{{{{name}}}}} exactly once")
