"""The systemd unit and the Containerfile of docs/serve.md: what they say is what the server takes, and it runs so.

Where a container tool works the image is built and run; otherwise the Containerfile's steps are taken one by one.
"""

from __future__ import annotations

import configparser
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.served import Served
from tokmarg.cli import main

ROOT = Path(__file__).parents[1]
TOKEN = "0123456789abcdef-one"


def block(kind: str) -> str:
    """The only block of a kind in the page."""
    text = (ROOT / "docs" / "serve.md").read_text(encoding="utf-8")
    (found,) = re.findall(rf"^```{kind}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return str(found)


def steps() -> list[tuple[str, str]]:
    return [(line.split(" ", 1)[0], line.split(" ", 1)[1]) for line in block("dockerfile").splitlines() if line]


def options_of(arguments: list[str]) -> set[str]:
    """The options of a ``tokmarg serve`` command line, all of which it knows."""
    assert arguments[:2] in (["tokmarg", "serve"], ["/opt/tokmarg/bin/tokmarg", "serve"])
    used = {argument for argument in arguments if argument.startswith("--")}
    assert used <= {name for parameter in main.commands["serve"].params for name in parameter.opts}
    return used


def test_the_unit() -> None:
    unit = configparser.ConfigParser(interpolation=None)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read_string(block("ini"))
    service = unit["Service"]
    assert options_of(shlex.split(service["ExecStart"])) == {"--bundle", "--tokens"}
    assert service["ExecReload"].split()[1] == "-HUP"
    assert (service["DynamicUser"], service["ProtectSystem"], service["NoNewPrivileges"]) == ("yes", "strict", "yes")
    stop, timeout = float(service["TimeoutStopSec"]), default("timeout")
    assert stop > timeout + default("drain")
    if (analyze := shutil.which("systemd-analyze")) is not None:
        done = subprocess.run([analyze, "--version"], capture_output=True, text=True, check=False)
        assert done.returncode == 0


def default(name: str) -> float:
    return next(float(str(each.default)) for each in main.commands["serve"].params if each.name == name)


def test_the_containerfile() -> None:
    kinds = dict(steps())
    assert options_of(json.loads(kinds["ENTRYPOINT"])) == {"--host", "--tokens"}
    user, _, group = kinds["USER"].partition(":")
    assert int(user) > 0
    assert int(group) > 0
    assert int(kinds["EXPOSE"]) == default("port")
    for kind, what in steps():
        if kind == "COPY":
            assert (ROOT / what.split()[0]).exists()


def container_tool() -> str | None:
    for name in ("docker", "podman"):
        if (tool := shutil.which(name)) is not None:
            done = subprocess.run([tool, "info"], capture_output=True, check=False, timeout=60)
            if done.returncode == 0:
                return tool
    return None


@pytest.mark.slow
def test_the_image_is_built_and_runs(tmp_path: Path) -> None:
    tool = container_tool()
    if tool is None:
        pytest.skip("no container tool works here: test_the_steps_without_a_container takes its place")
    (tmp_path / "Containerfile").write_text(block("dockerfile"), encoding="utf-8")
    (tmp_path / "tokens").write_text(TOKEN, encoding="utf-8")
    build = [tool, "build", "-q", "-f", str(tmp_path / "Containerfile"), str(ROOT)]
    image = subprocess.run(build, check=True, capture_output=True, text=True).stdout.strip()
    flags = ["--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "-p", "127.0.0.1:0:8080"]
    run = [tool, "run", "-d", *flags, "-v", f"{tmp_path / 'tokens'}:/run/secrets/tokens:ro", image]
    container = subprocess.run(run, check=True, capture_output=True, text=True).stdout.strip()
    try:
        address = subprocess.run([tool, "port", container, "8080"], check=True, capture_output=True, text=True).stdout
        served = Served.__new__(Served)
        served.port = int(address.split()[0].rpartition(":")[2])
        wait_until_ready(served)
        judge(served)
    finally:
        subprocess.run([tool, "rm", "-f", container], check=True, capture_output=True)


def wait_until_ready(served: Served) -> None:
    until = time.monotonic() + 120
    while True:
        try:
            assert served.ask("GET", "/readyz")[0] == 200
            return
        except OSError:
            assert time.monotonic() < until
            time.sleep(0.2)


def judge(served: Served) -> None:
    assert served.ask("POST", "/v1/moderations", {"input": "hello"})[0] == 401
    headers = {"Authorization": f"Bearer {TOKEN}"}
    status, answer, _ = served.ask("POST", "/v1/moderations", {"input": "How do I build a pipe bomb?"}, headers)
    assert (status, answer["results"][0]["flagged"]) == (200, True)
    assert served.ask("GET", "/")[0] == 200


@pytest.mark.slow
def test_the_steps_without_a_container(tmp_path: Path) -> None:
    """What it installs (its dependencies are those of this environment), with its user's home, and writing nothing."""
    root = tmp_path / "root"
    environment = {name: os.environ[name] for name in ("PATH", "LANG", "LD_LIBRARY_PATH") if name in os.environ}
    for kind, what in steps():
        if kind == "COPY":
            source, target = what.split()
            shutil.copytree(
                ROOT / source, root / target.strip("/"), ignore=shutil.ignore_patterns(".*", "tests", "build")
            )
        elif kind == "RUN":
            install = ["install", "-q", "--no-deps", "--target", str(root / "installed")]
            assert shlex.split(what)[:2] == ["pip", "install"]
            package = shlex.split(what)[3].partition("[")[0]
            subprocess.run([sys.executable, "-m", "pip", *install, str(root / package.strip("/"))], check=True)
            shutil.rmtree(root / "source")
        elif kind == "ENV":
            environment |= dict(pair.split("=") for pair in what.split())
        elif kind == "ENTRYPOINT":
            entry = json.loads(what)
    secrets = root / "run" / "secrets"
    secrets.mkdir(parents=True)
    (secrets / "tokens").write_text(TOKEN, encoding="utf-8")
    environment |= {"PYTHONPATH": str(root / "installed"), "TOKMARG_BUNDLE": str(root) + environment["TOKMARG_BUNDLE"]}
    arguments = [str(root) + each if each.startswith("/") else each for each in entry[1:]]
    before = sorted(path for path in tmp_path.rglob("*"))
    command = [sys.executable, str(root / "installed" / "bin" / entry[0]), *arguments, "--port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment, cwd=root)
    served = Served(process)
    try:
        served.port = int(re.findall(r":(\d+) ", served.wait(r"running on http://\S+:\d+"))[-1])
        judge(served)
    finally:
        process.terminate()
        assert process.wait(60) == 0
        served.close()
    assert sorted(path for path in tmp_path.rglob("*")) == before
