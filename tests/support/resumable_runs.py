"""Runs of ``tokmarg score`` from file to file: inputs of every format, and ways to end a run in its middle."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.command_line import Run

COMMAND = [sys.executable, "-m", "tokmarg", "score", "--threads", "1"]

#: Records of every kind, so that packs end at many places; CSV rows span lines, and one row is broken.
TEXTS = [f"{'gun ' * (n % 9)}hello{' idiot' * (n % 4)} {n}" for n in range(100)]


def jsonl(folder: Path) -> Path:
    lines = [json.dumps({"text": text} if n % 3 else {"text": text, "id": f"ü{n}"}) for n, text in enumerate(TEXTS)]
    lines[40:40] = ["", "{", json.dumps({"text": "boom boom"}), json.dumps({"text": "noise"})]
    path = folder / "in.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")  # no newline at the end
    return path


def csv(folder: Path) -> Path:
    rows = [f'"{text}\nsecond ""line"", {n}",{n if n % 2 else ""}' for n, text in enumerate(TEXTS)]
    rows[60:60] = ["too,many,fields", "", 'not "closed" where it should,1', '"a" b,2']
    path = folder / "in.csv"
    path.write_bytes(b"\xef\xbb\xbf" + ("text,id\r\n" + "\r\n".join(rows)).encode())
    return path


def lines(folder: Path) -> Path:
    path = folder / "in.txt"
    path.write_bytes(b"\n".join(text.encode() for text in [*TEXTS[:60], "", "\r", *TEXTS[60:]]) + b"\n\xff\n")
    return path


def tsv(folder: Path) -> Path:
    """UTF-16, with characters of which a byte looks like a newline's."""
    rows = [f'"{text}\u0a0a\u0a00\n{n}"\t{n}' for n, text in enumerate(TEXTS)]
    rows[60:60] = ["too\tmany\tfields", "", '"a" b\t2']
    path = folder / "in.tsv"
    path.write_bytes(("text\tid\r\n" + "\r\n".join(rows)).encode("utf-16"))
    return path


def json_array(folder: Path) -> Path:
    elements = [json.dumps({"text": text, "id": f"ü{n}"}, indent=2) for n, text in enumerate(TEXTS)]
    elements[40:40] = ["", '{"text": "a",}', "7", json.dumps({"text": "boom boom"})]
    path = folder / "in.json"
    path.write_text("[" + ",\n".join(elements), encoding="utf-8")  # never closed
    return path


def parquet(folder: Path) -> Path:
    """Row groups of other sizes than packs, texts and conversations, and rows without either."""
    texts = [None if n % 7 == 3 else text for n, text in enumerate(TEXTS)]
    talks = [[{"role": "user", "content": text}] if n % 14 == 3 else None for n, text in enumerate(TEXTS)]
    rows = pa.table({"id": [f"ü{n}" if n % 3 else None for n in range(len(TEXTS))], "text": texts, "messages": talks})
    pq.write_table(rows, folder / "in.parquet", row_group_size=23)
    return folder / "in.parquet"


INPUTS = {"jsonl": jsonl, "csv": csv, "lines": lines, "tsv": tsv, "json": json_array, "parquet": parquet}


def left(output: Path) -> list[str]:
    """What lies beside an output."""
    return sorted(path.name[len(output.name) :] for path in output.parent.glob(f"{output.name}?*"))


#: Input, output and arguments of a run.
Unfinished = tuple[Path, Path, list[Any]]


class Killed(BaseException):
    """Stands for a kill: nothing but `finally` and `with` sees it."""


class Kill:
    """kill(n): the n-th call that changes the disk does not come back, and neither do those after it."""

    def __init__(self) -> None:
        self.calls = {"left": -1, "made": 0}

    def __call__(self, left: int) -> None:
        self.calls.update(left=left, made=0)


def cut_off(tokmarg: Run, kill: Kill, *arguments: object, at: int = 12) -> None:
    """A run that ends in its middle."""
    kill(at)
    with pytest.raises(Killed):
        tokmarg(*arguments)
    kill(-1)


def whole(tokmarg: Run, given: Path, tmp_path: Path, *more: object) -> bytes:
    """The bytes of a run that was left alone."""
    assert tokmarg("score", "--input", given, "--output", tmp_path / "alone", *more).exit_code == 0
    return (tmp_path / "alone").read_bytes()
