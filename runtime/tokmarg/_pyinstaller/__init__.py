"""Hook for PyInstaller: an application that imports tokmarg is frozen with all that it needs, without options.

PyInstaller finds it by the entry point ``hook-dirs`` of the group ``pyinstaller40``.
"""

from __future__ import annotations

import os

__all__ = ["hook_dirs"]


def hook_dirs() -> list[str]:
    """The folders in which PyInstaller looks for hooks: this one."""
    return [os.path.dirname(__file__)]
