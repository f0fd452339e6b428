"""onnxruntime, imported so that it stays silent.

From release 1.29 on, the official builds for Linux and macOS report to Microsoft unless told otherwise: importing the
module starts an uploader, which asks the network for ``mobile.events.data.microsoft.com`` and keeps a database and a
device id in the user's cache folder (https://github.com/microsoft/onnxruntime/pull/27379). ``ORT_DISABLE_TELEMETRY=1``
prevents all of it, but is read once, while the module is imported. So it is set for just that moment and put back:
the application's environment, and what its own child processes inherit, stay as they were.

An application that imports onnxruntime before tokmarg has decided for the process, and sets the variable itself. What
can still be turned off then are the events about sessions and models, which is also all there is on Windows, where
events go to the system's own tracing and no socket is opened.
"""

from __future__ import annotations

import os

__all__ = ["ort"]

_SWITCH = "ORT_DISABLE_TELEMETRY"

_before = os.environ.get(_SWITCH)
os.environ[_SWITCH] = "1"
try:
    import onnxruntime as ort
finally:
    if _before is None:
        del os.environ[_SWITCH]
    else:
        os.environ[_SWITCH] = _before

ort.disable_telemetry_events()
