"""A round in its middle is found again by its key, whoever wrote it; what is damaged is passed over and told."""

import logging
import threading
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from tiny import measured
from waiting import PATIENCE_S

from orchestrator.errors import StorageError
from orchestrator.storage.checkpoint import pack_progress
from orchestrator.storage.opening import open_store
from orchestrator.storage.progress import ProgressWriter, discard_progress, newest_progress, write_progress
from orchestrator.train_state import TrainState
from orchestrator.work.train import EpochMetrics, Progress

KEY = "ab" * 32


def progress(epochs: int, key: str = KEY) -> Progress:
    history = tuple(EpochMetrics(epoch, 0.1, 1.0, measured(0.5)) for epoch in range(epochs))
    state = TrainState({"w": torch.full((2, 3), float(epochs))}, {"w/momentum_buffer": torch.ones(2, 3)})
    return Progress(key, epochs, state, history, seconds=2.5, attempts=1)


@pytest.fixture(params=["folder", "s3"])
def store(request, tmp_path):
    return open_store(request.getfixturevalue("s3_uri") if request.param == "s3" else str(tmp_path / "runs"))


def test_the_newest_is_kept_and_comes_back_bit_equal(store):
    assert newest_progress(store, KEY) is None
    for epochs in (1, 2, 9, 10):
        write_progress(store, progress(epochs))
    assert store.list("train/") == [f"train/{KEY}/000010-00000000.safetensors"]
    found = newest_progress(store, KEY)
    assert (found.epochs_done, found.history, found.seconds, found.attempts) == (10, progress(10).history, 2.5, 1)
    assert torch.equal(found.state.model["w"], progress(10).state.model["w"])
    assert torch.equal(found.state.optimizer["w/momentum_buffer"], torch.ones(2, 3))


def test_the_averaged_weights_come_back_beside_the_trained_ones(store):
    write_progress(store, replace(progress(2), average={"w": torch.full((2, 3), 0.1)}))
    found = newest_progress(store, KEY)
    assert found.state.model.keys() == found.average.keys() == {"w"}
    assert torch.equal(found.state.model["w"], progress(2).state.model["w"])
    assert torch.equal(found.average["w"], torch.full((2, 3), 0.1))
    write_progress(store, progress(3))
    assert newest_progress(store, KEY).average is None


def test_the_middle_of_an_epoch_is_further_than_its_beginning(store):
    parts = torch.tensor([[1.0, 1e-300], [2.0, 1 / 3]], dtype=torch.float64)
    write_progress(store, progress(9))
    write_progress(store, replace(progress(9), steps_done=12, parts=parts))
    found = newest_progress(store, KEY)
    assert found.place == (9, 12)
    assert torch.equal(found.parts, parts)
    assert found.state.model.keys() == {"w"}
    write_progress(store, progress(10))
    assert newest_progress(store, KEY).place == (10, 0)
    assert newest_progress(store, KEY).parts is None


def test_a_slower_owner_does_not_remove_what_a_faster_one_wrote(store):
    write_progress(store, progress(7))
    write_progress(store, progress(3))
    assert newest_progress(store, KEY).epochs_done == 7


def test_one_that_is_replaced_between_looking_and_reading_is_looked_for_again(store, monkeypatch):
    """By an owner that stalled, say: nothing that is safe is trained again."""
    write_progress(store, progress(7))
    read = type(store).read

    def replaced(self, path, max_bytes=None):
        monkeypatch.undo()
        write_progress(store, progress(8))
        return read(self, path, max_bytes)

    monkeypatch.setattr(type(store), "read", replaced)
    assert newest_progress(store, KEY).epochs_done == 8


def test_rounds_do_not_see_each_other(store):
    for key in (KEY, f"{KEY}.2", "cd" * 32):
        write_progress(store, progress(1, key))
    discard_progress(store, KEY)
    assert newest_progress(store, KEY) is None
    assert newest_progress(store, f"{KEY}.2").key == f"{KEY}.2"
    assert newest_progress(store, "cd" * 32).key == "cd" * 32


@pytest.mark.parametrize("damage", ["cut", "flipped", "another round"])
def test_one_that_cannot_be_used_is_told_and_an_earlier_one_taken(damage, tmp_path, caplog):
    store = open_store(str(tmp_path))
    write_progress(store, progress(5))
    write_progress(store, progress(4))  # the straggler of a slower owner
    file = tmp_path / f"train/{KEY}/000005-00000000.safetensors"
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-3])
    elif damage == "flipped":
        file.write_bytes(file.read_bytes()[:-3] + b"abc")
    else:
        write_progress(store, progress(5, "cd" * 32))
        file.write_bytes((tmp_path / f"train/{'cd' * 32}/000005-00000000.safetensors").read_bytes())
    with caplog.at_level(logging.WARNING):
        assert newest_progress(store, KEY).epochs_done == 4
    assert f"train/{KEY}/000005-00000000.safetensors" in caplog.text


def test_a_storage_that_is_cut_off_does_not_stop_the_training(tmp_path, monkeypatch, caplog):
    store, release = open_store(str(tmp_path)), threading.Event()

    def cut_off(path: str, data: bytes) -> None:
        release.wait(PATIENCE_S)
        raise StorageError("the storage cannot be reached")

    writer = ProgressWriter(store)
    with monkeypatch.context() as patch:
        patch.setattr(type(store), "write", lambda self, path, data: cut_off(path, data))
        writer.start(progress(1))
        assert writer.is_busy
        release.set()
        writer.wait()
    assert "training continues: the storage cannot be reached" in caplog.text
    writer.start(progress(2))
    writer.wait()
    assert not writer.is_busy
    assert newest_progress(store, KEY).epochs_done == 2


@pytest.mark.parametrize(("free", "kept"), [(2.0, 2), (1.9, 1)])
def test_a_checkpoint_leaves_the_space_that_the_commit_needs(tmp_path, monkeypatch, caplog, free, kept):
    store = open_store(str(tmp_path))
    writer, size = ProgressWriter(store), len(pack_progress(progress(2)))
    write_progress(store, progress(1))
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=int(free * size)))
    writer.start(progress(2))
    writer.wait()
    assert newest_progress(store, KEY).epochs_done == kept
    assert ("would take the space that the end of the round needs" in caplog.text) == (kept == 1)
