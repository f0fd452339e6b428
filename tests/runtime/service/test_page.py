"""The page at ``/`` in a browser: what it shows, and that it asks nobody else and runs no other script."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.browser import Browser
from tests.support.served import Served, serving

needs_browser = pytest.mark.skipif(
    not Browser.is_there() and not os.environ.get("TOKMARG_TEST_BROWSER"), reason="no chromium with chromedriver"
)
TOKEN = "0123456789abcdef-one"
HOSTILE = "hello gun. <img src=x onerror=\"document.title='taken'\"><script>document.title='taken'</script>"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("browser")) as found:
        yield found


def judge(browser: Browser, text: str) -> None:
    browser.run(
        "document.getElementById('text').value = arguments[0]; document.getElementById('form').requestSubmit()", text
    )


def shown(browser: Browser) -> dict[str, Any]:
    code = """
    const text = (id) => document.getElementById(id).textContent
    return {verdict: text('verdict'), facts: text('facts'), state: text('state'), rows: Object.fromEntries(
      [...document.querySelectorAll('#rows tr')].map(r => [r.children[0].textContent, r.children[2].textContent]))}
    """
    found: dict[str, Any] = browser.run(code)
    return found


@needs_browser
def test_probabilities_and_explanation(served: Served, browser: Browser) -> None:
    browser.log("performance")
    browser.start(f"{served.url}/", "return document.getElementById('model').options.length === 1")
    judge(browser, "hello gun. hello")
    browser.until("return !document.getElementById('why').hidden")
    row = served.post("/v1/score", {"text": "hello gun. hello"})[1]
    found = shown(browser)
    assert (found["verdict"], found["state"]) == ("flagged", "")
    assert found["rows"] == {
        name: f"{value:.3f}" for name, value in {"unsafe": row["unsafe"], **row["labels"]}.items() if value is not None
    }
    assert found["facts"].startswith("coverage ")
    # no script runs in the frame, not the test's either
    browser.until("return document.getElementById('explanation').srcdoc.includes('What drives it')")
    assert "unsafe" in browser.run("return document.getElementById('explanation').srcdoc")
    asked = [json.loads(entry["message"])["message"] for entry in browser.log("performance")]
    urls = {each["params"]["request"]["url"] for each in asked if each["method"] == "Network.requestWillBeSent"}
    assert urls
    assert {url for url in urls if not url.startswith((served.url, "about:srcdoc", "data:", "chrome:"))} == set()
    if folder := os.environ.get("TOKMARG_SCREENSHOTS"):
        browser.settle()
        picture = browser.command("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        Path(folder, "page.png").write_bytes(base64.b64decode(picture))


@needs_browser
def test_a_hostile_text_is_shown_as_it_is(served: Served, browser: Browser) -> None:
    browser.start(f"{served.url}/", "return document.getElementById('model').options.length === 1")
    judge(browser, HOSTILE)
    browser.until("return !document.getElementById('why').hidden")
    browser.settle()
    assert browser.run("return document.title") == "tokmarg"
    assert not [entry for entry in browser.log("browser") if "favicon" not in entry["message"]]


@needs_browser
def test_what_cannot_be_judged_says_why(served: Served, browser: Browser) -> None:
    browser.start(f"{served.url}/", "return document.getElementById('model').options.length === 1")
    judge(browser, "hello " * 400)
    browser.until("return document.getElementById('state').textContent.includes('tokens')")
    assert browser.run("return document.getElementById('scores').hidden")


@needs_browser
def test_a_token_is_asked_for(table_bundle: Path, tmp_path: Path, browser: Browser) -> None:
    (tmp_path / "tokens").write_text(TOKEN, encoding="utf-8")
    with serving("--bundle", table_bundle, "--tokens", tmp_path / "tokens", "--threads", "1") as server:
        browser.start(f"{server.url}/", "return !document.getElementById('with-token').hidden")
        browser.run(
            "const e = document.getElementById('token'); e.value = arguments[0]; e.dispatchEvent(new Event('change'))",
            TOKEN,
        )
        browser.until("return document.getElementById('model').options.length === 1")
        judge(browser, "gun")
        browser.until("return document.getElementById('verdict').textContent === 'flagged'")


def test_the_page_and_its_policy(served: Served) -> None:
    status, text, headers = served.ask("GET", "/")
    assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
    policy = headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-eval" not in policy
    assert text.count("<script") == 1
    assert "http://www.w3.org/2000/svg" in text
    assert text.replace("http://www.w3.org/2000/svg", "").count("://") == 0


def test_the_explanation(served: Served) -> None:
    status, text = served.post("/explanation", {"text": "hello gun", "role": "assistant"})
    assert status == 200
    assert "What drives it" in text
    for body in {"text": 3}, {"text": "gun", "role": "system"}, {"text": ""}:
        assert served.post("/explanation", body)[0] == 400
    assert served.post("/explanation", {"text": "gun", "model": "nobody"})[0] == 404
