"""List the names that fields of an experiment choose from: kinds of layers, and units that a density counts in."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

Kind = Literal["convolution", "linear", "attention", "recurrent", "embedding"]
KINDS: tuple[Kind, ...] = get_args(Kind)
DEFAULT_KINDS: tuple[Kind, ...] = ("convolution", "linear", "attention", "recurrent")

Unit: TypeAlias = Literal["macs", "parameters"]
UNITS: tuple[Unit, ...] = ("macs", "parameters")
