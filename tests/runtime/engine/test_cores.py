"""Cores and CPU quotas: of this machine, and of files as containers and services have them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.command_line import Run
from tokmarg.engine import cores
from tokmarg.engine.cores import cpu_quota, default_threads, physical_cores


def test_cores() -> None:
    assert 1 <= physical_cores() <= (os.cpu_count() or 1)


def test_cores_where_the_system_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    read = Path.read_text

    def refuse(path: Path, *_: object, **__: object) -> str:
        return read(path / "missing")

    monkeypatch.setattr(Path, "read_text", refuse)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)), raising=False)
    for system, machine, expected in (("Windows", "AMD64", 4), ("Linux", "x86_64", 8), ("Darwin", "arm64", 8)):
        monkeypatch.setattr("platform.system", lambda system=system: system)
        monkeypatch.setattr("platform.machine", lambda machine=machine: machine)
        assert physical_cores() == expected


V2 = "31 23 0:28 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = (
    "31 23 0:28 / /sys/fs/cgroup ro - tmpfs tmpfs rw\n"
    "32 31 0:29 {root} /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct\n"
    "33 31 0:30 {root} /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n"
)


def system(root: Path, own: str, mounts: str, files: dict[str, str]) -> float | None:
    for name, text in {"proc/self/cgroup": own, "proc/self/mountinfo": mounts, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return cpu_quota(root)


@pytest.mark.parametrize(
    ("own", "files", "quota"),
    [
        ("0::/\n", {"cpu.max": "50000 100000\n"}, 0.5),  # a container
        ("0::/\n", {"cpu.max": "max 100000\n"}, None),
        ("0::/\n", {}, None),  # the root group of a machine has none
        ("0::/system.slice/x.service\n", {"system.slice/x.service/cpu.max": "150000 100000\n"}, 1.5),
        (
            "0::/a/b\n",
            {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "200000 100000\n", "cpu.max": "300000 100000\n"},
            2.0,
        ),
        ("0::/a b\n", {"a b/cpu.max": "25000 50000\n"}, 0.5),
        ("0::/../x\n", {"cpu.max": "50000 100000\n"}, 0.5),
        ("0::/\n", {"cpu.max": "nonsense\n"}, None),
        ("0::/\n", {"cpu.max": "50000 0\n"}, None),
    ],
)
def test_version_2(tmp_path: Path, own: str, files: dict[str, str], quota: float | None) -> None:
    assert system(tmp_path, own, V2, {f"sys/fs/cgroup/{name}": text for name, text in files.items()}) == quota


@pytest.mark.parametrize(
    ("own", "mounted", "group"),
    [
        ("/", "/", ""),
        ("/docker/abc", "/docker/abc", ""),  # the container's group is mounted as if it were the root
        ("/docker/abc", "/", "docker/abc/"),
        ("/docker/abc/child", "/docker/abc", "child/"),
    ],
)
@pytest.mark.parametrize(("quota", "expected"), [("50000", 0.5), ("-1", None)])
def test_version_1(tmp_path: Path, own: str, mounted: str, group: str, quota: str, expected: float | None) -> None:
    folder = f"sys/fs/cgroup/cpu,cpuacct/{group}"
    files = {f"{folder}cpu.cfs_quota_us": f"{quota}\n", f"{folder}cpu.cfs_period_us": "100000\n"}
    lines = f"12:cpuset:{own}\n4:cpu,cpuacct:{own}\n0::/\n"
    assert system(tmp_path, lines, V1.format(root=mounted), files) == expected


def test_without_control_groups(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path) is None
    assert system(tmp_path, "", "", {}) is None
    assert system(tmp_path, "4:cpu\n:::\n\xff\n", "31\n - cgroup\n", {}) is None


@pytest.mark.parametrize(("quota", "threads"), [(0.5, 1), (1.0, 1), (1.5, 2), (2.0, 2), (100.0, 4), (None, 4)])
def test_the_quota_bounds_the_default(monkeypatch: pytest.MonkeyPatch, quota: float | None, threads: int) -> None:
    monkeypatch.setattr(cores, "physical_cores", lambda: 4)
    monkeypatch.setattr(cores, "cpu_quota", lambda: quota)
    assert default_threads() == threads


@pytest.mark.parametrize(
    ("quota", "threads", "warned"), [(0.5, 2, "0.5 processors"), (1, 2, "1 processor;"), (1.5, 2, ""), (None, 99, "")]
)
def test_more_threads_than_the_quota_warn(
    tokmarg: Run, monkeypatch: pytest.MonkeyPatch, quota: float | None, threads: int, warned: str
) -> None:
    monkeypatch.setattr(cores, "cpu_quota", lambda: quota)
    result = tokmarg("score", "hello", "--threads", threads)
    assert result.exit_code == 0
    assert ("Warning: --threads" in result.stderr) == bool(warned)
    assert warned in result.stderr


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="only Linux binds processes to cores")
def test_nothing_on_stderr_on_one_core(word_bundle: Path) -> None:
    code = f"import os; os.sched_setaffinity(0, {{{min(os.sched_getaffinity(0))}}})\n" + (
        f"from tokmarg import Guard; g = Guard.load({str(word_bundle)!r}); g.score('gun'); print(g._session.workers)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("1\n", "")
