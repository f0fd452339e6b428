"""Sentences of the vaderSentiment package, from a made-up package of the same form."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from tests.support.reference_guard import script


@pytest.fixture
def reviews() -> Iterator[ModuleType]:
    with script("reviews") as module:
        yield module


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def test_sentences_of_one_document_stay_together(reviews: ModuleType, tmp_path: Path) -> None:
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w:gz") as tar:
        for name in reviews.SETS:
            lines = [f"{d}_{i}\t0.5\t{name} {d} {i}." for d in (1, 2) for i in range(9)]
            add(tar, f"x/{name}_GroundTruth.txt", "\n".join([*lines, "a broken line"]).encode())
    path = tmp_path / "sdist.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        add(tar, f"vader-1/{reviews.INNER}", inner.getvalue())
    documents = reviews.read(path)
    assert [[len(sentences) for sentences in group] for group in documents.values()] == [[9, 9]] * 4
    texts = reviews.texts(documents, 0)
    every = [sentence for group in documents.values() for sentences in group for sentence in sentences]
    scattered = [f"{sentence.strip()}." for text in texts for sentence in text.split(".") if sentence.strip()]
    assert sorted(scattered) == sorted(every)  # each once
    for text in texts:
        assert len({tuple(sentence.split()[:2]) for sentence in text.split(".") if sentence.strip()}) == 1
    assert texts == reviews.texts(documents, 0)
    assert texts != reviews.texts(documents, 1)
