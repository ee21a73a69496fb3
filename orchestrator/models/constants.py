"""The constants of a model: the tensors that it loads from a file, and does not draw by seed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from torch import Tensor, nn

from orchestrator.errors import ConfigError
from orchestrator.work import raw_bytes


def tensor_digests(module: nn.Module) -> dict[str, str]:
    """The sha256 of every parameter of `module`, by name.

    Buffers are left out. They are often computed (tables of sines, inverses), and their last bits differ between
    processors. Weights that are loaded with them differ where they do.
    """
    return {name: digest_of(tensor) for name, tensor in module.named_parameters()}


def constants_of(one: Mapping[str, str], other: Mapping[str, str]) -> dict[str, str]:
    """The digests that two builds of one model share although their seeds differ: those of its constants.

    What the seed decides follows from model, options and seed, which are in every key, and its last bits may differ
    between kinds of processors. A constant follows from nothing in a key: it may be the content of a file. A tensor
    that mixes both, such as loaded weights with noise added, is not a constant.
    """
    return {name: digest for name, digest in one.items() if other.get(name) == digest}


def check_constants(module: nn.Module, constants: Mapping[str, str], model: str) -> None:
    """Raise ConfigError unless `module`, built here from `model`, holds tensors with these digests, by name."""
    tensors = {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }
    wrong = [name for name, digest in constants.items() if name not in tensors or digest_of(tensors[name]) != digest]
    if wrong:
        raise ConfigError(
            f"model {model!r} must begin with the same weights on every node as where the job was started, but "
            f"{', '.join(wrong[:5])} differ here: give every node the same file, and start the job again if it changed"
        )


def digest_of(tensor: Tensor) -> str:
    """Return the sha256 of the elements of a tensor on the CPU, in logical order."""
    return hashlib.sha256(raw_bytes(tensor)).hexdigest()
