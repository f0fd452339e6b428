"""The bundle on disk: a folder of data, nothing executable.

    manifest.json        what is in the folder and how to use it (schema: manifest.schema.json in this package)
    model.onnx (+ .data) the graph
    tokenizer.json       for the `tokenizers` library
    prefix.safetensors   key/value cache of the policy prefix per role mode: "{role}.token_ids" int64 [P] and
                         "{role}.{layer}.key" / ".value" [1, kv_heads, P, head_dim]

Loading checks the manifest, sizes and sha256 sums, and refuses files outside the folder.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, cast

from tokmarg.documents import Fields, strict_json
from tokmarg.errors import BundleError, BundleNotFoundError
from tokmarg.prompt.spec import Spec
from tokmarg.scoring.speculation import Guesses, parse_guesses

__all__ = ["DEFAULT_BUNDLE", "MANIFEST", "Bundle", "GraphContract", "Manifest", "find_bundle", "installed_bundles"]

MANIFEST = "manifest.json"
SCHEMA_VERSION = 1
DEFAULT_BUNDLE = "reference-guard"
ENTRY_POINTS = "tokmarg.bundles"
_MAX_MANIFEST = 16 * 2**20
_SHA256 = re.compile(r"[0-9a-f]{64}")
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")


@dataclass(frozen=True, slots=True)
class GraphContract:
    """Shapes of the graph; see the README's bundle section.

    Attributes:
        layers, kv_heads, head_dim: of the key/value cache.
        vocab_size: columns of a ``full`` head.
        head: ``full`` or ``verdict``.
        head_token_ids: token id of each column of a ``verdict`` head, else None.
        kv_dtype: dtype of keys and values.
        sliding_window: tokens that local layers see; set if and only if some layer is local, that is if the graph has
            the input ``sliding_attention_mask``.
        max_positions: the model's context window in tokens.
        verdict_token_ids: of a ``full`` head: token id of each column of a second, small output layer, for positions
            where only verdict tokens matter (input ``verdict_positions``, output ``verdict_logits``); None if the graph
            has none.
        by_content: attention takes each content of a pass by itself (inputs ``attention_rows``, ``row_places``,
            ``key_slots``, ``stack_heads`` and ``own_key_values``), so that its sums do not depend on its company. Set
            where rounding behind them would let it show.
    """

    layers: int
    kv_heads: int
    head_dim: int
    vocab_size: int
    head: Literal["full", "verdict"]
    head_token_ids: tuple[int, ...] | None
    kv_dtype: Literal["float32", "float16"]
    sliding_window: int | None
    max_positions: int
    verdict_token_ids: tuple[int, ...] | None = None
    by_content: bool = False

    @property
    def columns(self) -> dict[int, int] | None:
        """Token id -> logits column of a ``verdict`` head; None for ``full``."""
        if self.head_token_ids is None:
            return None
        return {token: i for i, token in enumerate(self.head_token_ids)}

    @property
    def cache_parts(self) -> tuple[str, ...]:
        """What each tensor of a cache is called behind ``past_key_values.`` and its like."""
        layers = range(self.layers)
        if self.by_content:
            return tuple(map(str, layers))
        return tuple(f"{i}.{part}" for i in layers for part in ("key", "value"))

    def cache_shape(self, tokens: int) -> tuple[int, ...]:
        """Of each tensor of a cache; ``by_content`` has the heads of keys, then those of values, token by token."""
        if self.by_content:
            return (tokens * 2 * self.kv_heads, self.head_dim)
        return (1, self.kv_heads, tokens, self.head_dim)

    @classmethod
    def parse(cls, f: Fields) -> GraphContract:
        """Reads the ``graph`` table."""
        if "alone" in f.data:
            raise f.fail("alone", "is of an earlier tokmarg: export the bundle again")
        f.only(cls.__slots__)
        sizes = {}
        for key in ("layers", "kv_heads", "head_dim", "vocab_size", "max_positions"):
            sizes[key] = f.get(key, int)
            if not 0 < sizes[key] < 2**31:
                raise f.fail(key, f"must be positive, not {sizes[key]}")
        head, kv_dtype = f.get("head", str), f.get("kv_dtype", str)
        if head not in ("full", "verdict"):
            raise f.fail("head", f'must be "full" or "verdict", not {head!r:.60}')
        if kv_dtype not in ("float32", "float16"):
            raise f.fail("kv_dtype", f'must be "float32" or "float16", not {kv_dtype!r:.60}')
        ids, verdict_ids = (_token_ids(f, key, sizes["vocab_size"]) for key in ("head_token_ids", "verdict_token_ids"))
        if (ids is None) != (head == "full"):
            raise f.fail("head_token_ids", "must list token ids with the verdict head, and be null with the full head")
        if verdict_ids is not None and head != "full":
            raise f.fail("verdict_token_ids", "goes with the full head only")
        window = f.get("sliding_window", int, None)
        if window is not None and window < 1:
            raise f.fail("sliding_window", f"must be positive, not {window}")
        return cls(
            **sizes,
            head=cast('Literal["full", "verdict"]', head),
            head_token_ids=ids,
            kv_dtype=cast('Literal["float32", "float16"]', kv_dtype),
            sliding_window=window,
            verdict_token_ids=verdict_ids,
            by_content=f.get("by_content", bool, False),
        )


def _token_ids(f: Fields, key: str, vocab_size: int) -> tuple[int, ...] | None:
    ids = f.get(key, list, None)
    if ids is None:
        return None
    if not ids or not all(type(i) is int and 0 <= i < vocab_size for i in ids):
        raise f.fail(key, f"must be token ids below {vocab_size}")
    if len(set(ids)) != len(ids):
        raise f.fail(key, "names a token id twice")
    return tuple(ids)


@dataclass(frozen=True, slots=True)
class Manifest:
    """Contents of ``manifest.json``; ``data`` is the parsed document as written."""

    model_id: str
    revision: str | None
    licence: str | None
    architecture: str
    spec: Spec
    graph: GraphContract
    precision: str
    files: Mapping[str, tuple[str, int]]  # name -> (sha256, size in bytes)
    tokmarg_version: str
    guesses: Guesses
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
            guesses=parse_guesses(f),
            data=dict(f.data),
        )


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle folder whose manifest has been read."""

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Bundle:
        """Reads the manifest of the bundle in folder ``path``.

        Raises:
            BundleNotFoundError: no such folder, or no manifest in it.
            BundleError: the manifest is unreadable or malformed.
            SpecError: the spec in it is.
        """
        folder = Path(path)
        manifest = folder / MANIFEST
        if not os.path.isfile(manifest):
            raise BundleNotFoundError(f"{folder}: no bundle here ({MANIFEST} is missing)")
        if _leaves(manifest, folder):
            raise BundleError(f"{manifest}: is a link that leaves the bundle")
        try:
            if manifest.stat().st_size > _MAX_MANIFEST:
                raise BundleError(f"{manifest}: larger than {_MAX_MANIFEST // 2**20} MiB")
            data = strict_json(manifest.read_bytes())
        except OSError as error:
            raise BundleError(f"{manifest}: cannot be read: {error.strerror}") from None
        except (ValueError, RecursionError) as error:
            raise BundleError(f"{manifest}: not valid JSON: {error}") from None
        return cls(folder, Manifest.parse(data, str(manifest)))

    def file(self, name: str) -> Path:
        """Path of one of the bundle's files.

        Raises:
            BundleError: it is missing, of the wrong size, or a link out of the folder.
        """
        path = self.path / name
        if name not in self.manifest.files:
            raise BundleError(f"{self.path / MANIFEST}: files.{name}: is missing")
        if not path.is_file():
            if path.exists():
                raise BundleError(f"{path}: is no file, but a folder or a device")
            raise BundleError(f"{path}: is missing; export the bundle again or copy it whole")
        if _leaves(path, self.path):
            raise BundleError(f"{path}: is a link that leaves the bundle")
        size = self.manifest.files[name][1]
        if path.stat().st_size != size:
            raise BundleError(f"{path}: is {path.stat().st_size:,} bytes, the manifest says {size:,}; copy it again")
        return path

    def verify(self) -> None:
        """Checks size and sha256 of every file; raises as :meth:`verify_file`."""
        for name in self.manifest.files:
            self.verify_file(name)

    def verify_file(self, name: str) -> None:
        """Checks size and sha256 of one file.

        Raises:
            BundleError: it differs from the manifest, or cannot be read; names it.
        """
        path = self.file(name)
        try:
            with path.open("rb") as stream:
                found = hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError as error:
            raise BundleError(f"{path}: cannot be read: {error.strerror}") from None
        if found != self.manifest.files[name][0]:
            raise BundleError(f"{path}: sha256 differs from the manifest; copy or export the bundle again")


def _leaves(path: Path, folder: Path) -> bool:
    """Whether a file is a link to somewhere else than the folder."""
    try:
        return path.resolve().parent != folder.resolve()
    except (OSError, RuntimeError):  # links that lead to each other
        return True


def installed_bundles() -> dict[str, Path]:
    """Bundles installed as Python packages: entry-point name -> folder.

    An entry point of the group ``tokmarg.bundles`` names a package; the bundle is that package's folder. The package
    itself is not imported.
    """
    found: dict[str, Path] = {}
    for point in entry_points(group=ENTRY_POINTS):
        top, *below = point.value.partition(":")[0].split(".")  # find_spec("a.b") would import a
        try:
            spec = find_spec(top)
        except (ImportError, ValueError):
            continue  # what is broken in another package must not stop this one
        folders = [Path(place, *below) for place in (spec and spec.submodule_search_locations) or ()]
        if folder := next((folder for folder in folders if folder.is_dir()), None):
            found.setdefault(point.name, folder)
    return found


def find_bundle(name: str | os.PathLike[str] | None) -> Path:
    """Folder of a bundle given as path, as name of an installed bundle, or not at all.

    Without a name: $TOKMARG_BUNDLE, else the installed bundle ``reference-guard``.

    Raises:
        BundleNotFoundError: says how to get one.
    """
    installed = installed_bundles()
    if name is None:
        name = os.environ.get("TOKMARG_BUNDLE") or None
    if name is None:
        if DEFAULT_BUNDLE in installed:
            return installed[DEFAULT_BUNDLE]
        raise BundleNotFoundError(
            f"no bundle: give one (--bundle DIR, or $TOKMARG_BUNDLE), or install {DEFAULT_BUNDLE!r}; "
            "tokmarg-export makes a bundle from any instruction-tuned model"
        )
    if os.path.isdir(name):
        return Path(name)
    if str(name) in installed:
        return installed[str(name)]
    known = f"; installed bundles: {', '.join(sorted(installed))}" if installed else ""
    raise BundleNotFoundError(f"{name}: no such folder and no installed bundle of this name{known}")
