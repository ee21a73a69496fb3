"""Find a function by name: a built-in short name, or the user's own as "package.module:function"."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping
from types import ModuleType
from typing import TypeVar, cast

from orchestrator.errors import ConfigError
from orchestrator.user_code import called

T = TypeVar("T")


def lookup(spec: str, builtin: Mapping[str, T], what: str) -> T:
    """The function that `spec` names: a key of `builtin`, or "package.module:function".

    `what` is the noun of the messages: "model", "criterion". Raises ConfigError for an unknown short name (the valid
    ones are listed), what `find` refuses, and an attribute that cannot be called.
    """
    if ":" not in spec:
        if spec not in builtin:
            names = ", ".join(sorted(builtin))
            raise ConfigError(f'{what} must be one of {names}, or "package.module:function", got {spec!r}')
        return builtin[spec]
    found = find(spec, what)
    if not callable(found):
        raise ConfigError(f"{what} {spec!r} must name a function, got a {type(found).__name__}")
    return cast(T, found)


def find(spec: str, what: str) -> object:
    """Return what `spec`, "package.module:name", names.

    A module is also looked for in the current directory, because a script in a folder of its own is run from the
    user's project. Raises ConfigError for a module that cannot be imported, with the line of the user's own that
    failed, and for an attribute that is missing.
    """
    module_name, _, attribute = spec.partition(":")
    if not module_name or not attribute or module_name.startswith("."):
        raise ConfigError(f'{what} must be written as "package.module:name", got {spec!r}')
    module = _import(module_name, f"{what} {spec!r}")
    if not hasattr(module, attribute):
        file = getattr(module, "__file__", None) or "built in"
        raise ConfigError(f"{what} {spec!r}: {attribute!r} does not exist in module {module_name} ({file})")
    found: object = getattr(module, attribute)
    return found


def _import(name: str, wanted: str) -> ModuleType:
    here = os.getcwd()
    if "" not in sys.path and here not in sys.path:
        sys.path.append(here)  # last, so that nothing installed is hidden by a file that happens to lie here
    importlib.invalidate_caches()  # the file may be newer than this process
    with called(f"{wanted}: the import of {name}"):
        try:
            return importlib.import_module(name)
        except (ImportError, SyntaxError) as error:
            raise ConfigError(
                f"{wanted}: cannot import {name} from {here} or the installed packages ({error})"
            ) from error
