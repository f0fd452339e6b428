"""The Python face of the evaluation, and its report as a file; the browser is in ``test_report_browser``."""

from __future__ import annotations

import base64
import hashlib
import html.parser
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sklearn.metrics as sk

from tests.support.fake_guard import HOSTILE, FakeGuard, hostile_evaluation
from tests.support.optional import present
from tokmarg import Guard, MethodResult, Record, TokmargError
from tokmarg.cli.render.evaluation import describe
from tokmarg.errors import OptionError
from tokmarg.evaluation import Example, evaluate, write_report
from tokmarg.evaluation.report.page import render
from tokmarg.score_options import ScoreOptions


@pytest.fixture(scope="module")
def guard(word_bundle: Path) -> Guard:
    return Guard.load(word_bundle, device="cpu", threads=1)


def examples() -> list[Example]:
    """Texts that the word guard mostly gets right, and one unscored."""
    texts = [
        ("gun", {"A"}), ("gun gun", {"A"}), ("idiot", {"B"}), ("gun idiot", {"A", "B"}), ("hello", set()),
        ("hello gun", set()), ("hello hello", {"B"}), ("gun", {"A"}), (" ", {"A"}),
    ]  # fmt: skip
    return [
        Example(Record(text, f"r{i}"), {label: label in true for label in "AB"}, bool(true))
        for i, (text, true) in enumerate(texts)
    ]


def page_data(page: str) -> dict[str, Any]:
    """The JSON in the page, as a browser finds it."""

    class Parser(html.parser.HTMLParser):
        found, inside = "", False

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            self.inside = tag == "script" and dict(attrs).get("id") == "data"

        def handle_data(self, data: str) -> None:
            self.found += data if self.inside else ""

        def handle_endtag(self, tag: str) -> None:
            self.inside = False

    parser = Parser()
    parser.feed(page)
    return dict(json.loads(parser.found))


def test_the_word_guard(guard: Guard) -> None:
    found = evaluate(guard, examples(), methods=["exact", "greedy"], samples=20, threshold=0.5, data="words")
    assert [(run.method, run.reference) for run in found.runs] == [("exact", None), ("greedy", 0)]
    run = found.runs[0]
    assert run.scored.failed == 1
    # By hand: A is said of r0, r1, r3, r5, r7 (r5 wrongly), B of r2 and r3 (not of r6, wrongly); r8 has no score.
    cases = run.scored.cases
    pairs = ~(np.isnan(cases.truth) | np.isnan(cases.score))
    assert pairs.sum() == 16
    assert run.metrics["hamming_loss"] == pytest.approx(2 / 16)
    assert run.metrics["micro_f1"] == pytest.approx(2 * 6 / (7 + 7))
    assert run.metrics["micro_auc"] == pytest.approx(sk.roc_auc_score(cases.truth[pairs], cases.score[pairs]))
    assert cases.groups is not None
    assert cases.groups.tolist() == [0, 1, 2, 3, 4, 5, 6, 0, 7]
    document = json.loads(found.to_json())
    assert document["records"] == 9
    assert document["methods"]["greedy"]["difference"]["from"] == {"bundle": guard.path.name, "method": "exact"}
    assert document["methods"]["exact"]["coverage"] == pytest.approx(0.997, abs=1e-3)
    assert "compared" not in document


def test_methods_with_an_uncertainty_predict_one_label_or_two(guard: Guard) -> None:
    """Where the guard is sure two labels are right, and where it is not one is; so the cut lies between."""
    rows = [
        Example(Record(text, None), {label: label in true for label in "AB"}, True)
        for text, true in [("gun", "AB"), ("idiot", "AB"), ("gun idiot", "A"), ("gun gun", "AB"), ("gun idiot", "B")]
    ]
    found = evaluate(guard, rows, methods=["entropy-uncertainty", "probability-uncertainty", "token"], samples=20)
    results = found.runs[0].scored.results

    def uncertainty(row: int) -> float:
        result = results[row]
        assert isinstance(result, MethodResult)
        return present(result.uncertainty)

    run, other, token = found.runs
    cut = present(run.scored.cut)
    assert cut == max(uncertainty(i) for i in (0, 1, 3))
    assert uncertainty(3) <= cut < uncertainty(2)
    assert (token.scored.cut, token.scored.cases.chosen) == (None, None)
    chosen = run.scored.cases.chosen
    assert chosen is not None
    assert chosen[:, :2].sum(axis=1).tolist() == [2, 2, 1, 2, 1]
    truth = run.scored.cases.truth[:, :2]
    assert run.metrics["micro_f1"] == pytest.approx(sk.f1_score(truth, chosen[:, :2], average="micro"))
    assert run.metrics["hamming_loss"] == pytest.approx(sk.hamming_loss(truth, chosen[:, :2]))
    assert run.metrics["labels"]["B"]["f1"] == pytest.approx(sk.f1_score(truth[:, 1], chosen[:, 1]))
    assert run.intervals is not None
    low, high = present(run.intervals["hamming_loss"])
    assert low <= run.metrics["hamming_loss"] <= high
    assert token.differences is not None
    assert token.differences["hamming_loss"].value == pytest.approx(
        token.metrics["hamming_loss"] - run.metrics["hamming_loss"]
    )
    document = json.loads(found.to_json())["methods"]
    assert document["entropy-uncertainty"]["cut"] == run.scored.cut
    assert document["probability-uncertainty"]["cut"] == other.scored.cut
    assert "cut" not in document["token"]
    lines = list(describe(found))
    assert (
        f"  predicts two labels up to the uncertainty {run.scored.cut:.3g}, one above it; fitted on these records, as "
        "in the paper"
    ) in lines


def test_several_guards_are_compared_method_by_method(guard: Guard) -> None:
    found = evaluate({"one": guard, "two": guard}, examples(), methods=["exact", "greedy"], samples=10)
    assert [(run.bundle, run.method, run.reference) for run in found.runs] == [
        ("one", "exact", None), ("one", "greedy", 0), ("two", "exact", 0), ("two", "greedy", 1),
    ]  # fmt: skip
    differences = found.runs[3].differences
    assert differences is not None
    assert differences["micro_f1"].value == 0
    assert differences["micro_f1"].interval == [0, 0]
    assert json.loads(found.to_json())["compared"][0]["methods"]["exact"]["difference"]["brier"]["value"] == 0


def test_before_and_after_calibration() -> None:
    """Said 0.9 of what is true every other time; calibrated to 0.5."""
    rows = [Example(Record(text, i), {"A": text == "yes"}, text == "yes") for i, text in enumerate(["yes", "no"] * 4)]
    scores = dict.fromkeys(["yes", "no"], 0.5)
    calibrated = FakeGuard(scores, dict.fromkeys(["yes", "no"], 0.9), coverage=0.25)
    plain = FakeGuard(scores)
    found = evaluate({"calibrated": calibrated, "plain": plain}, rows, samples=0)  # type: ignore[dict-item]
    run, other = found.runs
    assert run.metrics["ece"] == pytest.approx(0)
    assert run.metrics["before_calibration"]["ece"] == pytest.approx(0.4)
    assert run.metrics["before_calibration"]["unsafe_brier"] == pytest.approx((0.01 + 0.81) / 2)
    assert other.metrics["before_calibration"] is None
    assert (run.scored.coverage, run.scored.low_coverage, other.scored.low_coverage) == (0.25, 1.0, 0.0)
    page = render(found)
    assert "<small>before 0.400</small>" in page
    data = page_data(page)
    assert data["runs"][0]["before"]["*"][0][:2] == [0.9, 0.5]
    assert data["runs"][1]["before"] is None


def test_options_and_progress(guard: Guard) -> None:
    """Options may come as an object, as keywords, or as both; progress counts over all runs."""
    calls: list[tuple[int, int]] = []
    found = evaluate(
        guard,
        examples(),
        methods=["exact", "greedy"],
        samples=0,
        options=ScoreOptions(max_nodes=2, tolerance=0.5),
        tolerance=1e-9,
        progress=lambda done, total: calls.append((done, total)),
    )
    assert calls == [(done, 18) for done in range(1, 19)]
    same = evaluate(guard, examples(), samples=0, max_nodes=2, tolerance=1e-9)
    assert found.runs[0].scored.results[:8] == same.runs[0].scored.results[:8]
    assert found.runs[0].scored.converged < 1
    with pytest.raises(OptionError, match="max_nodes must be an integer"):
        evaluate(guard, examples(), max_nodes=0)


def test_nothing_to_do(guard: Guard) -> None:
    with pytest.raises(TokmargError, match="there are no records to score"):
        evaluate(guard, [])
    with pytest.raises(TokmargError, match="needs a guard and a method"):
        evaluate(guard, examples(), methods=[])
    with pytest.raises(TokmargError, match="method 'best' is not one of"):
        evaluate(guard, examples(), methods=["best"])  # type: ignore[list-item]


def test_hostile_texts_stay_texts() -> None:
    page = render(hostile_evaluation())
    assert page.count("<script") == 2
    assert page.count("</script>") == 2
    assert "alert(1)" in page
    assert not re.search("<!--|<img|<b>|<i>|\u2028|\ud800", page)
    page.encode("utf-8")
    data = page_data(page)
    assert data["texts"]["0"]["text"] == HOSTILE.replace("\ud800", "\ufffd")
    assert data["texts"]["2"]["text"].startswith("user: xxx")
    assert len(data["texts"]["2"]["text"]) == 1001


def test_the_page_needs_nothing_else() -> None:
    page = render(hostile_evaluation())
    body = page.replace(HOSTILE, "")
    assert not re.search(r"\b(?:src|href|action)\s*=\s*[\"'](?!data:,|#)", re.sub(r'id="data">.*?</script>', "", body))
    assert not re.search(r"url\(|@import|fetch\(|XMLHttpRequest|WebSocket|innerHTML|eval\(|document\.write", body)
    assert "{{" not in page.replace("{{data}}", "")
    policy = re.search('http-equiv="Content-Security-Policy" content="([^"]+)"', page)
    assert policy
    for kind, text in (("script", page.split("<script>")[1].split("</script>")[0]),
                       ("style", page.split("<style>")[1].split("</style>")[0])):  # fmt: skip
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy[1]
    assert "default-src 'none'" in policy[1]
    assert not re.search(r"\sstyle=|\son\w+=", re.sub(r'id="data">.*?</script>', "", page))


def test_a_report_of_a_thousand_rows_is_small() -> None:
    """Eight runs, texts of 2,000 characters, none of which repeats."""
    rng = np.random.default_rng(0)
    texts = [" ".join(map(str, rng.integers(0, 10**6, 300)))[:2000] for _ in range(1000)]
    rows = [Example(Record(text, i), {"A": bool(i % 3)}, bool(i % 3)) for i, text in enumerate(texts)]
    guards = {str(k): FakeGuard(dict(zip(texts, rng.random(1000), strict=True))) for k in range(8)}
    page = render(evaluate(guards, rows, samples=0))  # type: ignore[arg-type]
    assert len(page.encode()) < 5e6
    data = page_data(page)
    # The worst errors of every run have their texts.
    for guard in guards.values():
        said = np.array([guard.scores[text] for text in texts])
        false = np.flatnonzero(np.arange(1000) % 3 == 0)
        assert {str(i) for i in false[np.argsort(-said[false])][:100]} <= set(data["texts"])


def test_scores_and_truths_in_the_page(guard: Guard) -> None:
    found = evaluate(guard, examples(), samples=0)
    data = page_data(render(found))
    score = np.frombuffer(base64.b64decode(data["runs"][0]["score"]), "<f4").reshape(9, 3)  # of C nothing is known
    truth = np.frombuffer(base64.b64decode(data["truth"]), "i1").reshape(9, 3)
    cases = found.runs[0].scored.cases
    np.testing.assert_allclose(score, np.column_stack([cases.score[:, :2], cases.unsafe_score]), rtol=1e-6)
    assert truth[0].tolist() == [1, 0, 1]
    assert truth[4].tolist() == [0, 0, 0]
    assert data["labels"][0] == {"id": "A", "name": "Weapons"}


def test_records_that_know_only_safe_or_unsafe(guard: Guard) -> None:
    """The report has no labels, of which nothing is known, and so opens on ``unsafe``; its title names the file."""
    rows = [Example(each.record, {}, each.unsafe) for each in examples()]
    assert {each.unsafe for each in rows} >= {True, False}
    found = evaluate(guard, rows, samples=0, data="/srv/secret place/rows.jsonl")
    page = render(found)
    data = page_data(page)
    assert data["labels"] == []
    truth = np.frombuffer(base64.b64decode(data["truth"]), "i1")
    assert truth.tolist() == [-1 if each.unsafe is None else int(each.unsafe) for each in rows]
    assert len(base64.b64decode(data["runs"][0]["score"])) == 4 * len(rows)
    headings = re.findall(r'<th scope="col">(.*?)</th>', page)
    assert headings == ["Method", "Unsafe AUC", "Coverage", "Converged", "s/item"]
    assert "<title>rows.jsonl: evaluation</title>" in page
    assert "secret" not in page
    first, _, heading, *_ = describe(found)
    assert first.startswith(f"{len(rows)} records of rows.jsonl, ")
    assert heading.split() == ["method", "unsafe", "AUC", "coverage", "s/item"]


def test_a_report_that_cannot_be_written(guard: Guard, tmp_path: Path) -> None:
    found = evaluate(guard, examples(), samples=0)
    write_report(found, tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == render(found)
    with pytest.raises(TokmargError, match=r"none/report.html: cannot be written: No such file or directory"):
        write_report(found, tmp_path / "none" / "report.html")
