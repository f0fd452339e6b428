"""The reference guard's folder: where its bundle lies, and import of its scripts, which are no package."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

FOLDER = Path(__file__).parents[2] / "models" / "reference-guard"
BUNDLE = FOLDER / "src" / "tokmarg_reference_guard"


@contextmanager
def script(name: str) -> Iterator[ModuleType]:
    """A script of the folder as a module, forgotten afterwards with all that it imports from beside it."""
    sys.path.insert(0, str(FOLDER))
    try:
        yield importlib.import_module(name)
    finally:
        sys.path.remove(str(FOLDER))
        for path in FOLDER.glob("*.py"):
            sys.modules.pop(path.stem, None)
