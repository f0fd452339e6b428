"""The user's cache folder: a damaged file changes no score, and no folder is no obstacle."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tokmarg import Guard
from tokmarg.cache_folder import cache_folder
from tokmarg.engine import prefix_cache

POLICY = {"exclude": ["B"]}
TEXT = "gun idiot hello"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tokmarg"


def score(bundle: Path) -> dict[str, object]:
    return Guard.load(bundle, device="cpu", threads=1, policy=POLICY).score(TEXT).to_dict()


def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts how often prefixes are computed from here on."""
    calls: list[int] = []
    compute = prefix_cache.compute_prefixes

    def counted(*args: object) -> object:
        calls.append(1)
        return compute(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(prefix_cache, "compute_prefixes", counted)
    return calls


def test_no_flipped_bit_changes_a_score(word_bundle: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = score(word_bundle)
    (stored,) = cache.glob("prefix-*")
    whole = stored.read_bytes()
    calls = computed(monkeypatch)
    for count, offset in enumerate([0, 9, *range(-40, -len(whole) + 8, -len(whole) // 40)], 1):
        damaged = bytearray(whole)
        damaged[offset] ^= 0x40
        stored.write_bytes(damaged)
        assert score(word_bundle) == expected
        assert len(calls) == count
        (stored,) = cache.glob("prefix-*")
        assert stored.read_bytes() == whole


@pytest.mark.parametrize("keep", [0, 1, 100, -1])
def test_cut_file_is_written_anew(word_bundle: Path, cache: Path, keep: int) -> None:
    expected = score(word_bundle)
    (stored,) = cache.glob("prefix-*")
    whole = stored.read_bytes()
    stored.write_bytes(whole[:keep])
    assert score(word_bundle) == expected
    (stored,) = cache.glob("prefix-*")
    assert stored.read_bytes() == whole


def test_whole_file_is_used(word_bundle: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = score(word_bundle)
    calls = computed(monkeypatch)
    assert score(word_bundle) == expected
    assert not calls


def test_file_of_another_policy_under_this_name_is_not_used(word_bundle: Path, cache: Path) -> None:
    expected = score(word_bundle)
    (stored,) = cache.glob("prefix-*")
    Guard.load(word_bundle, device="cpu", threads=1, policy={"exclude": ["A"]})
    (other,) = set(cache.glob("prefix-*")) - {stored}
    key, sum_of_other = stored.stem.split("-")[1], other.stem.split("-")[2]
    stored.unlink()
    other.rename(cache / f"prefix-{key}-{sum_of_other}.safetensors")
    assert score(word_bundle) == expected


def test_file_is_on_the_disk_before_it_has_its_name(
    word_bundle: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    fsync, replace = os.fsync, os.replace

    def record_sync(file: int) -> None:
        fsync(file)
        synced.append("fsync")

    def record_replace(source: Path, target: Path) -> None:
        synced.append("replace")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", record_sync)
    monkeypatch.setattr(os, "replace", record_replace)
    score(word_bundle)
    assert synced == ["fsync", "replace"] * 3  # the checks of two grammars, and the prefix


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="XDG_CACHE_HOME")
@pytest.mark.parametrize(
    ("cache_home", "home"),
    [
        ("/dev/null/cache", "/nowhere"),
        (f"/{'a' * 300}", "/nowhere"),  # a name too long: even asking whether it is there fails
        ("relative", "relative"),
    ],
)
def test_useless_cache_folder_is_no_obstacle(
    word_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache_home: str, home: str
) -> None:
    expected = score(word_bundle)
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("XDG_CACHE_HOME", cache_home)
    monkeypatch.setenv("HOME", home)
    assert score(word_bundle) == expected
    assert not list(here.iterdir())


NO_HOME = """
import os, sys
from tokmarg import Guard
Guard.load(sys.argv[1], device="cpu", threads=1)  # imports everything: the interpreter may be closed to others
os.setgid(54321)
os.setuid(54321)
assert os.path.expanduser("~") == "~"
assert Guard.load(sys.argv[1], device="cpu", threads=1, policy={"exclude": ["B"]}).score("gun").flagged
"""


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="must be root to become another user")
@pytest.mark.parametrize("cache_home", [None, "cache"])
def test_user_without_home_and_entry(word_bundle: Path, cache_home: str | None) -> None:
    import tempfile

    environment = {name: value for name, value in os.environ.items() if name not in ("HOME", "XDG_CACHE_HOME")}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:  # pytest's own is closed to other users
        bundle = shutil.copytree(word_bundle, Path(folder) / "bundle")
        for path in (Path(folder), bundle, *bundle.iterdir()):
            path.chmod(0o777)
        if cache_home is not None:
            environment["XDG_CACHE_HOME"] = f"{folder}/{cache_home}"
        done = subprocess.run(
            [sys.executable, "-c", NO_HOME, str(bundle)], env=environment, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert (Path(folder) / "cache" / "tokmarg").exists() == (cache_home is not None)


def test_home_is_not_asked_where_it_is_not_needed(
    word_bundle: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    score(word_bundle)
    assert cache.exists()
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() is None
    score(word_bundle)
