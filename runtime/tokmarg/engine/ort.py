"""onnxruntime, imported with its telemetry off, and the one place where session options are made.

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
from collections.abc import Mapping

__all__ = ["ort", "session_options"]

_SWITCH = "ORT_DISABLE_TELEMETRY"

_before = os.environ.get(_SWITCH)
try:
    os.environ[_SWITCH] = "1"
    import onnxruntime as ort
finally:
    if _before is None:
        del os.environ[_SWITCH]
    else:
        os.environ[_SWITCH] = _before

ort.disable_telemetry_events()

_ERRORS_ONLY = 3


def session_options(threads: int | None = None, config: Mapping[str, str] | None = None) -> ort.SessionOptions:
    """Options of a session that logs nothing but errors.

    Args:
        threads: intra-op threads; None leaves it to onnxruntime, which takes one per core.
        config: session configuration entries, as onnxruntime's ``onnxruntime_session_options_config_keys.h`` names
            them.
    """
    options = ort.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    if threads is not None:
        options.intra_op_num_threads = threads
    for key, value in (config or {}).items():
        options.add_session_config_entry(key, value)
    return options
