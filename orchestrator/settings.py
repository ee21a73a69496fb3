"""Change fields of a frozen experiment by texts such as `training.epochs=5`, as the flag --set takes them."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin, get_type_hints

from orchestrator import pruning, schedules, techniques
from orchestrator import task as tasks
from orchestrator.errors import ConfigError
from orchestrator.experiment import Experiment
from orchestrator.lazy import lazy
from orchestrator.training import config, distillation, optimizer
from orchestrator.validate import did_you_mean

if TYPE_CHECKING:
    from orchestrator.amc import amc_selection
else:
    amc_selection = lazy("orchestrator.amc.amc_selection")

_BOOLS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
# Those whose classes a text may name.
_MODULES = (pruning, schedules, tasks, techniques, config, distillation, optimizer, amc_selection)
_SCALARS = {int: "a whole number", float: "a number", str: "a text"}


@dataclass
class _Change:
    """What becomes of a field: first the `text` takes its place, then the `inner` fields of that change."""

    path: str
    text: str | None = None
    inner: dict[str, _Change] = field(default_factory=dict)


def changed(experiment: Experiment, assignments: Sequence[str]) -> Experiment:
    """Return `experiment` with fields changed by `FIELD=VALUE`, nested ones as `training.epochs=5`.

    A value is read as the type of its field: `exclude=fc,conv1`, `training.ema=None`, `technique=FineTuning(epochs=3)`,
    `model_options.width=16`. A seed takes the place of `seeds`. Raises ConfigError, which names --set and the field.
    """
    root = _Change("")
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        names = [name.strip().replace("-", "_") for name in path.split(".")]
        if not equals or not all(names):
            raise ConfigError(f"--set must be FIELD=VALUE, such as training.epochs=5, got {assignment!r}")
        change = root
        for place, name in enumerate(names):
            change = change.inner.setdefault(name, _Change(".".join(names[: place + 1])))
        if change.text is not None:
            raise ConfigError(f"--set {change.path} must be given once, got {change.text!r} and {text.strip()!r}")
        change.text = text.strip()
    try:
        result: Experiment = _applied(experiment, None, root, experiment)
    except ConfigError as error:
        raise (
            error if str(error).startswith("--set") else ConfigError(f"--set {' '.join(assignments)}: {error}")
        ) from None
    return dataclasses.replace(result, seeds=()) if "seed" in root.inner and "seeds" not in root.inner else result


def field_paths(value: Any, prefix: str = "") -> Iterator[str]:
    """Yield the path of every field of a dataclass, and of the dataclasses and mappings in it."""
    names = value if isinstance(value, Mapping) else (f.name for f in dataclasses.fields(value) if f.init)
    for name in names:
        yield f"{prefix}{name}"
        inner = value[name] if isinstance(value, Mapping) else getattr(value, name)
        if isinstance(inner, Mapping) or (dataclasses.is_dataclass(inner) and not isinstance(inner, type)):
            yield from field_paths(inner, f"{prefix}{name}.")


def paths_ending_in(name: str, experiment: Experiment) -> list[str]:
    """Return the paths of the fields that are called `name`, itself or the end of its path."""
    return [path for path in field_paths(experiment) if path == name or path.endswith(f".{name}")]


def _applied(value: Any, annotation: Any, change: _Change, experiment: Experiment) -> Any:
    """Return `value`, of a field with this `annotation`, after the change."""
    if change.text is not None:
        value = _read(change.text, annotation, value, change.path)
    if not change.inner:
        return value
    if isinstance(value, Mapping):
        changes = {name: _applied(value.get(name), None, inner, experiment) for name, inner in change.inner.items()}
        return {**value, **changes}
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        inner, *_ = change.inner.values()
        way_out = _instead(value, annotation, change)
        raise ConfigError(f"--set {inner.path}: {change.path} is {value!r}, which has no fields{way_out}")
    names = [f.name for f in dataclasses.fields(value) if f.init]
    for name, inner in change.inner.items():
        if name not in names:
            raise ConfigError(f"--set {inner.path}: {_unknown(name, names, change.path, value, experiment)}")
    changes = {
        name: _applied(getattr(value, name), _annotation(type(value), name), inner, experiment)
        for name, inner in change.inner.items()
    }
    return dataclasses.replace(value, **changes)


def _instead(value: Any, annotation: Any, change: _Change) -> str:
    """Return how to give a whole value in the place of None."""
    kinds = [kind.__name__ for kind in get_args(annotation) if isinstance(kind, type) and kind is not type(None)]
    given = ", ".join(f"{name}={inner.text}" for name, inner in change.inner.items())
    return f": write --set '{change.path}={kinds[0]}({given})'" if value is None and kinds else ""


def _unknown(name: str, names: list[str], path: str, value: Any, experiment: Experiment) -> str:
    """Return a sentence on a field `name` that `value`, the field at `path`, does not have."""
    what = f"{path} ({type(value).__name__})" if path else "an experiment"
    elsewhere = [repr(found) for found in paths_ending_in(name, experiment)]
    meant = f"did you mean {' or '.join(elsewhere)}?" if elsewhere else did_you_mean(name, names)
    return f"{what} has no field {name!r}: {meant or 'it has ' + ', '.join(names)}"


def _annotation(kind: type, name: str) -> Any:
    """Return the type of a field, or None if its text names what only type checkers import."""
    try:
        return get_type_hints(kind)[name]
    except NameError:
        return None


def _read(text: str, annotation: Any, current: Any, path: str) -> Any:
    """Return the value that `text` stands for in a field with this annotation. Raises ConfigError."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        if type(None) in arguments and text.lower() == "none":
            return None
        inner = [argument for argument in arguments if argument is not type(None)]
        return _read(text, inner[0], current, path) if len(inner) == 1 else _expression(text, current, path)
    if origin is Literal:
        for choice in arguments:
            if str(choice) == text:
                return choice
        guess = did_you_mean(text, map(str, arguments))
        raise _refused(path, f"one of {', '.join(map(str, arguments))}", text, guess)
    if annotation is bool:
        if text.lower() not in _BOOLS:
            raise _refused(path, "true or false", text)
        return _BOOLS[text.lower()]
    if annotation in _SCALARS:
        try:
            return annotation(text)
        except ValueError:
            raise _refused(path, _SCALARS[annotation], text) from None
    if origin is tuple:
        items = [item.strip().strip("\"'") for item in text.strip("()[] ").split(",")]
        return tuple(_read(item, arguments[0], None, path) for item in items if item)
    return _expression(text, current, path)


def _expression(text: str, current: Any, path: str) -> Any:
    """Evaluate a literal, or a class of this package with literal arguments. Anything else in a mapping is a text."""
    try:
        return _evaluated(ast.parse(text, mode="eval").body, current, path)
    except (SyntaxError, ValueError) as error:
        if current is None or isinstance(current, str):
            return text
        if isinstance(error, ConfigError):
            raise
        raise _refused(path, f"a value such as {current!r}", text) from None


def _evaluated(node: ast.expr, current: Any, path: str) -> Any:
    if isinstance(node, ast.Name):
        return _called(_class(node.id, current, path), [], {}, path)
    if isinstance(node, ast.Call):
        maker: Any
        if isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name):
            maker = _class(node.func.value.id, current, path)
            if node.func.attr.startswith("_") or not callable(maker := getattr(maker, node.func.attr, None)):
                raise ConfigError(f"--set {path}: {node.func.value.id} has no {node.func.attr!r}")
        else:
            maker = _class(node.func.id if isinstance(node.func, ast.Name) else ast.unparse(node.func), current, path)
        given = [_evaluated(argument, current, path) for argument in node.args]
        named = {word.arg: _evaluated(word.value, current, path) for word in node.keywords if word.arg}
        return _called(maker, given, named, path)
    return ast.literal_eval(node)


def _class(name: str, current: Any, path: str) -> Any:
    """Return the class `name`: one beside the class of the field's value, or one of this package's."""
    for module in (sys.modules[type(current).__module__], *_MODULES):
        names = getattr(module, "__all__", None) or vars(module)
        if name in names and name[:1].isupper() and inspect.isclass(found := getattr(module, name)):
            return found
    known = {each for module in _MODULES for each in getattr(module, "__all__", ()) or _dataclasses(module)}
    guess = did_you_mean(name, [*known, *_dataclasses(sys.modules[type(current).__module__])])
    raise ConfigError(f"--set {path}: {name!r} is not a known class: {guess or f'it is {current!r} now'}")


def _dataclasses(module: types.ModuleType) -> list[str]:
    return [name for name, kind in vars(module).items() if inspect.isclass(kind) and dataclasses.is_dataclass(kind)]


def _called(maker: Any, given: list[Any], named: dict[str, Any], path: str) -> Any:
    try:
        return maker(*given, **named)
    except ConfigError as error:
        raise ConfigError(f"--set {path}: {error}") from None
    except TypeError as error:
        takes = ", ".join(inspect.signature(maker).parameters)
        raise ConfigError(f"--set {path}: {maker.__name__} takes {takes} ({' '.join(str(error).split())})") from None


def _refused(path: str, rule: str, text: str, way_out: str = "") -> ConfigError:
    return ConfigError(f"--set {path} must be {rule}, got {text!r}" + (f": {way_out}" if way_out else ""))
