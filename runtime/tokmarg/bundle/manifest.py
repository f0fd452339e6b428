"""Bundle manifest, ``manifest.json``: model, spec, graph contract, precision and checksums of a bundle.

Its JSON Schema is ``manifest.schema.json`` in this package.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from tokmarg.documents import Fields
from tokmarg.errors import BundleError
from tokmarg.grammar.branch_priors import BranchPriors, parse_branch_priors
from tokmarg.prompt.spec import Spec

from .graph_contract import GraphContract

__all__ = ["MANIFEST", "SCHEMA_VERSION", "Manifest"]

MANIFEST = "manifest.json"
SCHEMA_VERSION = 1
_SHA256 = re.compile(r"[0-9a-f]{64}")
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")


@dataclass(frozen=True, slots=True)
class Manifest:
    """Contents of ``manifest.json``.

    Attributes:
        model_id, revision, licence, architecture: of the model that was exported.
        spec: the guard's resolved spec.
        graph: shapes of the graph.
        precision: of the weights, ``fp32`` or ``int8`` say.
        files: name -> (sha256, size in bytes) of every other file.
        tokmarg_version: version that wrote the bundle.
        branch_priors: field ``guesses``, empty if there is none.
        data: the parsed document as written.
    """

    model_id: str
    revision: str | None
    licence: str | None
    architecture: str
    spec: Spec
    graph: GraphContract
    precision: str
    files: Mapping[str, tuple[str, int]]
    tokmarg_version: str
    branch_priors: BranchPriors
    data: Mapping[str, object]

    @classmethod
    def parse(cls, data: object, where: str) -> Manifest:
        """Reads a manifest.

        Raises:
            BundleError: a field is missing, unknown or malformed, or the schema version is not this tokmarg's.
            SpecError: the same, for a field of the spec.
        """
        f = Fields(data, where, BundleError)
        version = f.get("schema_version", int)
        if version != SCHEMA_VERSION:
            raise f.fail("schema_version", f"is {version}; this tokmarg reads {SCHEMA_VERSION}: upgrade or re-export")
        known = ["schema_version", "tokmarg_version", "model", "spec", "graph", "graph_form", "precision", "parity"]
        f.only([*known, "guesses", "files"])
        model = f.table("model")
        model.only(["id", "revision", "licence", "architecture"])
        f.get("graph_form", str, None)
        parity = f.table("parity", {})
        for name, figure in parity.data.items():
            if isinstance(figure, (bool, dict, list)):
                raise parity.fail(name, "must be a number, a string or null")
        files = _parse_files(f)
        return cls(
            model_id=model.get("id", str),
            revision=model.get("revision", str, None),
            licence=model.get("licence", str, None),
            architecture=model.get("architecture", str),
            spec=Spec.parse(f.get("spec", dict), where),
            graph=GraphContract.parse(f.table("graph")),
            precision=f.get("precision", str),
            files=files,
            tokmarg_version=f.get("tokmarg_version", str),
            branch_priors=parse_branch_priors(f),
            data=dict(f.data),
        )


def _parse_files(f: Fields) -> dict[str, tuple[str, int]]:
    """Reads ``files``: name -> (sha256, size in bytes)."""
    table, files = f.table("files"), {}
    for name in table.data:
        if not _FILE_NAME.fullmatch(name) or name == MANIFEST:
            raise table.fail(f"{name!r:.60}", "is not a plain file name inside the bundle")
        entry = table.table(name)
        entry.only(["sha256", "size"])
        sha256, size = entry.get("sha256", str), entry.get("size", int)
        if not _SHA256.fullmatch(sha256):
            raise entry.fail("sha256", f"must be 64 hexadecimal digits in lower case, not {sha256!r:.60}")
        if size < 0:
            raise entry.fail("size", f"must not be negative, but is {size}")
        files[name] = (sha256, size)
    for name in ("model.onnx", "tokenizer.json", "prefix.safetensors"):
        if name not in files:
            raise f.fail(f"files.{name}", "is missing")
    return files
