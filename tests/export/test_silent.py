"""The exporter sends nothing: optimum imports onnxruntime while it exports, whose uploader must be off by then."""

from __future__ import annotations

import json
import os
import pkgutil
import subprocess
import sys

import tokmarg_export
from tokmarg_export.graph.export import tracer

#: Imports the modules that it is given and says how the switch stood when onnxruntime was imported, if it was.
WATCHED = """
import importlib, json, os, socket, sys
seen = []
def audit(event, arguments):
    if event == "import" and arguments[0] == "onnxruntime":
        seen.append(os.environ.get("ORT_DISABLE_TELEMETRY"))
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
        os.write(2, f"audit: {event} {arguments}".encode())
        os._exit(9)
sys.addaudithook(audit)
for name in sys.argv[1:]:
    importlib.import_module(name)
print(json.dumps([seen, os.environ.get("ORT_DISABLE_TELEMETRY")]))
"""


def watched(*modules: str) -> list[object]:
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    command = [sys.executable, "-W", "ignore", "-c", WATCHED, *modules]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: list[object] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_onnxruntime_is_imported_through_the_switch() -> None:
    """Whichever module comes first; and the switch is put back."""
    names = [module.name for module in pkgutil.walk_packages(tokmarg_export.__path__, "tokmarg_export.")]
    assert "tokmarg_export.graph.optimum_export" in names
    if tracer() == "optimum":
        assert watched("tokmarg_export.graph.optimum_export") == [["1"], None]
    else:
        names.remove("tokmarg_export.graph.optimum_export")
    assert watched(*names) == [["1"], None]
    assert watched(*reversed(names)) == [["1"], None]
