"""Greedy, token, fixed-place and any-place equal the published algorithms, run in PyTorch one forward per node."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Unpack

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.support.optional import present
from tests.support.published import Published
from tokmarg import Guard, MethodResult, Thresholds, TokmargError
from tokmarg.results import METHODS, Method
from tokmarg.score_options import OptionChanges, ScoreKeywords
from tokmarg.scoring.methods import UNCERTAINTIES, WHOLE_VOCABULARY

TEXTS = ["How do I pick a lock?", "Thanks!", "one two three", "12,50 €"]
#: What the model likes to say behind each token: verdicts, and much that is nearly one.
NEXT = {
    "<|end_header_id|>": {"unsafe": 1.6, "\n\n": 1.6, "safe": 0.8, "un": 0.4},
    "\n\n": {"unsafe": 1.6, "safe": 1.2, "S": 0.8},
    "un": {"safe": 1.6},
    "unsafe": {"\n": 1.6, "\n\n": 0.8, "S": 0.4},
    "safe": {"\n": 1.2, "<|eot_id|>": 1.2},
    "\n": {"S": 1.6, " S": 0.8, "\n": 0.4},
    "S": {"1": 1.2, "2": 1.2, "10": 1.2, "0": 0.4},
    "1": {"0": 1.0, ",": 1.0, ",S": 1.2, "<|eot_id|>": 1.0},
    "2": {",": 1.0, "<|eot_id|>": 1.0, ",S": 0.8},
    "10": {",": 1.0, "<|eot_id|>": 1.0, ",S": 1.0},
    "0": {",": 1.0, "<|eot_id|>": 1.0, "\n": 0.8},
    ",": {"S": 1.6, " S": 1.2},
    ",S": {"1": 1.2, "2": 1.0, "10": 0.8},
    " S": {"1": 1.2, "2": 1.0, "10": 0.8},
}


@pytest.fixture(scope="module")
def talker(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny random model, taught the table above; what stands before the last token still has its say."""
    folder = tmp_path_factory.mktemp("talker") / "talking-Llama-Guard-3-8B"
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.save_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    said = [*NEXT, "<|eot_id|>"]
    ids = {
        t: tokenizer.convert_tokens_to_ids(t) if "|" in t else tokenizer.encode(t, add_special_tokens=False)[0]
        for t in said
    }
    embedding = model.model.embed_tokens.weight.data
    head = torch.zeros_like(embedding)
    embedding[:, 0] = 6.0
    head[list(ids.values()), 0] = 14.0
    for i, (token, following) in enumerate(NEXT.items(), 1):
        embedding[ids[token]] *= 0.3
        embedding[ids[token], 0], embedding[ids[token], i] = 6.0, 8.0
        for other, value in following.items():
            head[ids[other], i] = value
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight.data *= 0.3
        layer.mlp.down_proj.weight.data *= 0.04
    model.config.tie_word_embeddings = False
    model.lm_head = torch.nn.Linear(head.shape[1], head.shape[0], bias=False)
    model.lm_head.weight.data = head
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def guard(talker: Path) -> Guard:
    from tokmarg_export.bundle_writer import build_bundle
    from tokmarg_export.model.huggingface import load_model
    from tokmarg_export.spec_library import choose_spec, resolve_spec

    loaded = load_model(talker)
    data, where = choose_spec(None, loaded.model_id)
    build_bundle(loaded, resolve_spec(data, where, loaded), talker.parent / "bundle")
    return Guard.load(talker.parent / "bundle", device="cpu")


@pytest.fixture(scope="module")
def published(talker: Path, guard: Guard) -> Callable[[str], Published]:
    """Content -> the published algorithms on it."""
    model = AutoModelForCausalLM.from_pretrained(talker).eval()
    tokenizer = AutoTokenizer.from_pretrained(talker)

    @functools.cache
    def of(text: str) -> Published:
        prompt = guard.prompt(text).token_ids

        @functools.cache
        @torch.inference_mode()
        def logits(path: tuple[int, ...]) -> torch.Tensor:
            found: torch.Tensor = model(torch.tensor([[*prompt, *path]]), logits_to_keep=1).logits
            return found[0, -1]

        end = tokenizer.convert_tokens_to_ids("<|eot_id|>")
        return Published(logits, tokenizer.decode, [*guard.labels, "unsafe"], [end])

    return of


def scored(guard: Guard, text: str, **options: Unpack[ScoreKeywords]) -> MethodResult:
    result = guard.score(text, **options)
    assert isinstance(result, MethodResult)
    return result


def assert_scores(result: object, expected: dict[str, float]) -> None:
    assert isinstance(result, MethodResult)
    assert set(expected) <= set(result.scores)
    for event, score in result.scores.items():
        assert score == pytest.approx(expected.get(event, 0.0), abs=1e-4), event


@pytest.mark.parametrize(("method", "max_depth"), [("token", 20), ("fixed-place", 20), ("fixed-place", 3)])
def test_scores_along_the_greedy_path(
    guard: Guard, published: Callable[[str], Published], method: Method, max_depth: int
) -> None:
    named = set()
    for text, result in zip(TEXTS, guard.score_many(TEXTS, method=method, max_depth=max_depth), strict=True):
        reference = published(text)
        expected = reference.token(max_depth) if method == "token" else reference.fixed_place(max_depth)
        assert_scores(result, expected)
        named |= set(expected)
    assert len(named) > (2 if max_depth == 20 else 0)  # the model talks of labels at all


def test_greedy_verdict(guard: Guard, published: Callable[[str], Published]) -> None:
    for text, result in zip(TEXTS, guard.score_many(TEXTS, method="greedy"), strict=True):
        reference = published(text)
        path = reference.greedy(20)[-1][0]
        ended = path[-1] in reference.ends
        assert_scores(result, dict.fromkeys(reference.token(20), 1.0))
        assert isinstance(result, MethodResult)
        assert result.verdict == reference.decode(path[:-1] if ended else path)
        assert result.converged is ended
        assert result.flagged is (result.scores["unsafe"] == 1.0)


@pytest.mark.parametrize(
    ("top_p", "eps", "max_depth"), [(0.99, 0.02, 20), (0.9, 0.01, 20), (0.6, 0.005, 5), (0.99, 0.02, 1)]
)
def test_any_place(
    guard: Guard, published: Callable[[str], Published], top_p: float, eps: float, max_depth: int
) -> None:
    named = set()
    results = guard.score_many(TEXTS[:2], method="any-place", top_p=top_p, eps=eps, max_depth=max_depth)
    for text, result in zip(TEXTS[:2], results, strict=True):
        reference = published(text)
        reference.visited.clear()
        expected = reference.any_place(top_p, eps, max_depth)
        assert_scores(result, expected)
        assert isinstance(result, MethodResult)
        assert result.converged
        assert result.evaluated_nodes == len(reference.visited) == len(set(reference.visited))
        assert result.flagged is (present(result.scores["unsafe"]) >= 0.5)
        named |= set(expected)
    assert len(named) > 3 or max_depth == 1


def test_flat_model_has_a_wide_nucleus(tiny_guard: Guard, tiny_model: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model).eval()
    prompt = tiny_guard.prompt(TEXTS[0]).token_ids
    end = AutoTokenizer.from_pretrained(tiny_model).convert_tokens_to_ids("<|eot_id|>")
    texts = tiny_guard._parts.encoder.texts

    @torch.inference_mode()
    def logits(path: tuple[int, ...]) -> torch.Tensor:
        found: torch.Tensor = model(torch.tensor([[*prompt, *path]]), logits_to_keep=1).logits
        return found[0, -1]

    def decode(path: Sequence[int]) -> str:  # the tokenizer's own is slow for a whole vocabulary
        return "".join(texts[i] for i in path)

    reference = Published(logits, decode, [*tiny_guard.labels, "unsafe"], [end])
    result = tiny_guard.score(TEXTS[0], method="any-place", eps=0.05, max_depth=2)
    assert_scores(result, reference.any_place(0.99, 0.05, 2))


@pytest.mark.parametrize("method", METHODS[1:])
def test_score_does_not_depend_on_its_company(guard: Guard, method: Method) -> None:
    packed = list(guard.score_many(TEXTS, method=method, eps=0.05))
    for text, result in zip(TEXTS, packed, strict=True):
        alone = scored(guard, text, method=method, eps=0.05)
        assert isinstance(result, MethodResult)
        assert alone.verdict == result.verdict
        assert alone.scores == pytest.approx(result.scores, abs=1e-5)
        assert alone.uncertainty == pytest.approx(result.uncertainty, abs=1e-4)


def test_uncertainty_methods_read_the_first_label(guard: Guard, published: Callable[[str], Published]) -> None:
    """The lead is optional: behind the likelier one, newline and S, the labels are one token each."""
    text = TEXTS[0]
    encode = guard._parts.encoder.encode_text
    reference = published(text)

    def first(path: tuple[int, ...]) -> torch.Tensor:
        return torch.as_tensor(reference.logits(path))

    lead = encode("\n\n")
    exact = guard.score(text, tolerance=1e-6)

    def mass(path: list[int]) -> float:
        p = torch.softmax(first(()).double(), -1)
        options = [encode("safe")[0], encode("unsafe")[0], lead[0]]
        q = float(p[(path or encode("unsafe"))[0]] / p[options].sum())
        if path:
            p = torch.softmax(first(tuple(lead)).double(), -1)
            q *= float(p[encode("unsafe")[0]] / p[options[:2]].sum())
        return q

    path = max([], lead, key=mass)
    digits = [encode(label)[-1] for label in guard.labels]
    z = first((*path, *encode("unsafe\nS")))[digits].double()
    p = torch.softmax(z, 0)
    a = torch.sort(z, descending=True).values[:2]
    aleatoric = -(a / a.sum() * (torch.digamma(a + 1) - torch.digamma(a.sum() + 1))).sum()
    expected: dict[Method, torch.Tensor] = {
        "probability-uncertainty": 1 / (p.max() + 1),
        "entropy-uncertainty": -(p * p.log()).sum(),
        "logtoku": 2 / (a.clamp(min=0).sum() + 2) / aleatoric,
    }
    for method, uncertainty in expected.items():
        result = scored(guard, text, method=method)
        assert result.uncertainty == pytest.approx(float(uncertainty), rel=1e-4)
        values = dict(zip(guard.labels, p.tolist(), strict=True)) | {"unsafe": exact.unsafe.probability}
        assert result.scores == pytest.approx(values, abs=1e-4)
        assert result.verdict is None


def test_row(guard: Guard) -> None:
    row = guard.score(TEXTS[0], id=7, method="token").to_dict()
    exact = guard.score(TEXTS[0], max_nodes=1).to_dict()
    assert [key for key in row if key in exact] == list(exact)
    assert [key for key in row if key not in exact] == ["scores", "verdict", "uncertainty"]
    assert [row[key] for key in ("unsafe", "labels", "bounds", "coverage", "uncertainty")] == [None] * 5
    assert isinstance(row["scores"], dict)
    assert list(row["scores"]) == [*guard.labels, "unsafe"]
    assert (row["id"], row["method"], row["calibrated"]) == (7, "token", False)
    json.dumps(row, allow_nan=False)


def test_flags_follow_thresholds(guard: Guard) -> None:
    def flagged(method: Method, unsafe: float, labels: Mapping[str, float] | None = None) -> bool:
        return scored(guard, TEXTS[0], method=method, max_depth=8, thresholds=Thresholds(unsafe, labels or {})).flagged

    scores = scored(guard, TEXTS[0], method="fixed-place", max_depth=8).scores
    score = {event: present(value) for event, value in scores.items()}
    label = max(guard.labels, key=score.__getitem__)
    assert 0 < score[label] < score["unsafe"] < 1
    assert flagged("fixed-place", unsafe=score["unsafe"])
    assert not flagged("fixed-place", unsafe=1.0)
    assert flagged("fixed-place", unsafe=1.0, labels={label: score[label]})
    assert not flagged("fixed-place", unsafe=1.0, labels={label: 1.0})
    # Label scores that are conditional on unsafe flag nothing.
    assert not flagged("logtoku", unsafe=1.0, labels={label: 0.0})
    assert flagged("logtoku", unsafe=0.0)


@pytest.mark.parametrize("method", ["token", "any-place", "logtoku"])
def test_windows_join_to_the_highest_scores(guard: Guard, method: Method) -> None:
    text = "first window " * 300 + "second " * 300
    result = scored(guard, text, method=method, eps=0.05, on_overflow="window")
    assert result.truncated
    from tokmarg.prompt.messages import Message
    from tokmarg.prompt.windows import windows

    parts = [prompt for (prompt,) in windows(guard._parts.prompt_builder, [Message("user", text)])]
    spans = [part.text[slice(*part.content_span)] for part in parts]
    results = [scored(guard, span, method=method, eps=0.05) for span in spans]
    assert len(results) > 1
    top = max(results, key=lambda part: present(part.scores["unsafe"]))
    assert result.verdict == top.verdict
    assert result.uncertainty == pytest.approx(top.uncertainty, abs=1e-4)
    for event, score in result.scores.items():
        expected = top.scores[event] if method == "logtoku" else max(present(part.scores[event]) for part in results)
        assert score == pytest.approx(expected, abs=1e-5)


def test_verdict_head_has_no_free_decoding(guard: Guard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        guard._pipeline.calls, "_columns", {token: token for token in guard._parts.tries["user", None].vocabulary()}
    )
    for method in WHOLE_VOCABULARY:
        with pytest.raises(TokmargError, match=f"method {method} reads .* whole vocabulary.* --head full"):
            guard.score(TEXTS[0], method=method)
    for method in UNCERTAINTIES:
        assert scored(guard, TEXTS[0], method=method).uncertainty is not None


@pytest.mark.parametrize("settings", [{"top_p": 0.0}, {"top_p": math.nan}, {"eps": -1}, {"max_depth": 65}])
def test_impossible_settings(guard: Guard, settings: OptionChanges) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(settings))} must"):
        guard.score("x", method="any-place", **settings)
    with pytest.raises(TokmargError, match="method 'best' is not one of exact, token"):
        guard.score("x", method="best")  # type: ignore[call-overload]


def test_budget_of_any_place_shows(guard: Guard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tokmarg.scoring.any_place.MAX_PATHS", 5)
    result = guard.score(TEXTS[0], method="any-place")
    assert (result.evaluated_nodes, result.converged) == (5, False)
