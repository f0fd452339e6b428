"""``python -m tests.fuzz``: as many cases as wanted, of all parsers or one; or one case, to look into."""

from __future__ import annotations

import sys

import click

from tests.fuzz.parsers import PARSERS
from tests.fuzz.run import case, failures


@click.command()
@click.option("--cases", default=10_000, show_default=True, help="Cases of all parsers together.")
@click.option("--start", default=0, show_default=True, help="Number of the first case.")
@click.option("--parser", type=click.Choice(list(PARSERS)), help="Of this parser only.")
@click.option("--case", "number", type=int, help="Write the bytes of one case to stdout and run it.")
def main(cases: int, start: int, parser: str | None, number: int | None) -> None:
    """Fuzzes the parsers of files that others wrote."""
    names = [parser] if parser else list(PARSERS)
    if number is not None:
        if parser is None:
            raise click.UsageError("--case needs --parser.")
        sys.stdout.buffer.write(case(parser, number) + b"\n")
        numbers = range(number, number + 1)
    else:
        numbers = range(start, start + -(-cases // len(names)))
    failed = 0
    for name in names:
        for line in failures(name, numbers):
            failed += 1
            click.echo(f"{name}: {line}", err=True)
    click.echo(f"{len(numbers) * len(names):,} cases, {failed} failed", err=True)
    sys.exit(1 if failed else 0)


main()
