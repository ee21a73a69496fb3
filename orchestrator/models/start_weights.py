"""Start a model from trained weights: published ones, a user's file, or a stored round."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from orchestrator.errors import ConfigError, StorageError
from orchestrator.experiment import Experiment
from orchestrator.models.classifiers import published_tensors
from orchestrator.models.ofa_networks import ImageArguments, chain
from orchestrator.models.spec import OFA, is_classifier
from orchestrator.ofa.architecture import Architecture
from orchestrator.ofa.elastic import subnet_tensors
from orchestrator.ofa.spaces import find_space
from orchestrator.ofa.subnet import is_supernet
from orchestrator.pruning.masks import matches
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.opening import open_existing
from orchestrator.train_state import Tensors

MAX_NAMES = 5  # names of tensors in a message


def load_start_weights(module: nn.Module, experiment: Experiment, arguments: Mapping[str, Any]) -> list[str]:
    """Load the weights that `experiment` starts from into `module`; return the names of the loaded tensors.

    They come from the file or the round `start_from`, or are the published ones of a torchvision or timm classifier
    with the option `pretrained`. Without either, nothing is loaded. Names and shapes must be those of the model's
    parameters and buffers. `arguments`: those that the model was built with. The layers in `new_layers` keep the
    weights of `module`. Values are converted to the model's types. Raises ConfigError if the weights cannot be read or
    do not belong to the model.
    """
    model, path = experiment.model, experiment.start_from
    published = is_classifier(model) and bool(experiment.model_options.get("pretrained"))
    if path is not None and published:
        raise ConfigError(f"a model starts from start_from or from pretrained weights, got both for {model!r}")
    if path is not None:
        source = f"start_from {path!r}"
        is_round = "#" in path and not Path(path).is_file()
        given = _of_round(path, experiment, arguments) if is_round else _read(path)
    elif published:
        source = f"the published weights of {model}"
        given = published_tensors(model, experiment.model_options, arguments)
    elif experiment.new_layers:
        raise ConfigError(f"new_layers must be empty without start_from or pretrained, got {experiment.new_layers}")
    else:
        return []
    targets = _persistent(module)
    loaded = _fitting(targets, given, experiment.new_layers, f"{source} must hold the tensors of model {model!r}")
    with torch.no_grad():
        for name, tensor in loaded.items():
            if isinstance(targets[name], nn.Parameter) and not tensor.isfinite().all():
                raise ConfigError(f"{source} must hold finite weights, got others in {name}")
            targets[name].copy_(tensor)
    return list(loaded)


def _read(path: str) -> Tensors:
    try:
        if not Path(path).is_file():
            raise FileNotFoundError("no such file")
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ConfigError(
            f"start_from must be a safetensors file that every node can read, got {path!r} "
            f"({' '.join(str(error).split())}): safetensors.torch.save_model(model, path) writes one"
        ) from error


def _of_round(path: str, experiment: Experiment, arguments: Mapping[str, Any]) -> Tensors:
    """Return the final tensors of a stored round; of a supernet, those of the experiment's own architecture."""
    storage, _, key = path.rpartition("#")
    try:
        ledger = Ledger(open_existing(storage))
    except StorageError as error:
        raise ConfigError(f"start_from must be a file that exists, or STORAGE#KEY, got {path!r}: {error}") from error
    found = [record for record in ledger.records([]) if key and record.key.startswith(key)]
    if len(found) != 1:
        raise ConfigError(
            f"start_from must be STORAGE#KEY with the beginning of one round's key, got {key!r}, which {len(found)} "
            f"rounds in {ledger.store.uri} have: orchestrator status lists them"
        )
    tensors = ledger.load(found[0])[0].model
    content = found[0].channels or {}
    if not is_supernet(content):
        return tensors
    if experiment.model != f"{OFA}{content['space']}":
        raise ConfigError(
            f"start_from must be a supernet of the model's own space, {experiment.model!r}, got one of "
            f"{content['space']!r}"
        )
    if not experiment.epochs_of_dense_round():
        raise ConfigError(
            "start_from must be the round of a network that orchestrator ofa search found, with dense_epochs=0: the "
            "supernet's batch norm fits none of its networks before training"
        )
    space, given = find_space(content["space"]), experiment.model_options.get("architecture")
    architecture = space.largest() if given is None else space.check(Architecture.from_json(given))
    return subnet_tensors(tensors, chain(architecture, ImageArguments.of(arguments)))


def _persistent(module: nn.Module) -> Tensors:
    """Return parameters and persistent buffers by name, a shared one under each of its names."""
    named = (
        *module.named_parameters(remove_duplicate=False),
        *module.named_buffers(remove_duplicate=False),
    )
    saved = module.state_dict(keep_vars=True)
    return {name: tensor for name, tensor in named if name in saved}


def _fitting(targets: Tensors, given: Tensors, new_layers: Iterable[str], rule: str) -> Tensors:
    """Return the tensors of `given` to load into `targets`, a shared one once, under its first name in `given`.

    Raises ConfigError, which begins with `rule`, unless `given` has exactly the tensors of `targets`, with their
    shapes and kinds.
    """
    names: dict[Tensor, list[str]] = {}  # a tensor hashes by identity
    for name, target in targets.items():
        names.setdefault(target, []).append(name)
    for pattern in new_layers:
        if not any(matches(pattern, known) for known in names.values()):
            raise ConfigError(f"new_layers must name layers of the model, got {pattern!r}; it has {_some(targets)}")
    new = {target for target, known in names.items() if any(matches(pattern, known) for pattern in new_layers)}
    given = {name: tensor for name, tensor in given.items() if not any(matches(p, [name]) for p in new_layers)}
    wrong = {
        "missing": [known[0] for target, known in names.items() if target not in new and not given.keys() & set(known)],
        "unexpected": [name for name in given if name not in targets],
        "of another shape": [
            f"{name} {tuple(tensor.shape)} instead of {tuple(targets[name].shape)}"
            for name, tensor in given.items()
            if name in targets and tensor.shape != targets[name].shape
        ],
        "of another kind": [
            f"{name} {tensor.dtype} instead of {targets[name].dtype}"
            for name, tensor in given.items()
            if name in targets and tensor.is_floating_point() != targets[name].is_floating_point()
        ],
    }
    if any(wrong.values()):
        found = "; ".join(f"{what}: {_some(tensors)}" for what, tensors in wrong.items() if tensors)
        raise ConfigError(f"{rule}, got {found}: {_way_out(wrong['of another shape'], new_layers)}")
    loaded = {}
    for target, known in names.items():
        stored = [name for name in known if name in given]
        if any(not torch.equal(given[name], given[stored[0]]) for name in stored[1:]):
            raise ConfigError(f"{rule}, got different values for {', '.join(stored)}, which are one tensor")
        if stored and target not in new:
            loaded[stored[0]] = given[stored[0]]
    return loaded


def _way_out(misshapen: list[str], new_layers: Iterable[str]) -> str:
    """Return the way out of an error; the usual cause of another shape is a classifier for other classes."""
    if not misshapen:
        return "give weights of exactly this model"
    layers = dict.fromkeys((*new_layers, *(text.partition(" ")[0].rpartition(".")[0] for text in misshapen)))
    named = ", ".join(f'"{layer}"' for layer in list(layers)[:MAX_NAMES])
    return f"new_layers=({named},) draws these layers anew, as for a classifier with other classes"


def _some(names: Iterable[str]) -> str:
    """List the first few of `names`, and how many more there are."""
    listed = list(names)
    more = f" and {len(listed) - MAX_NAMES} more" if len(listed) > MAX_NAMES else ""
    return f"{', '.join(listed[:MAX_NAMES])}{more}"
