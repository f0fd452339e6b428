"""Parameters that stay in their file until they are needed.

A large model is built without memory for its weights, on PyTorch's `meta` device. Each parameter knows how to read its
values, and :func:`in_memory` reads those of a few modules and lets go of them afterwards:

    with in_memory(layer):
        layer(hidden)

For a model whose weights are in memory anyway it does nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor, nn

__all__ = ["StoredParameter", "in_memory", "is_stored", "own_values", "read_all", "store", "values"]


class StoredParameter(nn.Parameter):
    """A parameter without values, of their shape and dtype; ``read`` reads them anew, each time it is called."""

    read: Callable[[], Tensor]


def store(model: nn.Module, name: str, read: Callable[[], Tensor]) -> None:
    """Make the parameter `name` of a model one that `read` reads; modules that share it go on sharing it."""
    old = model.get_parameter(name)
    stored = StoredParameter(old.data.to("meta"), requires_grad=False)
    stored.read = read
    for module in model.modules():
        for own, parameter in module._parameters.items():
            if parameter is old:
                module._parameters[own] = stored


def is_stored(model: nn.Module) -> bool:
    """Whether weights of the model are in their file."""
    return any(isinstance(parameter, StoredParameter) for parameter in model.parameters())


def values(parameter: Tensor) -> Tensor:
    """The values of a parameter, read from the file if it is stored there."""
    if isinstance(parameter, StoredParameter):
        return parameter.read().to(parameter.dtype)
    return parameter.detach()


def own_values(parameter: Tensor) -> Tensor:
    """The values of a parameter, to be overwritten."""
    return values(parameter) if isinstance(parameter, StoredParameter) else parameter.detach().clone()


@contextmanager
def in_memory(*modules: nn.Module) -> Iterator[None]:
    """The modules with their parameters, and those of the modules within them, in memory."""
    taken: list[tuple[nn.Module, str, StoredParameter]] = []
    read: dict[int, nn.Parameter] = {}
    try:
        for module in (inner for outer in modules for inner in outer.modules()):
            for name, parameter in module._parameters.items():
                if isinstance(parameter, StoredParameter):
                    if id(parameter) not in read:
                        read[id(parameter)] = nn.Parameter(values(parameter), requires_grad=False)
                    taken.append((module, name, parameter))
                    module._parameters[name] = read[id(parameter)]
        yield
    finally:
        for module, name, parameter in taken:
            module._parameters[name] = parameter


def read_all(model: nn.Module) -> None:
    """Read all weights of the model into memory, to stay there."""
    read: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if isinstance(parameter, StoredParameter):
                if id(parameter) not in read:
                    read[id(parameter)] = nn.Parameter(values(parameter), requires_grad=False)
                module._parameters[name] = read[id(parameter)]
