"""Rows of public sets that training never draws, to calibrate the guard with.

    python held_out.py --public FOLDER [--openai FILE] -o FOLDER

Writes a file for each set, as ``tokmarg calibrate`` reads them. OpenAI's moderation release is no training set; of it
those rows are taken that have a label, or of which all labels are known to be absent.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from sources import Row, Sources, read_jsonl, write_jsonl

#: The field that says that a row is unsafe; the rows of other sets are all safe.
UNSAFE_FIELD = {
    "hatemoji": "hateful",
    "edos": "sexist",
    "toxigen_demonstrations": "hateful",
    "social_comments": "toxic",
}


def labelled(name: str, rows: list[Row]) -> list[Row]:
    """Rows of a public set with whether they are unsafe."""
    field = UNSAFE_FIELD.get(name)
    return [{"text": row["text"], "unsafe": field is not None and bool(row[field])} for row in rows]


def of_openai(rows: list[Row]) -> list[Row]:
    """The rows of OpenAI's release of which it is known whether they are unsafe."""
    whole = max(len(row["known"]) for row in rows)
    decided = [row for row in rows if row["labels"] or len(row["known"]) == whole]
    return [{"text": row["text"], "unsafe": bool(row["labels"])} for row in decided]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--public", type=Path, required=True, help="folder of the public sets")
    parser.add_argument("--openai", type=Path, help="OpenAI's moderation release, with text, labels and known")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    found = {name: labelled(name, rows) for name, rows in Sources(options.public, seed=0).held_out.items()}
    if options.openai is not None:
        found["openai"] = of_openai(read_jsonl(options.openai))
    for name, rows in found.items():
        write_jsonl(options.output / f"{name}.jsonl", rows)
        print(f"{name}: {len(rows)} rows, {sum(row['unsafe'] for row in rows)} unsafe")


if __name__ == "__main__":
    main()
