"""Build the networks of a ledger as candidates for export."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from orchestrator.data.dataset import Data
from orchestrator.errors import ConfigError, DamagedError, DataError
from orchestrator.export.example import ExampleInputs
from orchestrator.export.measure import DataSource
from orchestrator.export.originals import Candidate
from orchestrator.export.recorded_code import named_code, named_in_script, setting
from orchestrator.lookup import find
from orchestrator.models.build import build_model
from orchestrator.pruning.choices import UNITS
from orchestrator.record import Record
from orchestrator.storage.ledger import Ledger
from orchestrator.structures import build_network, model_options
from orchestrator.task import Task
from orchestrator.training.state import model_tensors

_STRUCTURES = {  # by the name of the selection
    "Global": "unstructured",
    "Layerwise": "unstructured",
    "NofM": "n-of-m",
    "Filters": "filters",
    "Channels": "channels",
}
_PATTERNS = {"Blocks": "blocks", "AtMost": "n-of-m"}  # by the name of the selection's pattern


def find_round(records: Iterable[Record], key: str, what: str = "--round") -> Record:
    """Return the record whose key begins with `key`. Raise ConfigError, about `what`, if not exactly one does."""
    found = [record for record in records if record.key.startswith(key)]
    if len(found) == 1:
        return found[0]
    if not found:
        raise ConfigError(f"{what} must be the beginning of a round's key, got {key!r}: orchestrator status has them")
    keys = ", ".join(record.key[: len(key) + 4] for record in found[:4]) + (", ..." if len(found) > 4 else "")
    raise ConfigError(f"{what} must be the beginning of one key, got {key!r}, which {len(found)} have: {keys}")


def dense_round(ledger: Ledger, record: Record) -> Record:
    """Return the round 0 that `record` descends from. Raises DamagedError if a parent is missing."""
    while record.parent is not None:
        parent = ledger.record(record.parent)
        if parent is None:
            raise DamagedError(f"rounds/{record.parent}/record.json, the parent of {record.key[:12]}, is missing")
        record = parent
    return record


def with_dense(ledger: Ledger, records: Sequence[Record]) -> list[Record]:
    """Return the dense rounds that `records` descend from, then `records`, each once. Raises as `dense_round`."""
    both = [*(dense_round(ledger, record) for record in records), *records]
    return list({record.key: record for record in both}.values())


def check_code(records: Iterable[Record], trusted: Iterable[str] = (), *, in_python: bool = False) -> None:
    """Raise ConfigError if a record names a function or class, as "package.module:name", that is not `trusted`.

    The message has the whole list to trust: as an argument if `in_python`, else as flags. People who can write to a
    storage must not choose the code that runs here.
    """
    trusted, records = set(trusted), list(records)
    every = list(dict.fromkeys(spec for record in records for spec in named_code(record).values()))
    way_out = f"trust={every}" if in_python else " ".join(f"--trust {spec}" for spec in every)
    for record in records:
        named = {
            name: f"a {'class' if name in ('task', 'structure') else 'function'} for its {name}, {spec!r}"
            for name, spec in named_code(record).items()
        }
        of_script = [named[name] for name in named_in_script(record)]
        if of_script and not in_python:
            raise ConfigError(
                f"round {record.key[:12]} was trained by a script or notebook and names {', and '.join(of_script)}, "
                "which a command cannot import: use load() there, or train it from a module"
            )
        unknown = [what for name, what in named.items() if named_code(record)[name] not in trusted]
        if unknown:
            raise ConfigError(
                f"round {record.key[:12]} names {', and '.join(unknown)}: pass {way_out} "
                "if that is code of yours that may run here"
            )


def source_of(records: Sequence[Record], root: str | None) -> DataSource:
    """Return the data that rounds were trained on, which are in `root` if they are in files, and their task.

    Raises ConfigError if they are not the same for all.
    """
    sources = [
        DataSource(setting(each, "data"), setting(each, "data_options"), root, setting(each, "task"))
        for each in records
    ]
    for record, source in zip(records, sources, strict=True):
        if source != sources[0]:
            raise ConfigError(
                f"rounds side by side must have the same data and task, got {_named(sources[0])} and, for "
                f"{record.key[:12]}, {_named(source)} (or other options of them): take them one by one"
            )
    return sources[0]


def _named(source: DataSource) -> str:
    return f"{source.data!r} for {(source.task or {}).get('type')!r}"


def side_by_side(
    ledger: Ledger, records: Sequence[Record], data: Data, task: Task, name_of: Callable[[Record], str] | None = None
) -> list[Candidate]:
    """Return the networks of `records`, which were trained on `data` for `task`.

    Each is named after what was removed from it, by `name_of` or as `structure` has it. If several have the same name,
    each gets its key behind it. Raises as `candidate` does.
    """
    example = ExampleInputs.of(data, task)
    names = [(name_of or structure)(record) for record in records]
    return [
        candidate(name if names.count(name) == 1 else f"{name}-{record.key[:12]}", ledger, record, data, example)
        for record, name in zip(records, names, strict=True)
    ]


def structure(record: Record) -> str:
    """Return what was removed from a round's network: unstructured, blocks, n-of-m, filters, channels.

    "dense" is a whole network, "subnet" one that was found in a supernet. Raises ConfigError for the supernet itself.
    """
    options = _options_of(record)
    if options:
        return "subnet"
    if record.structure is not None:
        return str(record.structure["type"]).rpartition(".")[2]
    if record.round == 0:
        return "dense"
    selection = setting(record, "selection")
    if pattern := (selection.get("pattern") or {}).get("type"):
        return _PATTERNS.get(pattern, "pattern")
    if selection["type"] == "Amc":
        return "unstructured" if selection.get("mode") == "weights" else "channels"
    return _STRUCTURES.get(selection["type"], "pruned")


def _options_of(record: Record) -> dict[str, Any]:
    """Return what `model_options` does. Raise ConfigError, naming the round, for one that is many networks."""
    try:
        return model_options(record)
    except ConfigError as error:
        raise ConfigError(f"round {record.key[:12]} cannot be exported: {error}") from error


def candidate(name: str, ledger: Ledger, record: Record, data: Data, example: ExampleInputs) -> Candidate:
    """Return the network of a finished round, which was trained on `data`. `example`: of these data.

    Raises as `module_of`.
    """
    model, options = _built_from(record)
    origin = {
        "key": record.key,
        "experiment": record.experiment,
        "round": record.round,
        "technique": record.technique if record.round else None,
        "seed": record.seed,
        "kept": record.kept,
        "prunable": record.prunable,
        "channels": record.channels and {name: record.channels[name] for name in ("unit", *UNITS)},
        "test": record.test,
    }
    module, arguments = module_of(ledger, record, data), data.model_arguments
    return Candidate(name, module, model, options, example, arguments, record.kept_channels, record.structure, origin)


def module_of(ledger: Ledger, record: Record, data: Data) -> nn.Module:
    """Return the network of a finished round in evaluation mode: built, without its removed channels, weights filled.

    Raises DataError if `data` is not what it was trained on, DamagedError if the stored tensors or channels are not
    those of its model, ConfigError for a supernet.
    """
    model, options = _built_from(record)
    if data.identity != setting(record, "data_identity"):
        raise DataError(
            f"round {record.key[:12]} was trained on other data: give the data of its job (--data, or data=)"
        )
    dense = partial(build_model, model, options, data.model_arguments, seed=0)
    if (own := named_code(record).get("structure")) is not None:
        find(own, "structure", callable)  # its module defines the class
    try:
        module = build_network(record.structure, record.kept_channels, dense).eval()
    except ConfigError as error:
        raise DamagedError(f"rounds/{record.key}/record.json is damaged: {error}") from error
    mine, stored = model_tensors(module), ledger.load(record)[0].model
    shapes, given = ({n: tuple(t.shape) for n, t in tensors.items()} for tensors in (mine, stored))
    if shapes != given:
        differing = sorted(shapes.items() ^ given.items())
        raise DamagedError(f"round {record.key[:12]} is of another network than {model!r}: {differing[:3]}")
    with torch.no_grad():
        for tensor_name, tensor in mine.items():
            tensor.copy_(stored[tensor_name])
    return module


def _built_from(record: Record) -> tuple[str, dict[str, Any]]:
    """Return the name and the options of the model that a round's network is, before its structure."""
    return setting(record, "model"), {**setting(record, "model_options"), **_options_of(record)}
