"""Rows of public sets that a training run has not drawn, to calibrate the guard with.

    python held_out.py --public FOLDER --seed 41 --rows 20000 [--openai FILE] -o FOLDER

Draws the rows that training draws with the same seed (and ``--prose``, if it had one), and writes for each set up to
``--each`` of the others, as ``tokmarg calibrate`` reads them. ``--rows`` is at least what the run used: rows a step
times steps, and those that were too long. Only sets of which every row comes once before any comes twice have rows
left. OpenAI's moderation release is no training set; of it those rows are taken that have a label, or of which all
labels are known to be absent.
"""

from __future__ import annotations

import argparse
import itertools
import random
from pathlib import Path

from data import Generator
from sources import Row, Sources, read_jsonl, write_jsonl

#: The field that says a row is unsafe; None where all are safe.
SETS = {
    "clinc_safe": None,
    "banking_safe": None,
    "medical_safe": None,
    "hatemoji": "hateful",
    "edos": "sexist",
    "toxigen_demonstrations": "hateful",
    "social_comments": "toxic",
}


def held_out(sources: Sources, name: str, each: int) -> list[Row]:
    """Up to ``each`` rows of a set whose text was not drawn."""
    field = SETS[name]
    rows = [row for row in sources.sets[name] if row["text"] not in sources.drawn]
    random.Random(name).shuffle(rows)
    return [{"text": row["text"], "unsafe": field is not None and bool(row[field])} for row in rows[:each]]


def of_openai(rows: list[Row]) -> list[Row]:
    """The rows of OpenAI's release of which it is known whether they are unsafe."""
    whole = max(len(row["known"]) for row in rows)
    decided = [row for row in rows if row["labels"] or len(row["known"]) == whole]
    return [{"text": row["text"], "unsafe": bool(row["labels"])} for row in decided]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--public", type=Path, required=True, help="folder of the public sets")
    parser.add_argument("--prose", type=Path, help="as the training run had it")
    parser.add_argument("--seed", type=int, required=True, help="of the training run")
    parser.add_argument("--rows", type=int, required=True, help="that the training run drew at most")
    parser.add_argument("--openai", type=Path, help="OpenAI's moderation release, with text, labels and known")
    parser.add_argument("--each", type=int, default=150, help="rows of a set")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder")
    options = parser.parse_args()
    generator = Generator(options.public, options.seed, options.prose)
    for _ in itertools.islice(iter(generator), options.rows):
        pass
    options.output.mkdir(parents=True, exist_ok=True)
    found = {name: held_out(generator.sources, name, options.each) for name in SETS}
    if options.openai is not None:
        found["openai"] = of_openai(read_jsonl(options.openai))
    for name, rows in found.items():
        write_jsonl(options.output / f"{name}.jsonl", rows)
        print(f"{name}: {len(rows)} rows, {sum(row['unsafe'] for row in rows)} unsafe")


if __name__ == "__main__":
    main()
