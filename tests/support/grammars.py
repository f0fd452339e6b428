"""A verdict grammar, its labels, and the enumeration of its verdicts as text."""

from __future__ import annotations

from tokmarg.grammar.grammar import Grammar
from tokmarg.grammar.syntax import State

__all__ = ["ABC", "LLAMA_GUARD", "language"]

LLAMA_GUARD = [
    {
        "choice": [
            {"text": "safe"},
            {"text": "unsafe", "event": "unsafe", "then": ["\n", {"labels": "id", "separators": [","]}]},
        ]
    }
]
ABC = [("A", "Alpha"), ("B", "Beta"), ("C", "Gamma")]


def language(grammar: Grammar) -> dict[str, int]:
    """Every verdict with its events, by walking all moves."""
    found: dict[str, int] = {}

    def walk(state: State | None, text: str, events: int) -> None:
        if state is None:
            assert found.setdefault(text, events) == events
            return
        for move in grammar.moves(state):
            walk(move.state, text + move.text, events | move.events)

    walk(grammar.start, "", 0)
    return found
