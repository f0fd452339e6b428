"""Encoders of the real tokenizers, and a guard that counts words with a command line to run it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.conftest import FAMILIES
from tests.support import word_guard
from tokmarg.cli import main


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def word_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of :mod:`tests.support.word_guard`; tests copy it before they change it."""
    return word_guard.write(tmp_path_factory.mktemp("word-guard"))


@pytest.fixture
def bundle_copy(word_bundle: Path, tmp_path: Path) -> Path:
    """The word guard's bundle, to be changed."""
    return shutil.copytree(word_bundle, tmp_path / "bundle")


@pytest.fixture
def tokmarg(word_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Runs a command line in this process, with the word guard as default bundle."""
    monkeypatch.setenv("TOKMARG_BUNDLE", str(word_bundle))

    def run(*args: object, input: str | bytes = b"") -> Result:
        result = CliRunner().invoke(main, [str(arg) for arg in args], input=input)
        assert "Traceback" not in result.output
        return result

    return run
