"""Changes to a bundle folder: its manifest, its spec, its graph."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import onnx

from tests.support.documents import edited
from tests.support.word_guard import write_manifest
from tokmarg import Guard


def edit_graph_table(folder: Path, **fields: object) -> None:
    path = folder / "manifest.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    document["graph"] |= fields
    path.write_text(json.dumps(document), encoding="utf-8")


def edit_spec(folder: Path, *place: str | int, value: object) -> None:
    path = folder / "manifest.json"
    document = edited(json.loads(path.read_text(encoding="utf-8")), ("spec", *place), value)
    path.write_text(json.dumps(document), encoding="utf-8")


def edit_graph(folder: Path, edit: Callable[[onnx.GraphProto], None]) -> None:
    model = onnx.load(folder / "model.onnx")
    edit(model.graph)
    onnx.save(model, folder / "model.onnx")
    write_manifest(folder)


def rename(side: str, old: str, new: str) -> Callable[[onnx.GraphProto], None]:
    def edit(graph: onnx.GraphProto) -> None:
        for value in getattr(graph, side):
            value.name = new if value.name == old else value.name
        for node in graph.node:
            for names in (node.input, node.output):
                names[:] = [new if name == old else name for name in names]

    return edit


def load(folder: Path) -> Guard:
    return Guard.load(folder, device="cpu")
