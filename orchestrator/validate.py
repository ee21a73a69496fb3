"""Check one value. Each function returns the value, or raises a sentence: field, rule, value received, way out.

`name` is the field in that sentence, `error` the class that is raised, and `way_out` what the user can do instead.
True and False are not numbers here, nor are NaN and infinity.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn, TypeVar

from orchestrator.errors import ConfigError, OrchestratorError

T = TypeVar("T")
Error = type[OrchestratorError]


def whole(
    name: str,
    value: object,
    *,
    minimum: int | None = None,
    maximum: int | None = None,
    error: Error = ConfigError,
    way_out: str = "",
) -> int:
    """Return `value` if it is an int from `minimum` to `maximum`, both included."""
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    if not is_whole or not _within(value, minimum=minimum, maximum=maximum):
        _refuse(name, f"a whole number{_bounds(minimum=minimum, maximum=maximum)}", value, error, way_out)
    return value  # type: ignore[return-value]


def finite(
    name: str,
    value: object,
    *,
    above: float | None = None,
    minimum: float | None = None,
    maximum: float | None = None,
    error: Error = ConfigError,
    way_out: str = "",
) -> float:
    """Return `value` if it is a finite int or float from `minimum` to `maximum`, and greater than `above`."""
    if not _is_finite(value) or not _within(value, above=above, minimum=minimum, maximum=maximum):
        rule = f"a finite number{_bounds(above=above, minimum=minimum, maximum=maximum)}"
        _refuse(name, rule, value, error, way_out)
    return value  # type: ignore[return-value]


def fraction(
    name: str,
    value: object,
    *,
    zero: bool = False,
    one: bool = False,
    error: Error = ConfigError,
    way_out: str = "",
) -> float:
    """Return `value` if it is a number between 0 and 1; 0 itself is allowed by `zero`, 1 by `one`."""
    inside = _is_finite(value) and (0 < value < 1 or (zero and value == 0) or (one and value == 1))  # type: ignore[operator]
    if not inside:
        _refuse(name, f"a number in {'[' if zero else '('}0, 1{']' if one else ')'}", value, error, way_out)
    return value  # type: ignore[return-value]


def flag(name: str, value: object, *, error: Error = ConfigError) -> bool:
    """Return `value` if it is True or False."""
    if not isinstance(value, bool):
        _refuse(name, "True or False", value, error)
    return value


def text(name: str, value: object, *, error: Error = ConfigError, way_out: str = "") -> str:
    """Return `value` if it is a string that is not empty."""
    if not isinstance(value, str) or not value:
        _refuse(name, "a text that is not empty", value, error, way_out)
    return value


def one_of(name: str, value: T, choices: Iterable[T], *, error: Error = ConfigError, way_out: str = "") -> T:
    """Return `value` if it is one of `choices`, of the same type."""
    choices = tuple(choices)
    if not any(type(value) is type(choice) and value == choice for choice in choices):
        way_out = way_out or did_you_mean(value, map(str, choices))
        _refuse(name, f"one of {', '.join(map(str, choices))}", value, error, way_out)
    return value


def did_you_mean(value: object, choices: Iterable[str]) -> str:
    """Return `did you mean 'epochs'?` for the choice that is nearest to a mistyped `value`, or an empty text."""
    found = nearest(value, choices)
    return "" if found is None else f"did you mean {found!r}?"


def nearest(value: object, choices: Iterable[str]) -> str | None:
    """Return the choice that a mistyped `value` is likely to mean, or None."""
    choices = tuple(choices)
    near = difflib.get_close_matches(str(value).lower(), {choice.lower(): None for choice in choices}, n=1)
    same = [choice for choice in choices if [choice.lower()] == near]  # several only if capital letters differ
    return next(iter(difflib.get_close_matches(str(value), same, 1, 0.0)), None)


def tuple_of(
    name: str,
    value: object,
    check: Callable[[str, object], T],
    *,
    length: int | None = None,
    error: Error = ConfigError,
    way_out: str = "",
) -> tuple[T, ...]:
    """Return `value`, a tuple or a list, as a tuple of what `check` returns for each item."""
    if not isinstance(value, tuple | list) or length not in (None, len(value)):
        _refuse(name, "a tuple" if length is None else f"a tuple of {length}", value, error, way_out)
    return tuple(check(f"{name}[{place}]", item) for place, item in enumerate(value))


def texts(name: str, value: object, *, error: Error = ConfigError) -> tuple[str, ...]:
    """Return `value`, a tuple or a list of texts, as a tuple. One text alone is refused: its letters would count."""
    way_out = f"write [{value!r}]" if isinstance(value, str) else ""
    return tuple_of(name, value, text, error=error, way_out=way_out)


def dataclass_with(name: str, value: T, methods: Iterable[str]) -> T:
    """Return `value` if it is a dataclass, whose fields are part of every key, with these methods."""
    methods = tuple(methods)
    has_all = all(callable(getattr(value, method, None)) for method in methods)
    if isinstance(value, type) or not dataclasses.is_dataclass(value) or not has_all:
        needed = " and ".join(f"{method}()" for method in methods)
        _refuse(name, f"a dataclass with {needed}", value, ConfigError)
    return value


def json_options(name: str, value: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return `value` if it maps texts to what JSON can hold."""
    try:
        json.dumps(dict(value), allow_nan=False)
        reason = next((f"the key {key!r} is not a text" for key in value if not isinstance(key, str)), None)
    except (TypeError, ValueError, RecursionError) as problem:
        reason = str(problem)
    if reason is not None:
        raise ConfigError(f"{name} must hold only JSON values by name ({reason})")
    return value


def _is_finite(value: object) -> bool:
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # an int that no float can hold
        return False


def _within(
    value: Any, *, above: float | None = None, minimum: float | None = None, maximum: float | None = None
) -> bool:
    return (
        (above is None or value > above)
        and (minimum is None or value >= minimum)
        and (maximum is None or value <= maximum)
    )


def _bounds(*, above: float | None = None, minimum: float | None = None, maximum: float | None = None) -> str:
    if minimum is not None and maximum is not None:
        return f" from {minimum} to {maximum}"
    bounds = [] if above is None else [f"above {above}"]
    bounds += [] if minimum is None else [f"of {minimum} or more"]
    bounds += [] if maximum is None else [f"of {maximum} or less"]
    return " " + " and ".join(bounds) if bounds else ""


def _refuse(name: str, rule: str, value: object, error: Error, way_out: str = "") -> NoReturn:
    raise error(f"{name} must be {rule}, got {_shown(value)}" + (f": {way_out}" if way_out else ""))


def _shown(value: object) -> str:
    try:
        return f"{value!r:.200}"
    except Exception:  # a number of 5000 digits, or a class whose own repr fails
        return f"a {type(value).__name__} that cannot be shown"
