"""A packed data set is the folder it was made of: same images, labels and splits, each once an epoch, or a sentence."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from s3_server import FaultProxy
from torch import Tensor

from orchestrator.data.batches import Batches
from orchestrator.data.dataset import Data
from orchestrator.data.load import load_data
from orchestrator.data.parquet_layout import BLOCK_ROWS, CONTENTS, index_file
from orchestrator.data.parquet_reader import PackedImages, PackedSplit, open_packed
from orchestrator.data.parquet_writer import pack
from orchestrator.errors import DataError, StorageError
from orchestrator.randomness import seed_all
from orchestrator.storage import s3

CPU = torch.device("cpu")
Batch = tuple[Tensor, Tensor]
OPTIONS = {"image_size": 16, "val_fraction": 0.1}


@pytest.fixture
def closing() -> Iterator[list[Batches]]:
    opened: list[Batches] = []
    yield opened
    for one in opened:
        one.close()


def load(root: Path | str) -> Data:
    return load_data("imagefolder", OPTIONS, root=str(root))


def batches(data: Data, rank: int = 0, world: int = 1, loader_workers: int = 0, batch_size: int = 12) -> Batches:
    return Batches(data, batch_size=batch_size, rank=rank, world=world, device=CPU, loader_workers=loader_workers)


def assert_same(got: list[Batch], expected: list[Batch]) -> None:
    assert len(got) == len(expected)
    for mine, theirs in zip(got, expected, strict=True):
        assert torch.equal(mine[0], theirs[0])
        assert torch.equal(mine[1], theirs[1])


def together(parts: list[list[Batch]]) -> list[Batch]:
    return [(torch.cat([p[0] for p in step]), torch.cat([p[1] for p in step])) for step in zip(*parts, strict=True)]


def by_name(data: Data, split: str, root: str) -> dict[str, tuple[Tensor, int]]:
    """Every sample of a split under the name of its file, augmented by the same seed."""
    samples, found = data.split(split), {}
    for index in range(len(samples)):
        seed_all(7)
        name = samples.file_of(index).removeprefix(root).split(".parquet: ")[-1].lstrip("/")
        found[name] = samples[index]
    assert len(found) == len(samples)
    return found


# The same data.


@pytest.mark.parametrize("place", ["local", "s3"])
def test_packed_images_are_those_of_the_folder(
    folder: Path, packed: Path, place: str, request: pytest.FixtureRequest
) -> None:
    root = str(packed)
    if place == "s3":
        root = request.getfixturevalue("s3_uri")
        pack(str(folder), root, shard_mb=1)
    theirs, ours = load(folder), load(root)
    assert ours.model_arguments == {"num_classes": 3, "input_shape": (3, 16, 16)}
    assert ours.prepare == theirs.prepare
    assert [len(ours.split(split)) for split in ("train", "val", "test")] == [154, 17, 12]
    for split in ("train", "val", "test"):
        expected = by_name(theirs, split, str(folder / ("val" if split == "test" else "train")))
        got = by_name(ours, split, root)
        assert got.keys() == expected.keys()
        for name, (image, label) in expected.items():
            assert torch.equal(got[name][0], image)
            assert got[name][1] == label
        assert sorted(ours.split(split).targets.tolist()) == sorted(theirs.split(split).targets.tolist())


def test_the_size_of_the_files_decides_nothing(folder: Path, packed: Path, tmp_path: Path) -> None:
    pack(str(folder), str(tmp_path / "one"), shard_mb=100)
    one, many = load(tmp_path / "one"), load(packed)
    assert one.identity == many.identity
    assert_same(list(batches(one).train(1)), list(batches(many).train(1)))


def test_identity_is_every_byte_and_not_the_folders(folder: Path, packed: Path, tmp_path: Path) -> None:
    changed = Path(shutil.copytree(folder, tmp_path / "images"))
    file = changed / "train" / "dog" / "031.JPEG"
    file.write_bytes(file.read_bytes() + b"\0")
    pack(str(changed), str(tmp_path / "out"))
    other_size = load_data("imagefolder", {**OPTIONS, "image_size": 8}, root=str(packed))
    every = [load(root).identity for root in (folder, packed, tmp_path / "out")]
    assert len({*every, other_size.identity}) == 4


@pytest.mark.parametrize("change", ["label", "name", "crc", "size", "two sums"])
def test_identity_is_of_the_rows_that_are_read(packed: Path, tmp_path: Path, change: str) -> None:
    """Not what dataset.json says of them: whoever changes a label changes every round's key."""
    root = Path(shutil.copytree(packed, tmp_path / "changed"))
    index = root / index_file("train")
    lines = [line.rsplit(",", 4) for line in index.read_text().splitlines()]
    if change == "label":  # of two rows, so that each class has as many as before
        other = next(row for row in range(1, len(lines)) if lines[row][1] != lines[0][1])
        lines[0][1], lines[other][1] = lines[other][1], lines[0][1]
    elif change == "name":  # the same characters, cut elsewhere
        lines[0][0], lines[1][0] = lines[0][0][:-2] + '"', f'"{lines[0][0][-2]}{lines[1][0][1:]}'
    elif change == "two sums":
        lines[0][4], lines[1][4] = lines[1][4], lines[0][4]
    else:
        lines[0][{"size": 3, "crc": 4}[change]] = "1"
    index.write_text("".join(",".join(line) + "\n" for line in lines))
    contents = json.loads((root / CONTENTS).read_text())
    contents["splits"]["train"]["index"] = hashlib.sha256(index.read_bytes()).hexdigest()
    (root / CONTENTS).write_text(json.dumps(contents))
    assert open_packed(str(root)).identity != open_packed(str(packed)).identity


# An epoch.


@pytest.mark.parametrize(("world", "loader_workers"), [(1, 2), (2, 0), (3, 0), (3, 1), (5, 0)])
def test_every_sample_at_most_once_the_same_for_any_workers(
    packed: Path, world: int, loader_workers: int, closing: list[Batches]
) -> None:
    data = load(packed)
    single = batches(data)
    ranks = [batches(data, rank, world, loader_workers) for rank in range(world)]
    closing += ranks
    orders = []
    for seed in (0, 1):
        expected = list(single.train(seed))
        assert_same(together([list(one.train(seed)) for one in ranks]), expected)
        assert [len(labels) for _, labels in expected] == [12] * (154 // 12)
        order = data.train.shuffled(154 // 12, 12, torch.Generator().manual_seed(seed))
        assert torch.equal(data.train.targets[order], torch.stack([labels for _, labels in expected]))
        assert len(order.unique()) == 154 // 12 * 12
        orders.append(order)
        for split in ("val", "test"):
            whole = torch.cat([images for images, _ in single.evaluate(split)])
            parts = torch.cat([images for one in ranks for images, _ in one.evaluate(split)])
            assert len(whole) == len(data.split(split))
            assert torch.equal(parts, whole)
    assert not torch.equal(*orders)


@pytest.mark.parametrize("loader_workers", [0, 2])
@pytest.mark.parametrize("first", [1, 7, 11])
def test_an_epoch_begun_in_its_middle_is_its_tail(
    packed: Path, loader_workers: int, first: int, closing: list[Batches]
) -> None:
    closing.append(batches(load(packed), loader_workers=loader_workers))
    assert_same(list(closing[0].train(5, first=first)), list(batches(load(packed)).train(5))[first:])


class Counting(PackedSplit):
    """Rows without files; it counts how often a block is read."""

    def __init__(self, rows: int) -> None:
        self.labels = np.zeros(rows, dtype=np.int64)
        self.reads: list[int] = []

    def begin(self, block: int) -> Future[object]:
        self.reads.append(block)
        return Future()


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 3000),
    cut=st.floats(0, 0.9),
    batch_size=st.integers(1, 200),
    readers=st.integers(1, 16),
    seed=st.integers(0, 2**62),
)
def test_an_epoch_reads_every_block_about_once(rows: int, cut: float, batch_size: int, readers: int, seed: int) -> None:
    split = Counting(rows)
    samples = PackedImages(split, int(cut * rows), rows, lambda file: torch.zeros(1))
    steps = len(samples) // batch_size
    order = samples.shuffled(steps, batch_size, torch.Generator().manual_seed(seed))
    assert order.shape == (steps, batch_size)
    assert len(order.unique()) == order.numel()
    if order.numel():
        assert 0 <= int(order.min()) <= int(order.max()) < len(samples)
    for columns in torch.tensor_split(order, readers, dim=1):
        reader = PackedImages(split, int(cut * rows), rows, lambda file: torch.zeros(1))
        for indices, ahead in zip(columns.tolist(), [*columns.tolist(), []][1:], strict=True):
            reader.fetch(indices, ahead)
            assert len(reader._blocks) <= 2 * len(indices)
    # A block is read again only where the run of a place in the batch ends within it.
    assert len(split.reads) <= len(set(split.reads)) + batch_size


def test_a_batch_has_images_of_as_many_blocks_as_it_can() -> None:
    samples = PackedImages(Counting(100 * BLOCK_ROWS), 0, 100 * BLOCK_ROWS, lambda file: torch.zeros(1))
    order = samples.shuffled(100 * BLOCK_ROWS // 50, 50, torch.Generator().manual_seed(0))
    assert all(len((step // BLOCK_ROWS).unique()) >= 49 for step in order)


def test_an_epoch_from_a_bucket_asks_for_each_block_once(
    folder: Path, s3_uri: str, fault_proxy: FaultProxy, closing: list[Batches]
) -> None:
    pack(str(folder), s3_uri, shard_mb=1)
    data = load(s3_uri)
    expected = list(batches(load(s3_uri)).train(3))
    closing.append(batches(data, loader_workers=2))
    before = fault_proxy.count("GET")
    assert_same(list(closing[0].train(3)), expected)
    asked = fault_proxy.count("GET") - before
    blocks = -(-171 // BLOCK_ROWS)
    assert blocks <= asked <= 2 * blocks + 12  # at the worst, both processes need every block


# What goes wrong.


def test_an_outage_in_an_epoch_is_waited_for(
    folder: Path, s3_uri: str, fault_proxy: FaultProxy, closing: list[Batches], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "FIRST_PAUSE_S", 0.05)
    pack(str(folder), s3_uri, shard_mb=1)
    expected = list(batches(load(s3_uri)).train(3))
    closing.append(batches(load(s3_uri), loader_workers=2))
    fault_proxy.inject("truncate", method="GET", part="/train/", times=2)
    fault_proxy.inject("status", method="GET", part="/train/", times=2)
    assert_same(list(closing[0].train(3)), expected)
    assert fault_proxy.faults_left == 0


def test_a_pickled_data_set_reads_the_same_images(packed: Path) -> None:
    """As it comes to loader processes that are spawned, on macOS."""
    samples = load(str(packed)).test
    there = pickle.loads(pickle.dumps(samples))
    assert all(torch.equal(there[index][0], samples[index][0]) for index in range(len(samples)))


def test_a_storage_that_a_loader_process_cannot_reach_is_a_sentence(
    packed: Path, closing: list[Batches], monkeypatch: pytest.MonkeyPatch
) -> None:
    closing.append(batches(load(str(packed)), loader_workers=1))

    def unreachable(*arguments: object) -> None:
        raise StorageError("the storage does not answer")

    monkeypatch.setattr(PackedSplit, "begin", unreachable)
    with pytest.raises(DataError, match=r"^the storage does not answer$"):
        list(closing[0].train(0))


def test_an_image_that_cannot_be_decoded_is_named_by_its_file(folder: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(folder, tmp_path / "images"))
    file = root / "train" / "cat" / "050.JPEG"
    file.write_bytes(file.read_bytes()[:-2000])
    pack(str(root), str(tmp_path / "out"))
    with pytest.raises(
        DataError, match=r"\(.*/train/00000.parquet: cat/050.JPEG\) cannot be read: OSError: .*runcated"
    ):
        [list(batches(load(tmp_path / "out")).train(seed)) for seed in range(3)]
