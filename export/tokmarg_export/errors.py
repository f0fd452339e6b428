"""Errors of the exporter.

ExportError   one clear line: what was given (file, field, value), why it cannot be used, the way out
"""


class ExportError(Exception):
    """The bundle cannot be built from what was given."""
