"""Write the structure of a round into its record, and read it again.

Those that this package brings are described by `Record.channels`, or by nothing. Any other is a dataclass whose fields
are in `Record.structure`; its class is found by its name, wherever it is defined.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol

from torch import nn

from orchestrator.errors import ConfigError, OrchestratorError
from orchestrator.field_json import as_json, from_json, type_name
from orchestrator.ofa.subnet import Elastic, Subnet, is_elastic, is_supernet, structure_from_json
from orchestrator.pruning.channels.graph import ChannelGraph
from orchestrator.pruning.channels.shrink import shrink
from orchestrator.pruning.choices import UNITS
from orchestrator.pruning.structure import Dense, FewerChannels, Masks, Structure
from orchestrator.record import Record
from orchestrator.user_code import called, one_line

_COUNTED = {"unit", *UNITS, "kept"}  # see `Record.channels`
KNOWN = (Dense, Masks, FewerChannels, Elastic, Subnet)


class DenseNetwork(Protocol):
    """Hold what a structure is read for: the channels of a path's dense network, or its supernet (see `Problem`)."""

    @property
    def channels(self) -> ChannelGraph | None: ...

    @property
    def supernet(self) -> Elastic | None: ...


def recorded_fields(structure: Structure) -> dict[str, Any] | None:
    """Return the fields of a structure without its tensors, and its class; None for one of this package's own."""
    if type(structure) in KNOWN:
        return None
    fields: dict[str, Any] = as_json(structure.with_tensors({}) if structure.tensors() else structure)
    return fields


def check_recorded(structure: Structure) -> None:
    """Raise ConfigError unless a record gives `structure` back, so that a killed run goes on with it."""
    kind = type(structure).__name__
    if (content := structure.to_json()) is not None and content.keys() != _COUNTED:
        raise ConfigError(f"{kind}.to_json() must return None or {sorted(_COUNTED)}, got {sorted(content)}")
    if tensors := structure.tensors():
        again = structure.with_tensors({}).with_tensors(tensors)
        if type(again) is not type(structure) or again.tensors() is not tensors:
            raise ConfigError(f"{kind}.with_tensors(tensors) must return a {kind} whose tensors() are these")
    fields = recorded_fields(structure)
    try:
        read = own_structure(json.loads(json.dumps(fields, allow_nan=False)))
    except (TypeError, ValueError, OrchestratorError) as error:
        raise ConfigError(
            f"{kind} must be a dataclass whose fields, but for its tensors(), JSON can hold, got {fields!r:.200} "
            f"({one_line(error)})"
        ) from error
    if type(read) is not type(structure) or recorded_fields(read) != fields:
        raise ConfigError(f"{kind} must be the same when it is made of its own fields, got {read!r:.200} for {fields}")


def read_structure(record: Record, network: DenseNetwork) -> Structure:
    """Return the structure of a round without its tensors. Raise ConfigError if it is not one of `network`."""
    if record.structure is not None:
        return own_structure(record.structure)
    if (content := record.channels) and network.supernet and is_elastic(content):
        return structure_from_json(content, network.supernet)
    if content is None or network.channels is None:
        return Dense()
    return FewerChannels.from_json(content, network.channels)


def own_structure(fields: Mapping[str, Any]) -> Structure:
    """Return the structure that `recorded_fields` described. Raise ConfigError if its class cannot make it.

    Its class must be imported already: a record does not decide which code runs.
    """
    name = fields.get("type")
    classes = [each for each in _with_derived(Structure.__subclasses__()) if type_name(each) == name]
    if not classes:
        raise ConfigError(f"its structure is of the class {name!r:.100}: import the module that defines it first")
    with called(f"{name}(...) with the fields of a record", classes[-1]):
        found: Structure = from_json(classes[-1], fields)
    return found


def own_class(fields: Mapping[str, Any] | None) -> str | None:
    """Return "package.module:Class" of the user's structure that has these recorded fields; None for one of ours."""
    module, dot, name = str((fields or {}).get("type", "")).rpartition(".")
    return f"{module}:{name}" if dot else None


def model_options(record: Record) -> dict[str, Any]:
    """Return the options that the model of a round has beside those of its experiment: its architecture in a space.

    Raises ConfigError for a supernet.
    """
    if is_supernet(record.channels):
        raise ConfigError(
            "it is a supernet of many networks: orchestrator ofa search finds one in it, whose round can be exported"
        )
    return {"architecture": (record.channels or {})["architecture"]} if is_elastic(record.channels) else {}


def build_network(
    fields: Mapping[str, Any] | None, kept: Mapping[str, Any], dense: Callable[[], nn.Module]
) -> nn.Module:
    """Return the network, without its values, that a structure leaves of what `dense` gives.

    `fields`: of a structure of your own, as a record has them; None: the channels that `kept` keeps. Raises ConfigError
    as `own_structure`, and for channels that are not those of the network.
    """
    if fields is None:
        return shrink(dense(), dict(kept))
    with called(f"{fields.get('type')}.build()"):
        return own_structure(fields).build(dense)


def _with_derived(classes: Iterable[type[Structure]]) -> Iterator[type[Structure]]:
    for each in classes:
        yield each
        yield from _with_derived(each.__subclasses__())
