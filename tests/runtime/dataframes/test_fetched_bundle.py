"""Bundles at a URL: fetched once, checked, and refused in one line."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

fsspec = pytest.importorskip("fsspec", reason="of the extra ray")

from tokmarg import BundleError, BundleNotFoundError, Guard, TokmargError  # noqa: E402
from tokmarg.dataframes.fetched_bundle import fetch_bundle  # noqa: E402

URL = "memory://models/words"


@pytest.fixture
def remote(word_bundle: Path) -> Iterator[str]:
    """The word guard's bundle on fsspec's file system in memory."""
    system = fsspec.filesystem("memory")
    for path in word_bundle.iterdir():
        system.pipe_file(f"models/words/{path.name}", path.read_bytes())
    yield URL
    system.rm("models", recursive=True)


def remote_file(name: str) -> str:
    return f"models/words/{name}"


def test_a_bundle_is_fetched_whole_and_loads(remote: str, word_bundle: Path, tmp_path: Path) -> None:
    folder = fetch_bundle(remote, folder=tmp_path)
    assert folder.name == hashlib.sha256((word_bundle / "manifest.json").read_bytes()).hexdigest()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        path.name: path.read_bytes() for path in word_bundle.iterdir()
    }
    assert Guard.load(folder, device="cpu", threads=1).score("gun").flagged


def test_it_is_fetched_once_by_many_at_a_time(remote: str, tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        folders = set(pool.map(lambda _: fetch_bundle(remote, folder=tmp_path), range(8)))
    (folder,) = folders
    inode = (folder / "model.onnx").stat().st_ino
    fsspec.filesystem("memory").rm(remote_file("model.onnx"))  # not needed any more
    assert fetch_bundle(remote, folder=tmp_path) == folder
    assert (folder / "model.onnx").stat().st_ino == inode
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([folder.name, f"{folder.name}.lock"])


def test_a_damaged_copy_is_fetched_again(remote: str, tmp_path: Path) -> None:
    folder = fetch_bundle(remote, folder=tmp_path)
    (folder / "model.onnx").write_bytes(b"x" * (folder / "model.onnx").stat().st_size)
    assert fetch_bundle(remote, folder=tmp_path) == folder
    assert Guard.load(folder, device="cpu", threads=1).score("gun").flagged


@pytest.mark.parametrize("size", ["same", "longer"])
def test_a_file_that_differs_from_the_manifest_is_refused(remote: str, tmp_path: Path, size: str) -> None:
    system = fsspec.filesystem("memory")
    data = system.cat_file(remote_file("model.onnx"))
    system.pipe_file(remote_file("model.onnx"), data[::-1] if size == "same" else data + b"x")
    with pytest.raises(BundleError, match=r"memory://models/words/model\.onnx: differs from the manifest"):
        fetch_bundle(remote, folder=tmp_path)
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]


def test_another_manifest_than_the_pinned_one_is_refused(remote: str, tmp_path: Path) -> None:
    system = fsspec.filesystem("memory")
    manifest = system.cat_file(remote_file("manifest.json"))
    pinned = hashlib.sha256(manifest).hexdigest()
    assert fetch_bundle(remote, manifest_sha256=pinned, folder=tmp_path).name == pinned
    system.pipe_file(remote_file("manifest.json"), json.dumps(json.loads(manifest) | {"tokmarg_version": "1"}).encode())
    with pytest.raises(BundleError, match=rf"has the sha256 .*, not {pinned}"):
        fetch_bundle(remote, manifest_sha256=pinned, folder=tmp_path)
    assert fetch_bundle(remote, folder=tmp_path).name != pinned  # a bundle that changes is another folder


def test_what_is_not_there_is_named(remote: str, tmp_path: Path) -> None:
    with pytest.raises(BundleNotFoundError, match=r"^memory://models/other: no bundle here"):
        fetch_bundle("memory://models/other", folder=tmp_path)
    with pytest.raises(TokmargError, match=r"^nothing://x: Protocol not known"):
        fetch_bundle("nothing://x", folder=tmp_path)
    fsspec.filesystem("memory").rm(remote_file("tokenizer.json"))
    with pytest.raises(BundleError, match=r"words/tokenizer\.json: cannot be fetched"):
        fetch_bundle(remote, folder=tmp_path)


def test_a_name_in_the_manifest_never_leaves_the_folder(remote: str, tmp_path: Path) -> None:
    system = fsspec.filesystem("memory")
    manifest = json.loads(system.cat_file(remote_file("manifest.json")))
    manifest["files"]["../escape"] = {"sha256": "0" * 64, "size": 1}
    system.pipe_file(remote_file("manifest.json"), json.dumps(manifest).encode())
    with pytest.raises(BundleError, match="is not a plain file name"):
        fetch_bundle(remote, folder=tmp_path / "bundles")
    assert not (tmp_path / "escape").exists()


def test_a_local_folder_is_a_url_as_well(word_bundle: Path, tmp_path: Path) -> None:
    there = shutil.copytree(word_bundle, tmp_path / "there")
    assert (fetch_bundle(f"file://{there}", folder=tmp_path / "bundles") / "model.onnx").is_file()
