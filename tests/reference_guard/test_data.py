"""The training texts of the reference guard, and the rows made of them."""

from __future__ import annotations

import itertools
import json
import re
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.support.reference_guard import FOLDER, script

LABELS = [f"S{i}" for i in range(1, 15)]
FILES = {path.stem: tomllib.loads(path.read_text(encoding="utf-8")) for path in (FOLDER / "texts").glob("*.toml")}
HARMFUL = ("intents", "gerunds", "requests", "statements", "responses", "foreign")
#: What the public sets look like, one mild row each.
PUBLIC: dict[str, list[dict[str, Any]]] = {
    "ailuminate_en_us": [{"text": f"en {label}", "labels": [label]} for label in LABELS[:13]],
    "ailuminate_fr_fr": [{"text": f"fr {label}", "labels": [label]} for label in LABELS[:13]],
    "catqa_english": [
        {"text": "q", "category": "Illegal Activity", "subcategory": "Drug"},
        {"text": "r", "category": "Hate/Harass/Violence", "subcategory": "Cyberbullying"},
    ],
    "cyber_benign": [{"text": "b", "labels": []}],
    "harmbench_unsafe_only": [{"text": "h", "unsafe": True}],
    "harmfulqa_unsafe_only": [{"text": "i", "unsafe": True}],
    "interpreter_abuse": [{"text": "j", "labels": ["S14"]}],
    "self_instruct_safe": [{"text": "k", "labels": []}],
    "tweets_hate_or_neither": [{"text": "l", "labels": ["S10"]}, {"text": "m", "labels": []}],
}


@pytest.fixture(scope="module")
def data() -> Iterator[ModuleType]:
    with script("data") as module:
        yield module


@pytest.fixture(scope="module")
def public(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("public")
    for name, rows in PUBLIC.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def rows(data: ModuleType, public: Path) -> list[dict[str, Any]]:
    snippets = public / "snippets.jsonl"
    snippets.write_text('{"text": "A fine film."}\n', encoding="utf-8")
    return list(itertools.islice(data.Generator(public, 1, snippets), 12000))


def texts(name: str) -> list[tuple[str, str, list[str]]]:
    """(list, template, labels) of a file."""
    templates = []
    for field, items in FILES[name].items():
        for item in items if isinstance(items, list) else []:
            text, labels = (item["text"], item["labels"]) if isinstance(item, dict) else (item, [name])
            templates.append((field, text, labels))
    return templates


@pytest.mark.parametrize(
    "name",
    [*LABELS, "safe", "edges", "posts", "harmful_posts", "long_harmful", "long_harmless", "listings"],
)
def test_templates_are_well_formed(name: str) -> None:
    slots = {**FILES["common"]["slots"], **FILES[name].get("slots", {})}
    seen = set()
    for field, text, labels in texts(name):
        assert text.strip() == text != "", (name, field)
        assert text not in seen, text
        seen.add(text)
        assert set(re.findall(r"\{(\w*)\}", text)) <= set(slots), text
        assert not re.sub(r"\{\w+\}", "", text).count("{"), text
        if name in LABELS:
            assert name in labels, text
        if field == "edge_unsafe" or name in ("harmful_posts", "long_harmful"):
            assert labels, text
            assert set(labels) <= set(LABELS), text


@pytest.mark.parametrize("label", LABELS)
def test_there_are_enough_templates(label: str) -> None:
    file = FILES[label]
    harmful = sum(len(file[field]) for field in HARMFUL)
    assert harmful >= (
        30 if label == "S4" else 200
    )  # S4's texts come from the public sets, but for names of the category
    assert sum(len(file[field]) for field in file if field.startswith("benign")) >= 150
    assert all(len(file[field]) >= 20 for field in file if field.startswith("benign"))


def test_harmless_questions_have_harmful_ones_beside_them() -> None:
    edges = FILES["edges"]
    assert len(edges["edge"]) >= 500
    assert len(edges["edge_unsafe"]) >= 300
    assert len({label for item in edges["edge_unsafe"] for label in item["labels"]}) >= 8


def test_frames_have_their_places() -> None:
    for count, field in enumerate(("one", "two", "three"), 1):
        for frame in FILES["frames"][field]:
            assert {int(i) for i in re.findall(r"\{(\d)\}", frame)} == set(range(count)), frame


def test_rows_are_well_formed(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        assert [m["role"] for m in row["messages"]] in (["user"], ["assistant"], ["user", "assistant"])
        assert all(m["content"].strip() for m in row["messages"])
        assert not re.search(r"\{\w*\}", row["messages"][-1]["content"]), row
        if row["labels"] is None:
            assert row["unsafe"]
        else:
            assert row["unsafe"] == bool(row["labels"])
            assert set(row["labels"]) <= set(LABELS)
            assert len(set(row["labels"])) == len(row["labels"])


def test_every_kind_and_label_is_there(data: ModuleType, rows: list[dict[str, Any]]) -> None:
    kinds = Counter(row["kind"] for row in rows)
    assert set(kinds) == {
        *(f"unsafe {k}" for k in data.UNSAFE),
        *(f"safe {k}" for k in data.SAFE),
    }
    labels = Counter(label for row in rows for label in row["labels"] or [])
    assert set(labels) == set(LABELS)
    rare = labels.pop("S4")  # few texts of its own
    assert min(labels.values()) * 4 > max(labels.values())
    assert rare * 6 > max(labels.values())
    unsafe = [row for row in rows if row["unsafe"]]
    assert 0.45 < len(unsafe) / len(rows) < 0.55
    assert sum(len(row["labels"] or []) > 1 for row in unsafe) > 0.25 * len(unsafe)
    assert {row["messages"][-1]["role"] for row in rows if not row["unsafe"]} == {"user", "assistant"}


def test_same_seed_same_rows(data: ModuleType, public: Path, rows: list[dict[str, Any]]) -> None:
    snippets = public / "snippets.jsonl"
    assert list(itertools.islice(data.Generator(public, 1, snippets), 300)) == rows[:300]
    assert list(itertools.islice(data.Generator(public, 2, snippets), 300)) != rows[:300]


def test_the_mixture_of_posts_has_longer_texts(data: ModuleType, public: Path) -> None:
    rows = list(itertools.islice(data.Generator(public, 1, posts=True), 3000))
    longest = sorted(len(row["messages"][-1]["content"]) for row in rows)
    plain = sorted(len(row["messages"][-1]["content"]) for row in itertools.islice(data.Generator(public, 1), 3000))
    assert longest[1500] > 1.15 * plain[1500]
    assert sum(longest) > 1.15 * sum(plain)


def test_snippets_are_optional(data: ModuleType, public: Path) -> None:
    kinds = {row["kind"] for row in itertools.islice(data.Generator(public, 1), 2000)}
    assert "safe snippets" not in kinds
    assert "safe charged" in kinds


def test_command_line(data: ModuleType, public: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "rows.jsonl"
    monkeypatch.setattr(
        sys, "argv", ["data.py", "--public", str(public), "--rows", "20", "--seed", "1", "-o", str(out)]
    )
    data.main()
    assert len(out.read_text(encoding="utf-8").splitlines()) == 20
