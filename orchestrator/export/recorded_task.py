"""Build the task of a round from its record: a built-in one, or a class of the user's that may run here."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from orchestrator import task as tasks
from orchestrator.decode import decode
from orchestrator.errors import ConfigError, DamagedError
from orchestrator.field_json import as_json, from_json
from orchestrator.lookup import find
from orchestrator.task import Task
from orchestrator.user_code import ERRORS, described
from orchestrator.validate import dataclass_with


def class_of_task(value: Mapping[str, Any]) -> str | None:
    """Return "package.module:Class" of a task of the user's, as a record has it, or None for a built-in one.

    Raises DamagedError for what is not a task.
    """
    name = _type_name(value)
    module, dot, own = name.rpartition(".")
    if not dot and name not in _builtin():
        raise DamagedError(f"a record's task must be one of {', '.join(_builtin())}, or a class of yours, got {name!r}")
    return f"{module}:{own}" if dot else None


def task_from_json(value: Mapping[str, Any]) -> Task:
    """Return the task that `as_json` wrote. A class of the user's is imported: check first that it may be.

    Raises DamagedError for fields that its class does not have or take, ConfigError for a class that cannot be found.
    """
    spec = class_of_task(value)
    found: Any = _builtin()[_type_name(value)] if spec is None else _found(spec)
    try:
        made: Task = dataclass_with("task", from_json(found, value), ["loss", "count", "metrics"])
    except ERRORS as error:
        raise DamagedError(f"the task {value!r:.200} of the record cannot be built: {described(error)}") from error
    if as_json(made) != dict(value):
        raise DamagedError(
            f"the task {value!r:.200} of the record is another one here, {as_json(made)!r:.200}: its class has changed"
        )
    return made


def _type_name(value: Mapping[str, Any]) -> str:
    try:
        return decode(str, decode(dict[str, Any], value).get("type"))
    except ValueError as error:
        raise DamagedError(f"a record's task must be an object with its type, got {value!r:.200}") from error


def _builtin() -> dict[str, type]:
    """Return the tasks of this package by name."""
    return {
        name: each
        for name, each in vars(tasks).items()
        if isinstance(each, type) and dataclasses.is_dataclass(each) and each.__module__ == tasks.__name__
    }


def _found(spec: str) -> object:
    if spec.startswith("__main__:"):
        raise ConfigError(
            f"task {spec!r} is of the script that trained the round: put it into a module that can be imported"
        )
    found = find(spec, "task", callable)
    if not (isinstance(found, type) and dataclasses.is_dataclass(found)):
        raise ConfigError(f"task {spec!r} must name a dataclass, got {found!r:.100}")
    return found
