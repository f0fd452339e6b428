"""``tokmarg verify``: checks a bundle's files, and that graph, tokenizer and prefix fit the manifest."""

from __future__ import annotations

import click

from tokmarg.bundle.bundle import Bundle
from tokmarg.bundle.installed import find_bundle
from tokmarg.bundle.manifest import MANIFEST
from tokmarg.cli.io.load_progress import guard_loading
from tokmarg.cli.render.terminal import echo

__all__ = ["verify"]


@click.command(short_help="Check a bundle's files and graph.")
@click.argument("bundle")
def verify(bundle: str) -> None:
    """Check BUNDLE, a folder or the name of an installed bundle.

    First the sha256 of every file, then that the graph loads and that graph, tokenizer and policy prefix fit
    the manifest. Nothing is scored.
    """
    opened = Bundle.open(find_bundle(bundle))
    echo(f"ok  {MANIFEST}")
    for name in opened.manifest.files:
        opened.verify_file(name)
        echo(f"ok  {name}")

    from tokmarg.guard import Guard

    with guard_loading():
        Guard.load(opened.path, device="cpu", verify=False)
