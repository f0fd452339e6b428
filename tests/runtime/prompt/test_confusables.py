"""The table of confusables agrees with Unicode's own names and forms."""

from __future__ import annotations

import unicodedata

from tokmarg.prompt.confusables import CONFUSABLES


def test_look_alikes_are_of_other_scripts_and_look_like_ascii() -> None:
    """Independent of the table's source: Unicode's own names say of many letters which one they look like."""
    for code, plain in CONFUSABLES.items():
        assert code > 127
        assert plain.isascii()
        assert plain == plain.lower()
        assert not unicodedata.normalize("NFKC", chr(code)).isascii()
    by_name = {
        f"{script} {size} LETTER {name}": plain
        for script, letters in {
            "CYRILLIC": {
                "A": "a",
                "IE": "e",
                "O": "o",
                "ES": "c",
                "ER": "p",
                "HA": "x",
                "U": "y",
                "DZE": "s",
                "JE": "j",
            },
            "GREEK": {"ALPHA": "a", "EPSILON": "e", "OMICRON": "o", "RHO": "p", "CHI": "x", "TAU": "t", "KAPPA": "k"},
        }.items()
        for size in ("SMALL", "CAPITAL")
        for name, plain in letters.items()
    }
    assert {name: CONFUSABLES.get(ord(unicodedata.lookup(name))) for name in by_name} == by_name
