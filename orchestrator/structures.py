"""Find the class of a recorded structure. Classes that derive from `Structure` are found wherever they are defined."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from orchestrator.errors import ConfigError
from orchestrator.ofa.subnet import Elastic, Subnet
from orchestrator.pruning.structure import COUNTED, Dense, DenseNetwork, FewerChannels, Structure

KNOWN: tuple[type[Structure], ...] = (FewerChannels, Elastic, Subnet)  # others are known once they are imported


def structure_class(content: Mapping[str, Any] | None) -> type[Structure]:
    """Return the class whose `to_json` gave `content` (see `Record.channels`); of None it is `Dense`.

    Raises ConfigError if no class that is imported has these fields.
    """
    if content is None:
        return Dense
    fields = frozenset(content.keys() - COUNTED)
    for each in (*KNOWN, *_with_derived(Structure.__subclasses__())):
        if each.json_fields == fields:
            return each
    raise ConfigError(
        f"it has a structure of the fields {sorted(fields)!r:.200}, which no imported class has: import the module "
        "that defines it first"
    )


def read_structure(content: Mapping[str, Any] | None, network: DenseNetwork) -> Structure:
    """Return the structure that `Structure.to_json` described, without its tensors.

    Raises ConfigError as `structure_class`, and if it is not one of `network`.
    """
    return structure_class(content).from_json(content or {}, network)


def _with_derived(classes: Iterable[type[Structure]]) -> Iterator[type[Structure]]:
    for each in classes:
        yield each
        yield from _with_derived(each.__subclasses__())
