"""What a data set gives out is what is trained on, and looking at its samples leaves nothing open."""

from __future__ import annotations

import logging
import multiprocessing
import os
import time
from collections.abc import Iterator
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, Subset, TensorDataset, random_split

from orchestrator.data import separate_process
from orchestrator.data.batches import Batches
from orchestrator.data.dataset import Data, Samples
from orchestrator.data.decoding import decoded
from orchestrator.data.image_data import image_data
from orchestrator.data.images import ImageFiles
from orchestrator.data.load import complete
from orchestrator.errors import DataError, StorageError
from orchestrator.export.meter import batches_of_test

SHAPE = (1, 2, 2)


def labels_given_out(made: Data) -> list[int]:
    """Return the test labels that files are measured against."""
    return torch.cat([batch.targets for batch in batches_of_test(made)]).tolist()


def tensors(n: int) -> tuple[Tensor, Tensor]:
    """Image i is full of i, its label is i modulo 4."""
    return torch.arange(n).float().view(n, 1, 1, 1).expand(n, *SHAPE).clone(), torch.arange(n) % 4


class Mapped(TensorDataset):
    """Tensors that are changed on their way out: images get 0.5 more, label k becomes 3 - k."""

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, label = super().__getitem__(index)
        return image + 0.5, 3 - label


class MappedPart(Subset):
    """A part of a data set that changes what the whole gives out."""

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, label = super().__getitem__(index)
        return image + 0.5, 3 - label

    def __getitems__(self, indices: list[int]) -> list[tuple[Tensor, Tensor]]:
        return [self[index] for index in indices]


class Stated(Dataset[object]):
    """States `targets`, and gives out `labels`."""

    def __init__(self, targets: list[int], labels: list[int]) -> None:
        self.targets, self.labels = targets, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.full(SHAPE, float(index)), self.labels[index]


def data(train: Samples, val: Samples | None = None, test: Samples | None = None) -> Data:
    plain = TensorDataset(*tensors(4))
    return complete(image_data(train, val, plain if test is None else test, num_classes=4, input_shape=SHAPE))


def given(made: Data, split: str, loader_workers: int = 0) -> dict[float, int]:
    """{value of an image: its label} as training gets them."""
    batches = Batches(made, batch_size=2, device=torch.device("cpu"), loader_workers=loader_workers)
    try:
        passed = list(batches.train(0) if split == "train" else batches.evaluate(split))
    finally:
        batches.close()
    images, labels = (torch.cat(parts) for parts in zip(*passed, strict=True))
    return dict(zip(images.mean((1, 2, 3)).tolist(), labels.tolist(), strict=True))


EXPECTED = {i + 0.5: 3 - i % 4 for i in range(40)}


@pytest.mark.parametrize(
    "make",
    [
        lambda: Mapped(*tensors(40)),
        lambda: MappedPart(TensorDataset(*tensors(40)), range(40)),
        lambda: Subset(Mapped(*tensors(40)), range(40)),
        lambda: random_split(Mapped(*tensors(40)), [40, 0])[0],
    ],
    ids=["tensors", "a part", "a part of tensors", "a random part of tensors"],
)
def test_what_a_subclass_gives_out_is_trained_on(make) -> None:
    made = data(make(), TensorDataset(*tensors(4)), make())
    assert given(made, "train") == EXPECTED
    assert given(made, "test") == EXPECTED
    assert labels_given_out(made) == [int(label) for _, label in made.test]
    cut = data(make())
    assert given(cut, "train") | given(cut, "val") == EXPECTED


def test_the_identity_of_a_subclass_follows_its_tensors_and_what_it_makes_of_them() -> None:
    images, labels = tensors(100)
    changed = images.clone()
    changed[5] += 1  # not one of the few samples that are read
    sets = [cls(each, labels) for cls in (TensorDataset, Mapped) for each in (images, changed)]
    assert len({data(each).identity for each in sets}) == 4
    assert len({data(Subset(each, range(90))).identity for each in sets}) == 4


MODULO = [i % 4 for i in range(40)]
REMAPPED = [3 if i == 7 else label for i, label in enumerate([0] * 40)]  # not among the samples that are read


@pytest.mark.parametrize(
    ("targets", "labels"),
    [
        ([label + 1 for label in MODULO], MODULO),  # some are no classes
        ([3 - label for label in MODULO], MODULO),
        ([0] * 40, REMAPPED),
        ([9 if i == 7 else 0 for i in range(40)], REMAPPED),
    ],
    ids=["from 1 on", "other classes", "a single one", "a single one that is not a class"],
)
def test_labels_are_those_given_out_and_not_those_stated(targets: list[int], labels: list[int]) -> None:
    stated = Stated(targets, labels)
    made = data(stated, TensorDataset(*tensors(4)), Subset(stated, range(20)))
    assert given(made, "train") == dict(enumerate(labels))
    assert labels_given_out(made) == labels[:20]


class Relabelled(ImageFiles):
    """Gives out other labels than the class of this package does, but for the first image."""

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image, label = super().__getitem__(index)
        return image, 3 - label if index else label


def test_labels_of_a_subclass_of_ours_are_those_given_out(tmp_path: Path) -> None:
    names = [f"{i}.png" for i in range(8)]
    for name in names:
        Image.new("L", (2, 2), 7).save(tmp_path / name)
    decode = partial(decoded, transform=Image.Image.copy)
    files = Relabelled(tmp_path, np.array([os.fsencode(name) for name in names]), np.arange(8) % 4, decode)
    made = complete(image_data(files, files, files, num_classes=4, input_shape=(3, 2, 2)))
    assert labels_given_out(made) == [0, 2, 1, 0, 3, 2, 1, 0] == [label for _, label in made.test]


def test_stated_labels_that_hold_make_validation_stratified() -> None:
    labels = [0] * 20 + [1] * 10 + [2] * 10
    cuts = [given(data(stated), "val") for stated in (Stated(labels, labels), Stated([3] * 40, labels))]
    assert sorted(cuts[0].values()) == [0, 0, 1, 2]
    assert cuts[1] == given(data(Stated([], labels)), "val")


class Raw(Dataset[object]):
    """Reads image i, four bytes i, from a file that is opened at the first sample, as HDF5, zip or LMDB are."""

    def __init__(self, path: Path) -> None:
        self.path, self.file = path, None

    def opened(self) -> BinaryIO:
        if self.file is None:
            self.file = open(self.path, "rb", buffering=0)  # noqa: SIM115
        return self.file

    def __len__(self) -> int:
        return self.path.stat().st_size // 4

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        file = self.opened()
        file.seek(4 * index)
        time.sleep(0.001)  # meanwhile another process would move a position that they share
        return torch.tensor(list(file.read(4))).float().view(SHAPE), index % 4


FILES: dict[Path, BinaryIO] = {}


class Cached(Raw):
    """Keeps its file in the module."""

    def opened(self) -> BinaryIO:
        if self.path not in FILES:
            FILES[self.path] = open(self.path, "rb", buffering=0)  # noqa: SIM115
        return FILES[self.path]


class Wrapped(Dataset[object]):
    def __init__(self, path: Path) -> None:
        self.inner = Raw(path)

    def __len__(self) -> int:
        return len(self.inner)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.inner[index]


@pytest.fixture
def raw(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "images.raw"
    path.write_bytes(b"".join(bytes([i] * 4) for i in range(80)))
    yield path
    for file in FILES.values():
        file.close()
    FILES.clear()


class Counted(Raw):
    """Opens its file to know its length."""

    def __len__(self) -> int:
        return os.fstat(self.opened().fileno()).st_size // 4


@pytest.mark.parametrize("kind", [Raw, Cached, Wrapped])
def test_loaders_do_not_share_a_file_that_is_opened_at_the_first_sample(kind: type[Samples], raw: Path) -> None:
    whole = kind(raw)
    made = data(Subset(whole, range(60)), None, Subset(whole, range(60, 80)))
    assert given(made, "train", loader_workers=2) | given(made, "val") == {i: i % 4 for i in range(60)}


def test_loaders_do_not_share_a_file_that_is_opened_for_a_length(raw: Path) -> None:
    train, val, test = Counted(raw), Counted(raw), Counted(raw)
    made = data(train, val, test)
    for split in ("train", "test"):
        assert given(made, split, loader_workers=2) == {i: i % 4 for i in range(80)}
    assert [samples.file for samples in (train, val, test)] == [None, None, None]
    assert made.identity == data(Raw(raw), Raw(raw), Raw(raw)).identity


def test_looking_opens_nothing_here(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor where loaders get their data pickled, which an open file cannot be."""
    identities = set()
    for method in ("fork", "spawn"):
        monkeypatch.setattr(multiprocessing, "get_start_method", lambda method=method, **_: method)
        samples = Raw(raw)
        identities.add(data(samples).identity)
        assert samples.file is None
    assert len(identities) == 1


class Fatal(Raw):
    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        os._exit(3)


class Away(Raw):
    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        raise StorageError("the bucket does not answer")


class Endless(Raw):
    def __len__(self) -> int:
        raise OverflowError("too\nmany")


class Unlisted(Raw):
    @property
    def targets(self) -> list[int]:
        raise OSError("no list")


@pytest.mark.parametrize(
    ("kind", "error", "message"),
    [
        (Fatal, DataError, "the process that reads the first samples ended with exit code 3: read some samples"),
        (Away, StorageError, "^the bucket does not answer$"),
        (Endless, DataError, rf"^the data cannot be checked: OverflowError: too many \({__file__}:\d+\)$"),
        (Unlisted, DataError, rf"^the data cannot be checked: OSError: no list \({__file__}:\d+\)$"),
    ],
)
def test_what_goes_wrong_in_the_other_process_is_one_sentence(kind, error, message, raw: Path) -> None:
    with pytest.raises(error, match=message):
        data(kind(raw))


def test_what_goes_wrong_where_processes_are_not_forked_is_one_sentence(
    raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(multiprocessing, "get_start_method", lambda **_: "spawn")
    with pytest.raises(DataError, match=rf"OverflowError: too many \({__file__}:\d+\)$"):
        data(Endless(raw))


class Asks(Raw):
    """Gives no sample before `reply` can be read from, as a data set that hangs; then starts a process of its own."""

    reply: tuple[Connection, Connection]

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if not self.reply[0].poll(60):
            raise ValueError("no warning")
        process = multiprocessing.get_context("fork").Process(target=int)
        process.start()
        process.join()
        return super().__getitem__(index)


def test_a_slow_first_sample_is_waited_for_with_one_warning(
    raw: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    samples = Asks(raw)
    samples.reply = multiprocessing.Pipe(duplex=False)

    class Answers(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            samples.reply[1].send("go on")

    monkeypatch.setattr(separate_process, "SILENT_SECONDS", 0.01)
    answers = Answers()
    separate_process.logger.addHandler(answers)
    try:
        found = separate_process.run_apart(lambda given: given[2][1], samples, "data 'mine:images'")
    finally:
        separate_process.logger.removeHandler(answers)
    assert found == 2
    assert [r.getMessage().split(", after")[0] for r in caplog.records] == [
        "still waiting for the first samples of data 'mine:images'"
    ]


def test_a_process_that_dies_is_noticed_though_one_that_it_started_lives_on(raw: Path) -> None:
    """Which holds the connection open."""
    here, there = multiprocessing.Pipe()

    def look(_: object) -> None:
        if os.fork() == 0 and not there.poll(60):
            there.send("was waited for")
        os._exit(3)

    with pytest.raises(DataError, match="ended with exit code 3"):
        separate_process.run_apart(look, None, "the data")
    assert not here.poll()
    here.send("end")
