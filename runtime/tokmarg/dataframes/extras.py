"""Packages of extras: imported where they are needed, and missed in one line."""

from __future__ import annotations

from importlib import import_module

from tokmarg.errors import TokmargError

__all__ = ["check_extra"]


def check_extra(extra: str, *modules: str, what: str = "tokmarg.dataframes") -> None:
    """Imports the packages of an extra.

    Args:
        extra: its name.
        modules: that it brings.
        what: needs them, for messages.

    Raises:
        TokmargError: one is not installed; says how to install it.
    """
    for module in modules:
        try:
            import_module(module)
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] != module.partition(".")[0]:
                raise  # the package is there, and something else is wrong with it
            raise TokmargError(f'{what} needs {module}: pip install "tokmarg[{extra}]"') from None
