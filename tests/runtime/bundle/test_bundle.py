"""Bundles on disk: what is refused and how it is named; how a bundle is found."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import sys
from importlib import metadata
from pathlib import Path

import pytest

from tests.support.documents import Place, edited
from tests.support.system_errors import raise_in_os
from tokmarg.bundle.bundle import Bundle
from tokmarg.bundle.installed import find_bundle, installed_bundles
from tokmarg.errors import BundleError, BundleNotFoundError, SpecError

FILES = ["model.onnx", "tokenizer.json", "prefix.safetensors"]


@pytest.fixture
def copy(word_bundle: Path, tmp_path: Path) -> Path:
    """A bundle that may be changed."""
    return shutil.copytree(word_bundle, tmp_path / "bundle")


def edit_manifest(folder: Path, place: Place, value: object) -> None:
    path = folder / "manifest.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(edited(document, place, value)), encoding="utf-8")


def test_whole_bundle(copy: Path) -> None:
    bundle = Bundle.open(copy)
    bundle.verify()
    assert bundle.path == copy
    assert bundle.manifest.model_id == "tests/words"
    assert [bundle.file(name) for name in FILES] == [copy / name for name in FILES]
    assert Bundle.open(str(copy)) == bundle


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(BundleNotFoundError, match=r"nowhere: no bundle here \(manifest\.json is missing\)"):
        Bundle.open(tmp_path / "nowhere")


def test_missing_manifest(copy: Path) -> None:
    (copy / "manifest.json").unlink()
    with pytest.raises(BundleNotFoundError, match=r"bundle: no bundle here \(manifest\.json is missing\)"):
        Bundle.open(copy)


def test_manifest_that_is_a_folder(copy: Path) -> None:
    (copy / "manifest.json").unlink()
    (copy / "manifest.json").mkdir()
    with pytest.raises(BundleNotFoundError, match="no bundle here"):
        Bundle.open(copy)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"{'a': 1}",
        b'{"a": 1} {}',
        b"\xff\xfe\x00\x00",
        b'{"a": "\x80"}',
        b'{"a": ' + b"9" * 5000 + b"}",
        b"NaN",
        b"[" * 10**6,
        b'{"a":' * 10**6,
        b'{"spec": ' + b"[" * 10**5 + b"]" * 10**5 + b"}",
    ],
    ids=["empty", "cut", "quotes", "two", "utf-32", "latin-1", "digits", "nan", "lists", "tables", "deep"],
)
def test_manifest_that_is_not_json(copy: Path, content: bytes) -> None:
    (copy / "manifest.json").write_bytes(content)
    with pytest.raises(BundleError, match=r"manifest\.json: not valid JSON: ") as caught:
        Bundle.open(copy)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["[]", "null", '"manifest"', "1"])
def test_manifest_that_is_no_table(copy: Path, content: str) -> None:
    (copy / "manifest.json").write_text(content)
    with pytest.raises(BundleError, match=r"manifest\.json: must be a table, not "):
        Bundle.open(copy)


def test_manifest_that_is_too_big(copy: Path) -> None:
    with (copy / "manifest.json").open("ab") as stream:
        stream.truncate(16 * 2**20 + 1)
    with pytest.raises(BundleError, match=r"manifest\.json: larger than 16 MiB"):
        Bundle.open(copy)


def test_manifest_that_cannot_be_read(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> bytes:
        raise_in_os(PermissionError(13, "Permission denied", str(path)))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(BundleError, match=r"manifest\.json: cannot be read: Permission denied$"):
        Bundle.open(copy)


@pytest.mark.parametrize("version", [0, 2, 999])
def test_other_schema_version(copy: Path, version: int) -> None:
    edit_manifest(copy, ("schema_version",), version)
    edit_manifest(copy, ("field_of_the_future",), 1)  # the version is what is wrong, not the field
    with pytest.raises(BundleError, match=rf"schema_version: is {version}; this tokmarg reads 1: upgrade or re-export"):
        Bundle.open(copy)


def test_broken_spec_is_named_with_its_file(copy: Path) -> None:
    edit_manifest(copy, ("spec", "template", "text"), "no place for content")
    with pytest.raises(SpecError, match=r"bundle/manifest\.json: spec\.template\.text: must hold \{\{conversation\}\}"):
        Bundle.open(copy)


def test_files_with_a_path(copy: Path) -> None:
    (copy.parent / "secret").write_bytes(b"")
    edit_manifest(copy, ("files", "../secret"), {"sha256": "0" * 64, "size": 0})
    with pytest.raises(BundleError, match=r"files\.'\.\./secret': is not a plain file name inside the bundle"):
        Bundle.open(copy)


@pytest.mark.parametrize("name", FILES)
def test_missing_file(copy: Path, name: str) -> None:
    (copy / name).unlink()
    bundle = Bundle.open(copy)
    for check in (lambda: bundle.file(name), bundle.verify):
        with pytest.raises(BundleError, match=rf"{name}: is missing; export the bundle again or copy it whole"):
            check()


@pytest.mark.parametrize("name", FILES)
def test_truncated_file(copy: Path, name: str) -> None:
    size = (copy / name).stat().st_size
    os.truncate(copy / name, size - 1)
    with pytest.raises(BundleError, match=rf"{name}: is {size - 1:,} bytes, the manifest says {size:,}; copy it again"):
        Bundle.open(copy).file(name)


@pytest.mark.parametrize("name", FILES)
def test_flipped_bit(copy: Path, name: str) -> None:
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / name).write_bytes(data)
    bundle = Bundle.open(copy)
    bundle.file(name)  # the size is right
    with pytest.raises(BundleError, match=rf"{name}: sha256 differs from the manifest"):
        bundle.verify()


def test_file_that_cannot_be_read(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = Bundle.open(copy)

    def refuse(path: Path, mode: str) -> object:
        raise_in_os(PermissionError(13, "Permission denied", str(path)))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(BundleError, match=r"model\.onnx: cannot be read: Permission denied$"):
        bundle.verify()


def test_link_out_of_the_folder(copy: Path) -> None:
    shutil.move(copy / "model.onnx", copy.parent / "elsewhere")
    (copy / "model.onnx").symlink_to(copy.parent / "elsewhere")
    bundle = Bundle.open(copy)
    for check in (lambda: bundle.file("model.onnx"), bundle.verify):
        with pytest.raises(BundleError, match=r"model\.onnx: is a link that leaves the bundle"):
            check()


def test_links_inside_and_to_the_folder(copy: Path) -> None:
    shutil.move(copy / "model.onnx", copy / "graph.onnx")
    (copy / "model.onnx").symlink_to("graph.onnx")
    link = copy.parent / "link"
    link.symlink_to(copy)
    Bundle.open(link).verify()


def test_broken_link(copy: Path) -> None:
    (copy / "model.onnx").unlink()
    (copy / "model.onnx").symlink_to("model.onnx")
    with pytest.raises(BundleError, match=r"model\.onnx: is missing"):
        Bundle.open(copy).file("model.onnx")


def test_file_that_the_manifest_does_not_know(copy: Path) -> None:
    (copy / "extra").write_bytes(b"")
    with pytest.raises(BundleError, match=r"manifest\.json: files\.extra: is missing"):
        Bundle.open(copy).file("extra")


class Site:
    """A folder on ``sys.path`` into which distributions are put as pip does."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def install(self, name: str, entry_points: str, *packages: str) -> None:
        info = self.folder / f"{name}-1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
        (info / "entry_points.txt").write_text(f"[tokmarg.bundles]\n{entry_points}\n")
        for package in packages:
            (self.folder / package).mkdir(parents=True)
            (self.folder / package / "__init__.py").write_text("raise SystemExit('imported')")
        importlib.invalidate_caches()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.delenv("TOKMARG_BUNDLE", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "site").mkdir()
    monkeypatch.syspath_prepend(tmp_path / "site")

    def of_site(group: str) -> list[metadata.EntryPoint]:
        """What else is installed, the reference guard say, is left out."""
        found = metadata.distributions(path=[str(tmp_path / "site")])
        return [point for each in found for point in each.entry_points if point.group == group]

    monkeypatch.setattr("tokmarg.bundle.installed.entry_points", of_site)
    return Site(tmp_path / "site")


def test_installed_bundles_are_found_without_import(site: Site) -> None:
    site.install("first", "alpha = first_bundle\nbeta = first_bundle.data.beta", "first_bundle")
    (site.folder / "first_bundle" / "data" / "beta").mkdir(parents=True)
    site.install("second", "gamma = second_bundle:attribute [extra]", "second_bundle")
    package = site.folder / "first_bundle"
    expected = {"alpha": package, "beta": package / "data" / "beta", "gamma": site.folder / "second_bundle"}
    assert installed_bundles().items() >= expected.items()
    assert find_bundle("beta") == expected["beta"]
    assert not {"first_bundle", "second_bundle"} & set(sys.modules)


def test_broken_distributions_stop_nobody(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "odd", type(sys)("odd"))  # a module with no spec, as a script's can be
    (site.folder / "single.py").write_text("")
    site.install("broken", "a = no_such_package\nb = no_such.package\nc = odd\nd = single\ne = good.missing\nf = .x")
    site.install("good", "good = good", "good")
    assert "good" in installed_bundles()
    assert not set("abcdef") & set(installed_bundles())


def test_resolution_order(site: Site, copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BundleNotFoundError, match=r"--bundle DIR, or \$TOKMARG_BUNDLE.* install 'reference-guard'"):
        find_bundle(None)
    site.install("reference", "reference-guard = reference_bundle", "reference_bundle")
    assert find_bundle(None) == site.folder / "reference_bundle"
    monkeypatch.setenv("TOKMARG_BUNDLE", "")
    assert find_bundle(None) == site.folder / "reference_bundle"
    monkeypatch.setenv("TOKMARG_BUNDLE", str(copy))
    assert find_bundle(None) == copy
    monkeypatch.setenv("TOKMARG_BUNDLE", "reference-guard")
    assert find_bundle(None) == site.folder / "reference_bundle"
    assert find_bundle(copy) == copy  # what was given beats the environment
    Path("reference-guard").mkdir()
    assert find_bundle("reference-guard") == Path("reference-guard")  # a folder beats an installed bundle


def test_unknown_name_lists_installed_bundles(site: Site) -> None:
    site.install("two", "zeta = two_bundle\neta = two_bundle", "two_bundle")
    with pytest.raises(
        BundleNotFoundError, match=r"^theta: no such folder and no installed bundle.*bundles: .*eta.*zeta"
    ):
        find_bundle("theta")


@pytest.mark.parametrize("name", ["no-such", "a/b/c", "x" * 10_000, "nul\0", "/dev/null", "\udcff"])
def test_impossible_names(site: Site, name: str) -> None:
    with pytest.raises(BundleNotFoundError, match="no such folder and no installed bundle of this name"):
        find_bundle(name)
