"""Labels of a policy, as a spec, a manifest or a user's policy file lists them; the roles of messages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, cast

from tokmarg.documents import Fields

__all__ = ["ROLES", "Label", "Role", "parse_labels", "read_labels"]

Role = Literal["user", "assistant"]
ROLES: tuple[Role, ...] = ("user", "assistant")
#: Labels of a policy at most: the work per content grows with their square.
MAX_LABELS = 1000


@dataclass(frozen=True, slots=True)
class Label:
    """One label of the policy: ``name`` goes into the prompt, ``title`` is for people; ``definition`` may be one text,
    or one per role."""

    id: str
    name: str
    title: str
    definition: str | Mapping[Role, str] = ""
    roles: tuple[Role, ...] = ROLES


def parse_labels(f: Fields) -> tuple[Label, ...]:
    """Reads a policy document: ``labels``, at least one, ids unique."""
    f.only(["labels"])
    labels = read_labels(f)
    if not labels:
        raise f.fail("labels", "is empty")
    return labels


def read_labels(f: Fields) -> tuple[Label, ...]:
    """Reads the ``labels`` of a table; there may be none."""
    labels: list[Label] = []
    ids: set[str] = set()
    if len(items := f.tables("labels")) > MAX_LABELS:
        raise f.fail("labels", f"are {len(items):,}, more than {MAX_LABELS:,}")
    for item in items:
        item.only(["id", "name", "title", "definition", "roles"])
        name = item.get("name", str)
        roles = item.strings("roles", list(ROLES))
        if not roles or any(r not in ROLES for r in roles):
            raise item.fail("roles", f"must name {' or '.join(ROLES)}, not {list(roles)!r:.60}")
        label_id = item.get("id", str)
        if not label_id.strip() or not name.strip():
            raise item.fail("id" if not label_id.strip() else "name", "is blank")
        if label_id in ids:
            raise item.fail("id", f"{label_id!r:.60} is used twice")
        ids.add(label_id)
        labels.append(
            Label(
                label_id,
                name,
                item.get("title", str, name),
                _parse_definition(item),
                tuple(cast(Role, r) for r in roles),
            )
        )
    return tuple(labels)


def _parse_definition(item: Fields) -> str | dict[Role, str]:
    if not isinstance(item.data.get("definition"), Mapping):
        return item.get("definition", str, "")
    texts = item.text_table("definition")
    item.table("definition").only(ROLES)
    for role in ROLES:
        if role not in texts:
            raise item.fail(f"definition.{role}", "is missing")
    return cast("dict[Role, str]", texts)
