"""Parsed JSON documents with one place changed."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

REMOVED: Any = object()
Place = tuple[str | int, ...]


def places(document: Any, at: Place = ()) -> Iterator[Place]:
    """Every place below the document's root."""
    items = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    for key, value in items:
        yield (*at, key)
        yield from places(value, (*at, key))


def at(document: Any, place: Place) -> Any:
    """What stands at a place."""
    for key in place:
        document = document[key]
    return document


def edited(document: Any, place: Place, value: Any) -> Any:
    """A copy with another value at a place, or without it (``REMOVED``)."""
    document = copy.deepcopy(document)
    if not place:
        return value
    parent = at(document, place[:-1])
    if value is REMOVED:
        del parent[place[-1]]
    else:
        parent[place[-1]] = value
    return document
