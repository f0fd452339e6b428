"""Rotated graphs: equal to PyTorch, content by content, and the same bits of a content in every batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.graphs import FUSED, PROMPT, VOCAB, Graph, exported, reference_logits, tiny, tree_logits, written
from tokmarg.engine.graph_signature import LEAST_RELEASE
from tokmarg_export.graph.contract import graph_contract

PREFIX = [7, 3, 250, 9, 81]
PLACES, KEYS = 16, 32


@dataclass
class Content:
    """New tokens, each of which sees the prefix, some cached tokens of its own and a chain of new ones before it."""

    ids: list[int]
    parents: list[int]  # row before each row, -1 where there is none
    cached: list[int]  # tokens of its own behind the prefix, seen by all rows
    keys: np.ndarray | None = None  # theirs, [layers, len(cached) * 2 * kv_heads, head_dim]

    def chain(self, row: int) -> list[int]:
        """The row and those it extends, from the top."""
        return [*self.chain(self.parents[row]), row] if row >= 0 else []

    def positions(self) -> list[int]:
        before = len(PREFIX) + len(self.cached)
        return [before + len(self.chain(row)) - 1 for row in range(len(self.ids))]


def run(
    graph: Graph,
    contents: Sequence[Content],
    past: np.ndarray,
    *,
    places: int = PLACES,
    more: int = 0,
    stack_heads: bool = True,
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Logits [rows, V] and new keys and values [layers, rows * 2 * kv_heads, head_dim] of each content, in one pass.

    Args:
        graph: by content.
        contents: at most ``places`` rows each.
        past: of the prefix, [layers, P * 2 * kv_heads, head_dim].
        places: S.
        more: how much larger K is than what they need.
        stack_heads: of the graph.
    """
    contract, known = graph.contract, len(PREFIX)
    ids = [token for content in contents for token in content.ids]
    positions = np.array([position for content in contents for position in content.positions()])
    starts = np.cumsum([0, *(len(content.ids) for content in contents)])
    owns = known + np.cumsum([0, *(len(content.cached) for content in contents)])
    width = more + max(known + len(content.cached) + len(content.ids) for content in contents)
    keys = -(-width // 16) * 16
    mask, slots = np.zeros((len(contents), 1, places, keys), bool), np.zeros((len(contents), keys), np.int64)
    rows, at = np.zeros((len(contents), places), np.int64), []
    for i, content in enumerate(contents):
        count, before = len(content.ids), known + len(content.cached)
        rows[i] = starts[i] + np.where(np.arange(places) < count, np.arange(places), 0)
        at += [i * places + row for row in range(count)]
        slots[i, :known] = np.arange(known)
        slots[i, known:before] = np.arange(owns[i], owns[i + 1])
        slots[i, before : before + count] = owns[-1] + np.arange(starts[i], starts[i + 1])
        for row in range(count):
            mask[i, 0, row, [*range(before), *(before + r for r in content.chain(row))]] = True
    feeds = {
        "input_ids": np.array([ids]),
        "position_ids": positions[None],
        "attention_mask": mask,
        "attention_rows": rows,
        "row_places": np.array(at),
        "key_slots": slots,
        "stack_heads": np.array([stack_heads]),
        "logit_positions": np.arange(len(ids)),
    }
    nothing = np.zeros((contract.layers, *contract.cache_shape(0)), np.float32)
    own = np.concatenate([nothing, *(content.keys for content in contents if content.keys is not None)], axis=1)
    feeds |= {f"past_key_values.{part}": rows for part, rows in zip(contract.cache_parts, past, strict=True)}
    feeds |= {f"own_key_values.{part}": rows for part, rows in zip(contract.cache_parts, own, strict=True)}
    if contract.sliding_window is not None:
        cached = [known + np.arange(len(content.cached)) for content in contents]
        where = np.concatenate([np.arange(known), *cached, positions])[slots]
        distance = positions[rows][:, None, :, None] - where[:, None, None]
        feeds["sliding_attention_mask"] = mask & (distance < contract.sliding_window)
    logits, *present = graph.session.run(["logits", *(f"present.{part}" for part in contract.cache_parts)], feeds)
    each = np.split(np.stack(present), starts[1:-1] * 2 * contract.kv_heads, axis=1)
    return np.split(logits[0], starts[1:-1]), each


def prefix_of(graph: Graph) -> np.ndarray:
    """Keys and values of PREFIX, [layers, P * 2 * kv_heads, head_dim]."""
    count = len(PREFIX)
    return np.stack(graph.run(PREFIX, list(range(count)), np.tri(count, dtype=bool), [0], None, [])[1])


def cached(graph: Graph, contents: Sequence[Content], past: np.ndarray) -> list[Content]:
    """The contents with keys and values of what they have in the cache; in passes of PLACES tokens."""
    found = []
    for content in contents:
        keys = past[:, :0]
        for at in range(0, len(content.cached), PLACES):
            part = content.cached[at : at + PLACES]
            step = Content(part, list(range(-1, len(part) - 1)), content.cached[:at], keys)
            keys = np.concatenate([keys, run(graph, [step], past)[1][0]], axis=1)
        found.append(replace(content, keys=keys))
    return found


@st.composite
def some_contents(draw: st.DrawFn) -> list[Content]:
    tokens = st.integers(3, VOCAB - 1)

    def one() -> Content:
        tree = draw(st.lists(st.tuples(tokens, st.integers(0, 6)), min_size=1, max_size=PLACES))
        parents = [i - 1 - back if back < i else -1 for i, (_, back) in enumerate(tree)]
        return Content([token for token, _ in tree], parents, draw(st.lists(tokens, max_size=KEYS)))

    return [one() for _ in range(draw(st.integers(1, 7)))]


@pytest.fixture(scope="module", params=["llama", "gemma2", "gemma3_text"])
def int8(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Graph, np.ndarray]:
    model = tiny(request.param, hidden_size=128, intermediate_size=128)  # two blocks for each product's rotation
    graph = exported(model, tmp_path_factory.mktemp("int8"), precision="int8")
    return graph, prefix_of(graph)


@settings(max_examples=40)
@given(some_contents())
def test_company_changes_no_bit(int8: tuple[Graph, np.ndarray], contents: list[Content]) -> None:
    graph, past = int8
    contents = cached(graph, contents, past)
    logits, new = run(graph, contents, past)
    backwards, new_backwards = run(graph, contents[::-1], past)
    for i, content in enumerate(contents):
        alone, new_alone = run(graph, [content], past)
        for company in (logits[i], backwards[-1 - i]):
            np.testing.assert_array_equal(company, alone[0])
        for company in (new[i], new_backwards[-1 - i]):
            np.testing.assert_array_equal(company, new_alone[0])


@settings(max_examples=40)
@given(some_contents(), st.integers(0, 40), st.integers(0, 300), st.booleans())
def test_more_places_and_keys_than_needed_change_no_bit(
    int8: tuple[Graph, np.ndarray], contents: list[Content], places: int, more: int, stack_heads: bool
) -> None:
    graph, past = int8
    contents = cached(graph, contents, past)
    few = run(graph, contents, past)
    many = run(graph, contents, past, places=PLACES + places, more=more, stack_heads=stack_heads)
    for one, other in zip(few, many, strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a, b)


CONTENT_CASES = [
    *((family, {}) for family in FUSED),
    ("qwen3", {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1}),
]


@pytest.mark.parametrize(("model_type", "changes"), CONTENT_CASES)
def test_contents_in_one_pass_equal_plain_forwards(model_type: str, changes: dict[str, object], tmp_path: Path) -> None:
    model = tiny(model_type, **changes)
    contract = replace(graph_contract(model, head_token_ids=None, precision="fp32"), by_content=True)
    graph = written(model, tmp_path, contract)
    past = prefix_of(graph)
    contents = [
        Content([17, 42, 8], [-1, 0, 1], []),
        Content([11, 201, 12, 77, 5], [-1, -1, 0, 1, 3], [99, 120, 3, 250, 61, 7, 33]),
        Content([4], [-1], [12] * 20),
        Content(list(range(30, 46)), [-1, *range(15)], [17]),
    ]
    found, _ = run(graph, cached(graph, contents, past), past)
    for content, logits in zip(contents, found, strict=True):
        for row in range(len(content.ids)):
            ids = [*PREFIX, *content.cached, *(content.ids[i] for i in content.chain(row))]
            with torch.no_grad():
                plain = model(torch.tensor([ids])).logits[0, -1].numpy()
            np.testing.assert_allclose(logits[row], plain, rtol=1e-4, atol=2e-4)


def test_what_attention_is_made_of(tmp_path: Path) -> None:
    """One operator a layer; where the rows go is computed once a pass; nothing is cut out of a cache."""
    exported(tiny("llama", num_hidden_layers=3, intermediate_size=128), tmp_path, precision="int8")
    model = onnx.load(str(tmp_path / "model.onnx"), load_external_data=False)
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("Attention") == 3
    # Queries, new tokens, keys, values and the way back; the embedding and its scales, and the last layer's rows of
    # attention and residual.
    assert kinds.count("Gather") == 5 * 3 + 4
    assert (kinds.count("Tile"), kinds.count("Split")) == (1, 0)
    assert kinds.count("Concat") == 3 + 4
    assert not {"GroupQueryAttention", "Softmax", "Expand"} & set(kinds)
    assert len(kinds) <= 39 * 3 + 53
    shapes = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in model.graph.input
    }
    assert shapes["attention_rows"] == ["contents", "places"]
    assert shapes["key_slots"] == ["contents", "keys"]
    assert shapes["attention_mask"] == ["contents", 1, "places", "keys"]
    assert shapes["own_key_values.2"] == ["own_heads", 16]
    assert shapes["past_key_values.2"] == ["past_heads", 16]


COLUMNS = [7, 250, 3, 11]
CASES = [
    *((family, {}) for family in FUSED),
    ("llama", {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": False}),
    ("llama", {"tie_word_embeddings": True, "intermediate_size": 128}),
    ("qwen3", {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1}),
    ("gemma2", {"hidden_size": 128, "intermediate_size": 192, "attention_bias": True}),
    ("gemma2", {"hidden_size": 256, "intermediate_size": 384, "tie_word_embeddings": False}),
    ("gemma3_text", {"hidden_size": 128, "intermediate_size": 192}),
]


@pytest.mark.parametrize(("model_type", "changes"), CASES)
def test_rotated_graph_equals_pytorch(model_type: str, changes: dict[str, Any], tmp_path: Path) -> None:
    model = tiny(model_type, **changes)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:  # ones at initialization, which would hide a lost one
                parameter.uniform_(0.3, 2.0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    contract = replace(graph_contract(model, head_token_ids=None, precision="fp32"), by_content=True)
    graph = written(model, tmp_path, contract)
    expected = reference_logits(model)
    for split in (0, 3):
        np.testing.assert_allclose(tree_logits(graph, split=split), expected, rtol=1e-4, atol=2e-4)
    assert all((value == before[name]).all() for name, value in model.state_dict().items())


@pytest.mark.parametrize("rotated", [False, True])
@pytest.mark.parametrize("model_type", ["llama", "granite", "qwen3", "gemma2"])
def test_verdict_logits_are_columns_of_the_logits(model_type: str, rotated: bool, tmp_path: Path) -> None:
    model = tiny(model_type, **({"layer_types": ["full_attention"] * 2} if model_type == "gemma2" else {}))
    contract = graph_contract(model, head_token_ids=None, precision="fp32", verdict_token_ids=COLUMNS)
    contract = replace(contract, by_content=rotated)
    assert contract.verdict_token_ids == tuple(COLUMNS)
    graph = written(model, tmp_path, contract, rotated)
    length = len(PROMPT)
    feeds = {
        "input_ids": np.array([PROMPT]),
        "position_ids": np.arange(length)[None],
        "attention_mask": np.tri(length, dtype=bool)[None, None],
    }
    if rotated:
        feeds |= {"attention_rows": np.arange(length)[None], "row_places": np.arange(length)}
        feeds |= {"key_slots": np.arange(length)[None], "stack_heads": np.array([False])}
    for kind in ("past_key_values", "own_key_values") if rotated else ("past_key_values",):
        feeds |= {f"{kind}.{part}": np.zeros(contract.cache_shape(0), np.float32) for part in contract.cache_parts}
    for whole, few in (([0, 5, 10], [10, 2]), ([3], []), ([], [4, 4, 1])):
        positions = {"logit_positions": np.array(whole, np.int64), "verdict_positions": np.array(few, np.int64)}
        names = ["logits", "verdict_logits", "log_probabilities"]
        logits, verdict, within = graph.session.run(names, feeds | positions)
        with torch.no_grad():
            expected = model(torch.tensor([PROMPT])).logits[0].numpy()
        np.testing.assert_allclose(logits[0], expected[whole], rtol=1e-4, atol=2e-4)
        np.testing.assert_allclose(verdict[0], expected[few][:, COLUMNS], rtol=1e-4, atol=2e-4)
        log_probabilities = torch.log_softmax(torch.tensor(logits[0], dtype=torch.float64), -1)[:, COLUMNS].numpy()
        np.testing.assert_allclose(within[0], log_probabilities, rtol=1e-6, atol=1e-6)


def test_a_graph_with_a_cap_names_the_first_release_that_applies_it_before_the_mask(tmp_path: Path) -> None:
    for model_type, least in (("gemma2", "1.27"), ("gemma3_text", None), ("llama", None)):
        graph = exported(tiny(model_type), tmp_path / model_type, precision="int8")
        assert graph.session.get_modelmeta().custom_metadata_map.get(LEAST_RELEASE) == least
