"""A network with fewer channels as one file: safetensors, with its architecture and channel configuration inside."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from orchestrator.errors import ConfigError, DamagedError
from orchestrator.pruning.channel_graph import Kept
from orchestrator.training.models import TORCHVISION, build_model
from orchestrator.training.state import model_tensors

FORMAT = 1


def save_network(
    module: nn.Module,
    path: str | Path,
    *,
    model: str,
    num_classes: int,
    input_shape: tuple[int, int, int],
    options: Mapping[str, object] | None = None,
    kept: Kept | None = None,
) -> None:
    """Write `module`: the network of `build_model(model, options, ..., kept=kept)`, with other numbers.

    Raises ConfigError if it is not that one, and nothing is written.
    """
    architecture = {
        "model": model,
        "options": dict(options or {}),
        "num_classes": num_classes,
        "input_shape": list(input_shape),
        "channels": kept or {},
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model_tensors(module).items()}
    if wrong := _difference(_shapes(tensors), _shapes(model_tensors(_build(architecture)))):
        raise ConfigError(f"the module is not the {model!r} that these channels leave: {wrong}")
    header = {"format": str(FORMAT), "architecture": json.dumps(architecture), "sha256": _sha256(tensors)}
    save_file(tensors, path, header)


def load_network(path: str | Path, *, model: str | None = None) -> tuple[nn.Module, Kept]:
    """(module in evaluation mode, channel configuration) from `save_network`'s file, bit for bit; nothing is unpickled.

    Every shape is checked before a tensor is read. Raises DamagedError, naming the file, for one that does not hold
    what it should, and ConfigError for a network that a function of your own builds, unless `model` names it: a file
    does not decide which code runs.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            if int(header["format"]) > FORMAT:
                raise DamagedError(f"{path} has format {header['format']}, this one reads up to {FORMAT}: update")
            architecture = json.loads(header["architecture"])
            _check_trusted(architecture["model"], model)
            module = _build(architecture)
            names = list(file.keys())
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in names}
            if wrong := _difference(shapes, _shapes(model_tensors(module))):
                raise DamagedError(f"{path} does not hold the network that it names: {wrong}")
            tensors = {name: file.get_tensor(name) for name in names}
    except _UntrustedError as error:
        raise ConfigError(str(error)) from None
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise DamagedError(f"{path} cannot be read as a network ({' '.join(str(error).split())})") from error
    if _sha256(tensors) != header.get("sha256"):
        raise DamagedError(f"{path} is damaged: its tensors do not have the sha256 that stands in it")
    for name, tensor in model_tensors(module).items():
        tensor.data.copy_(tensors[name])
    return module.eval(), architecture["channels"]


class _UntrustedError(Exception):
    pass


def _check_trusted(spec: str, expected: str | None) -> None:
    ours = ":" not in spec or spec.startswith(TORCHVISION)
    if spec != expected and (expected is not None or not ours):
        raise _UntrustedError(
            f"the file holds a network of {spec!r}: pass model={spec!r} if that is the function that should build it"
        )


def _build(architecture: Mapping[str, Any]) -> nn.Module:
    channels, height, width = architecture["input_shape"]
    return build_model(
        architecture["model"],
        architecture["options"],
        num_classes=architecture["num_classes"],
        input_shape=(channels, height, width),
        seed=0,
        kept=architecture["channels"],
    )


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _difference(found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]) -> str | None:
    """The first tensor that differs, in words."""
    for name in sorted(found.keys() | expected.keys()):
        if found.get(name) != expected.get(name):
            return f"{name} is {found.get(name, 'missing')}, it should be {expected.get(name, 'absent')}"
    return None


def _sha256(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} ".encode())
        digest.update(tensors[name].flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
