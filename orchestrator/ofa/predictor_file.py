"""Store a predictor as JSON and safetensors: nothing in these files is run when they are read."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from orchestrator.decode import decode, parse
from orchestrator.errors import ConfigError, DamagedError
from orchestrator.ofa.predictor import Layers, OneHot, Predictor
from orchestrator.ofa.spaces import Space

PREDICTOR_FORMAT = 1
HEADER, TENSORS = "predictor.json", "predictor.safetensors"


@dataclass(frozen=True)
class _PredictorHeader:
    format: int
    space: str
    layers: int
    offset: float
    scale: float
    sha256: str


def predictor_files(predictor: Predictor) -> dict[str, bytes]:
    """Return the files of `predictor`, which must see one-hot features, by name."""
    if not isinstance(predictor.features, OneHot):
        raise ConfigError("only a predictor that sees one-hot features can be stored")
    tensors = {
        f"{number}.{name}": tensor.contiguous()
        for number, layer in enumerate(predictor.layers)
        for name, tensor in zip(("weight", "bias"), layer, strict=True)
    }
    content = save(tensors)
    header = _PredictorHeader(
        PREDICTOR_FORMAT,
        predictor.features.space.name,
        len(predictor.layers),
        predictor.offset,
        predictor.scale,
        hashlib.sha256(content).hexdigest(),
    )
    return {HEADER: json.dumps(asdict(header), indent=1).encode(), TENSORS: content}


def read_predictor(files: Mapping[str, bytes], space: Space) -> Predictor:
    """Return the predictor that `predictor_files` stored.

    Raises ConfigError if it is one of another space or format, and DamagedError if the files are not what they were.
    """
    try:
        header = decode(_PredictorHeader, parse(files[HEADER]))
    except (KeyError, ValueError) as problem:
        raise DamagedError(f"{HEADER} cannot be read: {problem}") from problem
    if (header.format, header.space) != (PREDICTOR_FORMAT, space.name):
        raise ConfigError(
            f"the predictor must be one of the space {space.name!r} and of format {PREDICTOR_FORMAT}, got one of "
            f"{header.space!r} and {header.format}: fit it again"
        )
    content = files.get(TENSORS, b"")
    if hashlib.sha256(content).hexdigest() != header.sha256:
        raise DamagedError(f"{TENSORS} is not the file that {HEADER} describes: its sha256 differs")
    one_hot = OneHot(space)
    try:
        layers = _checked(load(content), header.layers, one_hot.size)
    except (KeyError, ValueError, SafetensorError) as problem:
        raise DamagedError(f"{TENSORS} cannot be read: {problem}") from problem
    return Predictor(one_hot, layers, header.offset, header.scale)


def _checked(tensors: Mapping[str, Tensor], count: int, features: int) -> Layers:
    """Return `count` layers from `features` to one output. Raise KeyError or ValueError if they do not fit together."""
    layers = tuple((tensors[f"{number}.weight"], tensors[f"{number}.bias"]) for number in range(count))
    widths = [features, *(len(bias) for _, bias in layers)]
    shapes = [(outputs, inputs) for inputs, outputs in itertools.pairwise(widths)]
    if not layers or widths[-1] != 1 or [tuple(weight.shape) for weight, _ in layers] != shapes:
        raise ValueError(f"its layers must lead from {features} features to one score")
    if not all(torch.isfinite(tensor).all() for layer in layers for tensor in layer):
        raise ValueError("it holds numbers that are not finite")
    return layers
