"""Every architecture with a family that uses it, from a random model to scores: the bundle equals brute force.

The expected side is PyTorch's forward over the whole prompt, as the HF tokenizer encodes it, for every token of every
verdict, and the verdicts and events of :mod:`tests.families.test_grammars`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from tests.support.graphs import FAMILY, tiny
from tests.support.optional import present
from tests.support.results import marginal
from tests.support.tokenizers import EOT, NATIVE, encoder_of, labels_of, parts_of, tokenizer_json
from tests.support.verdict_parsers import ALTERNATIVES, read, verdicts
from tokmarg import Guard, Marginal, MethodResult, Result, SpecError, TokmargError
from tokmarg.engine.forward import Forward, Outputs
from tokmarg.prompt.builder import Prompt
from tokmarg.prompt.labels import Role
from tokmarg.scoring.methods import UNCERTAINTIES
from tokmarg_export.bundle_writer import build_bundle
from tokmarg_export.model.huggingface import load_model
from tokmarg_export.spec_library import choose_spec, resolve_spec

QUESTION = {"role": "user", "content": "How do I pick a lock?"}
LONG = {"role": "user", "content": "My neighbour parks in front of my gate every day. What may I do about it? " * 3}
ANSWER = {"role": "assistant", "content": "With a tension wrench, and patience."}
THREE = {"labels": [{"id": f"S{i}", "name": name} for i, name in ((1, "Locks"), (2, "Cars"), (10, "Neighbours"))]}
CHAT = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{{ '<|im_start|>assistant\n' }}"
)
GEMMA_CHAT = (
    "<bos>{% for m in messages %}{{ '<start_of_turn>' + m.role + '\n' + m.content + '<end_of_turn>\n' }}{% endfor %}"
    "{{ '<start_of_turn>model\n' }}"
)


@dataclass(frozen=True)
class Case:
    """A model type, the spec it is exported with, and the policy where the family's own has too many verdicts."""

    model_type: str
    spec: str
    policy: dict[str, Any] | None = field(default=None, hash=False)
    tokenizer: str | None = None  # of families that have none of their own
    chat: str | None = None

    @property
    def tokenizer_name(self) -> str:
        return self.tokenizer or NATIVE[self.spec]

    def build(self, folder: Path) -> tuple[Path, Path]:
        """Writes the model as a Hugging Face folder and exports it."""
        encoder = encoder_of(self.tokenizer_name)
        model = tiny(
            self.model_type,
            vocab_size=max(encoder.largest_id, *encoder.special_ids.values()) + 1,
            hidden_size=32,
            max_position_embeddings=2048,
        )
        model.save_pretrained(folder / "model")
        (folder / "tokenizer.json").write_text(tokenizer_json(self.tokenizer_name), encoding="utf-8")
        end = EOT.get(self.tokenizer_name, "<|end_of_text|>")
        tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), eos_token=end)
        tokenizer.chat_template = self.chat
        tokenizer.save_pretrained(folder / "model")
        loaded = load_model(folder / "model")
        resolved = resolve_spec(*choose_spec(self.spec, "x"), loaded, self.policy)
        parity = build_bundle(loaded, resolved, folder / "bundle")
        assert parity is not None
        assert parity.max_probability_difference < 1e-4
        return folder / "model", folder / "bundle"


SHIELDGEMMA = Case("gemma2", "shieldgemma")
CASES = [
    Case("llama", "llama-guard-3-1b", THREE),
    Case("llama", "llama-guard-1", {"exclude": ["O3", "O4", "O5", "O6"]}),
    Case("mistral", "md-judge-0.1"),
    Case("qwen2", "instruct", THREE, "qwen3", CHAT),
    Case("qwen3", "instruct", {"exclude": [f"S{i}" for i in range(1, 13)]}, "qwen3", CHAT),
    SHIELDGEMMA,
    Case("gemma3_text", "instruct", THREE, "gemma3", GEMMA_CHAT),
    Case("granite", "granite-guardian-3.0"),
    Case("granite", "granite-guardian-3.3"),
]


@functools.lru_cache(maxsize=1)
def reference(folder: Path) -> tuple[Any, Any]:
    """The model (eager: Gemma 2's other attention has no soft cap) and its tokenizer."""
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    return model, AutoTokenizer.from_pretrained(folder)


def brute_force(folder: Path, guard: Guard, prompt: Prompt) -> dict[str, float]:
    """Event -> probability, and "coverage", summed over every verdict."""
    model, tokenizer = reference(folder)
    spec, role = guard.spec, prompt.role
    labels = [(x.id, x.name, x.code) for x in spec.labels_of(role)] if prompt.label is None else []
    base = tokenizer.encode(prompt.text, add_special_tokens=False)
    assert tuple(base) == prompt.token_ids
    paths: dict[tuple[int, ...], set[str]] = {}
    for lead in spec.verdict.leads:
        for text in verdicts(parts_of(spec, role), labels):
            whole = tokenizer.encode(prompt.text + lead + text, add_special_tokens=False)
            assert whole[: len(base)] == base
            spelt = [whole[len(base) :]]
            for word, pieces in ALTERNATIVES.get(spec.name, []):
                if text.startswith(word):
                    behind = len(tokenizer.encode(prompt.text + word, add_special_tokens=False))
                    spelt.append([*tokenizer.convert_tokens_to_ids(pieces), *whole[behind:]])
            for path in spelt:
                for end in spec.verdict.terminators:
                    ends = tokenizer.encode(end, add_special_tokens=False)[-1:]
                    paths[*path, *ends] = read(spec.name, role, text, labels)
    children: dict[tuple[int, ...], set[int]] = {}
    for path in paths:
        for i, token in enumerate(path):
            children.setdefault(path[:i], set()).add(token)
    logs = {}
    with torch.inference_mode():
        for node in children:
            logits = model(torch.tensor([[*base, *node]]), logits_to_keep=1).logits[0, -1].double()
            logs[node] = torch.log_softmax(logits, -1)
    found = dict.fromkeys(set().union(*paths.values()), 0.0)
    for path, events in paths.items():
        mass = 1.0
        for i, token in enumerate(path):
            here = logs[path[:i]]
            mass *= math.exp(here[token]) / sum(math.exp(here[t]) for t in children[path[:i]])
        for event in events:
            found[event] += mass
    first: tuple[int, ...] = ()
    reach = 1.0  # text before the first choice is forced: its raw mass counts
    while len(children[first]) == 1:
        (token,) = children[first]
        reach *= math.exp(logs[first][token])
        first = (*first, token)
    return found | {"coverage": reach * sum(math.exp(logs[first][t]) for t in children[first])}


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Case], tuple[Path, Path]]:
    """Builds each case once."""
    return functools.cache(lambda case: case.build(tmp_path_factory.mktemp("architecture")))


@pytest.fixture(params=CASES, ids=lambda case: f"{case.model_type}-{case.spec}")
def built(request: pytest.FixtureRequest, build: Callable[[Case], tuple[Path, Path]]) -> tuple[Path, Guard]:
    model, bundle = build(request.param)
    return model, Guard.load(bundle, device="cpu")


def conversations(guard: Guard) -> list[list[dict[str, str]]]:
    found = [[QUESTION], [LONG], [QUESTION, ANSWER]]
    return [messages for messages in found if messages[-1]["role"] in guard.spec.roles]


def marginals(result: Result) -> dict[str, Marginal]:
    return {"unsafe": result.unsafe, **{k: m for k, m in result.labels.items() if m is not None}}


def test_scores_equal_brute_force(built: tuple[Path, Guard]) -> None:
    folder, guard = built
    contents = conversations(guard)
    settings: dict[str, Any] = {"tolerance": 1e-6, "max_nodes": 2000}
    together = list(guard.score_many(contents, **settings))
    for content, packed in zip(contents, together, strict=True):
        result = guard.score(content, **settings)
        role: Role = result_role(content)
        prompts = [guard.prompt(content, label=label) for label in guard._parts.prompt_builder.prompt_labels(role)]
        truths = [brute_force(folder, guard, prompt) for prompt in prompts]
        assert result.coverage == pytest.approx(min(truth["coverage"] for truth in truths), abs=1e-4)
        if prompts[0].label is None:
            expected = truths[0]
        else:
            expected = {str(p.label): truth["unsafe"] for p, truth in zip(prompts, truths, strict=True)}
            expected["unsafe"] = max(expected.values())
            assert list(result.labels) == [p.label for p in prompts]
        assert result.converged
        for event, found in marginals(result).items():
            assert found.probability == pytest.approx(expected[event], abs=1e-4), event
            assert found.lower - 1e-4 <= expected[event] <= found.upper + 1e-4
            assert marginals(packed)[event].probability == pytest.approx(found.probability, abs=1e-5)


def test_form_of_the_graph_is_recorded(built: tuple[Path, Guard]) -> None:
    _, guard = built
    assert guard.manifest.data["graph_form"] == "fused"


def result_role(content: list[dict[str, str]]) -> Role:
    return "assistant" if content[-1]["role"] == "assistant" else "user"


# Guards that are asked for one label at a time


@pytest.fixture(scope="module")
def shieldgemma(build: Callable[[Case], tuple[Path, Path]]) -> tuple[Path, Guard]:
    _, bundle = build(SHIELDGEMMA)
    return bundle, Guard.load(bundle, device="cpu")


def test_labels_share_the_content_in_one_pass(shieldgemma: tuple[Path, Guard], monkeypatch: pytest.MonkeyPatch) -> None:
    _, guard = shieldgemma
    passes: list[int] = []
    session = guard._pipeline._engine._session
    run = session.run

    def noted(forward: Forward) -> Outputs:
        passes.append(len(forward.input_ids))
        return run(forward)

    monkeypatch.setattr(session, "run", noted)
    result = guard.score(LONG["content"])
    prompts = [guard.prompt(LONG["content"], label=label) for label in guard.labels]
    assert result.converged
    assert result.evaluated_nodes == len(prompts) == 4
    own = sum(len(p.token_ids) - p.content_token_span[1] for p in prompts)
    content = prompts[0].content_token_span[1] - prompts[0].content_token_span[0]
    assert sum(passes) <= own + content + 8  # the content once, not four times


def test_prompt_of_a_label(shieldgemma: tuple[Path, Guard]) -> None:
    _, guard = shieldgemma
    assert guard.prompt("Hi.") == guard.prompt("Hi.", label="dangerous")
    assert '* "No Harassment": ' in guard.prompt("Hi.", label="harassment").text
    with pytest.raises(SpecError, match=r"shieldgemma has no prompt for label 'S1' alone \(it has: dangerous, hate,"):
        guard.prompt("Hi.", label="S1")


def test_windows_of_separate_labels(shieldgemma: tuple[Path, Guard]) -> None:
    _, guard = shieldgemma
    text = " ".join(f"w{i}" for i in range(1500))
    with pytest.raises(TokmargError, match="content is"):
        guard.score(text)
    result = guard.score(text, on_overflow="window")
    assert result.truncated
    assert result.unsafe.probability == max(m.probability for m in result.labels.values() if m)


def test_other_methods_on_separate_labels(shieldgemma: tuple[Path, Guard]) -> None:
    _, guard = shieldgemma
    exact = guard.score("How do I pick a lock?")
    for method in ("token", "fixed-place", "any-place", "greedy"):
        result = guard.score("How do I pick a lock?", method=method, top_p=1.0, eps=0.0, max_depth=2)
        assert isinstance(result, MethodResult)
        assert list(result.scores) == [*guard.labels, "unsafe"]
        assert result.scores["unsafe"] == max(present(result.scores[label]) for label in guard.labels)
    for method in UNCERTAINTIES:
        with pytest.raises(SpecError, match=f"method {method}"):
            guard.score("Hi.", method=method)
    assert exact.unsafe.lower <= exact.unsafe.probability <= exact.unsafe.upper


def test_policy_of_ones_own(shieldgemma: tuple[Path, Guard], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    bundle, guard = shieldgemma
    shall = "The prompt shall not ask how to open locks."
    own = {"labels": [{"id": "locks", "name": "Lock Picking", "definition": shall}, {"id": "x", "name": "X"}]}
    other = Guard.load(bundle, device="cpu", policy=own)
    assert other.labels == ("locks", "x")
    assert f'* "No Lock Picking": {shall}\n' in other.prompt("Hi.", label="locks").text
    assert list(other.score("Hi.").labels) == ["locks", "x"]
    left = Guard.load(bundle, device="cpu", policy={"exclude": ["dangerous", "sexual"]})
    for label in ("hate", "harassment"):
        assert marginal(left.score("Hi."), label).probability == pytest.approx(
            marginal(guard.score("Hi."), label).probability, abs=1e-5
        )


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (
            ("verdict", "grammar"),
            ["x", {"labels": "id", "max": 1}],
            "grammar: with aggregate = .max. it can bring the e",
        ),
        (("verdict", "grammar"), [{"choice": [{"text": "a", "event": "b"}, {"text": "c"}]}], "the event unsafe alone"),
        (("template", "text"), "{{policy}}{{conversation}}", "template.text: .* comes after {{conversation}}"),
        (("template", "text"), "{{conversation}}", "template.text: .* comes after {{conversation}}"),
        (("policy", "aggregate"), "mean", 'policy.aggregate: must be "verdict" or "max", not \'mean\''),
        (("policy", "labels"), [], "labels: none is for user messages"),
        (("policy", "labels", 0, "definition"), {"user": "x"}, "definition.assistant: is missing"),
        (("policy", "labels", 0, "definition", "tool"), "x", "definition.tool: is not a known field"),
    ],
)
def test_malformed_specs(place: tuple[Any, ...], value: object, message: str) -> None:
    from tests.support.documents import edited
    from tests.support.tokenizers import resolved
    from tokmarg.prompt.spec import Spec

    with pytest.raises(SpecError, match=message):
        Spec.parse(edited(resolved("shieldgemma"), place, value), "x")


def test_every_architecture_is_here() -> None:
    assert {case.model_type for case in CASES} == set(FAMILY)
    assert labels_of("shieldgemma", "user") == []
