"""The manifest and its published JSON Schema: both accept and refuse the same documents."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from tests.support.documents import REMOVED, Place, at, edited, places
from tests.support.manifests import ENTRY, FULL, SCHEMA, VALIDATOR, parses
from tokmarg.bundle.graph_contract import GraphContract
from tokmarg.bundle.manifest import Manifest
from tokmarg.errors import BundleError

#: What may be left out. Of lists, what is more than one.
OPTIONAL = {
    ("guesses",),
    ("guesses", 0),
    ("guesses", 1),
    ("model", "revision"),
    ("model", "licence"),
    ("spec", "sources"),
    ("spec", "sources", "template"),
    ("spec", "template", "strip"),
    ("spec", "template", "turns"),
    ("spec", "template", "roles", "user"),
    ("spec", "template", "roles", "assistant"),
    ("spec", "policy", "labels", 0),
    ("spec", "policy", "labels", 1),
    ("spec", "policy", "labels", 0, "code"),
    ("spec", "policy", "labels", 0, "title"),
    ("spec", "policy", "labels", 0, "definition"),
    ("spec", "policy", "labels", 0, "roles"),
    ("spec", "policy", "labels", 0, "roles", 0),
    ("spec", "policy", "labels", 0, "roles", 1),
    ("spec", "verdict", "leads"),
    ("spec", "verdict", "leads", 0),
    ("spec", "verdict", "leads", 1),
    ("spec", "verdict", "grammar", 0, "choice", 0),
    ("spec", "verdict", "grammar", 0, "choice", 1),
    ("spec", "verdict", "grammar", 0, "choice", 1, "event"),
    ("spec", "verdict", "grammar", 0, "choice", 1, "then"),
    ("spec", "verdict", "grammar", 0, "choice", 1, "then", 0),
    ("spec", "verdict", "grammar", 0, "choice", 1, "then", 1),
    ("spec", "verdict", "grammar", 0, "choice", 1, "then", 1, "order"),
    ("graph", "head_token_ids", 0),
    ("graph", "head_token_ids", 1),
    ("graph", "head_token_ids", 2),
    ("graph", "sliding_window"),
    ("parity",),
    ("parity", "max_probability_difference"),
    ("parity", "reference"),
    ("parity", "max_coverage_difference"),
    ("files", "model.onnx.data"),
}
PLACES = list(places(FULL))


def test_schema_is_valid_and_closed() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    for place in places(SCHEMA):
        part = at(SCHEMA, place)
        if isinstance(part, dict) and "object" in str(part.get("type", "")):
            assert "additionalProperties" in part, place


def test_exported_manifest(tiny_bundle: Path) -> None:
    document = json.loads((tiny_bundle / "manifest.json").read_text(encoding="utf-8"))
    VALIDATOR.validate(document)
    manifest = Manifest.parse(document, "manifest.json")
    assert manifest.graph.layers == 2
    assert set(manifest.files) >= {"model.onnx", "model.onnx.data", "tokenizer.json", "prefix.safetensors"}


def test_everything_is_read() -> None:
    VALIDATOR.validate(FULL)
    manifest = Manifest.parse(FULL, "manifest.json")
    assert (manifest.model_id, manifest.revision, manifest.licence, manifest.architecture) == (
        "a/b",
        "abc",
        "MIT",
        "llama",
    )
    assert (manifest.precision, manifest.tokmarg_version) == ("fp16", "0.1.0")
    assert manifest.files["model.onnx.data"] == ("0" * 64, 1)
    assert manifest.data == FULL
    assert manifest.graph == GraphContract(1, 1, 8, 100, "verdict", (1, 2, 3), "float16", 64, 160)
    assert manifest.graph.columns == {1: 0, 2: 1, 3: 2}


def test_full_head() -> None:
    document = edited(FULL, ("graph", "head"), "full")
    assert not parses(document)
    assert not VALIDATOR.is_valid(document)
    for ids in (None, REMOVED):
        document = edited(document, ("graph", "head_token_ids"), ids)
        VALIDATOR.validate(document)
        assert Manifest.parse(document, "manifest.json").graph.columns is None


def test_what_may_be_left_out() -> None:
    optional = {place for place in PLACES if parses(edited(FULL, place, REMOVED))}
    assert optional == OPTIONAL
    assert optional == {place for place in PLACES if VALIDATOR.is_valid(edited(FULL, place, REMOVED))}


@pytest.mark.parametrize("value", [None, True, -1, 0, 7, 1.5, "", "text", [], ["x"], {}, {"x": 1}], ids=repr)
def test_mistyped_fields(value: object) -> None:
    refused = 0
    for place in PLACES:
        document = edited(FULL, place, value)
        ours, schema = parses(document), VALIDATOR.is_valid(document)
        assert ours == schema, (place, value, ours)
        refused += not ours
    assert refused > len(PLACES) / 2


def test_unknown_fields() -> None:
    open_tables = [("parity",)]
    for place in [(), *PLACES]:
        if isinstance(at(FULL, place), dict) and place not in open_tables:
            document = edited(FULL, (*place, "colour"), "red")
            assert not parses(document), place
            assert not VALIDATOR.is_valid(document), place


REFUSED: list[tuple[Place, object, str]] = [
    (("schema_version",), 2, r"manifest\.json: schema_version: is 2; this tokmarg reads 1: upgrade or re-export"),
    (("schema_version",), "1", r"schema_version: must be an integer, not '1'"),
    (("graph", "layers"), 0, r"graph\.layers: must be positive, not 0"),
    (("graph", "vocab_size"), 2**31, r"graph\.vocab_size: must be positive"),
    (("graph", "head"), "half", r"graph\.head: must be \"full\" or \"verdict\", not 'half'"),
    (("graph", "kv_dtype"), "int8", r"graph\.kv_dtype: must be \"float32\" or \"float16\", not 'int8'"),
    (("graph", "head_token_ids"), None, r"graph\.head_token_ids: must list token ids with the verdict head"),
    (("graph", "head_token_ids"), [1, 1], r"graph\.head_token_ids: names a token id twice"),
    (("graph", "head_token_ids"), [True], r"graph\.head_token_ids: must be token ids below 100"),
    (("graph", "head_token_ids"), [-1], r"graph\.head_token_ids: must be token ids below 100"),
    (("graph", "sliding_window"), 0, r"graph\.sliding_window: must be positive, not 0"),
    (("graph", "by_content"), 1, r"graph\.by_content: must be true or false, not 1"),
    (("files", "model.onnx"), REMOVED, r"files\.model\.onnx: is missing"),
    (("files", "tokenizer.json"), REMOVED, r"files\.tokenizer\.json: is missing"),
    (("files", "prefix.safetensors"), REMOVED, r"files\.prefix\.safetensors: is missing"),
    (("files", "../x"), ENTRY, r"files\.'\.\./x': is not a plain file name inside the bundle"),
    (("files", "/etc/passwd"), ENTRY, r"files\.'/etc/passwd': is not a plain"),
    (("files", "a\\b"), ENTRY, r"files\.'a\\\\b': is not a plain"),
    (("files", ".."), ENTRY, r"files\.'\.\.': is not a plain"),
    (("files", ""), ENTRY, r"files\.'': is not a plain"),
    (("files", "manifest.json"), ENTRY, r"files\.'manifest\.json': is not a plain"),
    (("files", "model.onnx", "sha256"), "0" * 63, r"files\.model\.onnx\.sha256: must be 64 hexadecimal digits"),
    (("files", "model.onnx", "sha256"), "A" * 64, r"files\.model\.onnx\.sha256: must be 64 hexadecimal digits"),
    (("files", "model.onnx", "size"), -1, r"files\.model\.onnx\.size: must not be negative"),
    (("guesses",), {}, r"guesses: must be a list"),
    (("guesses", 0), [0, -1, 5], r"guesses\[0\]: must be \[events so far, token before, token, share\]"),
    (("guesses", 1), [1, 5.5, 7, 1], r"guesses\[1\]: must be \[events so far"),
    (("guesses", 1, 3), 1.01, r"guesses\[1\]: share must be a number from 0 to 1"),
    (("guesses", 1, 3), True, r"guesses\[1\]: share must be a number from 0 to 1"),
    (("guesses", 0, 1), -2, r"guesses\[0\]: has a negative number"),
    (("parity", "worst"), [1], r"parity\.worst: must be a number, a string or null"),
]


@pytest.mark.parametrize(("place", "value", "message"), REFUSED)
def test_refused_fields(place: Place, value: object, message: str) -> None:
    document = edited(FULL, place, value)
    with pytest.raises(BundleError, match=message):
        Manifest.parse(document, "manifest.json")
    assert not VALIDATOR.is_valid(document)


def test_head_token_ids_lie_in_the_vocabulary() -> None:
    """Beyond the schema."""
    with pytest.raises(BundleError, match=r"graph\.head_token_ids: must be token ids below 100"):
        Manifest.parse(edited(FULL, ("graph", "head_token_ids"), [100]), "manifest.json")


TEXTS = st.text(st.characters(), max_size=8) | st.sampled_from(
    ["{{content}}", "{{conversation}}", "unsafe", "A", "user"]
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | TEXTS
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=300)
@given(
    st.lists(st.tuples(st.sampled_from(PLACES), JSON | st.sampled_from(PLACES).map(lambda p: at(FULL, p))), max_size=3)
)
def test_arbitrary_documents_raise_nothing_else(edits: list[tuple[Place, object]]) -> None:
    document = FULL
    for place, value in edits:
        try:
            document = edited(document, place, value)
        except (KeyError, IndexError, TypeError):  # an earlier edit took the place away
            continue
    if parses(document):
        VALIDATOR.validate(document)


@settings(max_examples=100)
@given(JSON)
@example([])
@example("schema_version")
def test_arbitrary_roots_raise_nothing_else(document: object) -> None:
    assert not parses(document)


def test_deep_documents_raise_nothing_else() -> None:
    """No parser of JSON gives documents this deep everywhere; a dictionary from elsewhere can be."""
    deep_list: list[object] = []
    deep_table: dict[str, object] = {}
    for _ in range(50_000):
        deep_list, deep_table = [deep_list], {"choice": deep_table, "labels": [deep_table], "then": [deep_table]}
    for place in PLACES:
        for value in (deep_list, deep_table):
            assert not parses(edited(FULL, place, value)), place
