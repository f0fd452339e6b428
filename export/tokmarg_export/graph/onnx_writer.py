"""From the file that the tracer wrote to the two files of a bundle."""

from __future__ import annotations

from collections.abc import MutableSequence
from pathlib import Path

import onnx
from onnx import TensorProto, ValueInfoProto, helper

from tokmarg.bundle.graph_contract import GraphContract

from .tensor_spool import append_to, size_of

_DATA_FILE = "model.onnx.data"

_INLINE = 1024  # smaller tensors stay in model.onnx

_Spec = tuple[int, list[int | str]]  # element type, axes


def finish_onnx_file(traced: Path, out_dir: Path, contract: GraphContract) -> None:
    """Write model.onnx and model.onnx.data in `out_dir`, the interface exactly as the contract has it."""
    model = onnx.load(str(traced), load_external_data=False)
    state_interface(model.graph, contract)
    tensors = [
        *model.graph.initializer,
        *(a.t for node in model.graph.node for a in node.attribute if a.HasField("t")),
    ]
    external = [tensor for tensor in tensors if tensor.data_location == TensorProto.EXTERNAL]
    if external:  # the tracer's own choice beyond 2 GB: one file already, which needs only the right name
        (name,) = {entry.value for t in external for entry in t.external_data if entry.key == "location"}
        for tensor in external:
            for entry in tensor.external_data:
                if entry.key == "location":
                    entry.value = _DATA_FILE
        (traced.parent / name).replace(out_dir / _DATA_FILE)
        onnx.save(model, str(out_dir / "model.onnx"))
    else:
        save_onnx(model, out_dir)


def save_onnx(
    model: onnx.ModelProto, out_dir: Path, max_file_size: int | None = None, *, rows_apart: bool = False
) -> None:
    """Write model.onnx and its weights, in files of at most `max_file_size` bytes each (or one larger tensor each).

    `rows_apart`: as `name_rows_apart` has it.
    """
    for old in out_dir.glob(f"{_DATA_FILE}*"):
        old.unlink()  # onnx appends to a data file that exists
    number, filled = 0, 0
    for tensor in model.graph.initializer:
        size = size_of(tensor)
        if size < _INLINE:
            continue
        if max_file_size is not None and filled and filled + size > max_file_size:
            number, filled = number + 1, 0
        filled += size
        name = _DATA_FILE if number == 0 else f"{_DATA_FILE}.{number}"
        with (out_dir / name).open("ab") as stream:
            append_to(stream, tensor, name)
    if rows_apart:
        name_rows_apart(model.graph)
    onnx.save(model, str(out_dir / "model.onnx"))


def name_rows_apart(graph: onnx.GraphProto) -> None:
    """Give every table that rows are taken of, and that a product has as well, a second name for the rows.

    In the file of weights it stays one. On the CPU onnxruntime maps the file once for each name. What it packs for a
    product it then lets go of, and of a table it reads those rows only that are taken; under one name all of the table
    would stay in memory beside what was packed. On CUDA the table would be there twice.
    """
    stored = {tensor.name: tensor for tensor in graph.initializer if tensor.data_location == TensorProto.EXTERNAL}
    elsewhere = {name for node in graph.node for name in (node.input[1:] if node.op_type == "Gather" else node.input)}
    for node in graph.node:
        if node.op_type == "Gather" and node.input[0] in stored and node.input[0] in elsewhere:
            name = f"{node.input[0]}/rows"
            if name not in stored:
                stored[name] = graph.initializer.add()
                stored[name].CopyFrom(stored[node.input[0]])
                stored[name].name = name
            node.input[0] = name


def state_interface(graph: onnx.GraphProto, contract: GraphContract) -> None:
    """Replace the traced inputs and outputs, whose axes the tracer knows only in part, by the contract's."""
    kv_type = TensorProto.FLOAT if contract.kv_dtype == "float32" else TensorProto.FLOAT16
    mask: _Spec = (TensorProto.BOOL, [1, 1, "new", "past_and_new"])
    if contract.by_content:
        mask = (TensorProto.BOOL, ["contents", 1, "places", "keys"])
    rows = contract.vocab_size if contract.head_token_ids is None else len(contract.head_token_ids)
    inputs: dict[str, _Spec] = {
        "input_ids": (TensorProto.INT64, [1, "new"]),
        "position_ids": (TensorProto.INT64, [1, "new"]),
        "attention_mask": mask,
        **({"sliding_attention_mask": mask} if contract.sliding_window is not None else {}),
        "logit_positions": (TensorProto.INT64, ["logits"]),
    }
    if contract.by_content:
        inputs["attention_rows"] = (TensorProto.INT64, ["contents", "places"])
        inputs["row_places"] = (TensorProto.INT64, ["new"])
        inputs["key_slots"] = (TensorProto.INT64, ["contents", "keys"])
        inputs["stack_heads"] = (TensorProto.BOOL, [1])
    outputs: dict[str, _Spec] = {"logits": (TensorProto.FLOAT, [1, "logits", rows])}
    if contract.verdict_token_ids is not None:
        inputs["verdict_positions"] = (TensorProto.INT64, ["verdict_logits"])
        columns = len(contract.verdict_token_ids)
        outputs["verdict_logits"] = (TensorProto.FLOAT, [1, "verdict_logits", columns])
        if contract.log_probabilities:
            outputs["log_probabilities"] = (TensorProto.FLOAT, [1, "logits", columns])

    def cached(tokens: str) -> _Spec:
        if contract.by_content:
            return kv_type, [f"{tokens}_heads", contract.head_dim]
        return kv_type, [1, contract.kv_heads, tokens, contract.head_dim]

    for part in contract.cache_parts:
        inputs[f"past_key_values.{part}"] = cached("past")
        if contract.by_content:
            inputs[f"own_key_values.{part}"] = cached("own")
        outputs[f"present.{part}"] = cached("new")
    # The tracer may drop an input that nothing reads (the full mask, if all layers are local); declared all
    # the same.
    graph.name = "tokmarg"
    _replace(graph.input, inputs)
    _replace(graph.output, outputs)


def _replace(values: MutableSequence[ValueInfoProto], wanted: dict[str, _Spec]) -> None:
    unknown = {value.name for value in values} - wanted.keys()
    if unknown:
        raise AssertionError(f"the traced graph has an interface of its own: {sorted(unknown)}")
    del values[:]
    values.extend(helper.make_tensor_value_info(name, *spec) for name, spec in wanted.items())
