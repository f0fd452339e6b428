from __future__ import annotations

import json
from typing import Any

import pytest

from tokmarg import ContentError, Marginal, Record, Result, Thresholds
from tokmarg.cli.render.jsonl import JsonLines
from tokmarg.cli.render.openai import OpenAI
from tokmarg.cli.render.renderer import TextRenderer
from tokmarg.documents import to_json


def result(id: object = "r1", **changes: Any) -> Result:
    fields = {
        "id": id,
        "flagged": True,
        "unsafe": Marginal(0.6, 0.55, 0.65, True),
        "labels": {"S2": Marginal(0.4, 0.4, 0.4), "S1": Marginal(0.55, 0.5, 0.6), "S9": None},
        "coverage": 0.9,
        "converged": True,
        "method": "exact",
        "model": "org/model",
    }
    return Result(**{**fields, **changes})


def test_jsonl_row() -> None:
    text = JsonLines().render(result(), "")
    assert text.endswith("\n")
    row = json.loads(text)
    assert row == {
        "schema_version": 1,
        "id": "r1",
        "flagged": True,
        "unsafe": 0.6,
        "labels": {"S2": 0.4, "S1": 0.55, "S9": None},
        "bounds": {"unsafe": [0.55, 0.65], "S2": [0.4, 0.4], "S1": [0.5, 0.6], "S9": None},
        "coverage": 0.9,
        "converged": True,
        "method": "exact",
        "model": "org/model",
        "truncated": False,
        "calibrated": False,
    }
    assert list(row["labels"]) == ["S2", "S1", "S9"]


@pytest.mark.parametrize("format", [JsonLines(), OpenAI(Thresholds())])
def test_error_row(format: TextRenderer) -> None:
    error = ContentError("empty_text", "text is empty", 7)
    expected = {"schema_version": 1, "id": 7, "error": {"type": "empty_text", "message": "text is empty"}}
    assert json.loads(format.render(error, "")) == expected


@pytest.mark.parametrize("id", ["a\nb\u2028c\x85d", "\ud800", "\x1b[31m\x9b", "ü", 10**400, [None, {"k": 1.5}]])
def test_row_is_one_line_whatever_the_id(id: Any) -> None:
    text = JsonLines().render(result(id), "")
    assert text.splitlines() == [text[:-1]]
    assert text[:-1].isprintable()
    assert json.loads(text)["id"] == id


def test_numbers_that_json_lacks_are_refused() -> None:
    with pytest.raises(ValueError, match="JSON"):
        to_json({"p": float("nan")})


def test_openai_response() -> None:
    limits = Thresholds(0.5, {"S2": 0.3})
    response = json.loads(OpenAI(limits).response([result(), result("r2", flagged=False)], ["n1", "n2"]))
    first: dict[str, Any] = {
        "flagged": True,
        "categories": {"S2": True, "S1": True, "S9": False},
        "category_scores": {"S2": 0.4, "S1": 0.55, "S9": 0.0},
        "category_applied_input_types": {"S2": ["text"], "S1": ["text"], "S9": []},
    }
    assert response["id"].startswith("modr-")
    assert list(response) == ["id", "model", "results"]
    assert response["model"] == "org/model"
    none = dict.fromkeys(first["categories"], False)  # they agree with `flagged`
    assert response["results"] == [first, {**first, "flagged": False, "categories": none}]


def test_openai_categories_say_at_least_what_is_most_probable() -> None:
    """One threshold above all labels left every category false beside ``flagged: true``."""
    labels = {"S2": Marginal(0.1, 0.1, 0.1), "S1": Marginal(0.2, 0.2, 0.2)}
    response = json.loads(OpenAI(Thresholds(0.6)).render(result(labels=labels), ""))
    assert response["results"][0]["categories"] == {"S2": False, "S1": True}


def test_openai_category_takes_the_general_threshold_where_it_has_none() -> None:
    def categories(limits: Thresholds) -> Any:
        return json.loads(OpenAI(limits).render(result(), ""))["results"][0]["categories"]

    assert categories(Thresholds(0.55)) == {"S2": False, "S1": True, "S9": False}
    assert categories(Thresholds(0.4)) == {"S2": True, "S1": True, "S9": False}
    assert categories(Thresholds(0.0, {"S1": 0.9, "S2": 0.4})) == {"S2": True, "S1": False, "S9": False}


def test_openai_id_depends_on_model_ids_and_contents_alone() -> None:
    def response_id(record: Record, **changes: Any) -> Any:
        format = OpenAI(Thresholds())
        return json.loads(format.render(result(**changes), format.note(record)))["id"]

    same = response_id(Record("a", 1))
    assert same == response_id(Record("a", 1), flagged=False)
    others = [
        response_id(Record("b", 1)),
        response_id(Record("a", 2)),
        response_id(Record("a", "1")),
        response_id(Record([{"role": "user", "content": "a"}], 1)),
        response_id(Record("a", 1), model="other"),
        response_id(Record("\ud800", 1)),
    ]
    assert len({same, *others}) == 1 + len(others)


def test_note_of_jsonl_keeps_nothing_of_the_content() -> None:
    assert JsonLines().note(Record("a" * 1000, 1)) == ""
