"""Writes a conformance set: what tokmarg gives for hostile contents with one bundle, number by number.

    python examples/conformance/make_set.py BUNDLE -o SET.json

README.md beside this file says what is in a set. A set of any bundle can be made; it needs nothing but tokmarg.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokmarg
from tokmarg import ContentError, Guard

CONTENTS = Path(__file__).parent / "contents.json"
#: Version of the set's own form.
SET_VERSION = 1


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("bundle", type=Path, help="folder of the bundle")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the set to write")
    parser.add_argument("--contents", type=Path, default=CONTENTS, help="JSON list of {id, about, content}")
    parser.add_argument("--tolerance", type=float, default=1e-6, help="width of the widest interval (default 1e-6)")
    parser.add_argument("--max-nodes", type=int, default=64, help="nodes expanded for a prompt (default 64)")
    options = parser.parse_args()
    contents = json.loads(options.contents.read_text(encoding="utf-8"))
    made = make_set(options.bundle, contents, tolerance=options.tolerance, max_nodes=options.max_nodes)
    options.output.write_text(as_text(made), encoding="utf-8")


def make_set(
    bundle: Path, contents: list[dict[str, Any]], *, tolerance: float = 1e-6, max_nodes: int = 64
) -> dict[str, Any]:
    """The set of a bundle.

    Args:
        bundle: its folder.
        contents: each with ``id``, ``about`` and ``content``, a text or messages.
        tolerance, max_nodes: how far each prompt's tree is expanded.
    """
    guard = Guard.load(bundle, device="cpu", calibration=False)
    manifest = (bundle / "manifest.json").read_bytes()
    return {
        "set_version": SET_VERSION,
        "bundle_schema_version": json.loads(manifest)["schema_version"],
        "tokmarg_version": tokmarg.__version__,
        "model": guard.manifest.model_id,
        "precision": guard.manifest.precision,
        "manifest_sha256": hashlib.sha256(manifest).hexdigest(),
        "search": {"tolerance": tolerance, "max_nodes": max_nodes},
        "cases": [case | outcome(guard, case["content"], tolerance, max_nodes) for case in contents],
    }


def outcome(guard: Guard, content: Any, tolerance: float, max_nodes: int) -> dict[str, Any]:
    """What a content gives: the error, or prompts and probabilities."""
    (searched,) = guard.unfold([content], tolerance=tolerance, max_nodes=max_nodes)
    if isinstance(searched, ContentError):
        return {"error": searched.type}
    prompts, unsafe, labels = [], [0.0, 0.0], {}
    for prompt, trie, search in searched:
        marginals = search.result()
        bounds = {event: [each.lower, each.upper] for event, each in marginals.bounds.items()}
        prompts.append(
            {
                "role": prompt.role,
                "label": prompt.label,
                "token_ids": list(prompt.token_ids),
                "coverage": marginals.coverage,
                "nodes": nodes_of(search.leaves()),
            }
        )
        unsafe = [max(pair) for pair in zip(unsafe, bounds["unsafe"], strict=True)]
        if prompt.label is not None:
            labels[prompt.label] = bounds["unsafe"]
        else:
            labels = {label.id: bounds[label.id] for label in trie.grammar.labels}
    return {"prompts": prompts, "unsafe": unsafe, "labels": labels}


def nodes_of(leaves: Any) -> list[dict[str, Any]]:
    """The expanded nodes with a choice, by their paths: log-probabilities of the allowed tokens, renormalised.

    Args:
        leaves: (mass, node) of complete verdicts and open nodes.
    """
    below: Mapping[tuple[int, ...], dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for mass, leaf in leaves:
        for depth in range(leaf.depth):
            below[leaf.path[:depth]][leaf.path[depth]].append(mass)
    nodes = []
    for path in sorted(below):
        masses = {token: math.fsum(below[path][token]) for token in sorted(below[path])}
        if len(masses) > 1:
            total = math.fsum(masses.values())
            logs = {str(token): math.log(mass / total) if mass else None for token, mass in masses.items()}
            nodes.append({"path": list(path), "log_probabilities": logs})
    return nodes


def as_text(made: dict[str, Any]) -> str:
    """A set as JSON: ASCII, one case a line, numbers with 9 significant digits."""
    head = {key: value for key, value in made.items() if key != "cases"}
    lines = ",\n".join(json.dumps(_rounded(case)) for case in made["cases"])
    return f'{json.dumps(head)[:-1]}, "cases": [\n{lines}\n]}}\n'


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.9g}")
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    return [_rounded(each) for each in value] if isinstance(value, list) else value


if __name__ == "__main__":
    main()
