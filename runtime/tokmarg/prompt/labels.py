"""Labels of a policy, as a spec, a manifest or a user's policy file lists them; the roles of messages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, cast, get_args

from tokmarg.documents import Fields

__all__ = ["CONTEXT_ROLES", "ROLES", "ContextRole", "Label", "Role", "parse_labels", "read_labels"]

#: Roles whose messages are judged.
Role = Literal["user", "assistant"]
ROLES: tuple[Role, ...] = get_args(Role)
#: Roles whose messages a template may have a place for; they are read in the light of, never judged.
ContextRole = Literal["system", "tool"]
CONTEXT_ROLES: tuple[ContextRole, ...] = get_args(ContextRole)
#: Labels of a policy at most: the work per content grows with their square.
MAX_LABELS = 1000


@dataclass(frozen=True, slots=True)
class Label:
    """One label of the policy: ``name`` goes into the prompt, ``title`` is for people; ``definition`` may be one text,
    or one per role; ``code`` is what some guards write for the label."""

    id: str
    name: str
    title: str
    definition: str | Mapping[Role, str] = ""
    roles: tuple[Role, ...] = ROLES
    code: str | None = None


def parse_labels(f: Fields) -> tuple[Label, ...]:
    """Reads a policy document: ``labels``, at least one, ids unique."""
    f.only(["labels"])
    labels = read_labels(f)
    if not labels:
        raise f.fail("labels", "is empty")
    return labels


def read_labels(f: Fields) -> tuple[Label, ...]:
    """Reads the ``labels`` of a table; there may be none. No two have one id, or one code."""
    labels: list[Label] = []
    if len(items := f.tables("labels")) > MAX_LABELS:
        raise f.fail("labels", f"are {len(items):,}, more than {MAX_LABELS:,}")
    ids: set[str] = set()
    codes: set[str] = set()
    for item in items:
        label = _parse_label(item)
        if label.id in ids:
            raise item.fail("id", f"{label.id!r:.60} is used twice")
        if label.code is not None and label.code in codes:
            raise item.fail("code", f"{label.code!r:.60} is used twice")
        ids.add(label.id)
        codes |= set() if label.code is None else {label.code}
        labels.append(label)
    return tuple(labels)


def _parse_label(item: Fields) -> Label:
    item.only(["id", "name", "code", "title", "definition", "roles"])
    name = item.get("name", str)
    roles = item.strings("roles", list(ROLES))
    if not roles or any(r not in ROLES for r in roles):
        raise item.fail("roles", f"must name {' or '.join(ROLES)}, not {list(roles)!r:.60}")
    label_id, code = item.get("id", str), item.get("code", str, None)
    for key, text in (("id", label_id), ("name", name), ("code", code)):
        if text is not None and not text.strip():
            raise item.fail(key, "is blank")
    return Label(
        label_id,
        name,
        item.get("title", str, name),
        _parse_definition(item),
        tuple(cast(Role, r) for r in roles),
        code,
    )


def _parse_definition(item: Fields) -> str | dict[Role, str]:
    if not isinstance(item.data.get("definition"), Mapping):
        return item.get("definition", str, "")
    texts = item.text_table("definition")
    item.table("definition").only(ROLES)
    for role in ROLES:
        if role not in texts:
            raise item.fail(f"definition.{role}", "is missing")
    return cast("dict[Role, str]", texts)
