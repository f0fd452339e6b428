"""Prefix files that do not fit the graph, or are cut, are refused and named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.support.edited_bundle import load
from tests.support.word_guard import VOCAB, write_manifest
from tokmarg import BundleError

Tensors = dict[str, np.ndarray]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"user.0.key": None}, r"does not contain tensor user\.0\.key"),
        ({"assistant.token_ids": None}, r"does not contain tensor assistant\.token_ids"),
        (
            {"user.0.value": (1, 1, 1, len(VOCAB))},
            r"user\.0\.value: has shape \[1, 1, 1, \d+\], not \[1, 1, \d+, \d+\]",
        ),
        ({"user.0.key": (1, 2, 5, len(VOCAB))}, r"user\.0\.key: has shape \[1, 2, 5, \d+\], not \[1, 1, \d+, \d+\]"),
        ({"user.0.key": ()}, r"user\.0\.key: has shape \[\], not \[1, 1, \d+, \d+\]"),
        ({"user.token_ids": (2, 2)}, r"user\.token_ids: is float32 \[2, 2\], not int64 \[P\]"),
        ({"user.token_ids": (4,)}, r"user\.token_ids: is float32 \[4\], not int64 \[P\]"),
    ],
)
def test_prefix_of_another_graph(bundle_copy: Path, change: dict[str, tuple[int, ...] | None], message: str) -> None:
    path = bundle_copy / "prefix.safetensors"
    tensors: Tensors = load_file(path)
    for name, shape in change.items():
        del tensors[name]
        if shape is not None:
            tensors[name] = np.zeros(shape, dtype=np.float32)
    save_file(tensors, path)
    write_manifest(bundle_copy)
    with pytest.raises(BundleError, match=rf"prefix\.safetensors: .*{message}"):
        load(bundle_copy)


@pytest.mark.parametrize("kept", [0, 4, 100, -1])
def test_cut_prefix(bundle_copy: Path, kept: int) -> None:
    path = bundle_copy / "prefix.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    write_manifest(bundle_copy)
    with pytest.raises(BundleError, match=r"prefix\.safetensors: ") as caught:
        load(bundle_copy)
    assert "\n" not in str(caught.value)
