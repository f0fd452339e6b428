"""The page is one file that fetches nothing and runs nothing, whatever the content holds."""

from __future__ import annotations

import html.parser
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support import word_guard
from tests.support.optional import present
from tokmarg.explanation import explain, html_page
from tokmarg.guard import Guard

HOSTILE = (
    "gun <script>document.title='x'</script> </style><img src=http://example.com/x onerror=alert(1)> "
    "\"'><iframe src=//example.com> &lt;b&gt; hello\x00\x1b[31m \u202etxet {{7*7}} <!-- idiot"
)
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Reader(html.parser.HTMLParser):
    """Elements, and the text outside of <style>."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.text += data


@pytest.fixture(scope="module")
def guard(tmp_path_factory: pytest.TempPathFactory) -> Guard:
    """The word guard, with room for long texts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(word_guard, "CONTEXT", 2000)
        folder = word_guard.write(tmp_path_factory.mktemp("words"))
    return Guard.load(folder, device="cpu", threads=1)


@pytest.fixture(scope="module")
def hostile(guard: Guard) -> str:
    return html_page(
        explain(guard, [{"role": "user", "content": HOSTILE}, {"role": "user", "content": HOSTILE}], id=HOSTILE)
    )


def test_nothing_of_the_content_is_markup(hostile: str) -> None:
    reader = Reader(hostile)
    assert reader.open == []
    tags = {tag for tag, _ in reader.elements}
    assert not tags & {"script", "img", "iframe", "link", "object", "embed", "a", "form", "base"}
    names = {name for _, attributes in reader.elements for name in attributes}
    assert names <= {"lang", "charset", "http-equiv", "content", "name", "class", "style", "title", "open"}
    assert "<script>document.title='x'</script>" in reader.text
    assert "&lt;b&gt; hello" in reader.text
    assert "{{7*7}}" in reader.text


def test_nothing_is_fetched(hostile: str) -> None:
    policy = present(next(a["content"] for tag, a in Reader(hostile).elements if a.get("http-equiv")))
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'")
    style = re.search("<style>(.*?)</style>", hostile, re.DOTALL)
    assert style
    assert not re.search(r"url\(|@import|https?:", style[1])


def test_control_and_direction_characters_are_spelt_out(hostile: str) -> None:
    assert not re.search("[\x00-\x08\x0b-\x1f\u202e]", hostile)
    assert r"hello\x00\x1b[31m \u202etxet" in Reader(hostile).text


def test_numbers_are_those_of_the_explanation(guard: Guard) -> None:
    found = explain(guard, "Hello gun. Hello. Idiot idiot hello!")
    text = " ".join(Reader(html_page(found)).text.split())
    for event, bounds in found.probabilities.items():
        assert event in text
        assert f"{bounds.middle:.3f}" in text
    for segment in found.occlusion.segments:
        assert segment.text.strip() in text
    effects = found.occlusion.segments[0].effects
    assert effects is not None
    assert f"{effects['A'].change:+.3f}" in text
    assert "Inside" in text
    assert "hesitates: 1.00 bits" not in text or found.hesitations()


def test_an_id_of_any_kind_can_be_written(guard: Guard) -> None:
    assert "ud800" in html_page(explain(guard, "gun", id="\ud800")).encode().decode()


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")
def test_opens_in_a_browser(hostile: str, tmp_path: Path) -> None:
    """Headless: the browser's own reading of the page, with every host name unknown."""
    file = tmp_path / "page.html"
    file.write_text(hostile, encoding="utf-8")
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--host-resolver-rules=MAP * ~NOTFOUND",
    ]
    flags += [f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr", "--window-size=900,1400"]
    done = subprocess.run(
        [str(CHROMIUM), *flags, "--dump-dom", file.as_uri()], capture_output=True, text=True, timeout=300, check=True
    )
    title = re.search("<title>(.*?)</title>", done.stdout, re.DOTALL)
    assert title
    assert title[1].startswith("tokmarg: gun &lt;script&gt;")
    dom = Reader(done.stdout)
    assert not {tag for tag, _ in dom.elements} & {"script", "img", "iframe"}
    assert {tag for tag, _ in dom.elements} == {tag for tag, _ in Reader(hostile).elements}
    assert "Refused to" not in done.stderr  # nothing ran into the page's content security policy
    picture = tmp_path / "page.png"
    subprocess.run(
        [str(CHROMIUM), *flags, f"--screenshot={picture}", file.as_uri()], capture_output=True, timeout=300, check=True
    )
    assert picture.stat().st_size > 10_000
