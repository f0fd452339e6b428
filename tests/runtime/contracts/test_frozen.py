"""tokmarg in a frozen application: no package metadata, no interpreter to start anew, perhaps no package data."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path
from typing import Any

import pytest

import tokmarg
from tokmarg.cli.resume import fingerprint

pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs links")
START = """
import sys
sys.path.insert(0, {folder!r})
sys.frozen = True
from tokmarg.__main__ import main
main()
"""
VERSIONS = """
import json, sys
sys.path.insert(0, {folder!r})
from tokmarg.cli.resume.fingerprint import partial_fingerprint
print(json.dumps(partial_fingerprint({{"threads": 1}}, (0, ""), "lines", "jsonl")["versions"]))
"""


@pytest.fixture(scope="module")
def application(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packages without their metadata, as a freezer collects them; of tokmarg the modules without data."""
    folder = tmp_path_factory.mktemp("frozen")
    for where in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        for path in Path(where).iterdir():
            if path.suffix not in (".dist-info", ".egg-info", ".pth") and not path.name.startswith("tokmarg"):
                (folder / path.name).symlink_to(path)
    data = shutil.ignore_patterns("report.*", "__pycache__")
    shutil.copytree(Path(tokmarg.__file__).parent, folder / "tokmarg", ignore=data)
    return folder


def python(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Runs code in a Python that sees nothing of the environment: neither its packages nor their metadata."""
    command = [sys.executable, "-I", "-S", "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


def run(application: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    done = python(START.format(folder=str(application)), *arguments)
    assert "Traceback" not in done.stderr
    return done


def test_version_is_that_of_the_project(application: Path) -> None:
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert tokmarg.__version__ == project["version"]
    assert run(application, "--version").stdout == f"tokmarg {project['version']}\n"


def test_fingerprint_names_every_library(application: Path) -> None:
    import numpy
    import onnxruntime
    import tokenizers

    done = python(VERSIONS.format(folder=str(application)))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "tokmarg": tokmarg.__version__,
        "onnxruntime": f"{onnxruntime.__version__} (no package metadata)",
        "numpy": f"{numpy.__version__} (no package metadata)",
        "tokenizers": f"{tokenizers.__version__} (no package metadata)",
    }


def test_fingerprint_of_installed_packages() -> None:
    options: dict[str, Any] = {"threads": 1}
    versions = fingerprint.partial_fingerprint(options, (0, ""), "lines", "jsonl")["versions"]
    assert {"tokmarg", "numpy", "tokenizers"} < set(versions)
    assert any(name.startswith("onnxruntime") for name in versions)
    assert not any("(" in found for found in versions.values())


def test_scores(application: Path, word_bundle: Path, tmp_path: Path) -> None:
    given, output = tmp_path / "in.txt", tmp_path / "out.jsonl"
    given.write_text("gun\nhello\n")
    done = run(application, "score", "--bundle", word_bundle, "--input", given, "--output", output)
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["flagged"] for line in output.read_text().splitlines()] == [True, False]


def test_bench_goes_on_without_cold_starts(application: Path, word_bundle: Path) -> None:
    arguments = ("bench", "--bundle", word_bundle, "--seconds", 0.01, "--threads", 1)
    done = run(application, *arguments, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    figures = json.loads(done.stdout)
    assert figures["cold_start"] == {"median_s": None, "runs": 0}
    assert figures["packed"]["messages_per_second"] > 0
    (line,) = (line for line in run(application, *arguments).stdout.splitlines() if line.startswith("cold start"))
    assert "cannot be measured in a frozen application" in line


def test_report_without_its_files_blames_them(application: Path, word_bundle: Path, tmp_path: Path) -> None:
    data, report = tmp_path / "data.jsonl", tmp_path / "report.html"
    data.write_text('{"text": "gun", "labels": ["A"]}\n{"text": "hello", "labels": []}\n')
    done = run(application, "evaluate", "--bundle", word_bundle, "--data", data, "--report", report)
    assert done.returncode == 1
    assert done.stdout == ""  # before the work
    (line,) = done.stderr.splitlines()
    assert line.startswith("Error: tokmarg's own file report.html, data of the package tokmarg.evaluation.report, ")
    assert "frozen application" in line
    assert str(report) not in line
    assert not report.exists()
