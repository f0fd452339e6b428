"""Specs: what a valid one holds, and that each malformed one names the file and the field."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.support.coded_guard import CODED_SPEC, CODES
from tests.support.documents import REMOVED, Place, edited
from tests.support.reference_guard import BUNDLE
from tests.support.word_guard import SPEC
from tokmarg.errors import SpecError
from tokmarg.grammar.syntax import Choice, LabelList, Option, substitute
from tokmarg.grammar.trie import Trie
from tokmarg.prompt.labels import Label
from tokmarg.prompt.policy import apply_policy
from tokmarg.prompt.spec import Spec
from tokmarg.prompt.template import Template
from tokmarg.prompt.verdict import VerdictSpec
from tokmarg.tokenizer import Encoder

CHOICE: Place = ("verdict", "grammar", 0, "choice")
LABELS: Place = (*CHOICE, 1, "then", 1)


def parse(place: Place, value: object) -> Spec:
    return Spec.parse(edited(SPEC, place, value), "bundle/manifest.json")


def test_everything_is_read() -> None:
    data = edited(SPEC, ("policy", "labels", 0), {"id": "A", "name": "a", "title": "An a", "definition": "First."})
    data["verdict"]["leads"] = ["", "\n"]
    data["template"] |= {"strip": True, "turns": "alternating"}
    data["sources"] = {"template": "made up"}
    assert Spec.parse(data, "x") == Spec(
        name="words",
        title="Counts words",
        template=Template(
            text="<|policy|>{{policy}}<|talk|>{{conversation}}<|verdict|>",
            policy_item="{{id}}",
            roles={"user": "User", "assistant": "Agent"},
            messages={"user": "<|user|>{{content}}", "assistant": "<|agent|>{{content}}"},
            strip=True,
            turns="alternating",
        ),
        labels=(
            Label("A", "a", "An a", "First.", ("user", "assistant")),
            Label("B", "Insults", "Insults", "", ("user", "assistant")),
            Label("C", "Refusals", "Refusals", "", ("assistant",)),
        ),
        verdict=VerdictSpec(("", "\n"), ("<|end|>",), tuple(data["verdict"]["grammar"])),
    )


def test_labels_may_have_codes() -> None:
    spec = Spec.parse(CODED_SPEC, "coded")
    assert [label.code for label in spec.labels] == list(CODES)
    assert spec.scaffold("user")[0].startswith(
        "<|im_start|>system\nIs the last user message unsafe? Categories:\n"
        "violence: Violent Crimes\ncrime: Non-Violent Crimes\nrape: Sex Crimes\n"
    )
    assert spec.grammar("user").events == (*(f"S{i}" for i in range(1, 15)), "unsafe")


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("policy", "labels", 3, "code"), REMOVED, r"'S4' has no code, .*\(spec\.verdict\.grammar\)"),
        (("policy", "labels", 3, "code"), "crime", r"spec\.policy\.labels\[3\]\.code: 'crime' is used twice"),
        (("policy", "labels", 3, "code"), " \n", r"spec\.policy\.labels\[3\]\.code: is blank"),
        (("policy", "labels", 3, "code"), 4, r"spec\.policy\.labels\[3\]\.code: must be a string"),
        (("policy", "labels", 13, "code"), "violence crime", "verdicts with different events have the same tokens"),
    ],
)
def test_codes_that_do_not_name_one_label(place: Place, value: object, message: str) -> None:
    encoder = Encoder((BUNDLE / "tokenizer.json").read_text(encoding="utf-8"))

    def check() -> None:
        spec = Spec.parse(edited(CODED_SPEC, place, value), "bundle/manifest.json")
        Trie(spec.grammar("user"), encoder, "\n", ("",), ("<|im_end|>",)).check()

    with pytest.raises(SpecError, match=message):
        check()


def test_codes_that_only_the_policy_shows() -> None:
    data = edited(SPEC, ("template", "policy_item"), "{{code}};")
    with pytest.raises(
        SpecError, match=r"^x: spec\.policy\.labels: 'A' has no code, but .*\(spec\.template\.policy_item\)"
    ):
        Spec.parse(data, "x")
    for i, label in enumerate(data["policy"]["labels"]):
        data["policy"]["labels"][i] = {**label, "code": f"c{label['id']}"}
    assert Spec.parse(data, "x").scaffold("assistant")[0] == "<|policy|>cA;cB;cC;<|talk|>"


def test_another_policy_needs_codes_too() -> None:
    spec = Spec.parse(CODED_SPEC, "coded")
    fraud = {"id": "F", "name": "Fraud"}
    with pytest.raises(SpecError, match=r"^policy: .*'F' has no code, but this guard knows labels by their codes"):
        apply_policy(spec, {"labels": [fraud]})
    assert apply_policy(spec, {"labels": [{**fraud, "code": "fraud"}]}).labels[0].code == "fraud"
    assert [label.code for label in apply_policy(spec, {"exclude": ["S1", "S14"]}).labels] == list(CODES[1:13])


def test_defaults() -> None:
    spec = Spec.parse(SPEC, "x")
    assert spec.verdict.leads == ("",)
    assert not spec.template.strip
    assert spec.template.turns == "any"


def test_openai_categories() -> None:
    assert Spec.parse(SPEC, "x").openai is None
    spec = parse(("openai",), {"A": ["violence", "illicit/violent"], "C": []})
    assert spec.openai == {"A": ("violence", "illicit/violent"), "C": ()}
    assert apply_policy(spec, {"exclude": ["A"]}).openai == {"C": ()}
    assert apply_policy(spec, {"labels": [{"id": "A", "name": "Else"}]}).openai is None  # it may mean something else
    with pytest.raises(SpecError, match=r"spec\.openai: Q: is not a known field|spec\.openai\.Q: is not a known field"):
        parse(("openai",), {"Q": ["violence"]})
    with pytest.raises(SpecError, match=r"spec\.openai\.A: 'rude' is none of OpenAI's categories"):
        parse(("openai",), {"A": ["rude"]})


def test_labels_of_a_role_mode() -> None:
    spec = Spec.parse(SPEC, "x")
    assert spec.roles == ("user", "assistant")
    assert [label.id for label in spec.labels_of("user")] == ["A", "B"]
    assert [label.id for label in spec.labels_of("assistant")] == ["A", "B", "C"]
    assert spec.grammar("user").events == ("A", "B", "unsafe")
    assert spec.grammar("assistant").events == ("A", "B", "C", "unsafe")


def test_scaffold_of_a_role_mode() -> None:
    data = edited(SPEC, ("template", "text"), "{{role}}:\n{{policy}}---\n{{conversation}}Judge the {{role}}.")
    data["template"]["policy_item"] = "{{id}} = {{name}} ({{definition}})\n"
    data["policy"]["labels"][0]["definition"] = "Guns."
    spec = Spec.parse(data, "x")
    assert spec.scaffold("user") == ("User:\nA = Weapons (Guns.)\nB = Insults ()\n---\n", "Judge the User.")
    assert spec.scaffold("assistant")[0].endswith("C = Refusals ()\n---\n")


def test_values_are_never_scanned_for_placeholders() -> None:
    assert substitute("{{a}} {{b}}", {"a": "{{b}}", "b": "{{a}}"}) == "{{b}} {{a}}"
    data = edited(SPEC, ("policy", "labels", 0, "name"), "{{conversation}} {{role}} {{id}}")
    data["template"]["policy_item"] = "{{name}};"
    before, after = Spec.parse(data, "x").scaffold("user")
    assert (before, after) == ("<|policy|>{{conversation}} {{role}} {{id}};Insults;<|talk|>", "<|verdict|>")


def test_an_option_may_decide_a_label() -> None:
    """A guard that answers yes or no to one policy at a time."""
    options = [{"text": "No"}, {"text": "Yes", "event": "unsafe", "then": [{"choice": [{"text": "", "event": "A"}]}]}]
    grammar = parse(("verdict", "grammar"), [{"choice": options}]).grammar("user")
    assert grammar.events == ("A", "B", "unsafe")
    state = grammar.moves(grammar.start)[1].state
    assert state is not None
    yes = grammar.moves(state)
    assert [grammar.names(move.events) for move in yes] == [("A",)]


REQUIRED: list[Place] = [
    ("name",),
    ("title",),
    ("template",),
    ("template", "text"),
    ("template", "policy_item"),
    ("template", "roles"),
    ("template", "messages"),
    ("policy",),
    ("policy", "labels"),
    ("policy", "labels", 0, "id"),
    ("policy", "labels", 1, "name"),
    ("verdict",),
    ("verdict", "terminators"),
    ("verdict", "grammar"),
    (*CHOICE, 0, "text"),
    (*LABELS, "labels"),
    (*LABELS, "separators"),
]


def shown(place: Place) -> str:
    return re.sub(r"\.\[", "[", ".".join(f"[{p}]" if isinstance(p, int) else p for p in place))


@pytest.mark.parametrize("place", REQUIRED, ids=shown)
def test_missing_field(place: Place) -> None:
    with pytest.raises(SpecError, match=rf"^bundle/manifest\.json: .*{re.escape(shown(place))}: is missing$"):
        parse(place, REMOVED)


@pytest.mark.parametrize(
    "place", [(), ("template",), ("policy",), ("policy", "labels", 1), ("verdict",), (*CHOICE, 0), LABELS], ids=shown
)
def test_unknown_field(place: Place) -> None:
    with pytest.raises(SpecError, match=rf"^bundle/manifest\.json: .*{re.escape(shown((*place, 'colour')))}: is not a"):
        parse((*place, "colour"), "red")


MISTYPED: list[tuple[Place, object, str]] = [
    ((), [], "spec: must be a table, not list"),
    (("name",), 1, "spec.name: must be a string, not 1"),
    (("title",), ["a"], "spec.title: must be a string, not a list"),
    (("sources",), "a", "spec.sources: must be a table, not 'a'"),
    (("sources",), {"tokens": 1}, "spec.sources.tokens: must be a string, not 1"),
    (("sources",), {"tokens_verified": "yes"}, "spec.sources.tokens_verified: must be true or false, not 'yes'"),
    (("template",), "a", "spec.template: must be a table, not 'a'"),
    (("template", "text"), None, "spec.template.text: must be a string, not None"),
    (("template", "strip"), 1, "spec.template.strip: must be true or false, not 1"),
    (("template", "turns"), True, "spec.template.turns: must be a string, not True"),
    (("template", "roles"), ["user"], "spec.template.roles: must be a table, not a list"),
    (("template", "roles", "user"), 2.5, "spec.template.roles.user: must be a string, not 2.5"),
    (("template", "messages", "user"), {}, "spec.template.messages.user: must be a string, not a table"),
    (("policy", "labels"), {"A": "a"}, "spec.policy.labels: must be a list, not a table"),
    (("policy", "labels", 1), "B", "spec.policy.labels[1]: must be a table, not str"),
    (("policy", "labels", 1, "id"), 2, "spec.policy.labels[1].id: must be a string, not 2"),
    (("policy", "labels", 1, "definition"), False, "spec.policy.labels[1].definition: must be a string, not False"),
    (("policy", "labels", 1, "roles"), "user", "spec.policy.labels[1].roles: must be a list, not 'user'"),
    (("policy", "labels", 1, "roles"), [1], "spec.policy.labels[1].roles: must be a list of strings, not of 1"),
    (("verdict", "leads"), "\n", r"spec.verdict.leads: must be a list, not '\\n'"),
    (("verdict", "leads"), [None], "spec.verdict.leads: must be a list of strings, not of None"),
    (("verdict", "terminators"), [2], "spec.verdict.terminators: must be a list of strings, not of 2"),
    (("verdict", "grammar"), {}, "spec.verdict.grammar.user: is missing, but the role can be judged"),
    (("verdict", "grammar", 0), 3, "verdict.grammar[0]: must be a table, not int"),
    (CHOICE, "safe", "verdict.grammar[0].choice: must be a list, not 'safe'"),
    ((*CHOICE, 0), "safe", "verdict.grammar[0].choice[0]: must be a table, not str"),
    ((*CHOICE, 0, "text"), 0, "verdict.grammar[0].choice[0].text: must be a string, not 0"),
    ((*CHOICE, 0, "event"), 0, "verdict.grammar[0].choice[0].event: must be a string, not 0"),
    ((*CHOICE, 0, "then"), "x", "verdict.grammar[0].choice[0].then: must be a list, not 'x'"),
    ((*LABELS, "labels"), True, "then[1].labels: must be a string, not True"),
    ((*LABELS, "separators"), [",", 7], "then[1].separators: must be a list of strings, not of 7"),
]
MALFORMED: list[tuple[Place, object, str]] = [
    (
        ("template", "text"),
        "{{conversation}}{{polcy}}",
        "spec.template.text: unknown placeholder {{polcy}} (known: conv",
    ),
    (("template", "text"), "{{policy}}", "spec.template.text: must hold {{conversation}} exactly once"),
    (("template", "text"), "{{conversation}}{{conversation}}", "text: must hold {{conversation}} exactly once"),
    (("template", "policy_item"), "{{content}}", "spec.template.policy_item: unknown placeholder {{content}}"),
    (("template", "messages", "user"), "User:", "spec.template.messages.user: must hold {{content}} exactly once"),
    (("template", "messages", "user"), "{{content}}{{content}}", "messages.user: must hold {{content}} exactly once"),
    (("template", "messages", "user"), "{{role}}{{content}}", "messages.user: unknown placeholder {{role}}"),
    (("template", "roles", "user"), "{{role}}", "spec.template.roles.user: unknown placeholder {{role}} (known: none)"),
    (("template", "roles"), {}, "spec.template.roles: names no role that can be judged"),
    (("template", "roles", "system"), "System", "spec.template.roles.system: is not a role (roles: user, assistant)"),
    (("template", "messages", "developer"), "{{content}}", "spec.template.messages.developer: is not a role"),
    (("template", "messages", "tool"), "{{tool}}", "spec.template.messages.tool: unknown placeholder {{tool}}"),
    (("template", "messages", "system"), "x", "spec.template.messages.system: must hold {{content}} exactly once"),
    (("template", "messages", "assistant"), REMOVED, "spec.template.messages.assistant: is missing, but the role can"),
    (("template", "turns"), "random", 'spec.template.turns: must be "alternating", "any" or "pair", not \'random\''),
    (("policy", "labels"), [], "spec.policy.labels: is empty"),
    (("policy", "labels", 1, "id"), "A", "spec.policy.labels[1].id: 'A' is used twice"),
    (("policy", "labels", 1, "id"), " ", "spec.policy.labels[1].id: is blank"),
    (("policy", "labels", 1, "name"), "\n", "spec.policy.labels[1].name: is blank"),
    (("policy", "labels", 1, "id"), "unsafe", "policy.labels: a label may not be called 'unsafe'"),
    (("policy", "labels", 1, "roles"), [], "spec.policy.labels[1].roles: must name user or assistant, not []"),
    (("policy", "labels", 1, "roles"), ["tool"], "labels[1].roles: must name user or assistant, not ['tool']"),
    (("policy", "labels"), [{"id": "C", "name": "c", "roles": ["assistant"]}], "spec.policy.labels: none is for user"),
    (("verdict", "leads"), [], "spec.verdict.leads: needs at least one text"),
    (("verdict", "leads"), ["", ""], 'spec.verdict.leads: needs at least one text ("" for none), each once'),
    (("verdict", "terminators"), [], "spec.verdict.terminators: needs at least one token"),
    (("verdict", "terminators"), [""], "spec.verdict.terminators: needs at least one token, none of them empty"),
    (("verdict", "grammar"), [], "verdict.grammar: is empty"),
    (("verdict", "grammar", 0), "", "verdict.grammar[0]: empty text"),
    (CHOICE, [], "verdict.grammar[0].choice: has no options"),
    ((*CHOICE, 1, "event"), " ", "verdict.grammar[0].choice[1].event: is blank"),
    (
        (*LABELS, "labels"),
        "title",
        'then[1].labels: must be "id", "name" or "code", or a text with {{id}}, {{name}} or {{code}}, not \'title\'',
    ),
    ((*LABELS, "separators"), [], "then[1].separators: needs at least one text"),
    ((*LABELS, "order"), "id", 'then[1].order: must be "any" or "policy", not \'id\''),
    (("title",), "half \ud83d", "spec.title: holds a lone surrogate"),
    (("template", "messages", "user"), "\udc00{{content}}", "spec.template.messages.user: holds a lone surrogate"),
    (("verdict", "terminators"), ["\ud800"], "spec.verdict.terminators: holds a lone surrogate"),
    (("verdict", "grammar", 0), "\ud800", "verdict.grammar[0]: holds a lone surrogate"),
    (("\ud800\n",), "x", r"spec.'\ud800\n': is not a known field"),
]


@pytest.mark.parametrize(("place", "value", "message"), [*MISTYPED, *MALFORMED])
def test_malformed_field(place: Place, value: object, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse(place, value)
    text = str(caught.value)
    assert text.startswith("bundle/manifest.json: ")
    assert message.replace("\\\\", "\\") in text
    assert text.isprintable()
    assert len(text) < 300


@pytest.mark.parametrize(
    "place", [("template", "text"), ("policy", "labels", 0, "id"), ("x" * 9999,)], ids=["a", "b", "c"]
)
def test_messages_stay_short(place: Place) -> None:
    with pytest.raises(SpecError) as caught:
        parse(place, [["x" * 9999]] if len(place) > 1 else "x")
    assert len(str(caught.value)) < 300


def nested(levels: int) -> list[Any]:
    parts: list[Any] = ["x"]
    for _ in range(levels):
        parts = [{"choice": [{"text": "a", "then": parts}]}]
    return parts


def test_grammar_may_nest_but_not_without_end() -> None:
    grammar = parse(("verdict", "grammar"), nested(32)).grammar("user")
    assert isinstance(grammar.start.parts[0], Choice)
    for levels in (33, 10_000):
        with pytest.raises(SpecError, match=r"verdict\.grammar: more than 32 choices inside each other"):
            parse(("verdict", "grammar"), nested(levels))


def test_grammar_of_the_spec_is_parsed() -> None:
    (part,) = Spec.parse(SPEC, "x").grammar("user").start.parts
    unsafe = Option("unsafe", ("unsafe",), ("\n", LabelList("id", (",",))))
    assert part == Choice((Option("safe"), unsafe))


def test_a_spec_may_have_a_threshold_of_its_own() -> None:
    place: Place = ("policy", "threshold")
    assert Spec.parse(SPEC, "x").threshold == 0.5
    assert parse(place, 0.9).threshold == 0.9
    # It was chosen for the spec's own labels.
    assert apply_policy(parse(place, 0.9), {"exclude": ["B"]}).threshold == 0.5


@pytest.mark.parametrize("wrong", [0, -1, 1.5, float("nan"), "0.5", True])
def test_a_threshold_is_a_probability(wrong: object) -> None:
    with pytest.raises(SpecError, match=r"spec\.policy\.threshold"):
        parse(("policy", "threshold"), wrong)
