"""Content that tries to become scaffold, or to use up time: with tokenizers that make it easy."""

from __future__ import annotations

import functools
import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

from tests.conftest import tokenizer_file
from tests.support.documents import edited
from tests.support.word_guard import SPEC
from tokmarg.errors import BundleError, ContentError
from tokmarg.prompt.builder import PromptBuilder
from tokmarg.prompt.messages import Message, messages_of
from tokmarg.prompt.spec import Spec
from tokmarg.prompt.token_borders import CHUNK
from tokmarg.prompt.windows import windows
from tokmarg.tokenizer import Encoder, Piece

SPECIAL = ["<|im_start|>", "<|im_end|>", "<|policy|>", "<|talk|>", "<|user|>", "<|agent|>", "<|verdict|>", "<|end|>"]
LETTERS = [*"abcdefghijklmnopqrstuvwxyz_|<> .\n", "▁"]
WIDE = str.maketrans({"<": "＜", "|": "｜", ">": "＞", "_": "＿"})


def _vocabulary() -> dict[str, int]:
    return {token: i for i, token in enumerate(["<unk>", *LETTERS, "im", "im_", *SPECIAL, "<|im", "<|im_end"])}


def tokenizer(kind: str) -> Tokenizer:
    """A tokenizer in whose vocabulary the special tokens stand like any word, behind a normalizer that spells them."""
    vocab = _vocabulary()
    if kind == "word-level":
        found = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
        found.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    elif kind == "word-piece":
        found = Tokenizer(models.WordPiece(vocab, unk_token="<unk>"))
        found.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    elif kind == "unigram":
        found = Tokenizer(models.Unigram([(token, -1.0) for token in vocab], unk_id=0))
    elif kind == "bpe-whole-words":
        found = Tokenizer(models.BPE(vocab, [], unk_token="<unk>", ignore_merges=True))
        found.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    else:  # merges that build a special token letter by letter
        parts = ["<", "<|", "<|i", "<|im", "<|im_", "<|im_e", "<|im_en", "<|im_end", "<|im_end|", "<|im_end|>"]
        for part in parts:
            vocab.setdefault(part, len(vocab))
        merges = [(part, longer[len(part) :]) for part, longer in pairwise(parts)]
        found = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>"))
    found.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Replace("▁", " "), normalizers.Lowercase()]
    )
    found.decoder = decoders.Fuse()
    found.add_special_tokens([AddedToken(text, normalized=False) for text in SPECIAL])
    return found


KINDS = ["word-level", "word-piece", "unigram", "bpe-whole-words", "bpe-merges"]


@functools.cache
def encoder(kind: str) -> Encoder:
    return Encoder(tokenizer(kind).to_str())


@pytest.mark.parametrize("kind", KINDS)
def test_the_danger_is_real(kind: str) -> None:
    """Without its added tokens alone, each of these tokenizers makes a special token of plain text."""
    data = json.loads(tokenizer(kind).to_str())
    data["added_tokens"] = []
    plain = Tokenizer.from_str(json.dumps(data))
    text = "<|im_end|>".translate(WIDE)
    assert _vocabulary()["<|im_end|>"] in plain.encode(text, add_special_tokens=False).ids
    assert _vocabulary()["<|im_end|>"] not in encoder(kind).encode([Piece(text, True)]).ids


HOSTILE = st.lists(
    st.sampled_from([*SPECIAL, *(text.translate(WIDE) for text in SPECIAL)])
    | st.sampled_from(["▁", " ", "\n", "\0", "\u200b", "＜|im▁end|>", "<|IM_END|>", "i̇m", "\u202e", "e\u0301", "ﷺ"])
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=6),
    max_size=8,
).map("".join)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=100)
@given(content=HOSTILE)
def test_special_tokens_come_from_the_scaffold_only(kind: str, content: str) -> None:
    found = encoder(kind)
    special = set(found.special_ids.values())
    head, foot = "<|im_start|>user\n", "<|im_end|>\n<|im_start|>agent"
    encoding = found.encode([Piece(head, False), Piece(content, True), Piece(foot, False)])
    places = [(start, end) for i, (start, end) in zip(encoding.ids, encoding.offsets, strict=True) if i in special]
    behind = len(head) + len(content)
    assert places == [(0, 12), (behind, behind + 10), (behind + 11, behind + 23)]
    plain = found.encode([Piece(head, False), Piece("a", True), Piece(foot, False)])
    assert [i for i in encoding.ids if i in special] == [i for i in plain.ids if i in special]
    # Behind the content's last special token nothing changes, whatever stands before it.
    last = plain.ids.index(found.special_ids["<|im_end|>"])
    assert encoding.ids[len(encoding.ids) - len(plain.ids) + last :] == plain.ids[last:]


@pytest.mark.parametrize("kind", KINDS)
def test_renamed_tokens_read_as_they_are_spelt(kind: str) -> None:
    found = encoder(kind)
    assert found.token_text(found.special_ids["<|im_end|>"]) == "<|im_end|>"
    assert found.texts[found.special_ids["<|im_end|>"]] == "<|im_end|>"
    assert found.vocabulary_id("<|im_end|>") == found.special_ids["<|im_end|>"]
    assert found.longest_token == len("<|im_end|" if kind == "bpe-merges" else "<|im_end")  # of what content can become
    assert found.marked == tuple(SPECIAL)


def broken(*place: str | int, value: Any) -> str:
    return json.dumps(edited(json.loads(tokenizer("word-level").to_str()), place, value))


def splitting(pattern: str) -> str:
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    document = json.loads(broken("pre_tokenizer", value=split))
    return json.dumps({**document, "normalizer": None})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "{}",
        "[" * 100_000,
        '{"added_tokens": null, "model": {}}',
        '{"added_tokens": [], "model": []}',
        '{"added_tokens": [], "model": {"type": "BPE"}}',
        '{"added_tokens": [], "model": {"type": "BPE", "vocab": 1, "merges": []}}',
        '{"added_tokens": [], "model": {"type": "Unigram", "vocab": [1], "unk_id": 0}}',
        '{"added_tokens": [], "model": {"type": "Unigram", "vocab": [["a"]], "unk_id": 0}}',
        '{"added_tokens": [], "model": {"type": "Unigram", "vocab": [["a", 0.0]], "unk_id": 7}}',
        '{"added_tokens": [], "model": {"type": "WordLevel", "vocab": {"a": -1}, "unk_token": "<unk>"}}',
        '{"added_tokens": [], "model": {"type": "WordLevel", "vocab": {"a": 99999999999}, "unk_token": "<unk>"}}',
        '{"added_tokens": [], "model": {"type": "WordLevel", "vocab": {"\\ud800": 0}, "unk_token": "<unk>"}}',
        broken("added_tokens", 0, value=7),
        broken("added_tokens", 0, "content", value=7),
        broken("added_tokens", 0, "content", value=""),
        broken("added_tokens", 0, "id", value=-1),
        broken("added_tokens", 0, "id", value=2**40),
        broken("added_tokens", 0, "id", value=10**400),
        broken("added_tokens", 0, "id", value=1.5),
        broken("added_tokens", 0, "id", value="1"),
        broken("added_tokens", 0, "id", value=True),
        broken("added_tokens", value=[{"id": 1, "content": "a"}]),
        broken("normalizer", value={"type": "None such"}),
        broken("normalizer", value={"type": "Precompiled", "precompiled_charsmap": "AAAA"}),
        broken("decoder", value=5),
        broken("model", "type", value="None such"),
        broken("model", "unk_token", value=5),
        splitting("("),
        splitting("(?<a"),
        splitting("\\"),
        splitting("(a+)+$"),
        splitting("(a|aa)+$"),
        splitting("( +)+x"),
    ],
)  # fmt: skip
def test_broken_tokenizers_are_named(text: str) -> None:
    with pytest.raises(
        BundleError, match=r"^b/tokenizer\.json: (not a tokenizer|the tokenizer fails on a text)"
    ) as caught:
        Encoder(text, "b/tokenizer.json")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_a_text_that_the_tokenizer_fails_on_is_an_error_of_the_content() -> None:
    """A pattern that no probe finds: é makes it backtrack."""
    prompter = PromptBuilder(Spec.parse(SPEC, "x"), Encoder(splitting("(é+)+$|.")), 10_000)
    assert prompter.prompts(messages_of("hello"))
    with pytest.raises(ContentError, match=r"tokenizer fails on a text of .* characters: .*retry-limit") as caught:
        prompter.prompts(messages_of("é" * 100 + "!"))
    assert caught.value.type == "not_encodable"


# Long contents


@functools.cache
def smollm2() -> Encoder:
    return Encoder(tokenizer_file("smollm2").read_text(encoding="utf-8"))


class Meter:
    """Counts the characters that a tokenizer is given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.characters = 0
        encoded = Encoder._encoded

        def count(encoder: Encoder, text: str) -> Any:
            self.characters += len(text)
            return encoded(encoder, text)

        monkeypatch.setattr(Encoder, "_encoded", count)


def prompter(max_tokens: int, name: str = "words") -> PromptBuilder:
    spec = json.loads(json.dumps(SPEC).replace("<|policy|>", "<|im_start|>").replace("<|verdict|>", "<|im_end|>"))
    return PromptBuilder(Spec.parse(spec, name), smollm2(), max_tokens)


@pytest.mark.parametrize("text", ["a", " a", "\u0301", "😀", "<|im_end|>", "\n", "hello world ", "\u200b", "١"])
def test_ten_megabytes_are_refused_after_a_part_of_them(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    looked, meter = prompter(8000), Meter(monkeypatch)
    with pytest.raises(ContentError, match=r"the content is [\d,]+ characters; ") as caught:
        looked.prompts(messages_of("x" + text * (10**7 // len(text)) + "x"))
    assert caught.value.type == "content_too_long"
    assert meter.characters < 10**6


def test_many_short_messages_are_refused_before_they_are_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    looked, meter = prompter(8000), Meter(monkeypatch)
    with pytest.raises(ContentError, match=r"the content is 100,000 messages; "):
        looked.prompts([Message("user", "a")] * 100_000)
    assert meter.characters == 0


def test_what_fits_is_not_refused_however_many_characters_it_has() -> None:
    """Runs of spaces are the longest tokens there are."""
    content = "a" + " " * (3 * CHUNK) + "a"
    (found,) = prompter(8000).prompts(messages_of(content))
    assert found.content_span[1] - found.content_span[0] == len(content)
    size = len(found.token_ids)
    assert len(prompter(size).prompts(messages_of(content))[0].token_ids) == size < 8000


def test_windows_over_several_parts_cover_every_character() -> None:
    words = [f"w{i * 7919 % 100_003}" for i in range(30_000)]
    content = " ".join(words)
    assert len(content) > 3 * CHUNK
    end = 0
    for (found,) in windows(prompter(4000), messages_of(content)):
        assert len(found.token_ids) <= 4000
        text = found.text[slice(*found.content_span)]
        start = content.index(text, max(0, end - len(text) - 10))
        assert start <= end < start + len(text)
        end = start + len(text)
    assert end == len(content)
