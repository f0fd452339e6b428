"""Licences of what ``tokmarg[cpu]`` installs: the tables of docs/licences.md, and what packages say of themselves.

``python -m tests.support.licences`` compares the table of an installation without pins with the one it runs in.
"""

from __future__ import annotations

import re
import sys
import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

__all__ = ["PINNED", "PROJECT", "ROOT", "RUNTIME", "UNPINNED", "installed", "licence", "listed"]

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
RUNTIME = [Requirement(text) for text in (*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["cpu"])]
#: The tables, by their headings.
UNPINNED, PINNED = "The newest releases", "With the exporter"
#: What metadata calls a licence -> SPDX. Metadata before version 2.4 has no agreed spelling.
SPDX = {
    "MIT License": "MIT",
    "Apache Software License": "Apache-2.0",
    "Apache 2.0": "Apache-2.0",
    "Apache": "Apache-2.0",
    "3-Clause BSD License": "BSD-3-Clause",
    "BSD License": "BSD-3-Clause",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
}


def installed() -> dict[str, set[str]]:
    """Everything that ``tokmarg[cpu]`` brings, by name, and what asks for it."""
    found: dict[str, set[str]] = {}
    pending = [(requirement, "tokmarg") for requirement in RUNTIME]
    while pending:
        requirement, parent = pending.pop()
        name = canonicalize_name(requirement.name)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        known = name in found
        found.setdefault(name, set()).add(parent)
        if not known:
            pending += [(Requirement(text), name) for text in metadata.requires(name) or []]
    return found


def licence(name: str) -> str:
    """The SPDX expression of an installed package."""
    data = metadata.metadata(name)
    if data["License-Expression"]:
        return str(data["License-Expression"])
    stated = [
        c.rpartition(" :: ")[2] for c in data.get_all("Classifier") or [] if c.startswith("License :: OSI Approved ::")
    ]
    texts = stated or [(data["License"] or "").splitlines()[0] if data["License"] else ""]
    return " AND ".join(SPDX.get(text, text) for text in texts)


def listed() -> dict[str, dict[str, str]]:
    """The tables of docs/licences.md, by heading: package -> licence."""
    text = (ROOT / "docs" / "licences.md").read_text(encoding="utf-8")
    _, *sections = re.split(r"^## ", text, flags=re.MULTILINE)
    rows = re.compile(r"^\| `([\w.-]+)` \| ([^|]+) \|", re.MULTILINE)
    return {section.split("\n")[0]: {m[1]: m[2].strip() for m in rows.finditer(section)} for section in sections}


def main() -> None:
    """Prints where the table and the installation differ; exits with 1 if they do."""
    found, stated = {name: licence(name) for name in installed()}, listed()[UNPINNED]
    for name in sorted(found.keys() | stated.keys()):
        if found.get(name) != stated.get(name):
            print(f"{name}: {found.get(name, 'not installed')}, in docs/licences.md {stated.get(name, 'missing')}")
    sys.exit(found != stated)


if __name__ == "__main__":
    main()
