"""Draws of rude rows: insults without a label. ``data.RUDE`` is their registry.

No label of the policy is meant for them, and no one answer is right: they are trained to lie between safe and unsafe.
"""

from __future__ import annotations

from composition import bot_row, typed, user_row
from sources import Row, Sources


def insult(sources: Sources) -> Row:
    return user_row(typed(sources, sources.texts.draw("threats_and_hate", "insults")[0]), None)


def toxic_comment(sources: Sources) -> Row:
    return user_row(sources.row("social_comments", lambda row: bool(row["toxic"]))["text"], None)


def rude_to_a_bot(sources: Sources) -> Row:
    return bot_row(sources.row("convabuse", lambda row: bool(0.3 < row["abusive"] < 0.8)), None)
