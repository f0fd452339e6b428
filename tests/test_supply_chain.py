"""What an installation brings: pins for development, floors and known-bad releases for users, and licences."""

from __future__ import annotations

import re

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.licences import PINNED, PROJECT, ROOT, RUNTIME, UNPINNED, installed, licence, listed
from tokmarg.engine.session import _BAD_RELEASES

#: Licences that an application may ship without opening its own source.
PERMISSIVE = {
    "0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "CC0-1.0", "MIT", "MPL-2.0", "PSF-2.0", "Unlicense", "Zlib",
    "ISC",
}  # fmt: skip


def test_docs_list_every_runtime_dependency_with_its_licence() -> None:
    """With the releases that are pinned; ``.ci/run`` compares the other table with an installation without pins."""
    assert listed()[PINNED] == {name: licence(name) for name in installed()}


def test_licences_let_an_application_ship_them() -> None:
    for name, expression in (listed()[PINNED] | listed()[UNPINNED]).items():
        assert set(re.split(r" (?:AND|OR) ", expression.replace("(", "").replace(")", ""))) <= PERMISSIVE, name


def pins(file: str = "constraints.txt") -> dict[str, str]:
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
    return {canonicalize_name(name): version for name, version in (line.split("==") for line in lines if "==" in line)}


def test_constraints_pin_everything_that_the_runtime_brings() -> None:
    assert set(installed()) <= set(pins())


def test_pins_lie_in_the_ranges_that_users_get() -> None:
    extras = PROJECT["optional-dependencies"]
    others = [text for name, extra in extras.items() if name != "export5" for text in extra]
    of_files = {"constraints.txt": others, "constraints-export5.txt": extras["export5"]}
    for file, requirements in of_files.items():
        for text in [*PROJECT["dependencies"], *requirements]:
            requirement = Requirement(text)
            version = pins(file).get(canonicalize_name(requirement.name))
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
