"""Spec of a guard family, as data: prompt template, policy (labels) and verdict grammar.

The runtime reads the *resolved* spec from a bundle's manifest; the exporter resolves a TOML file of ``models/specs``
(see ``tokmarg_export.spec_library``) into it. :mod:`tokmarg.prompt.template`, :mod:`tokmarg.prompt.labels` and
:mod:`tokmarg.prompt.verdict` describe the three tables.

``template.text`` and ``verdict.grammar`` may differ between role modes: then each is a table with one entry per role.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from tokmarg.documents import Fields
from tokmarg.errors import SpecError
from tokmarg.grammar.grammar import UNSAFE, Grammar
from tokmarg.grammar.syntax import LabelTexts, label_lists, parse_parts, substitute
from tokmarg.openai_format import OpenAITable, parse_openai

from .labels import ROLES, Label, Role, read_labels
from .template import Template, parse_template
from .verdict import VerdictSpec, parse_verdict

__all__ = ["ROLES", "Label", "Role", "Spec"]

Aggregate = Literal["verdict", "max"]
_AGGREGATES: tuple[Aggregate, ...] = ("verdict", "max")
T = TypeVar("T", str, tuple[object, ...])
#: Characters of a prompt without its content, at most: placeholders could multiply a short text beyond any memory.
_MAX_SCAFFOLD = 2**20


@dataclass(frozen=True, slots=True)
class Spec:
    """A guard family, resolved for one model.

    Attributes:
        name, title: of the family, for programs and for people.
        template: how content becomes prompt text.
        labels: the policy; empty for guards that name no categories.
        verdict: leads, terminators and grammar of the verdict.
        fixed: the labels are part of the template or of the model, and cannot be replaced by others.
        aggregate: ``verdict`` = one verdict covers all labels; ``max`` = each label has a prompt and a verdict of its
            own, whose event ``unsafe`` is the label, and P(unsafe) of the content is that of its highest label.
        threshold: P(unsafe) from which a content is flagged where neither caller nor calibration says otherwise.
        openai: label id -> those of OpenAI's categories that it counts for; None where the spec does not say.
    """

    name: str
    title: str
    template: Template
    labels: tuple[Label, ...]
    verdict: VerdictSpec
    fixed: bool = False
    aggregate: Aggregate = "verdict"
    threshold: float = 0.5
    openai: OpenAITable | None = None

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
        f.only(["name", "title", "template", "policy", "verdict", "sources", "openai"])
        _check_sources(f.table("sources", {}))
        policy = f.table("policy")
        policy.only(["labels", "fixed", "aggregate", "threshold"])
        aggregate = policy.get("aggregate", str, "verdict")
        if aggregate not in _AGGREGATES:
            raise policy.fail("aggregate", f'must be "verdict" or "max", not {aggregate!r:.60}')
        threshold = policy.get("threshold", float, 0.5)
        if not 0 < threshold <= 1:
            raise policy.fail("threshold", f"must be above 0 and at most 1, not {threshold!r}")
        spec = cls(
            name=f.get("name", str),
            title=f.get("title", str),
            template=parse_template(f.table("template")),
            labels=read_labels(policy),
            verdict=parse_verdict(f.table("verdict")),
            fixed=policy.get("fixed", bool, False),
            aggregate=aggregate,
            threshold=threshold,
            openai=parse_openai(f.table("openai")) if "openai" in f.data else None,
        )
        spec.check(where)
        if spec.openai is not None:
            f.table("openai").only(label.id for label in spec.labels)
        return spec

    def check(self, where: str) -> None:
        """Raises SpecError where the grammar is malformed, lists labels in a role mode that has none, or writes codes
        that labels lack."""
        grammars = self.verdict.grammar if isinstance(self.verdict.grammar, Mapping) else dict.fromkeys(self.roles)
        for role in self.roles:
            if role not in grammars:
                raise SpecError(f"{where}: spec.verdict.grammar.{role}: is missing, but the role can be judged")
        for role in grammars:
            path = f"verdict.grammar.{role}" if isinstance(self.verdict.grammar, Mapping) else "verdict.grammar"
            parts = parse_parts(_of_role(self.verdict.grammar, role), where, path)
            if any(label_lists(parts)) and not self.labels_of(role):
                none = f"none is for {role} messages, which template.roles says can be judged"
                empty = "is empty, but the verdict grammar lists labels"
                raise SpecError(f"{where}: spec.policy.labels: {none if self.labels else empty}")
            self._check_codes(role, any("code" in part.fields for part in label_lists(parts)), where)
            if role in self.roles:
                self._check_size(role, where)
            if self.aggregate == "max":
                self._check_separate(role, any(label_lists(parts)), where)
            else:
                self.grammar(role, where)

    def _check_codes(self, role: Role, in_verdict: bool, where: str) -> None:
        """Refuses a label without a code where verdict or template writes codes."""
        used_by = "verdict.grammar" if in_verdict else "template.policy_item"
        if in_verdict or "{{code}}" in self.template.policy_item:
            for label in self.labels_of(role):
                if label.code is None:
                    raise SpecError(
                        f"{where}: spec.policy.labels: {label.id!r:.60} has no code, but this guard knows labels by "
                        f"their codes (spec.{used_by}): give each label one of its own"
                    )

    def _check_size(self, role: Role, where: str) -> None:
        """Refuses a scaffold that is too large; its size is computed before it is built."""
        item = self.template.policy_item
        counts = {key: item.count(f"{{{{{key}}}}}") for key in ("id", "name", "code", "definition")}
        size = sum(
            len(item) + sum(counts[key] * len(text) for key, text in _item_texts(x, role).items())
            for x in self.labels_of(role)
        )
        text, name = _of_role(self.template.text, role), self.template.roles[role]
        size = len(text) + text.count("{{policy}}") * size + text.count("{{role}}") * len(name)
        size += max(map(len, self.template.messages.values()))
        if size > _MAX_SCAFFOLD:
            what = f"the prompt has {size:,} characters before any content, more than {_MAX_SCAFFOLD:,}"
            raise SpecError(f"{where}: spec.template.text: with the policy {what}")

    def _check_separate(self, role: Role, lists_labels: bool, where: str) -> None:
        """Checks verdict grammar and template of a guard that has a prompt for each label (``aggregate = "max"``)."""
        if lists_labels or self.grammar(role, where).events != (UNSAFE,):
            raise SpecError(
                f'{where}: spec.verdict.grammar: with aggregate = "max" it can bring the event unsafe alone'
            )
        if role in self.roles and not self.labels_of(role):
            raise SpecError(f"{where}: spec.policy.labels: none is for {role} messages, which can be judged")
        before, after = _of_role(self.template.text, role).split("{{conversation}}")
        if "{{policy}}" in before or "{{policy}}" not in after:  # the labels' prompts share the content
            raise SpecError(
                f'{where}: spec.template.text: with aggregate = "max" {{{{policy}}}} comes after {{{{conversation}}}}'
            )

    @property
    def roles(self) -> tuple[Role, ...]:
        """Roles this guard can judge."""
        return tuple(r for r in ROLES if r in self.template.roles)

    @property
    def events(self) -> tuple[str, ...]:
        """Events beyond ``unsafe`` and the labels, those of all role modes together."""
        known = {UNSAFE, *(label.id for label in self.labels)}
        events = dict.fromkeys(event for role in self.roles for event in self.grammar(role).events)
        return tuple(event for event in events if event not in known)

    def labels_of(self, role: Role) -> tuple[Label, ...]:
        """The labels that exist when ``role`` is judged, in the policy's order."""
        return tuple(label for label in self.labels if role in label.roles)

    def label_texts(self, role: Role) -> list[LabelTexts]:
        """What a guard may write for the labels of ``role``."""
        return [LabelTexts(label.id, label.name, label.code) for label in self.labels_of(role)]

    def grammar(self, role: Role, where: str = "spec") -> Grammar:
        """The verdict grammar over the labels of ``role``; over none where each label has a verdict of its own."""
        labels = self.label_texts(role) if self.aggregate == "verdict" else []
        return Grammar.parse(_of_role(self.verdict.grammar, role), labels, where)

    def policies(self, role: Role) -> tuple[tuple[Label, ...], ...]:
        """The labels of each prompt of a content: all in one prompt, or one in each."""
        labels = self.labels_of(role)
        return tuple((label,) for label in labels) if self.aggregate == "max" else (labels,)

    def scaffold(self, role: Role, policy: Sequence[Label] | None = None) -> tuple[str, str]:
        """Prompt text before and after the conversation, with role and policy filled in.

        Args:
            role: the role that is judged.
            policy: one of :meth:`policies`; None for the first.
        """
        items = [
            substitute(self.template.policy_item, _item_texts(x, role))
            for x in (self.policies(role)[0] if policy is None else policy)
        ]
        values = {"policy": "".join(items), "role": self.template.roles[role]}
        before, after = _of_role(self.template.text, role).split("{{conversation}}")
        return substitute(before, values), substitute(after, values)


def _of_role(value: T | Mapping[Role, T], role: Role) -> T:
    """Value of a field for a role mode: one value for all, or one per role."""
    return value[role] if isinstance(value, Mapping) else value


def _item_texts(label: Label, role: Role) -> dict[str, str]:
    """What ``template.policy_item`` may say of a label."""
    definition = _of_role(label.definition, role)
    return {"id": label.id, "name": label.name, "code": label.code or "", "definition": definition}


def _check_sources(f: Fields) -> None:
    """Checks ``sources``: where template, verdict and tokens come from, and whether that was verified."""
    topics = ("template", "verdict", "tokens")
    f.only([*topics, *(f"{topic}_verified" for topic in topics), "notes"])
    for topic in topics:
        f.get(topic, str, "")
        f.get(f"{topic}_verified", bool, False)
    f.get("notes", str, "")
