"""Networks of a ledger as candidates for export."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from orchestrator.errors import ConfigError, DamagedError, DataError
from orchestrator.export.deploy import Candidate
from orchestrator.export.measure import DataSource
from orchestrator.export.preprocessing import Preprocessing
from orchestrator.storage.ledger import Ledger, Record
from orchestrator.training.data import Data
from orchestrator.training.models import build_model
from orchestrator.training.state import model_tensors


def find_round(records: Iterable[Record], key: str) -> Record:
    """The record whose key begins with `key`. Raises ConfigError if there is none, or more than one."""
    found = [record for record in records if record.key.startswith(key)]
    if len(found) == 1:
        return found[0]
    if not found:
        raise ConfigError(f"--round must be the beginning of a round's key, got {key!r}: orchestrator status has them")
    keys = ", ".join(record.key[: len(key) + 4] for record in found[:4])
    raise ConfigError(f"--round must be the beginning of one key, got {key!r}, which {len(found)} have: {keys}, ...")


def dense_round(ledger: Ledger, record: Record) -> Record:
    """The round 0 that `record` descends from. Raises DamagedError if a parent is missing."""
    while record.parent is not None:
        parent = ledger.record(record.parent)
        if parent is None:
            raise DamagedError(f"rounds/{record.parent}/record.json, the parent of {record.key[:12]}, is missing")
        record = parent
    return record


def source_of(record: Record, root: str | None) -> DataSource:
    """The data that a round was trained on, which lies in `root` if it lies in files."""
    return DataSource(record.settings["data"], record.settings["data_options"], root)


def candidate(name: str, ledger: Ledger, record: Record, data: Data) -> Candidate:
    """The network of a finished round. `data` is what it was trained on.

    Raises DataError if `data` is other data, DamagedError if the stored tensors are not those of its model.
    """
    settings = record.settings
    if data.identity != settings["data_identity"]:
        raise DataError(f"round {record.key[:12]} was trained on other data: pass --data as the job had it")
    options = settings["model_options"]
    module = build_model(
        settings["model"], options, num_classes=data.num_classes, input_shape=data.input_shape, seed=0
    ).eval()
    mine, stored = model_tensors(module), ledger.load(record)[0].model
    shapes, given = ({n: tuple(t.shape) for n, t in tensors.items()} for tensors in (mine, stored))
    if shapes != given:
        differing = sorted(shapes.items() ^ given.items())
        raise DamagedError(f"round {record.key[:12]} is of another network than {settings['model']!r}: {differing[:3]}")
    with torch.no_grad():
        for tensor_name, tensor in mine.items():
            tensor.copy_(stored[tensor_name])
    origin = {
        "key": record.key,
        "experiment": record.experiment,
        "round": record.round,
        "technique": record.technique if record.round else None,
        "seed": record.seed,
        "kept": record.kept,
        "prunable": record.prunable,
        "test_accuracy": record.metrics["test_accuracy"],
    }
    return Candidate(name, module, settings["model"], options, Preprocessing.of(data), origin)
