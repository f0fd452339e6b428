"""The command line: ``tokmarg``, one module per command.

Results go to stdout, everything else to stderr. Modules that load slowly (onnxruntime, tokenizers) are
imported inside the commands that need them, so that ``tokmarg --help`` does not wait for them.
"""

from __future__ import annotations

import click

from tokmarg.cli.commands.bench import bench
from tokmarg.cli.commands.bundles import bundles
from tokmarg.cli.commands.calibrate import calibrate
from tokmarg.cli.commands.evaluate import evaluate
from tokmarg.cli.commands.explain import explain
from tokmarg.cli.commands.inspect import inspect
from tokmarg.cli.commands.score import score
from tokmarg.cli.commands.serve import serve
from tokmarg.cli.commands.verify import verify
from tokmarg.cli.process.command_line import CommandLine
from tokmarg.version import VERSION

__all__ = ["main"]


@click.group(cls=CommandLine, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(VERSION, message="%(prog)s %(version)s")
def main() -> None:
    """Per-label probabilities from generative guard models, offline.

    Exit codes: 0 done (records that could not be scored are rows of the output and counted on stderr); 1
    failed, or no record could be scored; 2 wrong usage; 3 flagged, with --fail-on-flagged; 130 interrupted;
    141 the reader of the output went away.
    """


for command in (score, serve, explain, evaluate, calibrate, bench, bundles, inspect, verify):
    main.add_command(command)
