"""Contents as tables hand them out: Arrow scalars, numpy arrays and series of messages, as Python's own types.

Nothing is imported for it: such values are known by the method that makes plain ones of them.
"""

from __future__ import annotations

from typing import Any

__all__ = ["plain"]

#: Of pyarrow's scalars and arrays, of Polars' and pandas' series, of numpy's arrays and scalars.
_METHODS = ("as_py", "to_pylist", "to_list", "tolist")


def plain(value: Any) -> Any:
    """A value of a table as Python's own type; any other as it is.

    A text of Arrow's that is not UTF-8 becomes bytes, which are no content.

    >>> import numpy as np
    >>> plain(np.array(["a", "b"], dtype=object)), plain("a"), plain(None)
    (['a', 'b'], 'a', None)
    """
    if value is None or isinstance(value, (str, list, dict)):
        return value
    for name in _METHODS:
        method = getattr(value, name, None)
        if callable(method):
            try:
                return method()
            except UnicodeDecodeError as error:
                return error.object
    return value
