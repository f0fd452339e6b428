"""Harmless prose and code of the kinds that a guard flags too often, from Debian packages and Python's own sources.

    apt-get download fortunes anarchism bible-kjv bible-kjv-text manpages
    pip download --no-deps --no-binary :all: vaderSentiment==3.3.2
    python prose.py --deb FOLDER-OF-DEBS --reviews vaderSentiment-3.3.2.tar.gz -o prose.jsonl

Jokes and quotations (fortunes), political essays (anarchism, GPL-2), violent narrative (the King James Bible), manual
pages (GPL-2+), functions of Python's standard library (PSF licence), and reviews (``reviews.py``). Nothing is committed
here; training reads the output. A line is {"text": ..., "source": ...}.
"""

from __future__ import annotations

import argparse
import ast
import gzip
import html
import os
import random
import re
import subprocess
import sysconfig
import tempfile
from collections.abc import Iterable
from pathlib import Path

import reviews
from sources import write_jsonl

#: Jokes on these subjects are often at a group's expense.
NOT_HARMLESS = {"ethnic", "men-women", "love", "sex", "zippy", "ascii-art", "translate-me", "kids"}


def unpack(folder: Path, out: Path) -> None:
    """Unpacks every Debian package of the folder."""
    for package in sorted(folder.glob("*.deb")):
        subprocess.run(["dpkg-deb", "-x", package, out], check=True)


def fortunes(root: Path) -> list[str]:
    """Jokes and quotations of at most 700 characters."""
    files = [p for p in sorted((root / "usr/share/games/fortunes").iterdir()) if not p.suffix and p.is_file()]
    texts = [
        part.strip()
        for path in files
        if path.name not in NOT_HARMLESS
        for part in path.read_text(encoding="utf-8", errors="replace").split("\n%\n")
    ]
    return [text for text in texts if 20 < len(text) < 700]


def essays(root: Path) -> list[str]:
    """Paragraphs of An Anarchist FAQ."""
    texts: list[str] = []
    for path in sorted((root / "usr/share/doc/anarchism/html").glob("sec*.html")):
        page = path.read_text(encoding="utf-8", errors="replace")
        for part in re.findall(r"<p>(.*?)(?=<p>|</p>|<h)", page, flags=re.S | re.I):
            text = " ".join(html.unescape(re.sub(r"<[^>]+>", "", part)).split())
            if 150 < len(text) < 900:
                texts.append(text)
    return texts


def verses(root: Path, rng: random.Random) -> list[str]:
    """Runs of two to six verses of the Bible, without their numbers."""
    command = [str(root / "usr/bin/bible"), "-p", str(root / "usr/lib"), "-f", "Gen1:1-Rev22:21"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ, "TERM": "dumb"})
    lines = [re.sub(r"^\w+?\d+:\d+\s+", "", line).strip() for line in done.stdout.splitlines() if line.strip()]
    texts: list[str] = []
    first = 0
    while first < len(lines):
        count = rng.randint(2, 6)
        texts.append(" ".join(lines[first : first + count]))
        first += count
    return [text for text in texts if len(text) < 900]


def manual_pages(root: Path) -> list[str]:
    """Paragraphs of manual pages, without their markup."""
    texts: list[str] = []
    for path in sorted((root / "usr/share/man").glob("man[1-8]/*.gz")):
        with gzip.open(path, "rt", encoding="utf-8", errors="replace") as stream:
            page = stream.read()
        for part in re.split(r"\n\.(?:PP|P|TP|SH|SS|IP|LP).*", page):
            kept = [
                re.sub(r"^\.[BI]R?\s+", "", line) for line in part.splitlines() if not line.startswith((".\\", "'"))
            ]
            text = " ".join(line for line in kept if not line.startswith("."))
            text = (
                re.sub(r"\\f[BIRP]|\\&|\\c", "", text)
                .replace("\\-", "-")
                .replace("\\(aq", "'")
                .replace('"', "")
                .strip()
            )
            if 120 < len(text) < 800 and "\\" not in text:
                texts.append(" ".join(text.split()))
    return texts


def functions() -> list[str]:
    """Functions of Python's standard library."""
    texts: list[str] = []
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        source = path.read_text(encoding="utf-8", errors="replace")
        lines = source.splitlines()
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef):
                text = "\n".join(lines[node.lineno - 1 : node.end_lineno]).lstrip()
                if 120 < len(text) < 900:
                    texts.append(text)
    return texts


def write(sources: dict[str, Iterable[str]], output: Path) -> None:
    rows = ({"text": text, "source": source} for source, texts in sources.items() for text in texts)
    write_jsonl(output, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--deb", type=Path, required=True, help="folder of the Debian packages")
    parser.add_argument("--reviews", type=Path, required=True, help="vaderSentiment's source package")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        unpack(options.deb, root)
        write(
            {
                "jokes": fortunes(root),
                "essays": essays(root),
                "verses": verses(root, rng),
                "manual": manual_pages(root),
                "code": functions(),
                "reviews": reviews.texts(reviews.read(options.reviews), options.seed),
            },
            options.output,
        )


if __name__ == "__main__":
    main()
