"""A new bundle takes the place of a bundle only, and that one is there until then."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.named_files import MANIFEST, bundle
from tokmarg.bundle.new_bundle import new_bundle
from tokmarg.bundle.replaceable import check_output
from tokmarg.errors import TokmargError


def build(out: Path, meanwhile: Callable[[], object] = lambda: None) -> None:
    with new_bundle(out, (), force=True) as new:
        new.folder.mkdir()
        (new.folder / "manifest.json").touch()
        meanwhile()
        new.finish()


def test_what_may_be_written(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    read = [("the model", tmp_path / "model"), ("the model", tmp_path / "model.gguf")]
    (tmp_path / "model").mkdir()
    (tmp_path / "model.gguf").touch()
    for name in ("empty", "new", "new/below", "empty/below"):
        check_output(tmp_path / name, read, force=False)
    check_output(bundle(tmp_path / "b"), read, force=True)
    with pytest.raises(TokmargError, match=r"is a bundle; --force .* replaces it"):
        check_output(tmp_path / "b", read, force=False)


def test_what_came_in_the_meantime_stays(tmp_path: Path) -> None:
    out = bundle(tmp_path / "b")
    with pytest.raises(TokmargError, match=r"mine\.txt is not a file of it"):
        build(out, lambda: (out / "mine.txt").write_text("x"))
    assert (out / "mine.txt").read_text() == "x"
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_a_bundle_that_cannot_be_replaced_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An interrupt between the two renames."""
    out = bundle(tmp_path / "b")
    rename = Path.rename

    def interrupted(self: Path, target: Path) -> Path:
        if self.name == "bundle":
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build(out)
    assert json.loads((out / "manifest.json").read_text()) == MANIFEST
    assert [path.name for path in tmp_path.iterdir()] == ["b"]
