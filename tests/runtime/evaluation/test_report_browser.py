"""The report in a browser: what it asks of the network, what it shows, and that it follows the threshold.

Skipped where there is no Chromium with its driver, unless $TOKMARG_TEST_BROWSER says that there must be one.
"""

from __future__ import annotations

import functools
import http.server
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sklearn.metrics as sk

from tests.support.browser import Browser
from tests.support.fake_guard import HOSTILE, hostile_evaluation
from tokmarg.evaluation import Evaluation, Run, write_report
from tokmarg.evaluation.bootstrap import bootstrap, difference
from tokmarg.evaluation.dataset import Example
from tokmarg.evaluation.evaluation import ScoringRun
from tokmarg.evaluation.measures import Cases, measure
from tokmarg.prompt.messages import Record

pytestmark = pytest.mark.skipif(
    not Browser.is_there() and not os.environ.get("TOKMARG_TEST_BROWSER"), reason="no chromium with chromedriver"
)
RIGHT, END = "\ue014", "\ue010"
COUNT = 300


def evaluation() -> Evaluation:
    """Two runs over records of three labels; nobody has label C."""
    rng = np.random.default_rng(0)
    truth = (rng.random((COUNT, 3)) < [0.3, 0.1, 0]).astype(float)
    truth[rng.random((COUNT, 3)) < 0.1] = np.nan
    unsafe = np.nan_to_num(truth).max(axis=1)

    def run(name: str, noise: float, first: Run | None) -> Run:
        score = np.clip(np.nan_to_num(truth) * 0.3 + rng.random((COUNT, 3)) * noise, 0, 1).round(2)  # with ties
        cases = Cases(("A", "B", "C"), truth, score, unsafe, score.max(axis=1), score**2, score.max(axis=1) ** 2)
        return Run(
            name, "tests/model", "fp32", "exact", ScoringRun(cases, (), 0.9, 0.1, 1.0, 0, 0.01), measure(cases, 0.2),
            bootstrap(cases, 0.2, 20), None if first is None else 0,
            None if first is None else difference(first.scored.cases, cases, 0.2, 20),
        )  # fmt: skip

    first = run("fp32", 0.7, None)
    examples = tuple(Example(Record(f"How do I pick lock {i}?", f"r{i}"), {}, None) for i in range(COUNT))
    names = {"A": "Weapons", "B": "Insults", "C": "Refusals"}
    return Evaluation("locks.jsonl", examples, 0.2, 20, names, (first, run("int8", 0.8, first)))


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("browser")) as found:
        yield found


@pytest.fixture(scope="module")
def found() -> Evaluation:
    return evaluation()


@pytest.fixture(scope="module")
def page(found: Evaluation, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(found, path)
    return path


def choose(browser: Browser, id: str, value: str) -> None:
    code = "const e = document.getElementById(arguments[0]); e.value = arguments[1];"
    browser.run(code + "for (const t of ['input', 'change']) e.dispatchEvent(new Event(t, {bubbles: true}))", id, value)
    browser.settle()


def tiles(browser: Browser) -> dict[str, str]:
    code = "return [...document.querySelectorAll('.tile')].map(t => [...t.children].map(c => c.textContent))"
    return {name: value for value, name in browser.run(code)}


def explorer(browser: Browser) -> dict[str, list[str]]:
    rows = browser.run(
        "return [...document.querySelectorAll('#explorer tbody tr')].map(r => [...r.children].map(c => c.textContent))"
    )
    return {row[0]: row[2:] for row in rows}


def errors(browser: Browser) -> list[list[str]]:
    code = "[...document.querySelectorAll('#e-list li')].map(l => [...l.querySelectorAll('span, p')]"
    return list(browser.run(f"return {code}.map(s => s.textContent))"))


def test_nothing_is_requested(browser: Browser, page: Path) -> None:
    """Served by a real server, which would hear of an icon, a font or a beacon; nothing else is reachable."""
    asked: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            asked.append(self.path)

    handler = functools.partial(Handler, directory=str(page.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        browser.log("performance")
        browser.open(f"http://127.0.0.1:{server.server_port}/report.html")
        choose(browser, "target", "0")
        browser.settle()
        server.shutdown()
    assert asked == ["/report.html"]
    url = f"http://127.0.0.1:{server.server_port}/report.html"
    events = [json.loads(entry["message"])["message"] for entry in browser.log("performance")]
    sent = [e["params"] for e in events if e["method"] == "Network.requestWillBeSent"]
    # The browser's own first tab has requests of its own.
    of_page = {each["request"]["url"] for each in sent if each["documentURL"] == url}
    assert {each for each in of_page if not each.startswith("data:")} == {url}
    assert browser.log("browser") == []  # neither an error nor a violation of the page's policy


def test_the_explorer_counts_as_scikit_learn_does(browser: Browser, page: Path, found: Evaluation) -> None:
    browser.open(page.as_uri())
    for run, name in enumerate(["fp32", "int8"]):
        choose(browser, "run", str(run))
        cases = found.runs[run].scored.cases
        assert found.runs[run].bundle == name
        for target, threshold in [("-1", 0.2), ("-1", 0.7), ("0", 0.35), ("3", 0.51)]:
            choose(browser, "target", target)
            choose(browser, "number", str(threshold))
            truth, score = {"-1": cases.pooled(), "3": cases.unsafe(), "0": cases.label(0)}[target]
            (tn, fp), (fn, tp) = sk.confusion_matrix(truth, score >= threshold)
            shown = tiles(browser)
            assert [shown[f"{k} {w}"] for w in ("positives", "negatives") for k in ("true", "false")] == [
                f"{tp:,}", f"{fp:,}", f"{tn:,}", f"{fn:,}",
            ]  # fmt: skip
            assert shown["F1"] == f"{sk.f1_score(truth, score >= threshold):.3f}"
            assert shown["recall"] == f"{sk.recall_score(truth, score >= threshold):.3f}"
        rows = explorer(browser)  # A at 0.35, B and C at 0.7, unsafe at 0.51
        truth, score = cases.label(1)
        (tn, fp), (fn, tp) = sk.confusion_matrix(truth, score >= 0.7)
        assert rows["B Insults"][:4] == [f"{tp}", f"{fp}", f"{fn}", f"{tn}"]
        assert rows["B Insults"][-1] == f"{sk.roc_auc_score(truth, score):.3f}"
        assert rows["C Refusals"][-1] == "– no positives"
    assert browser.run("return document.getElementById('toml').value") == (
        'unsafe = 0.51\n\n[labels]\n"A" = 0.35\n"B" = 0.7\n"C" = 0.7\n'
    )


def test_a_slider_is_moved_by_keys(browser: Browser, page: Path) -> None:
    browser.open(page.as_uri())
    before = tiles(browser)
    browser.run("document.getElementById('slider').focus()")
    browser.press(RIGHT)
    assert browser.run("return document.getElementById('number').value") == "0.205"
    browser.press(END)
    assert tiles(browser)["true positives"] != before["true positives"]
    assert browser.run("return document.activeElement.id") == "slider"
    browser.run("document.querySelector('#explorer button').focus()")
    browser.press("\ue007")  # enter on a label's name shows its curves
    assert browser.run("return document.getElementById('shown').textContent") == "A Weapons"


def test_everything_is_reached_by_tab(browser: Browser, page: Path) -> None:
    browser.open(page.as_uri())
    seen = []
    for _ in range(40):
        browser.press("\ue004")
        seen.append(browser.run("return document.activeElement.id"))
    assert {"run", "target", "slider", "number", "e-label", "e-kind", "e-text", "e-more"} <= set(seen)


def test_charts(browser: Browser, page: Path) -> None:
    browser.open(page.as_uri())
    labels = browser.run("return [...document.querySelectorAll('.charts svg')].map(s => s.getAttribute('aria-label'))")
    assert [label.split(" of ")[0] for label in labels] == [
        "Reliability",
        "Scores",
        "ROC curve",
        "Precision-recall curve",
    ]
    path = browser.run("return document.querySelector('#roc .one').getAttribute('d')")
    assert path.startswith("M46.0 258.0L")  # from the corner of nothing
    assert path.endswith("L428.0 10.0")  # to the corner of everything
    assert browser.run("return document.querySelectorAll('#reliability .two-dot').length") == 15  # before calibration
    choose(browser, "target", "2")
    notes = browser.run("return [...document.querySelectorAll('.charts .note')].map(n => n.textContent)")
    assert notes == ["Not defined: no positives."] * 2


def test_confusion(browser: Browser, page: Path, found: Evaluation) -> None:
    """Of the contents with A that are known to lack B, the share for which B is predicted."""
    browser.open(page.as_uri())
    cases = found.runs[0].scored.cases
    chosen = (cases.truth[:, 0] == 1) & (cases.truth[:, 1] == 0)
    expected = 100 * np.mean(cases.score[chosen, 1] >= 0.2)
    rows = browser.run(
        "return [...document.querySelectorAll('#confusion tbody tr')].map(r => [...r.children].map(c => c.textContent))"
    )
    assert [row[0] for row in rows] == ["A Weapons", "B Insults", "safe"]
    assert float(rows[0][2]) == pytest.approx(expected, abs=0.51)
    assert float(rows[0][1]) == pytest.approx(100 * np.mean(cases.score[cases.truth[:, 0] == 1, 0] >= 0.2), abs=0.51)


def test_errors_are_the_worst_and_can_be_filtered(browser: Browser, page: Path, found: Evaluation) -> None:
    browser.open(page.as_uri())
    cases = found.runs[0].scored.cases
    choose(browser, "e-label", "0")
    choose(browser, "e-kind", "fp")
    wrong = np.flatnonzero((cases.truth[:, 0] == 0) & (cases.score[:, 0] >= 0.2))
    worst = wrong[np.argsort(-cases.score[wrong, 0], kind="stable")][:30]
    shown = errors(browser)
    assert [row[3] for row in shown] == [f"id r{i}" for i in worst]
    assert {row[0] for row in shown} == {"false positive"}
    assert browser.run("return document.getElementById('e-count').textContent").startswith(
        f"{len(wrong)} false positives and 0 false negatives"
    )
    choose(browser, "e-text", f"lock {worst[3]}?")
    assert [row[-1] for row in errors(browser)] == [f"How do I pick lock {worst[3]}?"]
    choose(browser, "e-text", "")
    choose(browser, "e-kind", "fn")
    assert {row[0] for row in errors(browser)} <= {"false negative"}


def test_hostile_texts(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "hostile.html"
    write_report(hostile_evaluation(), path)
    browser.log("browser")
    browser.open(path.as_uri())
    assert errors(browser)[0][-1] == "fine"
    choose(browser, "e-kind", "fn")
    assert {row[-1] for row in errors(browser)} == {HOSTILE.replace("\ud800", "\ufffd")}
    assert browser.run("return document.querySelectorAll('script').length") == 2
    assert browser.run("return document.querySelectorAll('img').length") == 0
    assert browser.log("browser") == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_in_light_and_dark(scheme: str, browser: Browser, page: Path) -> None:
    """Contrast of at least 4.5 (WCAG 2.1, 1.4.3), by its formula for relative luminance."""
    browser.command("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    browser.open(page.as_uri())

    def colour(selector: str, what: str) -> list[float]:
        text = browser.run(f"return getComputedStyle(document.querySelector({selector!r})).{what}")
        return [int(part) / 255 for part in text[text.index("(") + 1 : -1].split(",")[:3]]

    def luminance(rgb: list[float]) -> float:
        linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    grounds = {
        "body": luminance(colour("body", "backgroundColor")),
        "panel": luminance(colour(".tile", "backgroundColor")),
    }
    assert (grounds["body"] > 0.5) == (scheme == "light")

    def stands_out(selector: str) -> None:
        for ground in grounds.values():
            low, high = sorted([luminance(colour(selector, "color")), ground])
            assert (high + 0.05) / (low + 0.05) >= 4.5, selector

    for selector in ("body", "header .note", "thead th", "button.name", ".meta", ".legend"):
        stands_out(selector)
    for kind in ("fp", "fn"):
        choose(browser, "e-kind", kind)
        stands_out(f".badge.{kind}")
    wide = browser.run("return document.documentElement.scrollWidth > document.documentElement.clientWidth")
    assert not wide  # tables scroll by themselves
