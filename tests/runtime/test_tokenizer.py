"""Encoding equals the encoding of the whole rendered prompt, and content can never become a special token."""

import functools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from tests.conftest import FAMILIES, tokenizer_file
from tests.support.encoders import encoder_of
from tests.support.tokenizers import tokenizer_json
from tokmarg.errors import BundleError
from tokmarg.tokenizer import Encoder, Piece

TURNS = {
    "llama3": ("<|start_header_id|>user<|end_header_id|>\n\n", "<|eot_id|>"),
    "gemma3": ("<start_of_turn>user\n", "<end_of_turn>\n"),
    "qwen3": ("<|im_start|>user\n", "<|im_end|>\n"),
    "smollm2": ("<|im_start|>user\n", "<|im_end|>\n"),
}
TEXTS = [
    "How do I pick a lock?",
    "\n\n  starts with blank lines, ends with one\n",
    "Ça coûte 12,50 € — à 15h30. 雨が好きです。 مرحبا 🌧️👩‍👩‍👧",
    "x = {'a': [1, 22, 333]}\n\tif x:\n\t\treturn 1e-5",
    "S1,S10 unsafe\nS2",
    "   ",
    "a<c and d>e: <not-a-tag>",
]


@functools.cache
def whole_tokenizer(family: str) -> Tokenizer:
    return Tokenizer.from_file(str(tokenizer_file(family)))


@pytest.mark.parametrize("text", TEXTS)
def test_equals_whole_rendered_prompt(family: str, text: str) -> None:
    head, foot = TURNS[family]
    pieces = [Piece(f" {head}Policy:\n\n", False), Piece(text, True), Piece(f"\n\nJudge it.{foot}", False)]
    expected = whole_tokenizer(family).encode("".join(p.text for p in pieces), add_special_tokens=False)
    encoding = encoder_of(family).encode(pieces)
    assert encoding.ids == expected.ids
    assert encoding.offsets == expected.offsets


def test_scaffold_is_encoded_once(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    head, foot = TURNS[family]
    encoder = Encoder(tokenizer_file(family).read_text(encoding="utf-8"))
    encoded: list[str] = []
    original = Encoder._encoded

    def count(self: Encoder, text: str) -> object:
        encoded.append(text)
        return original(self, text)

    monkeypatch.setattr(Encoder, "_encoded", count)
    for text in ("one", "two", "one"):
        pieces = [Piece(f"{head}Policy.{foot}{head}", False), Piece(text, True), Piece(foot, False)]
        encoding = encoder.encode(pieces)
        expected = whole_tokenizer(family).encode("".join(p.text for p in pieces), add_special_tokens=False)
        assert (encoding.ids, encoding.offsets) == (expected.ids, expected.offsets)
    assert sum("Policy." in text for text in encoded) == 1
    assert sum("one" in text for text in encoded) == 2  # contents are not kept


def test_special_strings_in_content_stay_text(family: str) -> None:
    encoder = encoder_of(family)
    forbidden = set(encoder.special_ids.values())
    for special in list(encoder.special_ids)[:400]:
        ids = encoder.encode([Piece("a ", False), Piece(special, True), Piece(" b", False)]).ids
        assert not forbidden & set(ids), special


@pytest.mark.parametrize("family_", ["llama3", "qwen3", "smollm2"])
@settings(max_examples=60)
@given(data=st.data())
def test_scaffold_tokens_do_not_depend_on_content(family_: str, data: st.DataObject) -> None:
    encoder = encoder_of(family_)
    hostile = st.sampled_from(sorted(encoder.special_ids))
    content = "".join(data.draw(st.lists(st.one_of(st.text(max_size=12), hostile), max_size=8)))
    content = content.encode("utf-8", "ignore").decode()
    head, foot = TURNS[family_]
    ids = encoder.encode([Piece(head, False), Piece(content, True), Piece(foot, False)]).ids
    wanted = [
        i for i in encoder.encode([Piece(head, False), Piece(foot, False)]).ids if i in encoder.special_ids.values()
    ]
    assert [i for i in ids if i in encoder.special_ids.values()] == wanted


def test_added_tokens_that_are_not_special_stay_text_too() -> None:
    """Gemma has `<b>`, Qwen `<think>`, as added tokens without the special mark: content may not use either."""
    for family_, text in [("gemma3", "<b>"), ("qwen3", "<think>")]:
        assert whole_tokenizer(family_).encode(text).ids[-1] == encoder_of(family_).special_ids[text]
        assert encoder_of(family_).special_ids[text] not in encoder_of(family_).encode([Piece(text, True)]).ids


def test_gemma_newline_runs_stay_one_token() -> None:
    encoder = encoder_of("gemma3")
    assert encoder.encode_text("\n\n") == whole_tokenizer("gemma3").encode("\n\n", add_special_tokens=False).ids
    assert len(encoder.encode_text("\n\n")) == 1


@pytest.mark.parametrize("normalizer", ["first", "legacy"])
def test_tokenizers_that_prepend_a_space_do_so_as_in_the_whole_prompt(normalizer: str) -> None:
    """Llama 2 and Mistral put a space in front of the first word; behind a special token only the old ones do."""
    from tokenizers import AddedToken, models, normalizers, pre_tokenizers

    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2, **{c: i + 3 for i, c in enumerate("▁abcde[]/INST")}}
    tokenizer = Tokenizer(models.BPE(vocab, [], unk_token="<unk>", fuse_unk=True))
    if normalizer == "first":
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="first", split=False)
    else:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.add_special_tokens([AddedToken("<s>", normalized=False), AddedToken("</s>", normalized=False)])
    pieces = [Piece("<s>[INST] ", False), Piece("ab cd", True), Piece(" [/INST]</s>a", False)]
    text = "".join(p.text for p in pieces)
    expected = tokenizer.encode(text, add_special_tokens=False).ids
    assert Encoder(tokenizer.to_str()).encode(pieces).ids == expected


def test_broken_tokenizer_is_named() -> None:
    with pytest.raises(BundleError, match=r"b/tokenizer\.json: not a tokenizer"):
        Encoder('{"model": 1}', "b/tokenizer.json")


def test_families_are_all_tested() -> None:
    assert set(TURNS) == set(FAMILIES)


@pytest.mark.parametrize("text", ["unsafe\nS1, S10", "  two  spaces", "Ça coûte 雨 🌧️\n\n"])
def test_decode_returns_the_text(family: str, text: str) -> None:
    encoder = encoder_of(family)
    ids = encoder.encode_text(text)
    assert encoder.decode(ids) == text
    special, token = next(iter(encoder.special_ids.items()))
    assert encoder.decode([token, *ids, token, token]) == f"{special}{text}{special}{special}"
    assert encoder.decode([]) == ""


def test_texts_of_single_tokens(family: str) -> None:
    encoder = encoder_of(family)
    for text in ("unsafe\nS1, S10", " and so on"):
        assert "".join(encoder.texts[i] for i in encoder.encode_text(text)) == text
    for special, token in encoder.special_ids.items():
        assert encoder.texts[token] == special


def test_dropout_is_off() -> None:
    """Merges that training leaves out at random would make scores differ from call to call."""
    document = json.loads(tokenizer_json("smollm2"))
    document["model"]["dropout"] = 0.5
    encoder, text = Encoder(json.dumps(document)), "an everyday sentence of several words"
    assert {tuple(encoder.encode_text(f"{text} {i}")[:5]) for i in range(50)} == {
        tuple(encoder_of("smollm2").encode_text(text)[:5])
    }
