"""``tokmarg bundles``: lists the installed bundles, which ``--bundle NAME`` can name."""

from __future__ import annotations

import os

import click

from tokmarg.bundle.bundle import Bundle
from tokmarg.bundle.installed import find_bundle, installed_bundles
from tokmarg.cli.render.terminal import echo, pad, printable
from tokmarg.errors import BundleNotFoundError, TokmargError

__all__ = ["bundles"]


@click.command(short_help="List the installed bundles.")
def bundles() -> None:
    """List the installed bundles: name, model, folder. A star marks the one that is used without --bundle."""
    installed = installed_bundles()
    try:
        default = find_bundle(None)
    except BundleNotFoundError as error:
        default = None
        click.echo(printable(str(error)), err=True)
    if default is not None and default not in installed.values():
        installed = {"$TOKMARG_BUNDLE": default, **installed}
    if not installed:
        return
    models = {name: _model(folder) for name, folder in installed.items()}
    name_width, model_width = max(map(len, installed)), max(map(len, models.values()))
    for name, folder in installed.items():
        mark = "*" if folder == default else " "
        row = f"{mark} {pad(printable(name), name_width)}  {pad(models[name], model_width)}  {folder}"
        echo(row)


def _model(folder: str | os.PathLike[str]) -> str:
    try:
        return printable(Bundle.open(folder).manifest.model_id)
    except TokmargError as error:
        return f"broken: {printable(str(error))}"
