"""Names of labels across guards: one id may be two labels, as S5 is in Llama Guard 2 and 3."""

from __future__ import annotations

from collections.abc import Mapping

from tokmarg.guard import Guard
from tokmarg.prompt.labels import Label

__all__ = ["label_titles", "name_conflicts"]


def name_conflicts(guards: Mapping[str, Guard]) -> dict[str, str]:
    """Label id -> what it is called in which guard, where two guards have nothing in common for it.

    Of a label's name in the prompt and its title for people one is enough: ``Sex Crimes`` is ``Sex-Related Crimes``
    where a guard uses both.
    """
    conflicts = {}
    for id, labels in _by_id(guards).items():
        first = next(iter(labels.values()))
        if any(not _names(first) & _names(label) for label in labels.values()):
            conflicts[id] = " and ".join(f"{label.title!r:.60} in {name}" for name, label in labels.items())
    return conflicts


def label_titles(guards: Mapping[str, Guard]) -> dict[str, str]:
    """Label id -> its title; both, where guards mean different labels by it."""
    conflicts = name_conflicts(guards)
    titles = {id: [label.title for label in labels.values()] for id, labels in _by_id(guards).items()}
    return {
        id: " / ".join(dict.fromkeys(of_label)) if id in conflicts else of_label[-1] for id, of_label in titles.items()
    }


def _by_id(guards: Mapping[str, Guard]) -> dict[str, dict[str, Label]]:
    """Label id -> guard's name -> the label."""
    labels: dict[str, dict[str, Label]] = {}
    for name, guard in guards.items():
        for label in guard.spec.labels:
            labels.setdefault(label.id, {})[name] = label
    return labels


def _names(label: Label) -> set[str]:
    """Name and title, with case, spaces and punctuation left out, which differ from author to author."""
    return {"".join(filter(str.isalnum, text.casefold())) for text in (label.name, label.title)}
