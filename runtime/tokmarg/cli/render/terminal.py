"""Text for a terminal: control characters are escaped, widths are counted in cells."""

from __future__ import annotations

import unicodedata

import click

__all__ = ["echo", "fit", "pad", "printable"]

#: Unicode categories that steer a terminal, hide, or have no glyph.
_UNPRINTABLE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def printable(text: str) -> str:
    r"""The text on one line, with nothing in it that could drive the terminal.

    >>> printable("a\nb\x1b[31m")
    'a\\nb\\x1b[31m'
    """
    return "".join(_escape(c) if unicodedata.category(c) in _UNPRINTABLE else c for c in text)


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def fit(text: str, cells: int) -> str:
    """The text cut to a width, with an ellipsis where something is missing.

    >>> fit("Violent Crimes", 9)
    'Violent …'
    """
    if _width(text) <= cells:
        return text
    kept = ""
    left = cells - 1
    for character in text:
        left -= _width(character)
        if left < 0:
            break
        kept += character
    return kept + "…"


def pad(text: str, cells: int) -> str:
    """The text cut or filled up to a width."""
    text = fit(text, cells)
    return text + " " * (cells - _width(text))


def echo(text: str) -> None:
    """Prints a line on stdout, as UTF-8 whatever the locale."""
    click.echo(text.encode("utf-8", "backslashreplace"))


def _width(text: str) -> int:
    """Cells the text takes: two for a wide character, none for a combining one."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)
