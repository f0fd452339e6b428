"""An application that PyInstaller freezes without options finds tokmarg's data, and the bundles that were installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

pytest.importorskip("PyInstaller", reason="pip install pyinstaller")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name == "nt", reason="needs links")]

ROOT = Path(__file__).parents[3]
APPLICATION = """
import sys
from tokmarg import Guard

if sys.argv[1:2] == ["--command"]:
    from tokmarg.__main__ import main
    del sys.argv[1]
    main()
guard = Guard.load("words", device="cpu")
for text in sys.argv[1:]:
    print(guard.score(text).flagged)
"""


def install(site: Path, name: str, points: dict[str, dict[str, str]]) -> None:
    """What an installer leaves beside a package, as far as anybody looks at it."""
    folder = site / f"{name.replace('-', '_')}-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (folder / "RECORD").write_text("")
    text = "".join(
        f"[{group}]\n" + "".join(f"{key} = {value}\n" for key, value in entries.items())
        for group, entries in points.items()
    )
    (folder / "entry_points.txt").write_text(text)


@pytest.fixture(scope="module")
def application(tmp_path_factory: pytest.TempPathFactory, word_bundle: Path) -> Path:
    """The frozen application, moved away from where it was built."""
    folder = tmp_path_factory.mktemp("pyinstaller")
    site = folder / "site"
    site.mkdir()
    package = shutil.copytree(word_bundle, site / "words_guard")
    (package / "__init__.py").write_text("")
    install(site, "words-guard", {"tokmarg.bundles": {"words": "words_guard"}})
    (site / "tokmarg").symlink_to(ROOT / "runtime" / "tokmarg")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    install(site, "tokmarg", project["entry-points"])
    (folder / "app.py").write_text(APPLICATION)
    done = subprocess.run(
        [sys.executable, "-m", "PyInstaller", "--noconfirm", "--log-level", "WARN", "app.py"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    moved = tmp_path_factory.mktemp("elsewhere") / "app"
    (folder / "dist" / "app").rename(moved)
    shutil.rmtree(folder)
    return moved / "app"


def run(application: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Runs it in an empty environment."""
    return subprocess.run([application, *map(str, arguments)], env={}, capture_output=True, text=True, check=False)


def test_scores(application: Path) -> None:
    done = run(application, "gun", "hello")
    assert done.stderr == ""
    assert (done.returncode, done.stdout) == (0, "True\nFalse\n")


def test_commands(application: Path, tmp_path: Path) -> None:
    """Those that need data files of their own, and the versions in the journal of a run."""
    (tmp_path / "d.jsonl").write_text('{"text": "gun", "labels": ["A"]}\n{"text": "hello", "labels": []}\n')
    done = run(application, "--command", "bundles")
    assert (done.returncode, "words" in done.stdout) == (0, True)
    report = tmp_path / "report.html"
    done = run(
        application, "--command", "evaluate", "--bundle", "words", "--data", tmp_path / "d.jsonl", "--report", report
    )
    assert done.returncode == 0, done.stderr
    assert report.read_text(encoding="utf-8").startswith("<!doctype html>")
    rows, out = tmp_path / "d.jsonl", tmp_path / "out.jsonl"
    done = run(application, "--command", "score", "--bundle", "words", "--input", rows, "--output", out)
    assert done.returncode == 0, done.stderr
    assert len(out.read_text(encoding="utf-8").splitlines()) == 2
