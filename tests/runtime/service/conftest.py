"""One server for tests that leave it as it is."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.served import Served, serving, with_table


@pytest.fixture(scope="session")
def table_bundle(word_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The word guard with a table of OpenAI's categories."""
    return with_table(shutil.copytree(word_bundle, tmp_path_factory.mktemp("served") / "words"))


@pytest.fixture(scope="session")
def served(table_bundle: Path) -> Iterator[Served]:
    with serving("--bundle", table_bundle, "--device", "cpu", "--threads", "2", "--max-body", "20000") as server:
        yield server
