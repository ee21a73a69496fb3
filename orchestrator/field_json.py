"""Write frozen dataclasses as JSON, whose fields decide keys and stand in records, and build them again from it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, get_args, get_type_hints

from orchestrator.errors import ConfigError

NOT_IN_KEY_IF_NONE = {"not in key": None}  # metadata of a field that came later: without it, keys are as they were


def as_json(value: Any) -> Any:
    """Return a frozen dataclass as JSON with its type's name; every field counts, defaults included.

    Only a field that came later, for what did not exist before, is left out where it is None (NOT_IN_KEY_IF_NONE).
    A dataclass with a `digest` of its content is written as that.
    """
    if _is_value(value):
        if isinstance(digest := getattr(value, "digest", None), str):
            return {"type": type(value).__name__, "digest": digest}
        fields = {
            f.name: as_json(item)
            for f in dataclasses.fields(value)
            if (item := getattr(value, f.name)) is not None or f.metadata != NOT_IN_KEY_IF_NONE
        }
        return {"type": type_name(type(value)), **fields}
    if isinstance(value, tuple):
        return [as_json(item) for item in value]
    return value


def type_name(kind: type) -> str:
    """Return the name of a class in JSON: that of a user's with its module, as our classes may move between files."""
    ours = kind.__module__.startswith("orchestrator.")
    return kind.__name__ if ours else f"{kind.__module__}.{kind.__qualname__}"


def from_json(kind: type, value: Mapping[str, Any]) -> Any:
    """Return the dataclass of class `kind` that `as_json` wrote as `value`; lists become tuples.

    A field that holds a dataclass gets it by its annotation: one of the classes that it names, or a subclass. Raises
    any error of the class for these fields.
    """
    hints = _hints(kind)
    left_out = {field.name for field in dataclasses.fields(kind) if not field.init} | {"type"}
    return kind(**{name: _field(hints.get(name), item) for name, item in value.items() if name not in left_out})


def check_annotations(name: str, value: Any) -> None:
    """Raise ConfigError unless `from_json` finds the class of each dataclass in a field of the dataclass `value`."""
    hints = _hints(type(value))
    for field in dataclasses.fields(value):
        for part in _values(getattr(value, field.name)):
            if type(part) not in _classes(hints.get(field.name)):
                kind = type(part).__name__
                raise ConfigError(
                    f"{name}.{field.name} must be annotated with the class of its value, so that a record can be read "
                    f"again, got {getattr(field.type, '__name__', field.type)!r} for {kind}: write "
                    f"{field.name}: {kind}, with {kind} imported where it is written"
                )
            check_annotations(f"{name}.{field.name}", part)


def _field(hint: Any, value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_field(hint, item) for item in value)
    if isinstance(value, Mapping) and "type" in value:
        for kind in _classes(hint):
            if type_name(kind) == value["type"]:
                return from_json(kind, value)
    return value


def _is_value(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def _values(value: Any) -> Iterator[Any]:
    """Yield the dataclasses that a field holds, itself or in tuples."""
    if _is_value(value):
        yield value
    elif isinstance(value, tuple):
        for item in value:
            yield from _values(item)


def _hints(kind: type) -> dict[str, Any]:
    """Return the type of each field; {} if a name in an annotation means nothing where the class is written."""
    try:
        return get_type_hints(kind)
    except (NameError, TypeError, AttributeError):
        return {}


def _classes(hint: Any) -> list[type]:
    """Return the dataclasses that a type names, also in a union or a tuple, and their subclasses."""
    if not isinstance(hint, type) or get_args(hint):
        return [kind for argument in get_args(hint) for kind in _classes(argument)]
    if hint.__module__ == "builtins":  # such as object, of which every class is a subclass
        return []
    own = [hint] if dataclasses.is_dataclass(hint) else []
    subclasses: list[type] = hint.__subclasses__()
    return own + [kind for subclass in subclasses for kind in _classes(subclass)]
