"""Files that are there as a whole or not at all; a process that is killed leaves nothing of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.processes import ended
from tokmarg.whole_file import unnamed_file, write_whole

#: Writes the file again and again.
WRITE = """
import sys
from tokmarg.whole_file import write_whole
print("writing", flush=True)
while True:
    for letter in b"ab":
        write_whole(sys.argv[1], bytes([letter]) * 1_000_000)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="files without names are Linux's")
def test_killed_while_it_writes(tmp_path: Path) -> None:
    path = tmp_path / "f.json"
    path.write_bytes(b"old")
    for _ in range(5):
        code, _, _ = ended(WRITE, signal.SIGKILL, path)
        assert code == -signal.SIGKILL
        assert path.read_bytes() in (b"old", b"a" * 1_000_000, b"b" * 1_000_000)
    # Between the two calls that name a file and replace another there is a moment in which it has two names.
    assert len(list(tmp_path.iterdir())) <= 2


@pytest.mark.parametrize("nameless", [True, False])
def test_an_exception_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nameless: bool) -> None:
    if not nameless:
        monkeypatch.delattr(os, "O_TMPFILE", raising=False)
    path = tmp_path / "f.json"
    write_whole(path, b"old")
    path.chmod(0o640)

    def write() -> None:
        with unnamed_file(tmp_path) as file:
            file.stream.write(b"new")
            assert len(list(tmp_path.iterdir())) == (1 if nameless and hasattr(os, "O_TMPFILE") else 2)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert (path.read_bytes(), [each.name for each in tmp_path.iterdir()]) == (b"old", ["f.json"])
    write_whole(path, b"new")
    assert (path.read_bytes(), [each.name for each in tmp_path.iterdir()]) == (b"new", ["f.json"])
    if os.name != "nt":
        assert path.stat().st_mode & 0o777 == 0o640


@pytest.mark.skipif(os.name == "nt", reason="needs links")
def test_links_and_devices_stay(tmp_path: Path) -> None:
    (tmp_path / "to").mkdir()
    link = tmp_path / "f.json"
    link.symlink_to("to/f.json")
    for content in (b"first", b"second"):
        write_whole(link, content)
        assert (tmp_path / "to" / "f.json").read_bytes() == content
        assert link.is_symlink()
    null = tmp_path / "null.json"
    null.symlink_to(os.devnull)
    write_whole(null, b"x")
    assert not Path(os.devnull).is_file()
    with pytest.raises(OSError, match="No such file or directory") as caught:
        write_whole(tmp_path / "no" / "f.json", b"x")
    assert str(tmp_path / "no") in str(caught.value.filename)


#: Loads a guard under another policy, over and over, so that it writes to the cache folder.
LOAD = """
import sys
from pathlib import Path
from tokmarg import Guard
print("writing", flush=True)
while True:
    Guard.load(sys.argv[1], device="cpu", threads=1, policy={"exclude": ["B"]})
    for path in Path(sys.argv[2]).iterdir():
        path.unlink()
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="files without names are Linux's")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left_in_the_cache_folder(word_bundle: Path, tmp_path: Path, number: int) -> None:
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    command = [sys.executable, "-c", LOAD, str(word_bundle), str(tmp_path / "tokmarg")]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        process.stdout.readline()
        deadline = time.monotonic() + 60
        while not list(tmp_path.rglob("prefix-*")) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.001)
        process.send_signal(number)
        process.wait(60)
    assert all(path.name.endswith((".safetensors", ".json")) for path in (tmp_path / "tokmarg").iterdir())
