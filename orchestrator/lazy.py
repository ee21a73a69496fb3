"""Import a module when it is first used: a job's --help and a mistyped flag do not wait for torch.

Write it beside the import that type checkers read:

    if TYPE_CHECKING:
        import torch
    else:
        torch = lazy("torch")
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any


class LazyModule:
    """Stand for a module that is imported when one of its attributes is first read."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._module: ModuleType | None = None

    def __getattr__(self, attribute: str) -> Any:
        if attribute in ("_name", "_module"):  # of an instance that is being copied
            raise AttributeError(attribute)
        if self._module is None:
            self._module = importlib.import_module(self._name)
        value = self.__dict__[attribute] = getattr(self._module, attribute)  # the next read does not come here
        return value


def lazy(name: str) -> Any:
    """Return an object that imports the module `name` when it is first used."""
    return LazyModule(name)
