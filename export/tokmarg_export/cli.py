"""The command ``tokmarg-export``."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import click

from tokmarg import __version__
from tokmarg.bundle.replaceable import Source, check_output
from tokmarg.errors import ContentError, TokmargError
from tokmarg.prompt.messages import Message, messages_of
from tokmarg.records import format_of, read_records
from tokmarg.termination import ended_by_signals
from tokmarg_export.model.source import local_path

from .errors import ExportError
from .progress import Progress
from .spec_library import choose_spec, list_specs, resolve_spec, spec_title

if TYPE_CHECKING:  # loading pulls in torch
    from tokmarg_export.graph.contract import Precision

    from .parity import Parity

__all__ = ["main"]


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, package_name="tokmarg")
@click.argument("model")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Folder of the new bundle.")
@click.option(
    "--spec",
    metavar="NAME|FILE",
    help="Guard family: a name (--list-specs) or a TOML file. Default: the family whose name matches MODEL, else "
    "'instruct', which turns any instruct model into a guard by its policy.",
)
@click.option(
    "--policy",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="TOML or JSON file: [[labels]] (id, name, definition) that replace the spec's, or exclude = [ids].",
)
@click.option("--precision", type=click.Choice(["fp32", "fp16", "int8", "int4"]), default="fp32", show_default=True)
@click.option(
    "--texts",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Typical contents (.jsonl, .csv or .txt, as for tokmarg score), a hundred or so: what the guard usually says "
    "of those is kept, which makes scoring faster, and int8 and int4 weights are rounded so that they are computed "
    "best.",
)
@click.option(
    "--text-field",
    default="text",
    show_default=True,
    metavar="NAME",
    help="CSV column or JSONL field of --texts with the text.",
)
@click.option(
    "--max-file-size", type=click.IntRange(min=1), metavar="MB", help="Split the weights into files of this size."
)
@click.option(
    "--head",
    type=click.Choice(["full", "verdict"]),
    default="full",
    show_default=True,
    help="Output layer: all rows, or only those of verdict tokens (smaller, but no coverage).",
)
@click.option("--gguf-file", metavar="F", help="The GGUF file to take from MODEL (a folder or hub id).")
@click.option(
    "--adapter",
    "adapters",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="DIR",
    help="PEFT LoRA to merge first; several are merged in their order.",
)
@click.option("--model-id", metavar="ID", help="The model's name in results. [default: MODEL's own]")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True, help="Where to export.")
@click.option("--no-verify", is_flag=True, help="Skip the comparison with PyTorch.")
@click.option("--force", is_flag=True, help="Replace the bundle at the output folder; nothing else is replaced.")
@click.option(
    "--list-specs",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=lambda *arguments: _list_specs(*arguments),
    help="List the guard families and exit.",
)
def export(
    model: str,
    output: Path,
    spec: str | None,
    policy: Path | None,
    precision: str,
    texts: Path | None,
    text_field: str,
    max_file_size: int | None,
    head: str,
    gguf_file: str | None,
    adapters: tuple[Path, ...],
    model_id: str | None,
    device: str,
    no_verify: bool,
    force: bool,
) -> None:
    """Turn a guard into a bundle for tokmarg.

    MODEL is a GGUF file, a Hugging Face folder, a hub id, or an installed Python package that carries a GGUF file.
    """
    check_output(output, _sources(model, gguf_file, adapters, spec, policy, texts), force=force)
    conversations = None if texts is None else _read_texts(texts, text_field)
    progress = Progress(4 + (texts is not None) + (not no_verify))
    progress(f"loading {model}")
    _check_device(device)
    from tokmarg_export.model.huggingface import load_model
    from tokmarg_export.model.stored_parameters import read_all

    from .bundle_writer import build_bundle

    loaded = load_model(model, gguf_file=gguf_file, adapters=adapters)
    if model_id is not None:
        loaded = replace(loaded, model_id=model_id)
    data, where = choose_spec(spec, loaded.model_id)
    resolved = resolve_spec(data, where, loaded, policy)
    if device != "cpu":
        read_all(loaded.model)
        loaded.model.to(device)
    parity = build_bundle(
        loaded,
        resolved,
        output,
        precision=cast("Precision", precision),
        max_file_size=None if max_file_size is None else max_file_size * 1_000_000,
        head=cast(Literal["full", "verdict"], head),
        verify=not no_verify,
        force=force,
        texts=conversations,
        progress=progress,
    )
    progress.done()
    size = sum(path.stat().st_size for path in output.iterdir())
    click.echo(f"{output}: {loaded.model_id}, spec {resolved['name']}, {precision}, {head} head, {size / 1e6:.0f} MB")
    if parity is not None:
        _print_parity(parity)


def _sources(
    model: str,
    gguf_file: str | None,
    adapters: tuple[Path, ...],
    spec: str | None,
    policy: Path | None,
    texts: Path | None,
) -> list[Source]:
    """All that an export reads and that is named on the command line."""
    named = [("the model", local_path(model, gguf_file))]
    named += [("an adapter", adapter) for adapter in adapters]
    if spec is not None and spec not in list_specs():
        named.append(("the spec", Path(spec)))
    return named + [(what, path) for what, path in (("the policy", policy), ("the texts", texts)) if path is not None]


def _check_device(device: str) -> None:
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise ExportError("--device cuda: PyTorch finds no CUDA device here")


def _read_texts(path: Path, text_field: str) -> list[list[Message]]:
    """The conversations of a file.

    Raises:
        ExportError: it cannot be read, or a record is broken; names the record.
    """
    form = format_of(path.name)
    if form is None:
        raise ExportError(f"{path}: its extension names no format (.jsonl .ndjson .csv .txt)")
    found = []
    try:
        with path.open("rb") as stream:
            for number, record in enumerate(read_records(stream, form, text_field=text_field), 1):
                try:
                    if isinstance(record, ContentError):
                        raise record
                    found.append(list(messages_of(record.content, record.role)))
                except ContentError as error:
                    raise ExportError(f"{path}: record {number}: {error}") from None
    except TokmargError as error:  # no such column
        raise ExportError(f"{path}: {error}") from None
    if not found:
        raise ExportError(f"{path}: holds no texts")
    return found


def _print_parity(parity: Parity) -> None:
    difference, mean = parity.max_probability_difference, parity.mean_probability_difference
    click.echo(
        f"difference from {parity.reference}: {difference:.1e} at most, {mean:.1e} on average, "
        f"over {parity.nodes} trie nodes"
    )


def _list_specs(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if not value or ctx.resilient_parsing:
        return
    for name in list_specs():
        click.echo(f"{name:24} {spec_title(name)}")
    ctx.exit()


def main() -> None:
    """Entry point: one clear line and exit code 1 for whatever goes wrong."""
    try:
        with ended_by_signals():
            export(prog_name="tokmarg-export")
    except (ExportError, TokmargError) as error:
        message = str(error)
    except OSError as error:
        message = str(error) if error.filename is None else f"{error.filename}: {error.strerror}"
    except ImportError as error:
        message = f'{error.name} is not installed: pip install "tokmarg[export]"'
    except MemoryError:
        message = "out of memory: docs/precision.md says what exporting needs"
    except Exception as error:
        if os.environ.get("TOKMARG_DEBUG"):
            raise
        message = f"unexpected {type(error).__name__}: {error} (TOKMARG_DEBUG=1 shows the traceback; please report it)"
    click.echo(f"Error: {' '.join(message.splitlines())}", err=True)
    sys.exit(1)
