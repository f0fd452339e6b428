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
HARMFUL_LISTS = {
    "threats_and_hate": ("threats", "hate", "cruel"),
    "requests": ("harmful", "rewritten"),
    "posts_and_answers": ("selfharm", "sexual", "violence", "long_harmful", "answers_harmful", "turns_harmful"),
    "request_pairs": ("harmful", "disguised"),
    "hate_cases": ("hate", "emoji_hate"),
    "mixed_posts": ("harmful",),
    "compound_requests": ("compound",),
    "people_and_history": ("private", "repeat_history"),
    "literal_or_not": ("literal", "real_discrimination"),
    "opinions": ("hateful", "threats_in_text"),
    "dark_passages": ("self_harm", "erotic", "violent"),
    "threats_and_technical": ("threats", "technical_harmful"),
    "hate_contrasts": ("hate", "emoji_hate"),
    "long_stories": ("harmful",),
    "long_pages": ("harmful",),
}
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
    "banking_safe": [{"text": "n", "labels": []}],
    "clinc_safe": [{"text": "o", "labels": []}],
    "convabuse": [
        {"text": "p", "before": "Hello!", "abusive": 0.0, "kinds": []},
        {"text": "q", "before": "_", "abusive": 0.5, "kinds": []},
        {"text": "r", "before": "", "abusive": 1.0, "kinds": []},
    ],
    "edos": [
        {"text": "s", "sexist": True, "category": "1. threats, plans to harm and incitement", "detail": "1.1"},
        {"text": "t", "sexist": True, "category": "2. derogation", "detail": "2.1"},
        {"text": "u", "sexist": False, "category": "none", "detail": "none"},
    ],
    "hatemoji": [
        {"text": "v", "hateful": True, "type": "threateninglanguage", "target": "[]"},
        {"text": "w", "hateful": True, "type": "derogation", "target": "[]"},
        {"text": "x", "hateful": False, "type": "none", "target": "[]"},
    ],
    "medical_safe": [{"text": "Does rest help? Rest was studied. It helps.", "labels": []}],
    "social_comments": [{"text": "y", "toxic": True}, {"text": "z", "toxic": False}],
    "toxigen_demonstrations": [
        {"text": "aa", "hateful": True, "target": "t"},
        {"text": "bb", "hateful": False, "target": "t"},
    ],
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
    prose = public / "prose.jsonl"
    prose.write_text('{"text": "A fine film.", "source": "reviews"}\n', encoding="utf-8")
    return list(itertools.islice(data.Generator(public, 1, prose), 12000))


def texts(name: str) -> list[tuple[str, str, list[str]]]:
    """(list, template, labels) of a file; of a conversation its last message."""
    templates = []
    for field, items in FILES[name].items():
        for item in items if isinstance(items, list) else []:
            if isinstance(item, str):
                templates.append((field, item, [name]))
            else:
                text = item["text"] if "text" in item else item["messages"][-1].partition(": ")[2]
                templates.append((field, text, item.get("labels", [])))
    return templates


@pytest.mark.parametrize("name", sorted(set(FILES) - {"common", "frames", "disguises"}))
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
        if field in HARMFUL_LISTS.get(name, ()) or field == "edge_unsafe" or name in ("harmful_posts", "long_harmful"):
            assert labels, text
            assert set(labels) <= set(LABELS), text


def test_conversations_say_whose_turns_they_are() -> None:
    for field in ("turns_harmless", "turns_harmful"):
        for item in FILES["posts_and_answers"][field]:
            roles = [turn.partition(": ")[0] for turn in item["messages"]]
            assert 2 <= len(roles) <= 4
            assert set(roles) == {"user", "assistant"}, item


@pytest.mark.parametrize(
    ("name", "harmless", "least"),
    [
        ("threats_and_hate", ("not_threats", "not_hate"), 350),
        ("requests", ("wrapped_harmless", "loaded", "plain"), 350),
        (
            "posts_and_answers",
            ("not_selfharm", "not_sexual", "not_violence", "long_harmless", "answers_harmless", "turns_harmless"),
            350,
        ),
        ("request_pairs", ("harmless", "disguised_harmless"), 400),
        ("hate_cases", ("not_hate", "emoji_harmless"), 380),
        ("mixed_posts", ("harmless",), 150),
        ("compound_requests", ("compound_harmless",), 170),
        ("people_and_history", ("public", "fictional", "history"), 280),
        ("literal_or_not", ("homonyms", "figurative", "harmless_targets", "odd_groups"), 500),
        ("opinions", ("not_hateful", "no_threats"), 300),
        ("dark_passages", ("not_self_harm", "not_erotic", "not_violent"), 440),
        ("threats_and_technical", ("not_threats", "technical"), 350),
        ("hate_contrasts", ("not_hate", "emoji_harmless"), 370),
        ("long_stories", ("harmless",), 70),
        ("long_pages", ("harmless",), 75),
    ],
)
def test_contrast_files_have_as_many_harmless_texts(name: str, harmless: tuple[str, ...], least: int) -> None:
    counts = [sum(len(FILES[name][field]) for field in fields) for fields in (HARMFUL_LISTS[name], harmless)]
    assert min(counts) > least
    assert counts[1] > (0.55 if name == "compound_requests" else 0.8) * counts[0]


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


def test_disguises_have_one_place_for_the_request() -> None:
    disguises = FILES["disguises"]
    for field in ("around_question", "around_clause"):
        assert len(set(disguises[field])) == len(disguises[field]) > 130
        for wrapper in disguises[field]:
            assert wrapper.count("{0}") == 1, wrapper
            assert set(re.findall(r"\{([a-z_]\w*)\}", wrapper)) <= set(disguises["slots"]), wrapper
    for word, spellings in disguises["words"].items():
        assert word == word.lower()
        assert word not in spellings


def test_rows_are_well_formed(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        roles = [m["role"] for m in row["messages"]]
        in_turn = ["user", "assistant"] * 3
        first = in_turn.index(roles[0])
        assert roles == in_turn[first : first + len(roles)]
        assert len(roles) <= 4
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
        *(f"rude {k}" for k in data.RUDE),
    }
    labels = Counter(label for row in rows for label in row["labels"] or [])
    assert set(labels) == set(LABELS)
    rare = labels.pop("S4")  # few texts of its own
    hate = labels.pop("S10") + labels.pop("S1")  # and threats: most of the public sets
    assert min(labels.values()) * 4 > max(labels.values())
    assert rare * 9 > max(labels.values())
    assert hate < 0.5 * len(rows)
    unsafe = [row for row in rows if row["unsafe"] == 1]
    assert 0.44 < len(unsafe) / len(rows) < 0.52
    assert sum(len(row["labels"] or []) > 1 for row in unsafe) > 0.2 * len(unsafe)
    assert {row["messages"][-1]["role"] for row in rows if not row["unsafe"]} == {"user", "assistant"}
    rude = [row for row in rows if 0 < row["unsafe"] < 1]
    assert abs(len(rude) / len(rows) - data.RUDE_SHARE) < 0.01
    assert all(row["labels"] is None and row["kind"].startswith("rude") for row in rude)


def test_rows_of_public_sets_come_once_before_any_comes_twice(data: ModuleType, public: Path) -> None:
    sources = data.Generator(public, 1).sources
    drawn = [sources.row("edos", lambda row: bool(row["sexist"]))["text"] for _ in range(4)]
    assert sorted(drawn[:2]) == sorted(drawn[2:]) == ["s", "t"]


def test_same_seed_same_rows(data: ModuleType, public: Path, rows: list[dict[str, Any]]) -> None:
    prose = public / "prose.jsonl"
    assert list(itertools.islice(data.Generator(public, 1, prose), 300)) == rows[:300]
    assert list(itertools.islice(data.Generator(public, 2, prose), 300)) != rows[:300]


def test_prose_is_optional(data: ModuleType, public: Path) -> None:
    kinds = {row["kind"] for row in itertools.islice(data.Generator(public, 1), 2000)}
    assert "safe prose" not in kinds
    assert "safe charged" in kinds


def test_command_line(data: ModuleType, public: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "rows.jsonl"
    monkeypatch.setattr(
        sys, "argv", ["data.py", "--public", str(public), "--rows", "20", "--seed", "1", "-o", str(out)]
    )
    data.main()
    assert len(out.read_text(encoding="utf-8").splitlines()) == 20
