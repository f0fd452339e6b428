"""``tokmarg bench``: measures latency, throughput, memory and cold start of a bundle on this machine."""

from __future__ import annotations

import json
from typing import Any

import click

from tokmarg.bundle.bundle import Bundle
from tokmarg.bundle.installed import find_bundle
from tokmarg.cli import options
from tokmarg.cli.benchmark import measure
from tokmarg.cli.render.benchmark import describe
from tokmarg.cli.render.terminal import echo, printable

__all__ = ["bench"]


@click.command(short_help="Measure speed and memory on this machine.")
@options.bundle
@options.device
@options.threads
@click.option(
    "--seconds",
    type=options.Number(0, 24 * 3600, min_open=True),
    default=20.0,
    show_default=True,
    metavar="X",
    help="Time to measure for, cold starts aside.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def bench(bundle: str | None, device: Any, threads: int | None, seconds: float, as_json: bool) -> None:
    """Measure what this machine gives with a bundle, on made-up messages of about 40 tokens.

    One message after the other, with all labels and with P(unsafe) alone; many packed together; memory against
    the bundle's size; a fresh process up to its first result; and the share that packed scoring reaches of what
    the machine multiplies at most, in a product of matrices at the bundle's precision.
    """
    figures = measure(Bundle.open(find_bundle(bundle)), device, threads, seconds)
    if as_json:
        echo(json.dumps(figures))
    else:
        for line in describe(figures):
            echo(printable(line))
