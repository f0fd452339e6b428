"""The token trie equals the enumeration of verdict strings through the tokenizer, in context."""

import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import FAMILIES
from tests.support.coded_guard import CODED_SPEC, CODES
from tests.support.encoders import encoder_of
from tests.support.grammars import language
from tests.support.optional import present
from tests.support.reference_guard import BUNDLE
from tests.support.tokenizers import tokenizer_json
from tests.support.tries import EOT, S14, TAIL, build, complete_paths
from tokmarg.errors import SpecError
from tokmarg.grammar.compiler import GrammarCompiler
from tokmarg.grammar.grammar import Grammar
from tokmarg.grammar.trie import Trie
from tokmarg.loading import build_tries
from tokmarg.prompt.builder import PromptBuilder
from tokmarg.prompt.messages import Message
from tokmarg.prompt.spec import Spec
from tokmarg.tokenizer import Encoder


@pytest.mark.parametrize("family_", FAMILIES)
@settings(max_examples=12)
@given(data=st.data())
def test_paths_are_the_tokenizers_own(family_: str, data: st.DataObject) -> None:
    labels = data.draw(st.lists(st.sampled_from(S14), min_size=1, max_size=4, unique=True))
    lead = data.draw(st.sampled_from(["", "\n\n"])) if family_ == "llama3" else ""
    trie = build(family_, labels, leads=(lead,))
    encoder = encoder_of(family_)
    base = encoder.encode_text(TAIL[family_])
    end = encoder.token_id(EOT[family_])
    expected = {}
    for text, events in language(trie.grammar).items():
        whole = encoder.encode_text(TAIL[family_] + lead + text)
        assert whole[: len(base)] == base
        expected[(*whole[len(base) :], end)] = events
    assert complete_paths(trie) == expected


@pytest.mark.parametrize("family_", FAMILIES)
@settings(max_examples=12)
@given(data=st.data())
def test_paths_in_the_policys_order(family_: str, data: st.DataObject) -> None:
    """Subsets of the labels, each as one text: the tokenizer's own tokens of it, and no other path."""
    labels = data.draw(st.lists(st.sampled_from([*S14, "hate", "crime"]), min_size=1, max_size=5, unique=True))
    head, separator = data.draw(st.sampled_from([("\n", ","), (" ", " "), ("", " "), ("\n", ", ")]))
    most = data.draw(st.sampled_from([None, 1, 2, 3]))
    listed = {"labels": "id", "separators": [separator], "order": "policy", "max": most}
    then = [head, listed] if head else [{**listed, "labels": " {{id}}", "separators": [""]}]  # codes that bring a space
    choice = [{"text": " safe"}, {"text": " unsafe", "event": "unsafe", "then": then}]
    trie = build(family_, labels, parts=[{"choice": choice}])
    trie.check(10)
    encoder = encoder_of(family_)
    base = encoder.encode_text(TAIL[family_])
    end = encoder.token_id(EOT[family_])
    subsets = [itertools.combinations(labels, n) for n in range(len(labels) + 1)]
    expected = {}
    for named in itertools.chain(*subsets):
        if most is None or len(named) <= most:
            text = " unsafe" + (head or " ") + separator.join(named) if named else " safe"
            whole = encoder.encode_text(TAIL[family_] + text)
            assert whole[: len(base)] == base
            events = sum(map(trie.grammar.mask, [*named, *(["unsafe"] if named else [])]))
            expected[(*whole[len(base) :], end)] = events
    assert complete_paths(trie) == expected


def test_each_label_of_the_reference_guard_is_one_node() -> None:
    encoder = Encoder((BUNDLE / "tokenizer.json").read_text(encoding="utf-8"))
    builder = PromptBuilder(Spec.parse(CODED_SPEC, "coded"), encoder, 2048)
    trie = build_tries(builder)["user", None]
    trie.check(50)
    end = present(encoder.token_id("<|im_end|>"))
    safe, unsafe = (encoder.encode_text(f" {word}") for word in ("safe", "unsafe"))
    codes = [encoder.encode_text(f" {code}") for code in CODES]
    assert {len(tokens) for tokens in (safe, unsafe, *codes)} == {1}
    tokens = [each[0] for each in codes]
    assert len(trie.vocabulary()) == 14 + 3
    assert set(trie.children(trie.root)) == {*safe, *unsafe}
    node = trie.children(trie.root)[unsafe[0]]
    assert set(trie.children(node)) == set(tokens)
    for i in (1, 6, 13):
        node = trie.children(node)[tokens[i]]
        assert set(trie.children(node)) == {end, *tokens[i + 1 :]}
    assert trie.grammar.names(node.certain) == ("S2", "S7", "S14", "unsafe")
    assert trie.only_child(node) is trie.children(node)[end]
    prompt = builder.prompts([Message("user", "Hi")])[0]  # the verdict follows the content at once
    assert prompt.text.endswith("<|im_start|>user\nHi<|im_end|>\n")
    assert "violence: Violent Crimes\ncrime: Non-Violent Crimes\n" in prompt.text


def test_s1_is_certain_only_when_it_cannot_be_s10(family: str) -> None:
    trie = build(family, S14)
    encoder = encoder_of(family)
    base = len(encoder.encode_text(TAIL[family]))
    node = trie.root
    for token in encoder.encode_text(f"{TAIL[family]}unsafe\nS1")[base:]:
        node = trie.children(node)[token]
    splits_digits = len(encoder.encode_text("S10")) > len(encoder.encode_text("S1"))
    assert bool(node.certain & trie.grammar.mask("S1")) is not splits_digits
    assert node.possible & trie.grammar.mask("S1")
    if splits_digits:
        assert node.possible & trie.grammar.mask("S10")
        comma = encoder.encode_text(f"{TAIL[family]}unsafe\nS1,S2")[base:]
        end = encoder.token_id(EOT[family])
        assert end is not None
        ended = trie.children(node)[end]
        assert ended.complete
        assert trie.grammar.names(ended.certain) == ("S1", "unsafe")
        after_comma = trie.children(node)[comma[len(node.path)]]
        assert not after_comma.possible & trie.grammar.mask("S10") or after_comma.certain & trie.grammar.mask("S1")


def test_used_labels_are_not_offered_again_and_only_terminators_remain() -> None:
    trie = build("llama3", ["S1", "S2"])
    encoder = encoder_of("llama3")
    base = len(encoder.encode_text(TAIL["llama3"]))
    node = trie.root
    for token in encoder.encode_text(f"{TAIL['llama3']}unsafe\nS2,S1")[base:]:
        node = trie.children(node)[token]
    assert list(trie.children(node)) == [encoder.token_id("<|eot_id|>")]


def test_vocabulary_and_check(family: str) -> None:
    trie = build(family, S14)
    trie.check(30)
    used = {token for path in complete_paths(build(family, S14[:2] + S14[9:10])) for token in path}
    assert used <= set(trie.vocabulary())


def test_optional_lead_has_two_paths_to_the_decision() -> None:
    trie = build("llama3", ["S1"], leads=("", "\n\n"))
    lead = encoder_of("llama3").encode_text("\n\n")
    undecided = trie.undecided(trie.root)
    assert [list(u.node.path) for u in undecided] == [[], lead]
    assert undecided[0].passes == tuple(lead)
    assert undecided[0].decides == undecided[1].decides


def test_forced_text_is_passed_through_before_the_decision() -> None:
    parts = ["Safety:", {"choice": [{"text": " Safe"}, {"text": " Unsafe", "event": "unsafe"}]}]
    trie = build("qwen3", ["S1"], parts=parts)
    texts = [len(u.node.path) for u in trie.undecided(trie.root)]
    assert len(texts) > 1
    assert texts == sorted(texts)
    assert len(trie.undecided(trie.root)[-1].decides) == 2


def test_two_labels_that_read_the_same_are_an_error() -> None:
    grammar = Grammar.parse([{"labels": "name", "separators": [", "]}], [("a", "X"), ("b", "X")])
    trie = Trie(grammar, encoder_of("qwen3"), "\n", ("",), ("<|im_end|>",))
    with pytest.raises(SpecError, match="have the same tokens: a and b"):
        trie.check()


def test_verdict_that_merges_with_the_prompt_is_an_error() -> None:
    grammar = Grammar.parse(["fe"], [("a", "a")])
    with pytest.raises(SpecError, match=r"'fe' merges with 'sa'"):
        Trie(grammar, encoder_of("qwen3"), "sa", ("",), ("<|im_end|>",))


def test_terminator_must_be_one_token() -> None:
    grammar = Grammar.parse(["safe"], [("a", "a")])
    with pytest.raises(SpecError, match="terminator 'no such token' is not one token"):
        Trie(grammar, encoder_of("qwen3"), "", ("",), ("no such token",))


def test_tree_is_renewed_when_it_has_grown_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tokmarg.grammar.trie._KEPT_NODES", 50)
    trie = build("llama3", S14)
    first = trie.root
    pending = [first]
    for _ in range(100):
        pending += trie.children(pending.pop(0)).values()
    assert trie.root is not first
    assert list(itertools.islice(trie.children(trie.root), 3)) == list(itertools.islice(trie.children(first), 3))


@pytest.mark.parametrize("order", ["any", "policy"])
@pytest.mark.parametrize("spelling", ["S{}", "Kind {} of harm", "Harm {} (minor)", " code{}"])
def test_work_grows_with_the_labels_and_not_with_their_pairs(spelling: str, order: str) -> None:
    listed = {"labels": "id", "separators": [""] if spelling[0] == " " else [","], "order": order}
    choice = [{"text": "safe"}, {"text": "unsafe", "event": "unsafe", "then": [*["\n"][spelling[0] == " " :], listed]}]

    def work(count: int) -> tuple[int, int, int]:
        texts: list[str] = []

        class Counting(Encoder):
            def encode_verdict(self, text: str) -> list[int]:
                texts.append(text)
                return super().encode_verdict(text)

        labels = [spelling.format(i) for i in range(1, count + 1)]
        grammar = Grammar.parse([{"choice": choice}], [(label, label) for label in labels])
        trie = Trie(grammar, Counting(tokenizer_json("smollm2")), TAIL["smollm2"], ("",), (EOT["smollm2"],))
        trie.check(5)
        return len(texts), trie._compiler.compiled, trie._readings

    few, many = work(50), work(200)
    assert all(b < 6 * a + 2000 for a, b in zip(few, many, strict=True)), (few, many)


@pytest.mark.parametrize("separator", [",", ", ", " and ", "\u3001"])
def test_contexts_that_share_their_moves_are_alike(family: str, separator: str) -> None:
    names = [
        "Violent Crimes",
        "Sexual (minor)",
        "Sexual (minors)",
        "Drug(s)",
        "Hate (others)",
        "Hate/Other",
        "S1",
        "S10",
        "don't",
        "C++",
        "Gr\u00f6\u00dfe",
        "\u66b4\u529b",
        "A.",
        "x_y",
    ]
    parts = [
        {"choice": [{"text": "safe"}, {"text": "un", "then": ["\n", {"labels": "id", "separators": [separator]}]}]}
    ]
    grammar = Grammar.parse(parts, [(name, name) for name in names])
    shared, alone = (GrammarCompiler(grammar, encoder_of(family)) for _ in range(2))
    alone.sharing = False
    places = [(grammar.start.parts, alone.lead(TAIL[family], "")[1])]
    for place in places:
        for mine, other in zip(shared.moves(*place), alone.moves(*place), strict=True):
            assert (mine.tokens, mine.parts) == (other.tokens, other.parts)
            if other.parts is not None:
                assert mine.context == other.context
                if (other.parts, other.context) not in places:
                    places.append((other.parts, other.context))
    assert shared.compiled < alone.compiled


def test_contexts_are_not_shared_where_the_tokenizer_tells_them_apart() -> None:
    """A pattern may look at single letters, which the shape of a text leaves out."""
    document = json.loads(tokenizer_json("smollm2"))
    pattern = {"type": "Split", "pattern": {"Regex": "b, ?|."}, "behavior": "Isolated", "invert": False}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    document["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [pattern, byte_level]}
    encoder = Encoder(json.dumps(document))
    parts = [{"labels": "id", "separators": [", "]}]
    labels = [f"{a}{b}" for a in "xyzuvw" for b in "acdefgh"] + ["xb", "yb"]
    trie = Trie(Grammar.parse(parts, [(x, x) for x in labels]), encoder, "\n", ("",), ("<|im_end|>",))
    trie.check(20)
