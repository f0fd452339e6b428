"""The grammar as a state machine over text."""

import itertools

import pytest

from tests.support.grammars import ABC, LLAMA_GUARD, language
from tokmarg.errors import SpecError
from tokmarg.grammar.grammar import Grammar


def test_llama_guard_language_is_all_orders_of_all_subsets() -> None:
    grammar = Grammar.parse(LLAMA_GUARD, ABC)
    expected = {"safe": 0}
    for n in (1, 2, 3):
        for labels in itertools.permutations("ABC", n):
            mask = grammar.mask("unsafe")
            for label in labels:
                mask |= grammar.mask(label)
            expected["unsafe\n" + ",".join(labels)] = mask
    assert language(grammar) == expected


def test_labels_by_name_several_separators_and_text_behind_the_list() -> None:
    parts = ['{"labels": "', {"labels": "name", "separators": [", ", ","]}, '"}']
    found = language(Grammar.parse(parts, ABC[:2]))
    assert set(found) == {
        '{"labels": "Alpha"}', '{"labels": "Beta"}',
        '{"labels": "Alpha, Beta"}', '{"labels": "Alpha,Beta"}',
        '{"labels": "Beta, Alpha"}', '{"labels": "Beta,Alpha"}',
    }  # fmt: skip


def test_optional_part_is_an_option_without_text() -> None:
    parts = ["a", {"choice": [{"text": ""}, {"text": "b", "event": "b"}]}, "c"]
    grammar = Grammar.parse(parts, ABC)
    assert language(grammar) == {"ac": 0, "abc": grammar.mask("b")}


@pytest.mark.parametrize(("separators", "between"), [([","], ","), ([""], "")])
def test_labels_in_the_policys_order(separators: list[str], between: str) -> None:
    parts = ["unsafe ", {"labels": "id", "separators": separators, "order": "policy"}]
    grammar = Grammar.parse(parts, ABC)
    subsets = (labels for n in (1, 2, 3) for labels in itertools.combinations("ABC", n))
    assert language(grammar) == {"unsafe " + between.join(x): sum(map(grammar.mask, x)) for x in subsets}
    assert grammar.longest() == "unsafe " + between.join("ABC")


def test_at_most_so_many_labels_in_the_policys_order() -> None:
    parts = [{"labels": "name", "separators": ["+"], "order": "policy", "max": 2}]
    grammar = Grammar.parse(parts, ABC)
    found = ["Alpha", "Beta", "Gamma", "Alpha+Beta", "Alpha+Gamma", "Beta+Gamma"]
    assert sorted(language(grammar)) == sorted(found)
    assert grammar.longest() == "Alpha+Gamma"
    for most in (3, 400):  # no limit
        assert len(language(Grammar.parse([{**parts[0], "max": most}], ABC))) == 7


def test_labels_by_code() -> None:
    labels = [("S1", "One", " one"), ("S2", "Two", " two")]
    assert set(language(Grammar.parse([{"labels": "code", "separators": [""]}], labels))) == {
        " one", " two", " one two", " two one"
    }  # fmt: skip
    spelt = Grammar.parse([{"labels": "<{{code}}>", "max": 1}], labels)
    assert spelt.events == ("S1", "S2", "unsafe")
    assert set(language(spelt)) == {"< one>", "< two>"}


@pytest.mark.parametrize("spelling", ["code", "<{{id}}:{{code}}>"])
def test_every_label_needs_a_code_where_codes_are_written(spelling: str) -> None:
    with pytest.raises(SpecError, match=r"policy.labels: 'S2' has no code, which the verdict grammar writes"):
        Grammar.parse([{"labels": spelling, "max": 1}], [("S1", "One", "x"), ("S2", "Two")])


def test_what_may_still_happen_in_the_policys_order() -> None:
    """A label that was left out cannot come any more, except by an option."""
    option = {"choice": [{"text": "."}, {"text": "!", "event": "A"}]}
    grammar = Grammar.parse([{"labels": "id", "separators": [","], "order": "policy"}, option], ABC)
    b = grammar.moves(grammar.start)[1]
    assert grammar.names(grammar.reachable(b.state)) == ("A", "C")
    assert b.state is not None
    assert [move.text for move in grammar.moves(b.state)] == [",C", ".", "!"]


def test_reachable_events_shrink_along_the_path() -> None:
    grammar = Grammar.parse(LLAMA_GUARD, ABC)
    unsafe = grammar.moves(grammar.start)[1]
    assert grammar.names(grammar.reachable(grammar.start)) == ("A", "B", "C", "unsafe")
    assert unsafe.state is not None
    a = grammar.moves(unsafe.state)[0]
    assert grammar.names(grammar.reachable(a.state)) == ("B", "C")


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ("text", "verdict.grammar: must be a list"),
        ([], "verdict.grammar: is empty"),
        ([""], r"grammar\[0\]: empty text"),
        ([{"choice": []}], r"grammar\[0\].choice: has no options"),
        ([{"choice": [{"txt": "a"}]}], r"choice\[0\].txt: is not a known field"),
        ([{"labels": "title", "separators": [","]}], r'labels: must be "id", "name" or "code"'),
        ([{"labels": "id", "separators": []}], r"separators: needs at least one text"),
        ([3], r"grammar\[0\]: must be a table"),
    ],
)
def test_malformed_grammar_names_the_field(parts: object, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        Grammar.parse(parts, ABC)


def test_label_may_not_be_called_unsafe() -> None:
    with pytest.raises(SpecError, match="may not be called 'unsafe'"):
        Grammar.parse(LLAMA_GUARD, [("unsafe", "x")])
