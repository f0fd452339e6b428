"""The command line: ``tokmarg``, one module per command.

Results go to stdout, everything else to stderr. Modules that load slowly (onnxruntime, tokenizers) are
imported inside the commands that need them, so that ``tokmarg --help`` does not wait for them.
"""

from __future__ import annotations

import click

from .. import __version__
from .bench import bench
from .bundles import bundles
from .calibrate import calibrate
from .evaluate import evaluate
from .explain import explain
from .failures import CommandLine
from .inspect import inspect
from .score import score
from .verify import verify

__all__ = ["main"]


@click.group(cls=CommandLine, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="%(prog)s %(version)s")
def main() -> None:
    """Per-label probabilities from generative guard models, offline.

    Exit codes: 0 done (records that could not be scored are rows of the output and counted on stderr); 1
    failed, or no record could be scored; 2 wrong usage; 3 flagged, with --fail-on-flagged; 130 interrupted;
    141 the reader of the output went away.
    """


for command in (score, explain, evaluate, calibrate, bench, bundles, inspect, verify):
    main.add_command(command)
