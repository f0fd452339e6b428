"""From a loaded model to a bundle folder: spec, graph, policy prefix, manifest, parity."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from safetensors.numpy import save_file
from transformers import PreTrainedModel

from tokmarg import __version__
from tokmarg.bundle.graph_contract import GraphContract
from tokmarg.bundle.manifest import MANIFEST, SCHEMA_VERSION
from tokmarg.bundle.new_bundle import new_bundle
from tokmarg.bundle.replaceable import check_output
from tokmarg.engine.prefix import shared_tokens
from tokmarg.errors import ContentError, TokmargError
from tokmarg.grammar.trie import Trie
from tokmarg.guard import Guard
from tokmarg.loading import build_tries, prompt_builder_of
from tokmarg.prompt.builder import Prompt, PromptBuilder, PromptKey
from tokmarg.prompt.messages import Message
from tokmarg.prompt.spec import Spec
from tokmarg.prompt.windows import longest
from tokmarg.tokenizer import Encoder
from tokmarg_export.graph.contract import ROUNDED, Precision, graph_contract
from tokmarg_export.graph.export import export_graph
from tokmarg_export.model.loaded_model import LoadedModel
from tokmarg_export.model.stored_parameters import is_stored
from tokmarg_export.quantization.input_statistics import CalibrationPrompt

from .branch_priors import mean_branch_shares
from .errors import ExportError
from .half_precision import check_half_precision
from .parity import PROBES, Parity, measure_parity, probe_prompts
from .policy_prefix import PREFIX_FILE, write_prefix, write_prefix_of_graph
from .progress import Progress, Silent

__all__ = ["build_bundle"]

#: Calibration texts that branch priors are measured on, at most: means change little beyond.
_PRIOR_TEXTS = 200
_SILENT = Silent()


def build_bundle(
    loaded: LoadedModel,
    resolved: dict[str, Any],
    out: Path,
    *,
    precision: Precision = "fp32",
    head: Literal["full", "verdict"] = "full",
    max_file_size: int | None = None,
    verify: bool = True,
    force: bool = False,
    texts: Sequence[Sequence[Message]] | None = None,
    progress: Progress = _SILENT,
) -> Parity | None:
    """Writes a bundle to folder ``out``; the folder appears only when it is whole.

    Args:
        loaded: the model.
        resolved: its resolved spec, see ``tokmarg_export.spec_library``.
        precision: of the graph's weights, keys and values.
        max_file_size: of a file of weights, in bytes; None = one file.
        head: ``full`` vocabulary, or only the rows of tokens that the verdict grammar uses.
        verify: compare with PyTorch and record the figures.
        force: replace the bundle at ``out``.
        texts: calibration conversations: the manifest keeps the branch priors of their verdicts, and int8 and int4
            weights are rounded for them; None = neither.
        progress: is told of each stage.

    Returns:
        the parity figures, or None without ``verify``.

    Raises:
        ExportError: ``out`` cannot be written or holds something else than a bundle, the grammar does not compile for
            the tokenizer, the precision does not hold the model's numbers, or parity is out of bounds.
    """
    check_output(out, loaded.sources, force=force)
    progress("compiling the verdict grammar for the tokenizer")
    prompt_builder, tries = _compile(loaded, resolved)
    contract = _contract(loaded, tries, precision, head)
    prompts = _calibration_prompts(prompt_builder, texts or ())  # in all precisions: a text may be unfit to be scored
    _check_range(loaded, prompt_builder, precision)
    with new_bundle(out, loaded.sources, force=force) as new:
        rounds, stored = precision in ROUNDED, is_stored(loaded.model)
        unrounded = new.scratch / "unrounded" if rounds and not stored else None  # which takes memory for all layers
        form = _write_graph(loaded, new.folder, contract, precision, max_file_size, prompts, unrounded, progress)
        (new.folder / "tokenizer.json").write_text(loaded.tokenizer_json, encoding="utf-8")
        manifest = _manifest(loaded, resolved, contract, precision, form)
        try:
            progress("computing the policy prefix")
            _add_prefix(new.folder, manifest, prompt_builder, unrounded, loaded.model if rounds and stored else None)
            _add_priors(new.folder, manifest, texts or (), progress)
            parity = None
            if verify:
                progress(f"comparing with PyTorch on {len(PROBES)} texts")
                parity = measure_parity(new.folder, loaded, prompt_builder, tries, share=progress.share)
                parity.check(precision)
                _write_manifest(new.folder, manifest | {"parity": asdict(parity)})
        except TokmargError as error:
            raise ExportError(str(error)) from error
        new.finish()
    return parity


def _compile(loaded: LoadedModel, resolved: dict[str, Any]) -> tuple[PromptBuilder, dict[PromptKey, Trie]]:
    """The prompts and verdict tries of the spec; checks that the grammar compiles without ambiguity."""
    try:
        spec = Spec.parse(resolved, str(resolved.get("name", "spec")))
        prompt_builder = prompt_builder_of(spec, Encoder(loaded.tokenizer_json), loaded.max_positions)
        for role in spec.roles:
            if len(prompt_builder.prefix_ids(role)) >= prompt_builder.max_tokens:
                raise ExportError(
                    f"the policy takes {len(prompt_builder.prefix_ids(role)):,} tokens; {loaded.model_id} has room for "
                    f"{prompt_builder.max_tokens:,}"
                )
        tries = build_tries(prompt_builder)
        for trie in tries.values():
            trie.check()
    except TokmargError as error:
        raise ExportError(str(error)) from error
    return prompt_builder, tries


def _check_range(loaded: LoadedModel, prompt_builder: PromptBuilder, precision: Precision) -> None:
    """Refuses half precision for numbers that it does not hold."""
    if precision == "fp16":
        check_half_precision(loaded.model, [prompt.token_ids for prompt in chain(*probe_prompts(prompt_builder))])


def _contract(
    loaded: LoadedModel, tries: dict[PromptKey, Trie], precision: Precision, head: Literal["full", "verdict"]
) -> GraphContract:
    """The graph's contract, with the verdict tokens of the tries."""
    tokens = tuple(sorted({token for trie in tries.values() for token in trie.vocabulary()}))
    head_ids = tokens if head == "verdict" else None
    contract = graph_contract(loaded.model, head_token_ids=head_ids, precision=precision, verdict_token_ids=tokens)
    if out_of_range := [t for t in tokens if t >= contract.vocab_size]:
        raise ExportError(f"verdict token {out_of_range[0]} lies outside the model's {contract.vocab_size} outputs")
    return contract


def _write_graph(
    loaded: LoadedModel,
    folder: Path,
    contract: GraphContract,
    precision: Precision,
    max_file_size: int | None,
    prompts: Sequence[CalibrationPrompt],
    unrounded: Path | None,
    progress: Progress,
) -> str:
    """Writes the graph and its weights; returns the manifest's ``graph_form``."""
    prompts = prompts if precision in ROUNDED else []
    rounding = f", rounded for {len(prompts)} prompts" if prompts else ""
    progress(f"writing the graph ({precision}, {contract.head} head{rounding})")
    return export_graph(
        loaded.model,
        folder,
        head_token_ids=contract.head_token_ids,
        precision=precision,
        max_file_size=max_file_size,
        verdict_token_ids=contract.verdict_token_ids,
        prompts=prompts or None,
        unrounded=unrounded,
        share=progress.share,
    )


def _manifest(
    loaded: LoadedModel, resolved: dict[str, Any], contract: GraphContract, precision: Precision, form: str
) -> dict[str, Any]:
    """The manifest without its files and figures."""
    return {
        "schema_version": SCHEMA_VERSION,
        "tokmarg_version": __version__,
        "model": {
            "id": loaded.model_id,
            "revision": loaded.revision,
            "licence": loaded.licence,
            "architecture": loaded.model.config.model_type,
        },
        "spec": resolved,
        "graph": asdict(contract),
        "precision": precision,
        "graph_form": form,
        "parity": {},
    }


def _calibration_prompts(prompt_builder: PromptBuilder, texts: Sequence[Sequence[Message]]) -> list[CalibrationPrompt]:
    prompts = [prompt for number, text in enumerate(texts, 1) for prompt in _prompts(prompt_builder, text, number)]
    return [(each.token_ids, shared_tokens(prompt_builder.prefix_ids(each.role), each.token_ids)) for each in prompts]


def _prompts(prompt_builder: PromptBuilder, text: Sequence[Message], number: int) -> tuple[Prompt, ...]:
    too_long = f"typical text {number} is too long: with the prompt it may take {prompt_builder.max_tokens:,} tokens"
    try:
        prompts = prompt_builder.prompts(text)
    except ContentError as error:
        raise ExportError(
            too_long if error.type == "content_too_long" else f"typical text {number} cannot be scored: {error}"
        ) from None
    if longest(prompts) > prompt_builder.max_tokens:
        raise ExportError(too_long)
    return prompts


def _add_prefix(
    folder: Path,
    manifest: dict[str, Any],
    prompt_builder: PromptBuilder,
    unrounded: Path | None,
    model: PreTrainedModel | None,
) -> None:
    """The policy prefix: of PyTorch's ``model`` where that is given, else of a graph."""
    save_file({}, folder / PREFIX_FILE)
    _write_manifest(folder, manifest)
    if model is None:
        write_prefix_of_graph(folder, prompt_builder, unrounded)
    else:
        write_prefix(folder, prompt_builder, model, rotated=manifest["graph"]["by_content"])
    _write_manifest(folder, manifest)


def _add_priors(folder: Path, manifest: dict[str, Any], texts: Sequence[Sequence[Message]], progress: Progress) -> None:
    """Branch priors of texts, where there are some."""
    if texts:
        progress("asking the guard what it usually says")
        manifest["guesses"] = _branch_priors(Guard.load(folder, device="cpu", verify=False), texts)
        _write_manifest(folder, manifest)


def _branch_priors(guard: Guard, texts: Sequence[Sequence[Message]]) -> list[list[float]]:
    sample = random.Random(0).sample(texts, min(len(texts), _PRIOR_TEXTS))
    contents = [[{"role": each.role, "content": each.content} for each in text] for text in sample]
    return mean_branch_shares(guard, contents)


def _write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    files = {}
    for path in sorted(folder.iterdir()):
        if path.name != MANIFEST:
            with path.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
            files[path.name] = {"sha256": digest, "size": path.stat().st_size}
    document = json.dumps({**manifest, "files": files}, indent=2, ensure_ascii=False)
    (folder / MANIFEST).write_text(document + "\n", encoding="utf-8")
