"""Broken and hostile bundles, with and without the sha256 check: one clear error, nothing read or written outside."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.support import word_guard
from tests.support.documents import edited
from tokmarg import Guard, TokmargError
from tokmarg.bundle.bundle import Bundle
from tokmarg.documents import strict_json
from tokmarg.errors import BundleError, SpecError
from tokmarg.prompt.spec import Spec

FILES = ["manifest.json", "model.onnx", "tokenizer.json", "prefix.safetensors"]


@pytest.fixture
def copy(word_bundle: Path, tmp_path: Path) -> Path:
    """A bundle that may be changed."""
    return shutil.copytree(word_bundle, tmp_path / "bundle")


def refused(folder: Path, message: str, verify: tuple[bool, ...] = (True, False)) -> None:
    """Loading fails, either way, in one line that names the file."""
    for check in verify:
        with pytest.raises(TokmargError, match=message) as caught:
            Guard.load(folder, device="cpu", verify=check, threads=1)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 2000


def fit(folder: Path) -> Path:
    """Makes sizes and checksums of the manifest those of the files: a hostile bundle's are always right."""
    return word_guard.write_manifest(folder)


def pipe(path: Path, _: Path) -> None:
    os.mkfifo(path)


def folder(path: Path, _: Path) -> None:
    path.mkdir()


def link_out(path: Path, outside: Path) -> None:
    path.symlink_to(outside)


def link_up(path: Path, outside: Path) -> None:
    path.symlink_to(Path("..") / outside.name)


def device(path: Path, _: Path) -> None:
    path.symlink_to("/dev/zero")


def link_to_itself(path: Path, _: Path) -> None:
    path.symlink_to(path.name)


def link_to_a_folder(path: Path, _: Path) -> None:
    path.symlink_to("/etc")


@pytest.mark.skipif(os.name == "nt", reason="pipes and links")
@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", [pipe, folder, link_out, link_up, device, link_to_itself, link_to_a_folder])
def test_something_else_in_a_files_place(copy: Path, name: str, kind: Callable[[Path, Path], None]) -> None:
    outside = copy.parent / "outside"
    shutil.move(copy / name, outside)
    kind(copy / name, outside)
    leaves = kind in (link_out, link_up)
    what = "is a link that leaves the bundle" if leaves else "is (missing|no file)|no bundle here"
    refused(copy, rf"{'bundle' if name == 'manifest.json' else name}.*{what}")


@pytest.mark.parametrize("name", FILES[1:])
def test_a_file_that_is_missing(copy: Path, name: str) -> None:
    (copy / name).unlink()
    refused(copy, rf"{name}: is missing")


@pytest.mark.parametrize("a", FILES)
@pytest.mark.parametrize("b", FILES)
def test_files_in_each_others_place(copy: Path, a: str, b: str) -> None:
    if a >= b:
        return
    first, second = (copy / a).read_bytes(), (copy / b).read_bytes()
    (copy / a).write_bytes(second)
    (copy / b).write_bytes(first)
    if "manifest.json" not in (a, b):
        fit(copy)
    refused(copy, rf"{a}|{b}")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kept", [0, 0.01, 0.5, 0.99, -1])
def test_cut_files(copy: Path, name: str, kept: float) -> None:
    data = (copy / name).read_bytes()
    (copy / name).write_bytes(data[: int(len(data) * kept) if kept >= 0 else -1])
    refused(copy, rf"{name}: ")
    if name != "manifest.json":
        fit(copy)
        refused(copy, rf"{name}: ")


@pytest.mark.parametrize(
    "content",
    [
        b'{"schema_version": 1, "schema_version": 1}',
        b'{"schema_version": NaN}',
        b'{"schema_version": -Infinity}',
        b'{"schema_version": 1e999}',
        b'{"schema_version": 1, "a": {"b": 1, "c": 2, "b": 3}}',
        b'{"schema_version": ' + b"9" * 5000 + b"}",
        b'{"a":' * 100_000,
        b"[" * 10**6,
        b"\xff\xfe{}",
        *('{"schema_version": 1}'.encode(encoding) for encoding in ("utf-16", "utf-16-le", "utf-32")),
    ],
)  # fmt: skip
def test_manifests_that_readers_could_differ_on(copy: Path, content: bytes) -> None:
    (copy / "manifest.json").write_bytes(content)
    refused(copy, r"manifest\.json: not valid JSON: ")


def test_strict_json_says_which_field_is_there_twice() -> None:
    assert strict_json('{"a": [1, 2.5, null, {"a": "a"}]}') == {"a": [1, 2.5, None, {"a": "a"}]}
    with pytest.raises(ValueError, match=r"field 'b' is there twice"):
        strict_json('{"a": 1, "x": {"b": 1, "a": 2, "b": 3}}')


def test_manifest_of_100_megabytes_is_not_read(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (copy / "manifest.json").open("ab") as stream:
        stream.truncate(100 * 2**20)
    monkeypatch.setattr(Path, "read_bytes", None)
    refused(copy, r"manifest\.json: larger than 16 MiB")


@pytest.mark.parametrize("field", ["vocab_size", "layers", "kv_heads", "head_dim", "max_positions", "sliding_window"])
@pytest.mark.parametrize("value", [0, -1, 2**31, 2**63, 10**4000, 1e300, True, "8"])
def test_huge_numbers_in_the_graph_table(copy: Path, field: str, value: Any) -> None:
    path = copy / "manifest.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(edited(document, ("graph", field), value)), encoding="utf-8")
    refused(copy, rf"manifest\.json: graph\.{field}: |sliding_attention_mask")


def spec(*place: str | int, value: Any) -> dict[str, Any]:
    document: dict[str, Any] = edited(word_guard.SPEC, place, value)
    return document


def chain(count: int, options: int = 2) -> list[object]:
    """Choices one after the other that may all be empty: the first text of a verdict is one of 2 ** count."""
    return [{"choice": [{"text": "", "event": "unsafe"}] * options}] * count


def nest(depth: int) -> list[object]:
    parts: list[object] = ["a"]
    for _ in range(depth):
        parts = [{"choice": [{"text": "", "then": parts}, {"text": "b", "event": "unsafe"}]}] * 2
    return parts


END = "{{conversation}}"
DEEP = json.loads("[" + '{"choice":[{"text":"a","then":[' * 100 + "]}]}" * 100 + "]")
EXPLOSIVE = {
    "placeholders": (
        edited(spec("template", "policy_item", value="{{name}}"), ("template", "text"), "{{policy}}" * 10_000 + END)
        | {"policy": {"labels": [{"id": "A", "name": "x" * 10_000}]}},
        r"spec\.template\.text: with the policy the prompt has 100,\d{3},\d{3} characters",
    ),
    "roles": (
        edited(spec("template", "text", value="{{role}}" * 10_000 + END), ("template", "roles", "user"), "x" * 1000),
        r"spec\.template\.text",
    ),
    "items": (
        spec("template", "policy_item", value="{{definition}}" * 1000)
        | {"policy": {"labels": [{"id": "A", "name": "x", "definition": "y" * 10_000}]}},
        r"spec\.template\.text: with the policy the prompt has 10,0\d\d,\d{3} characters",
    ),
    "message": (spec("template", "messages", "user", value="x" * 2**20 + "{{content}}"), r"spec\.template\.text"),
    "labels": (
        spec("policy", "labels", value=[{"id": f"L{i}", "name": "x"} for i in range(100_000)]),
        r"spec\.policy\.labels: are 100,000, more than 1,000",
    ),
    "empty choices": (spec("verdict", "grammar", value=chain(40)), r"verdict\.grammar: more than 2,000 texts"),
    "nested choices": (spec("verdict", "grammar", value=nest(12)), r"verdict\.grammar: (more than|one verdict has)"),
    "many parts": (spec("verdict", "grammar", value=["a"] * 5000), r"verdict\.grammar: one verdict has more than 128"),
    "a wide choice": (
        spec("verdict", "grammar", value=[{"choice": [{"text": f"t{i}"} for i in range(5000)]}]),
        r"verdict\.grammar: more than 2,000 texts",
    ),
    "separators": (
        spec("verdict", "grammar", value=[{"labels": "id", "separators": [f"{i}" for i in range(1000)]}]),
        r"separators: must be 16 at most",
    ),
    "a long literal": (spec("verdict", "grammar", 0, value="x" * 10**6), r"grammar\[0\]: has 1,000,000 characters"),
    "leads": (spec("verdict", "leads", value=[f"{i}" for i in range(1000)]), r"verdict\.leads: must be 16 at most"),
    "terminators": (spec("verdict", "terminators", value=["<|end|>"] * 1000), r"verdict\.terminators: must be 64"),
    "deep": (
        spec("verdict", "grammar", value=DEEP),
        "more than 32 choices inside each other",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", EXPLOSIVE)
def test_specs_that_would_explode(name: str) -> None:
    document, message = EXPLOSIVE[name]
    began = time.process_time()
    with pytest.raises(SpecError, match=message):
        Spec.parse(document, "manifest.json")
    assert time.process_time() - began < 5


def test_limits_leave_room_for_what_there_is() -> None:
    wide = [{"choice": [{"text": f"t{i}", "then": ["x"]} for i in range(500)]}, *chain(4), "end"]
    many = [{"id": f"L{i}", "name": "x"} for i in range(1000)]
    document = spec("verdict", "grammar", value=wide) | {"policy": {"labels": many}}
    assert len(Spec.parse(document, "x").labels) == 1000


def external(folder: Path, location: str, **more: str) -> None:
    """Moves the graph's constants into a file of their own, and says where they are."""
    model = onnx.load(folder / "model.onnx")
    weights = next(tensor for tensor in model.graph.initializer if tensor.name == "words")
    data = numpy_helper.to_array(weights).astype(np.float32).tobytes()
    weights.ClearField("raw_data")
    weights.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, "offset": "0", "length": str(len(data)), **more}.items():
        entry = weights.external_data.add()
        entry.key, entry.value = key, value
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    (folder.parent / "outside.bin").write_bytes(data)
    (folder / "unlisted.bin").write_bytes(data)
    (folder / "listed.bin").write_bytes(data)


def list_file(folder: Path, name: str) -> None:
    path = folder / "manifest.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    document["files"][name] = {"sha256": word_guard.sha256(folder / name), "size": (folder / name).stat().st_size}
    path.write_text(json.dumps(document), encoding="utf-8")


def test_weights_in_a_listed_file(copy: Path) -> None:
    external(copy, "listed.bin")
    list_file(fit(copy), "listed.bin")
    assert Guard.load(copy, device="cpu").score("gun").flagged


@pytest.mark.parametrize(
    "location",
    [
        "unlisted.bin", "../outside.bin", "../../../../../../etc/passwd", "/etc/passwd", "./listed.bin", "", ".", "..",
        "sub/../listed.bin", "*/_ORT_MEM_ADDR_/*", "listed.bin\0", "manifest.json", "C:\\x", "LISTED.BIN", "/dev/zero",
    ],
)  # fmt: skip
def test_weights_anywhere_else(copy: Path, location: str) -> None:
    external(copy, location)
    list_file(fit(copy), "listed.bin")
    refused(copy, r"model\.onnx: has weights in .*, which the manifest's files do not list")


@pytest.mark.parametrize(
    "more",
    [{"offset": "8"}, {"offset": "-8"}, {"offset": "9" * 30}, {"offset": "x"}, {"length": "8"}, {"length": "9" * 18}],
)
def test_weights_beyond_the_files_end(copy: Path, more: dict[str, str]) -> None:
    external(copy, "listed.bin", **more)
    list_file(fit(copy), "listed.bin")
    refused(copy, r"model\.onnx: onnxruntime cannot load the graph: ")


def test_link_out_for_a_weights_file(copy: Path) -> None:
    external(copy, "listed.bin")
    list_file(fit(copy), "listed.bin")
    (copy / "listed.bin").unlink()
    (copy / "listed.bin").symlink_to("../outside.bin")
    refused(copy, r"listed\.bin: is a link that leaves the bundle")


def test_a_graph_that_never_ends(copy: Path) -> None:
    model = onnx.load(copy / "model.onnx")
    flag = helper.make_tensor_value_info("go", TensorProto.BOOL, [])
    step = helper.make_tensor_value_info("i", TensorProto.INT64, [])
    body = helper.make_graph([helper.make_node("Identity", ["go"], ["on"])], "b", [step, flag], [
        helper.make_tensor_value_info("on", TensorProto.BOOL, [])
    ])  # fmt: skip
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    model.graph.node.append(helper.make_node("Loop", ["", "yes"], [], body=body))
    (copy / "model.onnx").write_bytes(model.SerializeToString())
    refused(fit(copy), r"model\.onnx: has a Loop, but a pass must end")


def safetensors(header: object, data: bytes = b"", size: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if size is None else size).to_bytes(8, "little") + text + data


TENSOR = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


@pytest.mark.parametrize(
    "data",
    [
        safetensors({}),
        safetensors({}, size=2**63),
        safetensors({}, size=100_000_001),
        safetensors(b"[" * 100_000),
        safetensors(b"{" * 1000),
        safetensors({"user.token_ids": {**TENSOR, "dtype": "I64"}}, b"\0" * 4),
        safetensors({"user.token_ids": {**TENSOR, "dtype": "None such"}}, b"\0" * 4),
        safetensors({"user.token_ids": {**TENSOR, "shape": [2**63, 2**63]}}, b"\0" * 4),
        safetensors({"user.token_ids": {**TENSOR, "shape": [-1]}}, b"\0" * 4),
        safetensors({"user.token_ids": {**TENSOR, "data_offsets": [0, 2**62]}}, b"\0" * 4),
        safetensors({"user.token_ids": {**TENSOR, "data_offsets": [4, 0]}}, b"\0" * 4),
        safetensors({"user.token_ids": TENSOR}, b"\0" * 4),
        safetensors({"user.token_ids": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}, b"\0" * 4),
        safetensors({"user.token_ids": {"dtype": "I64", "shape": [1], "data_offsets": [0, 8]}}, b"\xff" * 8),
        safetensors({"user.token_ids": {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4]}}, b"\0" * 4),
    ],
)
def test_hostile_prefix_headers(copy: Path, data: bytes) -> None:
    (copy / "prefix.safetensors").write_bytes(data)
    refused(fit(copy), r"prefix\.safetensors: ")


def test_prefix_of_another_type(copy: Path) -> None:
    from safetensors.numpy import load_file, save_file

    tensors = load_file(copy / "prefix.safetensors")
    tensors["user.0.key"] = tensors["user.0.key"].astype(np.int32)
    save_file(tensors, copy / "prefix.safetensors")
    refused(fit(copy), r"prefix\.safetensors: user\.0\.key: is int32, not float32 or float16")


def test_scaffold_token_that_the_graph_does_not_know(copy: Path) -> None:
    """A special token of the template that is in no prefix and no verdict."""
    path = copy / "tokenizer.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    document["added_tokens"] += [{**document["added_tokens"][0], "content": "<|far|>", "id": 100_000}]
    path.write_text(json.dumps(document), encoding="utf-8")
    changed = edited(word_guard.SPEC, ("template", "messages", "assistant"), "<|agent|>{{content}}<|far|>")
    manifest = fit(copy) / "manifest.json"
    document = json.loads(manifest.read_text(encoding="utf-8"))
    manifest.write_text(json.dumps({**document, "spec": changed}), encoding="utf-8")
    refused(copy, r"manifest\.json: graph\.vocab_size: is \d+, but tokenizer\.json has token 100,000")


def test_tokenizer_that_is_too_big(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tokmarg.loading._MAX_TOKENIZER", 100)
    refused(copy, r"tokenizer\.json: is [\d,]+ bytes, more than 100")


def test_commands_say_it_in_one_line(copy: Path) -> None:
    """In processes of their own: a crash would be theirs."""
    (copy / "tokenizer.json").write_text("[" * 100_000, encoding="utf-8")
    fit(copy)
    for command in (["verify"], ["score", "hello", "--bundle"], ["score", "--no-verify", "hello", "--bundle"]):
        done = subprocess.run(
            [sys.executable, "-m", "tokmarg", *command, str(copy)],
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == 1, done
        (line,) = done.stderr.splitlines()
        assert line.startswith("Error: ")
        assert "tokenizer.json: not a tokenizer" in line


def test_loading_writes_nothing(copy: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in copy.parent.rglob("*")}
    Guard.load(copy, device="cpu").score("gun")
    assert {path: path.stat().st_mtime_ns for path in copy.parent.rglob("*")} == before
    with pytest.raises(BundleError, match="is missing"):
        Bundle.open(copy).file("../bundle/model.onnx")


FLIP = """
import random, sys
from pathlib import Path
from tests.support import word_guard
from tokmarg import Guard, TokmargError
folder, name, seed, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
whole = (folder / name).read_bytes()
rng = random.Random(seed)
for _ in range(count):
    data = bytearray(whole)
    for _ in range(rng.choice((1, 1, 4))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    (folder / name).write_bytes(data)
    try:
        guard = Guard.load(word_guard.write_manifest(folder), device="cpu", verify=False, threads=1)
        guard.score("hello gun")
    except TokmargError as error:
        assert "\\n" not in str(error)
print("done")
"""


@pytest.mark.parametrize("name", FILES[1:])
@pytest.mark.parametrize("count", [30, pytest.param(2000, marks=pytest.mark.slow)])
def test_flipped_bits_with_the_right_checksums(copy: Path, name: str, count: int) -> None:
    """In a process of its own: onnxruntime itself reads the graph."""
    done = subprocess.run(
        [sys.executable, "-c", FLIP, str(copy), name, "1", str(count)],
        capture_output=True,
        text=True,
        check=False,
        timeout=3000,
        cwd=Path(__file__).parents[3],
    )
    assert done.stdout == "done\n", done.stderr[-2000:]
