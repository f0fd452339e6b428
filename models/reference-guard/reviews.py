"""Harmless sentences of reviews, editorials and tweets, from the source package of vaderSentiment (MIT).

The package carries the four sets that Hutto and Gilbert (ICWSM 2014) measured sentiment on: film reviews (of Pang and
Lee), product reviews (of Hu and Liu), editorials, tweets. Sentences that follow each other in one document make a text
of one to seven; opinions of every kind and dark films among them, and nothing that a guard should stop. Nothing is
committed here; training reads the output.
"""

from __future__ import annotations

import io
import itertools
import random
import tarfile
from pathlib import Path

INNER = "additional_resources/hutto_ICWSM_2014.tar.gz"
SETS = ("movieReviewSnippets", "amazonReviewSnippets", "nytEditorialSnippets", "tweets")


def read(sdist: Path) -> dict[str, list[list[str]]]:
    """The documents of each set, as lists of sentences.

    A line is number, rating and sentence, parted by tabs; sentence 3 of document 12 has the number 12_3; tweets have
    plain numbers.
    """
    documents: dict[str, list[list[str]]] = {}
    with tarfile.open(sdist) as outer:
        name = next(member for member in outer.getnames() if member.endswith(INNER))
        file = outer.extractfile(name)
        assert file is not None, f"{sdist}: {name} is no file"
        with tarfile.open(fileobj=io.BytesIO(file.read())) as inner:
            for part in SETS:
                name = next(member for member in inner.getnames() if member.endswith(f"{part}_GroundTruth.txt"))
                file = inner.extractfile(name)
                assert file is not None, f"{sdist}: {name} is no file"
                lines = [line.split("\t") for line in file.read().decode("utf-8", "replace").splitlines()]
                lines = [line for line in lines if len(line) == 3]
                groups = itertools.groupby(lines, key=lambda line: line[0].split("_")[0])
                documents[part] = [[text.strip() for _, _, text in group] for _, group in groups]
    return documents


def texts(documents: dict[str, list[list[str]]], seed: int) -> list[str]:
    """Runs of sentences of one document, one to seven long, each sentence once; shuffled."""
    rng = random.Random(seed)
    runs: list[str] = []
    for group in documents.values():
        for sentences in group:
            rest = [sentence for sentence in sentences if sentence]
            while rest:
                count = rng.choice([1, 1, 2, 3, 4, 5, 7])
                runs.append(" ".join(rest[:count]))
                del rest[:count]
    rng.shuffle(runs)
    return runs
