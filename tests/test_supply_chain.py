"""What an installation brings: pins for development, floors and known-bad releases for users, and licences."""

from __future__ import annotations

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tokmarg.engine.session import _BAD_RELEASES

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
RUNTIME = [Requirement(text) for text in (*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["cpu"])]
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
#: Licences that an application may ship without opening its own source.
PERMISSIVE = {
    "0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "CC0-1.0", "MIT", "MPL-2.0", "PSF-2.0", "Unlicense", "Zlib",
    "ISC",
}  # fmt: skip


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


def listed() -> dict[str, str]:
    """The table of docs/licences.md."""
    section = (ROOT / "docs" / "licences.md").read_text(encoding="utf-8")
    return {m[1]: m[2].strip() for m in re.finditer(r"^\| `([\w.-]+)` \| ([^|]+) \|", section, re.MULTILINE)}


def test_docs_list_every_runtime_dependency_with_its_licence() -> None:
    assert listed() == {name: licence(name) for name in installed()}


def test_licences_let_an_application_ship_them() -> None:
    for name, expression in listed().items():
        assert set(re.split(r" (?:AND|OR) ", expression.replace("(", "").replace(")", ""))) <= PERMISSIVE, name


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return {canonicalize_name(name): version for name, version in (line.split("==") for line in lines if "==" in line)}


def test_constraints_pin_everything_that_the_runtime_brings() -> None:
    assert set(installed()) <= set(pins())


def test_pins_lie_in_the_ranges_that_users_get() -> None:
    requirements = [
        *PROJECT["dependencies"],
        *(r for extra in PROJECT["optional-dependencies"].values() for r in extra),
    ]
    for text in requirements:
        requirement = Requirement(text)
        version = pins().get(canonicalize_name(requirement.name))
        if version is not None:
            assert requirement.specifier.contains(version), text


@pytest.mark.parametrize("requirement", RUNTIME, ids=str)
def test_users_have_a_floor_and_no_ceiling(requirement: Requirement) -> None:
    """Exact pins and ceilings would fight with an application's other packages."""
    assert {specifier.operator for specifier in requirement.specifier} <= {">=", "!="}
    assert any(specifier.operator == ">=" for specifier in requirement.specifier)


def test_releases_with_known_faults_are_excluded() -> None:
    for extra in ("cpu", "gpu"):
        (requirement,) = (Requirement(text) for text in PROJECT["optional-dependencies"][extra])
        for version in _BAD_RELEASES:
            assert not requirement.specifier.contains(version)
