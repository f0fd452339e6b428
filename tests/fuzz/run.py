"""Runs cases and says which failed, and how to run one again."""

from __future__ import annotations

import random
import tempfile
import time
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests.fuzz.parsers import PARSERS
from tokmarg.errors import TokmargError

__all__ = ["LIMIT", "case", "failures"]

#: CPU seconds that one case may take.
LIMIT = 5.0


def case(name: str, number: int) -> bytes:
    """The bytes of a case."""
    return PARSERS[name].make(random.Random(f"{name}/{number}"))


def failures(name: str, numbers: Iterable[int]) -> Iterator[str]:
    """Runs the cases of a parser; a line for each that fails."""
    parser = PARSERS[name]
    with tempfile.TemporaryDirectory(prefix="tokmarg-fuzz-") as folder:
        path = Path(folder) / parser.file
        for number in numbers:
            path.write_bytes(case(name, number))
            began = time.process_time()
            try:
                parser.read(path)
                problem = ""
            except TokmargError as error:
                problem = (
                    ""
                    if str(error) and "\n" not in str(error) and len(str(error)) < 4000
                    else f"message {error!r:.200}"
                )
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException as error:  # a panic of a Rust library is no Exception
                where = traceback.extract_tb(error.__traceback__)[-1]
                problem = f"{type(error).__name__}: {error!s:.200} ({Path(where.filename).name}:{where.lineno})"
            if not problem and (seconds := time.process_time() - began) > LIMIT:
                problem = f"took {seconds:.1f} s"
            if problem:
                yield f"{problem}; again: python -m tests.fuzz --parser {name} --case {number}"
