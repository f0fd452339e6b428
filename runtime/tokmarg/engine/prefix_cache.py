"""The key/value cache of the policy prefix: computed once, and kept in the user's cache folder."""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError

from tokmarg.bundle.manifest import Manifest
from tokmarg.bundle.prefix_file import read_prefixes, write_prefixes
from tokmarg.engine.kv_cache import KVCache
from tokmarg.errors import BundleError
from tokmarg.prompt.builder import PromptBuilder
from tokmarg.prompt.spec import Role

from .forward import Forward
from .session import Session

__all__ = ["Prefix", "cache_folder", "cached_prefixes", "compute_prefixes", "shared_tokens"]


@dataclass(frozen=True, slots=True)
class Prefix:
    """Keys and values of a role mode's policy prefix, and the token ids they belong to."""

    token_ids: tuple[int, ...]
    cache: KVCache

    def shared(self, token_ids: Sequence[int]) -> int:
        """How many leading tokens a prompt shares with the prefix (its last token always stays to be fed)."""
        return shared_tokens(self.token_ids, token_ids[:-1])


def shared_tokens(a: Sequence[int], b: Sequence[int]) -> int:
    """How many leading tokens two sequences share."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def compute_prefixes(session: Session, prompter: PromptBuilder) -> dict[Role, Prefix]:
    """Runs each role mode's policy prefix through the graph."""
    found = {}
    for role in prompter.spec.roles:
        ids = prompter.prefix_ids(role)
        mask = np.tri(len(ids), dtype=np.bool_)
        positions = np.arange(len(ids), dtype=np.int64)
        cache = session.run(Forward(ids, positions, mask, session.empty(), [0])).new
        found[role] = Prefix(ids, cache)
    return found


def cache_folder() -> Path:
    """Where prefixes of policies given at load time are kept: ``tokmarg`` in the user's cache folder."""
    home = Path.home()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = home / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    return base / "tokmarg"


def cached_prefixes(manifest: Manifest, session: Session, prompter: PromptBuilder) -> dict[Role, Prefix]:
    """The prefixes of a policy that is not the bundle's: from the cache folder, else computed and kept there."""
    spec = prompter.spec
    expected = {role: prompter.prefix_ids(role) for role in spec.roles}
    # What the keys and values depend on: the graph and its weights, the token ids, and where they are computed.
    sums = sorted(entry for name, entry in manifest.files.items() if name.startswith("model."))
    key = hashlib.sha256(repr((sums, expected, session.device)).encode()).hexdigest()
    path = cache_folder() / f"prefix-{key[:40]}.safetensors"
    if path.is_file():
        try:
            found = read_prefixes(path, spec.roles, manifest.graph)
            if all(found[role].token_ids == ids for role, ids in expected.items()):
                return found
        except BundleError:
            pass  # a damaged cache file is written anew
    prefixes = compute_prefixes(session, prompter)
    # No room or no permission is no obstacle: the next load computes it again.
    with suppress(OSError, SafetensorError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".prefix-", dir=path.parent) as scratch:
            write_prefixes(Path(scratch) / path.name, prefixes, manifest.graph)
            (Path(scratch) / path.name).replace(path)
    return prefixes
