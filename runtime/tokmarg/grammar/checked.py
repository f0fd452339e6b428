"""Checked tries: the check of a large policy takes seconds, so what it found is kept in the user's cache folder.

A trie follows from grammar, tokenizer, prompt tail, leads and terminators; the name of the file is a hash of these and
of the version of the check. It holds what the check found out, not the trie.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from tokmarg.cache_folder import keep, recall
from tokmarg.version import VERSION

from .trie import Trie

__all__ = ["check_once"]

#: Raised when the check, or compiling, changes.
_VERSION = 1


def check_once(trie: Trie, samples: int) -> None:
    """Checks a trie as :meth:`Trie.check` does, unless that has been done on this machine.

    Raises:
        SpecError: of the check; nothing is kept then.
    """
    said = repr((_VERSION, VERSION, samples, trie.identity()))
    name, suffix = f"grammar-{hashlib.sha256(said.encode('utf-8', 'surrogatepass')).hexdigest()[:40]}", ".json"
    found = recall(name, suffix, _read)
    if found is not None:
        trie.take_as_checked(*found)
        return
    trie.check(samples)
    keep(name, suffix, lambda: json.dumps({"vocabulary": trie.vocabulary(), "shares": trie.shares}).encode())


def _read(path: Path) -> tuple[tuple[int, ...], bool] | None:
    try:
        data: Any = json.loads(path.read_bytes())
        vocabulary, shares = tuple(data["vocabulary"]), data["shares"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return (vocabulary, shares) if all(type(i) is int for i in vocabulary) and type(shares) is bool else None
