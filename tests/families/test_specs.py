"""What specs say beside template and grammar: events in results, fixed policies, sources, and the manifest's schema."""

from __future__ import annotations

import math
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.support import word_guard
from tests.support.documents import REMOVED, Place, at, edited, places
from tests.support.grammars import language
from tests.support.manifests import FULL, VALIDATOR, parses
from tests.support.optional import present
from tests.support.tokenizers import encoder_of, modes, resolved, spec_of
from tokmarg import Guard
from tokmarg.bundle.bundle import Bundle
from tokmarg.cli.commands.inspect import describe, summarise
from tokmarg.cli.render.table import Table
from tokmarg.errors import SpecError
from tokmarg.grammar.grammar import Grammar
from tokmarg.loading import VERDICT_TOKENS, prompt_builder_of
from tokmarg.prompt.labels import Role
from tokmarg.prompt.policy import apply_policy
from tokmarg.prompt.spec import Spec
from tokmarg_export.errors import ExportError
from tokmarg_export.model.loaded_model import LoadedModel
from tokmarg_export.spec_library import choose_spec, list_specs, resolve_spec

SPECS = Path(__file__).parents[2] / "models" / "specs"
EVENTS = {
    "nemotron-reasoning-4b": ("harmful_request", "harmful_response"),
    "nemotron-safety-guard": ("harmful_request", "harmful_response"),
    "polyguard": ("harmful_request", *(f"request:S{i}" for i in range(1, 15)), "refusal", "harmful_response"),
    "qwen3guard-gen": ("unsafe_loose", "controversial", "refusal"),
    "wildguard": ("harmful_request", "refusal", "harmful_response"),
}
ABC = [("A", "Alpha"), ("B", "Beta"), ("C", "Gamma")]


@pytest.mark.parametrize("name", list_specs())
def test_spec_names_its_sources_and_events(name: str) -> None:
    data = tomllib.loads((SPECS / f"{name}.toml").read_text(encoding="utf-8"))
    assert data["name"] == name
    assert {f"{part}{end}" for part in ("template", "verdict", "tokens") for end in ("", "_verified")} <= set(
        data["sources"]
    )
    assert spec_of(name).events == EVENTS.get(name, ())


@pytest.mark.parametrize("name", list_specs())
def test_resolved_spec_meets_the_schema(name: str) -> None:
    document = {**FULL, "spec": resolved(name)}
    VALIDATOR.validate(document)
    assert parses(document)


@pytest.mark.parametrize(("name", "role"), modes())
def test_prefix_leaves_nothing_of_the_policy_out(name: str, role: Role) -> None:
    if spec_of(name).aggregate == "max":
        pytest.skip("the content comes first")
    before, _ = spec_of(name).scaffold(role)
    for label in spec_of(name).labels_of(role) if "{{policy}}" in str(spec_of(name).template.text) else ():
        assert label.name in before


MODELS = {
    "LlamaGuard-7b": "llama-guard-1",
    "meta-llama/Meta-Llama-Guard-2-8B": "llama-guard-2",
    "meta-llama/Llama-Guard-3-8B": "llama-guard-3-8b",
    "meta-llama/Llama-Guard-3-1B": "llama-guard-3-1b",
    "meta-llama/Llama-Guard-4-12B": "llama-guard-4",
    "nvidia/llama-3.1-nemoguard-8b-content-safety": "nemotron-safety-guard",
    "nvidia/Llama-3.1-Nemotron-Safety-Guard-8B-v3": "nemotron-safety-guard",
    "allenai/wildguard": "wildguard",
    "google/shieldgemma-2b": "shieldgemma",
    "google/shieldgemma-2-4b-it": "instruct",
    "ibm-granite/granite-guardian-3.0-8b": "granite-guardian-3.0",
    "ibm-granite/granite-guardian-3.1-2b": "granite-guardian-3.0",
    "ibm-granite/granite-guardian-3.2-5b": "granite-guardian-3.2",
    "ibm-granite/granite-guardian-3.3-8b": "granite-guardian-3.3",
    "ibm-granite/granite-guardian-4.1-8b": "granite-guardian-4.1",
    "nvidia/Nemotron-Content-Safety-Reasoning-4B": "nemotron-reasoning-4b",
    "GeneralAnalysis/GA_Guard_1B": "ga-guard-1b",
    "ToxicityPrompts/PolyGuard-Qwen-Smol": "polyguard",
    "Qwen/Qwen3Guard-Gen-0.6B": "qwen3guard-gen",
    "Qwen/Qwen3Guard-Stream-0.6B": "instruct",
    "OpenSafetyLab/MD-Judge-v0.1": "md-judge-0.1",
    "OpenSafetyLab/MD-Judge-v0_2-internlm2_7b": "instruct",
    "Alibaba-AAIG/YuFeng-XGuard-Reason-0.6B": "yufeng-xguard",
    "kakaocorp/kanana-safeguard-8b": "kanana-safeguard",
    "kakaocorp/kanana-safeguard-siren-8b": "kanana-safeguard-siren",
    "kakaocorp/kanana-safeguard-prompt-2.1b": "kanana-safeguard-prompt",
}


@pytest.mark.parametrize("model", MODELS)
def test_model_names_choose_their_family(model: str) -> None:
    assert choose_spec(None, model)[1] == f"{MODELS[model]}.toml"


# Policies


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("openai/gpt-oss-safeguard-20b", "it reasons in its analysis channel first"),
        ("tomg-group-umd/DynaGuard-8B", "it reasons before <answer>"),
        ("GeneralAnalysis/GA_Guard_Thinking", "it reasons before its tokens"),
    ],
)
def test_verdicts_behind_free_reasoning_are_refused(model: str, reason: str) -> None:
    with pytest.raises(ExportError, match=f"^{model}: its verdict stands behind free reasoning.*{reason}") as caught:
        choose_spec(None, model)
    assert "\n" not in str(caught.value)
    assert choose_spec("instruct", model)[1] == "instruct.toml"  # who knows better may
    assert "reasoning-first" not in list_specs()


FIXED = {
    "ga-guard-1b", "kanana-safeguard", "kanana-safeguard-prompt", "kanana-safeguard-siren", "llama-guard-3-8b",
    "nemotron-reasoning-4b", "qwen3guard-gen", "wildguard", "yufeng-xguard",
}  # fmt: skip


def test_fixed_policies_are_refused() -> None:
    policy = {"labels": [{"id": "A", "name": "Apples", "code": "apples"}]}
    for name in list_specs():
        assert spec_of(name).fixed is (name in FIXED), name
        if name in FIXED:
            with pytest.raises(SpecError, match=f"policy: {name} takes no other policy"):
                apply_policy(spec_of(name), policy)
        else:
            assert [label.id for label in apply_policy(spec_of(name), policy).labels] == ["A"]


@pytest.mark.parametrize(
    ("grammar", "message"),
    [
        (["safe"], "'unsafe' is in no verdict on user messages"),
        ([{"choice": [{"text": "no"}, {"text": "yes", "event": "unsafe"}]}], "'S1' is in no verdict on user messages"),
    ],
)
def test_what_can_never_happen_is_an_error_at_export(grammar: list[Any], message: str) -> None:
    data, where = choose_spec("llama-guard-3-1b", "x")
    loaded = LoadedModel(None, None, "", None, "test", None, None, 4096, ())
    with pytest.raises(ExportError, match=message):
        resolve_spec(edited(data, ("verdict", "grammar"), grammar), where, loaded)


# Grammar language


def test_two_lists_over_the_same_labels() -> None:
    parts = [{"labels": "id", "max": 1, "namespace": "request"}, "/", {"labels": "{{name}}!", "max": 1}]
    grammar = Grammar.parse(parts, ABC[:2])
    assert grammar.events == ("A", "B", "unsafe", "request:A", "request:B")
    assert {text: grammar.names(mask) for text, mask in language(grammar).items()} == {
        "A/Alpha!": ("A", "request:A"), "A/Beta!": ("B", "request:A"),
        "B/Alpha!": ("A", "request:B"), "B/Beta!": ("B", "request:B"),
    }  # fmt: skip
    assert len(grammar.longest()) == len("A/Alpha!")


def test_list_with_a_limit() -> None:
    grammar = Grammar.parse([{"labels": "id", "separators": [","], "max": 2}], ABC)
    assert set(language(grammar)) == {"A", "B", "C", "A,B", "A,C", "B,A", "B,C", "C,A", "C,B"}
    assert grammar.longest() == "A,B"


def test_option_with_several_events() -> None:
    grammar = Grammar.parse([{"choice": [{"text": "x", "events": ["unsafe", "loose"]}, {"text": "y"}]}], [])
    assert grammar.events == ("unsafe", "loose")
    assert language(grammar) == {"x": 0b11, "y": 0}


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"labels": "id", "max": 0, "separators": [","]}, "max: must be positive, not 0"),
        ({"labels": "id", "max": 2}, "separators: is missing"),
        ({"labels": "{{title}}", "max": 1}, r"labels: must be .* {{name}} or {{code}}, not '{{title}}'"),
        ({"labels": "id", "max": 1, "namespace": " "}, "namespace: is blank"),
        ({"choice": [{"text": "a", "event": "x", "events": ["y"]}]}, "events: excludes event"),
        ({"choice": [{"text": "a", "events": ["y", ""]}]}, "events: holds a blank name"),
        ({"choice": [{"text": "", "alternatives": [["a"]]}]}, "alternatives: are for an option with text"),
        ({"choice": [{"text": "a", "alternatives": [[]]}]}, r"alternatives\[0\]: needs at least one token"),
        ({"choice": [{"text": "a", "alternatives": ["ab"]}]}, r"alternatives\[0\]: must be a list, not 'ab'"),
    ],
)
def test_malformed_part(part: object, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        Grammar.parse([part], ABC)


def test_lists_of_one_verdict_need_different_events() -> None:
    one = {"labels": "id", "max": 1}
    with pytest.raises(SpecError, match="two label lists in one verdict bring the same events: use namespace"):
        Grammar.parse([one, {"choice": [{"text": "-", "then": [one]}]}], ABC)
    Grammar.parse([{"choice": [{"text": "a", "then": [one]}, {"text": "b", "then": [one]}]}], ABC)


# The manifest: parser and schema agree on the new fields


GRAMMAR = [
    {"choice": [{"text": "safe", "alternatives": [["sa", "fe"]]}, {"text": "unsafe", "events": ["unsafe", "x"]}]},
    {"labels": "{{id}}", "max": 1, "namespace": "m"},
    {"labels": "name", "separators": [","], "max": 2, "namespace": "n"},
]
DOCUMENT: dict[str, Any] = edited(FULL, ("spec", "verdict", "grammar"), {"user": GRAMMAR, "assistant": ["-"]})
DOCUMENT["spec"]["template"]["text"] = {"user": "{{conversation}}", "assistant": "{{role}}{{conversation}}"}
DOCUMENT["spec"]["template"]["turns"] = "pair"
DOCUMENT["spec"]["policy"]["fixed"] = True
DOCUMENT["spec"]["sources"] = {
    "template": "a", "template_verified": True, "verdict": "b", "verdict_verified": False, "tokens": "c",
    "tokens_verified": False, "notes": "d",
}  # fmt: skip
NEW = [
    place
    for place in places(DOCUMENT)
    if place[:3] in [("spec", "verdict", "grammar"), ("spec", "template", "text")]
    or place[:2] == ("spec", "sources")
    or place[:3] == ("spec", "policy", "fixed")
]


def test_new_fields_in_the_schema() -> None:
    VALIDATOR.validate(DOCUMENT)
    assert parses(DOCUMENT)
    for place in NEW:
        for value in (REMOVED, None, True, -1, 1, 1.5, "", "text", [], ["x"], [""], {}, {"user": "{{conversation}}"}):
            document = edited(DOCUMENT, place, value)
            assert parses(document) == VALIDATOR.is_valid(document), (place, value)
        if isinstance(at(DOCUMENT, place), dict):
            document = edited(DOCUMENT, (*place, "colour"), "red")
            assert not parses(document), place
            assert not VALIDATOR.is_valid(document), place


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("spec", "policy", "labels"), []),
        (("spec", "template", "roles"), {"user": "User"}),
        (("spec", "template", "text", "user"), "{{policy}}"),
        (("spec", "template", "text", "tool"), "{{conversation}}"),
        (("spec", "verdict", "grammar", "tool"), ["-"]),
        (("spec", "verdict", "grammar", "user", 0, "choice", 1, "event"), "x"),
        (("spec", "verdict", "grammar", "user", 0, "choice", 0, "text"), ""),
    ],
)
def test_schema_and_parser_agree(place: Place, value: object) -> None:
    document = edited(DOCUMENT, place, value)
    assert parses(document) == VALIDATOR.is_valid(document) == (place[-1] == "roles")


def test_guards_without_labels() -> None:
    document = edited(DOCUMENT, ("spec", "policy", "labels"), [])
    document["spec"]["verdict"]["grammar"] = [
        {"choice": [{"text": "n", "then": ["o"]}, {"text": "y", "event": "unsafe"}]}
    ]
    VALIDATOR.validate(document)
    assert parses(document)


# Results


@pytest.fixture(scope="module")
def guard(tmp_path_factory: pytest.TempPathFactory) -> Guard:
    """The word guard with a second answer for assistant messages: A if it refused, else B."""
    first = [{"choice": [{"text": "safe"}, {"text": "unsafe", "events": ["unsafe", "harm"]}]}]
    refusal = {"choice": [{"text": "A", "event": "refusal"}, {"text": "B"}]}
    spec = edited(word_guard.SPEC, ("verdict", "grammar"), {"user": first, "assistant": [*first, "\n", refusal]})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(word_guard, "SPEC", edited(spec, ("policy",), {"labels": [], "fixed": True}))
        return Guard.load(word_guard.write(tmp_path_factory.mktemp("events")), device="cpu")


def logistic(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_events_have_probability_and_bounds(guard: Guard) -> None:
    assert (guard.labels, guard.events) == ((), ("harm", "refusal"))
    result = guard.score("gun", role="assistant")  # unsafe 4 + 8 against safe 8; A 6 against B 0
    assert result.unsafe.probability == pytest.approx(logistic(4), abs=1e-6)
    harm, refusal = present(result.events["harm"]), present(result.events["refusal"])
    assert (harm.lower, harm.upper) == (result.unsafe.lower, result.unsafe.upper)
    assert refusal.lower <= logistic(6) <= refusal.upper
    assert refusal.upper - refusal.lower <= 1e-3
    row = result.to_dict()
    assert list(row) == [
        "schema_version", "id", "flagged", "unsafe", "labels", "events", "bounds", "coverage", "converged", "method",
        "model", "truncated", "calibrated",
    ]  # fmt: skip
    assert row["events"] == {"harm": result.unsafe.probability, "refusal": refusal.probability}
    assert isinstance(row["bounds"], dict)
    assert list(row["bounds"]) == ["unsafe", "harm", "refusal"]
    assert "   refusal 0.99" in Table({}, colour=False).render(result, "")


def test_events_of_another_role_mode_are_null(guard: Guard) -> None:
    result = guard.score("gun")
    assert result.events["refusal"] is None
    assert result.evaluated_nodes == 1
    row = result.to_dict()
    assert isinstance(row["events"], dict)
    assert isinstance(row["bounds"], dict)
    assert row["events"]["refusal"] is None
    assert row["bounds"]["refusal"] is None


def test_rows_of_guards_without_events_have_no_such_field(tmp_path: Path) -> None:
    row = Guard.load(word_guard.write(tmp_path), device="cpu").score("gun").to_dict()
    assert "events" not in row


def test_room_is_kept_for_long_verdicts() -> None:
    encoder = encoder_of("qwen3")
    short, long = (4096 - prompt_builder_of(spec_of(x), encoder, 4096).max_tokens for x in ("wildguard", "polyguard"))
    assert short == VERDICT_TOKENS
    assert long > len(encoder.encode_verdict(spec_of("polyguard").grammar("assistant").longest())) > 100


def test_inspect_lists_events(guard: Guard) -> None:
    summary = summarise(Bundle.open(guard.path))
    assert summary["spec"]["events"] == ["harm", "refusal"]
    assert summary["spec"]["fixed"] is True
    assert "also tells  harm, refusal" in describe(summary)
    assert Spec.parse(word_guard.SPEC, "x").fixed is False
