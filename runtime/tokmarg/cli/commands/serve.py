"""``tokmarg serve``: guards behind HTTP, for OpenAI's clients and others."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from tokmarg.cli import options
from tokmarg.cli.process.stderr_capture import capture_stderr
from tokmarg.errors import TokmargError
from tokmarg.score_options import ScoreOptions

if TYPE_CHECKING:
    from tokmarg.guard import Guard
    from tokmarg.service.hosting import GuardFiles, HostedGuard

__all__ = ["serve"]

_FILE = click.Path(path_type=Path)


@click.command(short_help="Serve guards over HTTP: OpenAI's moderation API and others.")
@click.option(
    "--bundle",
    "bundles",
    multiple=True,
    metavar="[NAME=]BUNDLE",
    help="Folder, or name of an installed bundle; repeat it for several. [default: $TOKMARG_BUNDLE]",
)
@click.option("--alias", "aliases", multiple=True, metavar="NAME=BUNDLE", help="Another name that clients may ask for.")
@click.option(
    "--categories",
    metavar="native|openai|FILE",
    help="Of /v1/moderations: label ids, OpenAI's, or a table. [default: openai where the specs have it]",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True, metavar="N")
@click.option("--tokens", type=_FILE, metavar="FILE", help="Bearer tokens that may ask, one on each line.")
@click.option("--insecure", is_flag=True, help="Listen on other addresses than this machine's own without --tokens.")
@click.option("--ssl-certfile", metavar="FILE", help="Certificate, for HTTPS.")
@click.option("--ssl-keyfile", metavar="FILE", help="Its key.")
@click.option("--threshold", type=options.Probability(0, 1), metavar="X", help="Flag where P(unsafe) >= X.")
@click.option("--thresholds", type=_FILE, metavar="FILE", help="TOML or JSON: unsafe = X, [labels] S1 = X.")
@options.calibration
@options.score_options("prior", "tolerance", "max_nodes", "on_overflow")
@click.option(
    "--max-tokens",
    type=click.IntRange(min=1),
    default=2048,
    show_default=True,
    metavar="N",
    help="Tokens of one content.",
)
@click.option(
    "--prompt-cache",
    default="64 MB",
    show_default=True,
    metavar="BYTES",
    help="Of earlier prompts, a bundle; 0 for none.",
)
@click.option(
    "--max-waiting",
    type=click.IntRange(1, 2**20),
    default=256,
    show_default=True,
    metavar="N",
    help="Contents that wait.",
)
@click.option(
    "--max-body", type=click.IntRange(min=1), default=2**20, show_default=True, metavar="BYTES", help="Of one request."
)
@click.option(
    "--timeout", type=options.Number(0.001, 86400), default=30.0, show_default=True, metavar="S", help="For an answer."
)
@click.option(
    "--drain",
    type=options.Number(0, 3600),
    default=1.0,
    show_default=True,
    metavar="S",
    help="From SIGTERM to the end of listening.",
)
@options.device
@options.threads
@options.no_verify
def serve(
    bundles: tuple[str, ...],
    aliases: tuple[str, ...],
    categories: str | None,
    host: str,
    port: int,
    tokens: Path | None,
    insecure: bool,
    ssl_certfile: str | None,
    ssl_keyfile: str | None,
    threshold: float | None,
    thresholds: Path | None,
    calibration_file: str | None,
    scoring: ScoreOptions,
    max_tokens: int,
    prompt_cache: str,
    max_waiting: int,
    max_body: int,
    timeout: float,
    drain: float,
    device: Literal["auto", "cpu", "cuda"],
    threads: int | None,
    no_verify: bool,
) -> None:
    """Serve guards over HTTP until SIGTERM or Ctrl-C; accepted requests are answered first.

    POST /v1/moderations (OpenAI's), /v1/score (rows of tokmarg score), /classify (vLLM's) and LiteLLM's generic
    guardrail; GET /v1/models, /metrics, /healthz, /readyz. SIGHUP reads tokens, calibrations and thresholds again.
    """
    _check_usage(threshold, thresholds, ssl_certfile, ssl_keyfile)
    modules = _modules()
    access = modules.access.Access(tokens)
    if tokens is None and not insecure and not modules.access.is_loopback(host):
        raise click.UsageError(f"--host {host}: others can reach it: give --tokens FILE, or --insecure.")
    calibration = options.calibration_argument(calibration_file)
    files = modules.hosting.GuardFiles(calibration, thresholds, threshold)
    load = partial(_load, device=device, threads=threads, verify=not no_verify, calibration=calibration)
    load = partial(load, prompt_cache=None if prompt_cache == "0" else prompt_cache)
    guards = [(name, load(folder)) for name, folder in map(_named, bundles or (None,))]
    if categories is None:
        categories = "openai" if all(guard.spec.openai is not None for _, guard in guards) else "native"
    scoring = replace(scoring, max_tokens=max_tokens)
    hosted = [_hosted(modules, name, guard, files, scoring, categories, max_waiting) for name, guard in guards]
    service = modules.app.Service(
        modules.hosting.GuardHost(hosted, dict(map(_alias, aliases))),
        access,
        modules.exchange.Limits(body=max_body, seconds=timeout),
    )
    listen = modules.server.Listen(host, port, ssl_certfile, ssl_keyfile, drain)
    modules.server.serve(modules.app.application(service), service, listen, timeout)


def _check_usage(threshold: float | None, thresholds: Path | None, certificate: str | None, key: str | None) -> None:
    options.check_thresholds(threshold, thresholds)
    if (certificate is None) != (key is None):
        raise click.UsageError("--ssl-certfile and --ssl-keyfile go together.")


def _modules() -> Any:
    """The package ``tokmarg.service`` with its modules loaded.

    Raises:
        TokmargError: a package that it needs is not installed.
    """
    try:
        from tokmarg import service
        from tokmarg.service import access, app, exchange, hosting, server  # noqa: F401
    except ModuleNotFoundError as error:
        raise TokmargError(
            f'tokmarg serve needs {(error.name or "").partition(".")[0]}: pip install "tokmarg[serve]"'
        ) from None
    return service


def _named(bundle: str | None) -> tuple[str | None, str | None]:
    """Name and folder that a value of ``--bundle`` gives."""
    if bundle is None or os.path.exists(bundle) or "=" not in bundle:
        return None, bundle
    name, _, folder = bundle.partition("=")
    return name, folder


def _alias(value: str) -> tuple[str, str]:
    name, equals, bundle = value.partition("=")
    if not equals or not name or not bundle:
        raise click.UsageError(f"--alias {value}: must be NAME=BUNDLE.")
    return name, bundle


def _load(folder: str | None, **arguments: Any) -> Guard:
    from tokmarg.guard import Guard

    with capture_stderr():
        return Guard.load(folder, **arguments)


def _hosted(
    modules: Any,
    name: str | None,
    guard: Guard,
    files: GuardFiles,
    scoring: ScoreOptions,
    categories: str,
    max_waiting: int,
) -> HostedGuard:
    from tokmarg.openai_format import openai_table
    from tokmarg.service.async_guard import AsyncGuard

    guard, thresholds = files.read(guard)
    hosted: HostedGuard = modules.hosting.HostedGuard(
        name=name or guard.manifest.model_id.rpartition("/")[2],
        guard=AsyncGuard(guard, max_waiting=max_waiting),
        options=replace(scoring, thresholds=thresholds),
        table=openai_table(categories, guard.spec.openai, guard.labels, guard.path),
        files=files,
    )
    hosted.guard.check_options(hosted.options)
    return hosted
