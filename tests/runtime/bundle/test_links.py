"""Bundles made of links: hard ones, as uv installs packages, load; symbolic ones out of the folder are one line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tokmarg import Guard
from tokmarg.errors import BundleError


def linked(bundle: Path, folder: Path, *, hard: bool) -> Path:
    folder.mkdir()
    for file in bundle.iterdir():
        (os.link if hard else os.symlink)(file, folder / file.name)
    return folder


def test_hard_links_load(tiny_bundle: Path, tiny_guard: Guard, tmp_path: Path) -> None:
    copy = tiny_bundle.parent / f"linked-{tmp_path.name}"  # hard links stay on one file system
    guard = Guard.load(linked(tiny_bundle, copy, hard=True), device="cpu")
    assert guard.score("Hello.").unsafe == tiny_guard.score("Hello.").unsafe


def test_symbolic_links_are_one_line(tiny_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"manifest\.json: is a link that leaves the bundle$"):
        Guard.load(linked(tiny_bundle, tmp_path / "copy", hard=False), device="cpu")
