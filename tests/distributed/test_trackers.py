"""Trackers, the real packages: what a path reports arrives in each of them, a step for every round."""

import struct
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
from tensorboardX.proto.event_pb2 import Event

from orchestrator.distributed.sweep import sweep_paths
from orchestrator.distributed.trackers import tracker
from orchestrator.errors import ConfigError
from orchestrator.pruning import Geometric

EXPERIMENT = replace(tiny.EXPERIMENT, path=Geometric(remove=0.3, rounds=2))


def tensorboard_scalars(file) -> dict[str, list[float]]:
    """Values by tag of an event file, whose frames are: length, its checksum, that many bytes, their checksum."""
    data, place, found = file.read_bytes(), 0, {}
    while place < len(data):
        (length,) = struct.unpack("<Q", data[place : place + 8])
        for value in Event.FromString(data[place + 12 : place + 12 + length]).summary.value:
            found.setdefault(value.tag, []).append(value.simple_value)
        place += 12 + length + 4
    return found


@pytest.mark.ray
@pytest.mark.own_ray
@pytest.mark.slow
def test_every_round_arrives_in_every_tracker(tmp_path, monkeypatch):
    import mlflow

    # Not the module's Ray: W&B's process inherits its environment from the Ray that is started after this.
    monkeypatch.setenv("PYTHONPATH", str(Path(tiny.__file__).parent))
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    callbacks = [tracker(name, "small") for name in ("mlflow", "wandb", "tensorboard")]
    result = sweep_paths([EXPERIMENT], str(tmp_path / "runs"), callbacks=callbacks, folder=str(tmp_path / "tune"))
    accuracies = [record.metrics["val_accuracy"] for record in result.outcomes[0].records]
    assert len(accuracies) == 3

    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name("small")
    (found,) = client.search_runs([experiment.experiment_id])
    history = client.get_metric_history(found.info.run_id, "val_accuracy")
    assert [metric.value for metric in history] == accuracies
    assert [metric.value for metric in client.get_metric_history(found.info.run_id, "round")] == [0, 1, 2]

    (event_file,) = (tmp_path / "tune").rglob("events.out.tfevents.*")
    assert tensorboard_scalars(event_file)["ray/tune/val_accuracy"] == pytest.approx(accuracies)

    (offline,) = (tmp_path / "wandb").glob("offline-run-*/run-*.wandb")
    assert offline.read_bytes().count(b"val_accuracy") >= 3


def test_an_unknown_tracker_and_one_that_is_not_installed(monkeypatch):
    with pytest.raises(ConfigError, match="--tracker must be one of mlflow, wandb, tensorboard, got 'notebook'"):
        tracker("notebook", "small")
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(ConfigError, match=r"tracker 'mlflow': .*mlflow.*pip install -e '\.\[mlflow\]'"):
        tracker("mlflow", "small")
