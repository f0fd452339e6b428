"""The check of a large policy is kept between loads: made once, made anew where its file is damaged."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.encoders import encoder_of
from tests.support.grammars import LLAMA_GUARD
from tests.support.tries import TAIL
from tokmarg.errors import SpecError
from tokmarg.grammar.checked import check_once
from tokmarg.grammar.grammar import Grammar
from tokmarg.grammar.trie import Trie


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "tokmarg"


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    made: list[int] = []
    check = Trie.check

    def counted(trie: Trie, samples: int = 100) -> None:
        made.append(samples)
        check(trie, samples)

    monkeypatch.setattr(Trie, "check", counted)
    return made


def trie(labels: list[str], tail: str = TAIL["smollm2"]) -> Trie:
    grammar = Grammar.parse(LLAMA_GUARD, [(label, label) for label in labels])
    return Trie(grammar, encoder_of("smollm2"), tail, ("",), ("<|im_end|>",))


def test_once(cache: Path, checks: list[int]) -> None:
    first, second = trie(["S1", "S10"]), trie(["S1", "S10"])
    check_once(first, 5)
    check_once(second, 5)
    assert checks == [5]
    assert second.vocabulary() == first.vocabulary()
    for other in (trie(["S1", "S11"]), trie(["S1", "S10"], "\n")):
        check_once(other, 5)
    check_once(trie(["S1", "S10"]), 6)
    assert checks == [5, 5, 5, 6]
    assert len(list(cache.iterdir())) == 4


@pytest.mark.parametrize("damage", [b"", b"{}", b'{"vocabulary": [1], "shares": true}'])
def test_damaged_file(cache: Path, checks: list[int], damage: bytes) -> None:
    check_once(trie(["S1", "S10"]), 5)
    (path,) = cache.iterdir()
    whole = path.read_bytes()
    path.write_bytes(damage)
    found = trie(["S1", "S10"])
    check_once(found, 5)
    assert checks == [5, 5]
    assert [each.read_bytes() for each in cache.iterdir()] == [whole]
    assert len(found.vocabulary()) > 3


def test_contexts_that_are_not_shared_stay_so(checks: list[int]) -> None:
    first = trie(["S1", "S10"])
    first.take_as_checked((1, 2), False)
    assert not first.shares
    monkeyed = trie(["S1", "S10"])
    monkeyed._compiler.stop_sharing()
    check_once(monkeyed, 5)
    restored = trie(["S1", "S10"])
    check_once(restored, 5)
    assert (checks, restored.shares) == ([5], False)


def test_what_fails_is_not_kept(cache: Path) -> None:
    for _ in range(2):
        with pytest.raises(SpecError, match="same tokens"):
            check_once(trie(["A", "B", "A,B"]), 5)
    assert not cache.exists()


def test_no_folder_is_no_obstacle(monkeypatch: pytest.MonkeyPatch, checks: list[int]) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null/cache")
    for _ in range(2):
        check_once(trie(["S1", "S10"]), 5)
    assert checks == [5, 5]
