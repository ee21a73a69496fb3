"""Turn JSON from storage into values of known types: a file holds what its reader expects, or is an error.

A type is a hint: str, int, float, bool, None, Any, Literal, `X | Y`, dict[str, T], list[T], tuple[T, ...],
tuple[A, B], a dataclass, or Annotated[T, Rule(...)]. True is not a number, and NaN, infinity and numbers beyond
MAX_NUMBER are not allowed, so that sums and squares stay finite.
"""

from __future__ import annotations

import dataclasses
import json
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")
Decoder = Callable[[Any], Any]

MAX_NUMBER = 1e100  # of any number
MAX_WHOLE = 2**63  # of any int
MAX_DEPTH = 32  # of lists and objects in each other where the type is Any


@dataclass(frozen=True)
class Rule:
    """What a value of the right type must be besides, in words and as a function."""

    words: str
    holds: Callable[[Any], bool]


Count = Annotated[int, Rule("a whole number of 0 or more", lambda number: number >= 0)]


class DecodeError(ValueError):
    """A value is not what its type promises. `path` leads to it from the outermost value: `.history[3].lr`."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem, self.path = problem, ""

    def __str__(self) -> str:
        return f"{self.path.removeprefix('.') or 'it'} {self.problem}"


def parse(text: bytes | str) -> Any:
    """Return the JSON value of `text`. Raise ValueError for anything else, also for what is nested too deeply."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def decode(kind: type[T], value: Any, *, more_fields: bool = False) -> T:
    """Return the JSON `value` as a `kind`. Raise DecodeError, a ValueError, which names the place that does not fit.

    Fields that a dataclass does not have are refused, but `more_fields` allows them in the outermost object. Only what
    has a default may be missing. A ValueError of a dataclass's own `__post_init__` counts as a value that does not fit.
    """
    if more_fields and isinstance(value, dict):
        known = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
        value = {name: item for name, item in value.items() if name in known}
    decoded: T = _decoder(kind)(value)  # type: ignore[arg-type]
    return decoded


def format_of(value: Any) -> int:
    """Return the number of the format of the JSON object `value`, to be looked at before anything else in it."""
    return decode(_Numbered, value, more_fields=True).format


@dataclass(frozen=True)
class _Numbered:
    format: Count


@cache
def _decoder(kind: Any) -> Decoder:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _ruled(_decoder(arguments[0]), arguments[1:])
    if origin in (Union, types.UnionType):
        return _either(arguments)
    if origin is Literal:
        return _literal(arguments)
    if origin is list:
        return _sequence(list, _decoder(arguments[0]))
    if origin is tuple:
        return _sequence(tuple, _decoder(arguments[0])) if arguments[-1] is ... else _fixed(arguments)
    if origin in (dict, Mapping):
        return _mapping(None if arguments[0] is str else _decoder(arguments[0]), _decoder(arguments[1]))
    return _object(kind) if dataclasses.is_dataclass(kind) else _SCALARS[kind]


def _refusal(expected: str, value: Any) -> DecodeError:
    return DecodeError(f"must be {expected}, got {value!r:.100}")


def _exactly(kind: type, words: str) -> Decoder:
    def decoded(value: Any) -> Any:
        if type(value) is not kind:
            raise _refusal(words, value)
        return value

    return decoded


def _whole(value: Any) -> Any:
    if type(value) is not int or not -MAX_WHOLE < value < MAX_WHOLE:
        raise _refusal("a whole number", value)
    return value


def _number(value: Any) -> Any:
    if type(value) not in (int, float) or not -MAX_NUMBER < value < MAX_NUMBER:  # False for NaN
        raise _refusal(f"a number below {MAX_NUMBER:g}", value)
    return value


def _anything(value: Any) -> Any:
    _check_depth(value, MAX_DEPTH)
    return value


def _check_depth(value: Any, depth: int) -> None:
    if isinstance(value, dict | list):
        if depth == 0:
            raise DecodeError(f"must be nested at most {MAX_DEPTH} deep")
        for item in value.values() if isinstance(value, dict) else value:
            _check_depth(item, depth - 1)
    elif isinstance(value, float):
        _number(value)


_SCALARS: dict[Any, Decoder] = {
    str: _exactly(str, "a text"),
    bool: _exactly(bool, "true or false"),
    type(None): _exactly(type(None), "null"),
    int: _whole,
    float: _number,
    Any: _anything,
}


def _ruled(inner: Decoder, rules: tuple[Rule, ...]) -> Decoder:
    (rule,) = rules
    holds = rule.holds

    def decoded(value: Any) -> Any:
        value = inner(value)
        if not holds(value):
            raise _refusal(rule.words, value)
        return value

    return decoded


def _either(kinds: tuple[Any, ...]) -> Decoder:
    *first, last = (_decoder(kind) for kind in sorted(kinds, key=lambda kind: kind is not type(None)))

    def decoded(value: Any) -> Any:
        for decoder in first:
            try:
                return decoder(value)
            except DecodeError:
                continue
        return last(value)  # whose error is raised

    return decoded


def _literal(choices: tuple[Any, ...]) -> Decoder:
    def decoded(value: Any) -> Any:
        if not any(type(value) is type(choice) and value == choice for choice in choices):
            raise _refusal(" or ".join(map(repr, choices)), value)
        return value

    return decoded


def _sequence(result: type, item: Decoder) -> Decoder:
    def decoded(value: Any) -> Any:
        if type(value) is not list:
            raise _refusal("a list", value)
        items = []
        try:
            for each in value:
                items.append(item(each))
        except DecodeError as error:
            error.path = f"[{len(items)}]{error.path}"
            raise
        return items if result is list else tuple(items)

    return decoded


def _fixed(kinds: tuple[Any, ...]) -> Decoder:
    places = [_decoder(kind) for kind in kinds]

    def decoded(value: Any) -> Any:
        if type(value) is not list or len(value) != len(places):
            raise _refusal(f"a list of {len(places)}", value)
        items: list[Any] = []
        try:
            for place, each in zip(places, value, strict=True):
                items.append(place(each))
        except DecodeError as error:
            error.path = f"[{len(items)}]{error.path}"
            raise
        return tuple(items)

    return decoded


def _mapping(key: Decoder | None, item: Decoder) -> Decoder:
    """Decode an object of JSON. `key`: None for any text, which every key of JSON is."""

    def decoded(value: Any) -> Any:
        if type(value) is not dict:
            raise _refusal("an object", value)
        found = {}
        name = ""
        try:
            for name, each in value.items():
                found[key(name) if key else name] = item(each)
        except DecodeError as error:
            error.path = f"[{name!r:.100}]{error.path}"
            raise
        return found

    return decoded


def _object(kind: Any) -> Decoder:
    hints = get_type_hints(kind, include_extras=True)
    fields = {field.name: (_decoder(hints[field.name]), _is_needed(field)) for field in dataclasses.fields(kind)}

    def decoded(value: Any) -> Any:
        if type(value) is not dict:
            raise _refusal("an object", value)
        if unknown := value.keys() - fields:
            raise DecodeError(f"must have no field {min(unknown)!r:.100}")
        given, name = {}, ""
        try:
            for name, (decoder, needed) in fields.items():
                if name in value:
                    given[name] = decoder(value[name])
                elif needed:
                    raise DecodeError("is missing")
        except DecodeError as error:
            error.path = f".{name}{error.path}"
            raise
        try:
            return kind(**given)
        except ValueError as error:
            raise DecodeError(f"cannot be used: {error}") from error

    return decoded


def _is_needed(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
