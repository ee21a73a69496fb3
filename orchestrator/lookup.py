"""Find a function by name: a built-in short name, or the user's own as "package.module:function"."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import TypeVar, cast

from orchestrator.errors import ConfigError, OrchestratorError
from orchestrator.user_code import ERRORS, called, described
from orchestrator.validate import did_you_mean

T = TypeVar("T")


def lookup(spec: str, builtin: Mapping[str, T], what: str) -> T:
    """Return the function named `spec`: a key of `builtin`, or "package.module:function".

    `what` is the noun of the messages: "model", "criterion". Raises ConfigError for an unknown short name (it lists
    the valid ones), an attribute that cannot be called, and as `find` does.
    """
    if ":" not in spec:
        if spec not in builtin:
            names, guess = ", ".join(sorted(builtin)), did_you_mean(spec, builtin)
            way_out = f": {guess}" if guess else ""
            raise ConfigError(f'{what} must be one of {names}, or "package.module:function", got {spec!r}{way_out}')
        return builtin[spec]
    found = find(spec, what, callable)
    if not callable(found):
        raise ConfigError(f"{what} {spec!r} must name a function, got a {type(found).__name__}")
    return cast(T, found)


def find(spec: str, what: str, meant: Callable[[object], bool]) -> object:
    """Import and return the object `spec`, "package.module:name".

    `meant`: which values of the module a mistyped name may have meant.
    Modules are also searched in the current directory, because a script in a subfolder is run from the user's project.
    Raises ConfigError for a module that cannot be imported, with the line of the user's code that failed, and for a
    missing attribute.
    """
    module_name, _, attribute = spec.partition(":")
    if not module_name or not attribute or module_name.startswith("."):
        raise ConfigError(f'{what} must be written as "package.module:name", got {spec!r}')
    module = imported(module_name, f"{what} {spec!r}")
    if not hasattr(module, attribute):
        file = getattr(module, "__file__", None) or "built in"
        guess = did_you_mean(attribute, [name for name, value in vars(module).items() if meant(value)])
        if module_name == "__main__":
            guess = f'in a command and on Ray, write the module in place of __main__, as "my_job:{attribute}"'
        raise ConfigError(
            f"{what} {spec!r}: {attribute!r} does not exist in module {module_name} ({file})"
            + (f": {guess}" if guess else "")
        )
    found: object = getattr(module, attribute)
    return found


def imported(name: str, wanted: str) -> ModuleType:
    """Import a module, also one in the current directory. Raises ConfigError that begins with `wanted`."""
    here = os.getcwd()
    if "" not in sys.path and here not in sys.path:
        sys.path.append(here)  # last, so that a file here does not hide an installed package
    importlib.invalidate_caches()  # the file may be newer than this process
    with called(f"{wanted}: the import of {name}"):
        try:
            return importlib.import_module(name)
        except (ImportError, SyntaxError) as error:
            guess = did_you_mean(name, [file.removesuffix(".py") for file in os.listdir(here) if file.endswith(".py")])
            way_out = f": {guess}" if guess and isinstance(error, ModuleNotFoundError) and error.name == name else ""
            raise ConfigError(
                f"{wanted}: cannot import {name} from {here} or the installed packages ({error}){way_out}"
            ) from error


def call(
    function: Callable[..., T],
    what: str,
    options: Mapping[str, object],
    offered: Mapping[str, object],
    failure: type[OrchestratorError],
) -> T:
    """Return `function(**options)`, with those arguments of `offered` that its signature takes.

    Raises ConfigError if the options do not fit the signature, `failure` if the function itself fails.
    """
    if clash := sorted(options.keys() & offered.keys()):
        raise ConfigError(f"the options of {what} must not hold {', '.join(clash)}: it is given already")
    signature = signature_of(function, what)
    accepted = {k: v for k, v in offered.items() if takes(signature, k)}
    try:
        signature.bind(**options, **accepted)
    except TypeError as error:
        names = ", ".join(signature.parameters) or "no options"
        raise ConfigError(f"{what} does not fit the options {dict(options)} ({error}): it takes {names}") from None
    try:
        return function(**options, **accepted)
    except OrchestratorError:
        raise
    except ERRORS as error:
        raise failure(f"{what} failed: {described(error)}") from error


def signature_of(function: Callable[..., object], what: str) -> inspect.Signature:
    """Return the signature of `function`. Raises ConfigError that names `what` if it has none, as some C functions."""
    try:
        return inspect.signature(function)
    except ValueError:
        raise ConfigError(f"{what} must be a function written in Python, so that its parameters are known") from None


def takes(signature: inspect.Signature, name: str) -> bool:
    """Return whether a function with this signature takes an argument `name`."""
    return name in signature.parameters or any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
