"""``tokmarg inspect``: shows the contents of a bundle, from its manifest."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import click

from tokmarg.bundle.bundle import Bundle
from tokmarg.bundle.installed import find_bundle
from tokmarg.cli.render.terminal import echo, pad, printable
from tokmarg.documents import to_json

__all__ = ["inspect"]


@click.command(short_help="Show what a bundle holds.")
@click.argument("bundle")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def inspect(bundle: str, as_json: bool) -> None:
    """Show what BUNDLE, a folder or the name of an installed bundle, holds. Only its manifest is read."""
    summary = summarise(Bundle.open(find_bundle(bundle)))
    if as_json:
        echo(to_json(summary))
    else:
        for line in describe(summary):
            echo(line)


def summarise(bundle: Bundle) -> dict[str, Any]:
    """The manifest without its bulk: plain types only."""
    manifest = bundle.manifest
    spec = manifest.spec
    graph = asdict(manifest.graph)
    ids = graph.pop("head_token_ids")
    return {
        "schema_version": 1,
        "path": str(bundle.path),
        "model": {
            "id": manifest.model_id,
            "revision": manifest.revision,
            "licence": manifest.licence,
            "architecture": manifest.architecture,
        },
        "precision": manifest.precision,
        "graph_form": manifest.data.get("graph_form"),
        "tokmarg_version": manifest.tokmarg_version,
        "spec": {
            "name": spec.name,
            "title": spec.title,
            "roles": list(spec.roles),
            "labels": [
                {"id": x.id, "title": x.title, "roles": list(x.roles), **({"code": x.code} if x.code else {})}
                for x in spec.labels
            ],
            "fixed": spec.fixed,
            "aggregate": spec.aggregate,
            "events": list(spec.events),
            "leads": list(spec.verdict.leads),
            "terminators": list(spec.verdict.terminators),
        },
        "graph": graph | {"head_tokens": None if ids is None else len(ids)},
        "parity": manifest.data.get("parity"),
        "files": {name: {"sha256": sha256, "size": size} for name, (sha256, size) in manifest.files.items()},
        "size": sum(size for _, size in manifest.files.values()),
    }


def describe(summary: dict[str, Any]) -> list[str]:
    """The summary as lines for people."""
    model, spec, graph = summary["model"], summary["spec"], summary["graph"]
    head = "full vocabulary" if graph["head"] == "full" else f"{graph['head_tokens']:,} verdict tokens"
    window = "" if graph["sliding_window"] is None else f", sliding window {graph['sliding_window']:,}"
    lines = [
        _row("path", summary["path"]),
        _row("model", f"{model['id']} ({model['architecture']})"),
        _row("revision", model["revision"] or "unknown"),
        _row("licence", model["licence"] or "unknown"),
        _row("precision", summary["precision"]),
        *([_row("graph", summary["graph_form"])] if summary["graph_form"] else []),
        _row("written by", f"tokmarg {summary['tokmarg_version']}"),
        _row("context", f"{graph['max_positions']:,} tokens{window}"),
        _row("head", head),
        _row("cache", "{layers} layers, {kv_heads} heads of {head_dim}, {kv_dtype}".format(**graph)),
        _row("spec", f"{spec['name']}: {spec['title']}"),
        _row("judges", ", ".join(spec["roles"])),
        _row("leads", " or ".join(json.dumps(lead) if lead else "none" for lead in spec["leads"])),
        _row("ends with", " or ".join(map(json.dumps, spec["terminators"]))),
        *([_row("asks", "for one label at a time; unsafe = the highest")] if spec["aggregate"] == "max" else []),
        *([_row("also tells", ", ".join(spec["events"]))] if spec["events"] else []),
        "",
        "labels" if spec["labels"] else "no labels",
    ]
    width = max((len(printable(label["id"])) for label in spec["labels"]), default=0)
    for label in spec["labels"]:
        only = "" if set(spec["roles"]) <= set(label["roles"]) else f"  ({', '.join(label['roles'])} only)"
        code = f", written {json.dumps(label['code'])}" if "code" in label else ""
        lines.append(f"  {pad(printable(label['id']), width)}  {printable(label['title'] + code)}{only}")
    if summary["parity"]:
        lines += ["", "parity, measured at export"]
        lines += [f"  {printable(k)}: {printable(json.dumps(v))}" for k, v in summary["parity"].items()]
    lines += ["", "files"]
    lines += [f"  {entry['size']:>14,}  {name}" for name, entry in summary["files"].items()]
    lines.append(f"  {summary['size']:>14,}  bytes in all")
    return lines


def _row(name: str, value: str) -> str:
    return f"{name:<12}{printable(value)}"
