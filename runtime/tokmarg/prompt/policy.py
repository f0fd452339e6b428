"""User policies that replace the spec's: other labels, names and definitions, or some labels left out."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from tokmarg.documents import Fields, read_document
from tokmarg.errors import SpecError

from .labels import parse_labels
from .spec import Spec

__all__ = ["Policy", "apply_policy", "read_policy"]

#: A policy document, or the file (TOML, or JSON by its ending) that holds one.
Policy = Mapping[str, object] | str | os.PathLike[str]


def read_policy(policy: Policy) -> tuple[Mapping[str, object], str]:
    """The parsed document of a policy and its name for messages.

    Raises:
        SpecError: the file cannot be read or parsed.
    """
    if isinstance(policy, Mapping):
        return policy, "policy"
    path = Path(policy)
    parsed = read_document(path, SpecError)
    if not isinstance(parsed, dict):
        raise SpecError(f"{path}: must be a table")
    return parsed, str(path)


def apply_policy(spec: Spec, policy: Policy) -> Spec:
    """The spec with the labels of a user policy.

    The document has ``labels``, which replace the spec's: tables with ``id``, ``name`` and, if wanted, ``title``,
    ``definition``, ``roles`` and ``code``, which a label needs where the guard writes codes; or ``exclude``, ids of
    labels to leave out; or both. Ids stay as they are: nothing is renumbered.

    Raises:
        SpecError: the document is malformed, excludes a label that does not exist, or leaves none; or the spec's policy
            is fixed.
    """
    document, where = read_policy(policy)
    if spec.fixed:
        raise SpecError(
            f"{where}: {spec.name} takes no other policy: its labels are part of the model's template or of the model "
            "(policy.fixed)"
        )
    f = Fields(document, where, SpecError)
    f.only(["labels", "exclude"])
    if not f.data:
        raise f.fail("labels", "is missing (or exclude)")
    labels = (
        parse_labels(Fields({"labels": f.get("labels", list)}, where, SpecError)) if "labels" in f.data else spec.labels
    )
    exclude = f.strings("exclude", [])
    for name in exclude:
        if name not in {label.id for label in labels}:
            known = ", ".join(label.id for label in labels)
            raise f.fail("exclude", f"{name!r:.60} is no label (labels: {known:.300})")
    kept = tuple(label for label in labels if label.id not in exclude)
    # A label of the user's may mean something else than the guard's of the same id.
    openai = (
        None
        if spec.openai is None or "labels" in f.data
        else {x: c for x, c in spec.openai.items() if x not in exclude}
    )
    # The guard's own threshold was chosen for its own policy.
    changed = replace(spec, labels=kept, threshold=0.5, openai=openai)
    changed.check(where)
    return changed
