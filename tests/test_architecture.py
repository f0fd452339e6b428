"""The house stands as docs/architecture.md draws it: layers, floors, sizes, and the public names."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from functools import cache
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {"tokmarg": ROOT / "runtime", "tokmarg_export": ROOT / "export"}
FILES = [path for name, folder in PACKAGES.items() for path in sorted((folder / name).rglob("*.py"))]
FILES += sorted((ROOT / "models" / "reference-guard").glob("*.py"))
#: Lines that a module and a function have at most. Each exception says why at the top of its module.
MODULE_LINES, FUNCTION_LINES = 300, 60
LONG_MODULES = {"runtime/tokmarg/guard.py", "runtime/tokmarg/grammar/trie.py"}
LONG_FUNCTIONS = {"runtime/tokmarg/evaluation/calibrate.py:calibrate"}
#: Files that an import chain of tokmarg passes at most.
FLOORS = 21
#: What packages besides ``tokmarg`` itself offer to applications.
PUBLIC = ("tokmarg", "tokmarg.evaluation", "tokmarg.calibration", "tokmarg.explanation", "tokmarg.dataframes")


@cache
def imports() -> dict[str, frozenset[str]]:
    """Module of tokmarg -> modules of tokmarg that it imports; an import of a package's name is one of its __init__."""
    graph = grimp.build_graph("tokmarg", cache_dir=None)
    return {module: frozenset(graph.find_modules_directly_imported_by(module)) for module in graph.modules}


def test_imports_go_downwards() -> None:
    """The contracts of pyproject.toml, type-only imports counted."""
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_there_is_no_circle_and_the_house_has_few_floors() -> None:
    floors: dict[str, list[str]] = {}
    above: list[str] = []

    def chain(module: str) -> list[str]:
        """The longest chain of imports from a module down."""
        assert module not in above, f"circle: {' -> '.join([*above[above.index(module) :], module])}"
        if module not in floors:
            above.append(module)
            floors[module] = [module, *max((chain(below) for below in imports()[module]), key=len, default=[])]
            above.pop()
        return floors[module]

    longest = max((chain(module) for module in imports()), key=len)
    assert len(longest) <= FLOORS, " -> ".join(longest)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_and_functions_are_short(path: Path) -> None:
    text, name = path.read_text(encoding="utf-8"), str(path.relative_to(ROOT))
    lines = text.count("\n")
    assert (lines > MODULE_LINES) == (name in LONG_MODULES), f"{lines} lines"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.end_lineno is not None:
            size = node.end_lineno - node.lineno + 1
            assert (size > FUNCTION_LINES) == (f"{name}:{node.name}" in LONG_FUNCTIONS), f"{node.name}: {size} lines"


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names_are_sorted_and_there(name: str) -> None:
    package = importlib.import_module(name)
    names: list[str] = package.__all__
    assert names == sorted(set(names))
    for each in names:
        assert getattr(package, each) is not None
        module = getattr(getattr(package, each), "__module__", name)
        assert module.split(".")[0] == "tokmarg" or not isinstance(getattr(package, each), type), each


def test_packages_are_listed_for_the_installed_package() -> None:
    """A package that pyproject.toml does not name would be missing from a wheel."""
    import tomllib

    listed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
    packages = {
        ".".join(init.parent.relative_to(folder).parts)
        for name, folder in PACKAGES.items()
        for init in (folder / name).rglob("__init__.py")
    }
    assert packages | {"tokmarg_export.specs_data"} == set(listed)
