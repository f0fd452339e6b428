"""A spec: all that is known of one guard family, as data. Template, policy, verdict grammar.

The runtime reads the *resolved* spec from a bundle's manifest; the exporter resolves a TOML file of
``models/specs`` (see ``tokmarg_export.specs``) into it. The template is plain text with three placeholders and
nothing that can loop, call or branch, so a hostile spec has nothing to run:

    {{policy}}         one ``policy_item`` per label of the role mode; it may use {{id}}, {{name}}, {{definition}}
    {{conversation}}   the messages, each through ``messages.<role>``, where {{content}} stands for its text
    {{role}}           the display name (``roles``) of the role that is judged, the last message's
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, cast

from .errors import SpecError
from .fields import Fields
from .grammar import Grammar

__all__ = ["ROLES", "Label", "Role", "Spec", "Template", "Verdict", "substitute"]

Role = Literal["user", "assistant"]
ROLES: tuple[Role, ...] = ("user", "assistant")
_PLACEHOLDER = re.compile(r"\{\{(\w+)\}\}")


@dataclass(frozen=True, slots=True)
class Label:
    """One label of the policy. ``name`` is what the prompt says, ``title`` what people read."""

    id: str
    name: str
    title: str
    definition: str = ""
    roles: tuple[Role, ...] = ROLES


@dataclass(frozen=True, slots=True)
class Template:
    """How content becomes prompt text; see the module docstring.

    Attributes:
        text: the whole prompt with placeholders, special tokens spelt as text.
        policy_item: text of one label.
        roles: role -> display name; a role that is absent cannot be judged.
        messages: role -> text around a message.
        strip: messages lose surrounding white space, as in the author's template.
        turns: ``alternating`` = user first, then in turn (as Llama Guard's template demands); ``any`` = any order.
    """

    text: str
    policy_item: str
    roles: Mapping[Role, str]
    messages: Mapping[Role, str]
    strip: bool
    turns: Literal["alternating", "any"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the guard may say.

    Attributes:
        leads: texts the model may emit before the verdict; ``("",)`` = none, ``("", x)`` = optional x,
            ``(x,)`` = x forced.
        terminators: token strings (special tokens, or plain text such as a newline), each of which ends a verdict.
        grammar: the raw grammar parts, see :mod:`tokmarg.grammar`.
    """

    leads: tuple[str, ...]
    terminators: tuple[str, ...]
    grammar: tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Spec:
    """A guard family, resolved for one model."""

    name: str
    title: str
    template: Template
    labels: tuple[Label, ...]
    verdict: Verdict

    @classmethod
    def parse(cls, data: object, where: str) -> Spec:
        """Reads a resolved spec.

        Args:
            data: the parsed ``spec`` table of a manifest.
            where: document name for messages.

        Raises:
            SpecError: a field is missing, unknown or malformed; names the file and the field.
        """
        f = Fields(data, where, SpecError, "spec")
        f.only(["name", "title", "template", "policy", "verdict", "sources"])
        f.text_table("sources", {})
        spec = cls(
            name=f.get("name", str),
            title=f.get("title", str),
            template=_parse_template(f.table("template")),
            labels=parse_labels(f.table("policy")),
            verdict=_parse_verdict(f.table("verdict")),
        )
        spec.check(where)
        return spec

    def check(self, where: str) -> None:
        """Raises SpecError where a role that can be judged has no labels, or the grammar is malformed."""
        for role in self.roles:
            if not self.labels_of(role):
                raise SpecError(
                    f"{where}: spec.policy.labels: none is for {role} messages, which template.roles says can be judged"
                )
            self.grammar(role, where)

    @property
    def roles(self) -> tuple[Role, ...]:
        """Roles this guard can judge."""
        return tuple(r for r in ROLES if r in self.template.roles)

    def labels_of(self, role: Role) -> tuple[Label, ...]:
        """The labels that exist when ``role`` is judged, in the policy's order."""
        return tuple(label for label in self.labels if role in label.roles)

    def grammar(self, role: Role, where: str = "spec") -> Grammar:
        """The verdict grammar over the labels of ``role``."""
        labels = [(label.id, label.name) for label in self.labels_of(role)]
        return Grammar.parse(self.verdict.grammar, labels, where)

    def scaffold(self, role: Role) -> tuple[str, str]:
        """Prompt text before and after the conversation, policy and role filled in."""
        items = [
            substitute(self.template.policy_item, {"id": x.id, "name": x.name, "definition": x.definition})
            for x in self.labels_of(role)
        ]
        values = {"policy": "".join(items), "role": self.template.roles[role]}
        before, after = self.template.text.split("{{conversation}}")
        return substitute(before, values), substitute(after, values)


def substitute(text: str, values: Mapping[str, str]) -> str:
    """Fills placeholders in one pass: values are never scanned for placeholders again."""
    return _PLACEHOLDER.sub(lambda m: values[m[1]], text)


def parse_labels(f: Fields) -> tuple[Label, ...]:
    """Reads the ``policy`` table: its ``labels``, ids unique."""
    f.only(["labels"])
    labels: list[Label] = []
    for item in f.tables("labels"):
        item.only(["id", "name", "title", "definition", "roles"])
        name = item.get("name", str)
        roles = item.strings("roles", list(ROLES))
        if not roles or any(r not in ROLES for r in roles):
            raise item.fail("roles", f"must name {' or '.join(ROLES)}, not {list(roles)!r:.60}")
        label_id = item.get("id", str)
        if not label_id.strip() or not name.strip():
            raise item.fail("id" if not label_id.strip() else "name", "is blank")
        if any(label_id == other.id for other in labels):
            raise item.fail("id", f"{label_id!r:.60} is used twice")
        labels.append(
            Label(
                label_id,
                name,
                item.get("title", str, name),
                item.get("definition", str, ""),
                tuple(cast(Role, r) for r in roles),
            )
        )
    if not labels:
        raise f.fail("labels", "is empty")
    return tuple(labels)


def _parse_template(f: Fields) -> Template:
    f.only(["text", "policy_item", "roles", "messages", "strip", "turns"])
    turns = f.get("turns", str, "any")
    if turns not in ("alternating", "any"):
        raise f.fail("turns", f'must be "alternating" or "any", not {turns!r:.60}')
    template = Template(
        text=f.get("text", str),
        policy_item=f.get("policy_item", str),
        roles=cast("dict[Role, str]", f.text_table("roles")),
        messages=cast("dict[Role, str]", f.text_table("messages")),
        strip=f.get("strip", bool, False),
        turns="alternating" if turns == "alternating" else "any",
    )
    _check_placeholders(f, "text", template.text, {"policy", "conversation", "role"}, {"conversation"})
    _check_placeholders(f, "policy_item", template.policy_item, {"id", "name", "definition"}, set())
    if not template.roles:
        raise f.fail("roles", "names no role that can be judged")
    for table, values in (("roles", template.roles), ("messages", template.messages)):
        for role, text in values.items():
            if role not in ROLES:
                raise f.fail(f"{table}.{role}", f"is not a role (roles: {', '.join(ROLES)})")
            wanted = {"content"} if table == "messages" else set()
            _check_placeholders(f, f"{table}.{role}", text, wanted, wanted)
    for role in template.roles:
        if role not in template.messages:
            raise f.fail(f"messages.{role}", "is missing, but the role can be judged")
    return template


def _parse_verdict(f: Fields) -> Verdict:
    f.only(["leads", "terminators", "grammar"])
    verdict = Verdict(f.strings("leads", [""]), f.strings("terminators"), tuple(f.get("grammar", list)))
    if not verdict.leads or len(set(verdict.leads)) != len(verdict.leads):
        raise f.fail("leads", 'needs at least one text ("" for none), each once')
    if not verdict.terminators or not all(verdict.terminators):
        raise f.fail("terminators", "needs at least one token, none of them empty")
    return verdict


def _check_placeholders(f: Fields, key: str, text: str, known: set[str], needed: set[str]) -> None:
    found = _PLACEHOLDER.findall(text)
    for name in found:
        if name not in known:
            raise f.fail(key, f"unknown placeholder {{{{{name:.60}}}}} (known: {', '.join(sorted(known)) or 'none'})")
    for name in needed:
        if found.count(name) != 1:
            raise f.fail(key, f"must hold {{{{{name}}}}} exactly once")
