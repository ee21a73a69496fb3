"""Batches: the same images whatever the number of workers and loaders, each sample once, clean errors."""

from __future__ import annotations

import dataclasses
import os
import random
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, Subset, TensorDataset
from waiting import wait_for

from orchestrator.data.batches import Batches, check_batch_size
from orchestrator.data.builtin import CropAndFlip
from orchestrator.data.dataset import Data
from orchestrator.data.image_data import image_data
from orchestrator.data.load import complete, load_data
from orchestrator.errors import ConfigError, DataError

CPU = torch.device("cpu")
Batch = tuple[Tensor, Tensor]


class Noisy(Dataset[object]):
    """Image i is i plus a number from each of the three generators; the label is i."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        noise = torch.stack([torch.rand(()), torch.tensor(random.random()), torch.tensor(np.random.rand())])
        return (index + noise.float()).view(1, 1, 3), index


class Process(Dataset[object]):
    """Images that tell of the process that read them: its id, its threads, whether it ignores SIGINT."""

    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        ignored = int(re.findall(r"SigIgn:\s*(\w+)", Path("/proc/self/status").read_text())[0], 16)
        facts = [os.getpid(), torch.get_num_threads(), ignored >> 1 & 1]
        return torch.tensor(facts).float().view(1, 1, 3), index


class Failing(Noisy):
    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if index == 7:
            raise ValueError("no such\nthing")
        return super().__getitem__(index)


class Slow(Noisy):
    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        time.sleep(0.01)
        return super().__getitem__(index)


def in_memory(n: int = 70, augmented: bool = True) -> Data:
    """Image i holds 16 different numbers, from 16 i on; the label is i."""
    splits = [TensorDataset(torch.arange(16.0 * k).view(k, 1, 4, 4), torch.arange(k)) for k in (n, 11, 13)]
    return image_data(*splits, num_classes=n, input_shape=(1, 4, 4), augment=CropAndFlip(pad=1) if augmented else None)


def noisy(n: int = 70) -> Data:
    return image_data(Noisy(n), Noisy(11), Noisy(13), num_classes=n, input_shape=(1, 1, 3))


def batches(data: Data, batch_size: int = 10, rank: int = 0, world: int = 1, **options: object) -> Batches:
    return Batches(data, batch_size=batch_size, rank=rank, world=world, device=CPU, **options)


@pytest.fixture
def closing() -> Iterator[list[Batches]]:
    """Batches that a test appends are closed after it."""
    opened: list[Batches] = []
    yield opened
    for one in opened:
        one.close()


def together(parts: list[list[Batch]]) -> list[Batch]:
    """The global batches from each rank's list of its parts."""
    return [(torch.cat([p[0] for p in step]), torch.cat([p[1] for p in step])) for step in zip(*parts, strict=True)]


def assert_same(got: list[Batch], expected: list[Batch]) -> None:
    assert len(got) == len(expected)
    for mine, theirs in zip(got, expected, strict=True):
        assert torch.equal(mine[0], theirs[0])
        assert torch.equal(mine[1], theirs[1])


@pytest.mark.parametrize("data", [in_memory(), in_memory(augmented=False), noisy()], ids=["memory", "plain", "files"])
@pytest.mark.parametrize("batch_size", [10, 64])
@pytest.mark.parametrize("world", [2, 3])
def test_global_batches_do_not_depend_on_the_number_of_workers(data: Data, batch_size: int, world: int) -> None:
    single = batches(data, batch_size)
    ranks = [batches(data, batch_size, rank, world) for rank in range(world)]
    for epoch_seed in (0, 2**63 - 1):
        expected = list(single.train(epoch_seed))
        parts = [list(one.train(epoch_seed)) for one in ranks]
        assert_same(together(parts), expected)
        assert len(expected) == single.steps_per_epoch == 70 // batch_size
        sizes = {len(labels) for part in parts for _, labels in part}
        assert max(sizes) - min(sizes) <= 1
        seen = torch.cat([labels for _, labels in expected])
        assert len(seen) == len(seen.unique()) == 70 // batch_size * batch_size


@pytest.mark.parametrize("data", [in_memory(), noisy()], ids=["memory", "files"])
@pytest.mark.parametrize("world", [1, 2, 3, 4, 5, 12])
def test_evaluation_covers_every_sample_once(data: Data, world: int) -> None:
    ranks = [batches(data, 20, rank, world) for rank in range(world)]
    for split, count in (("val", 11), ("test", 13)):
        parts = [batch for one in ranks for batch in one.evaluate(split)]
        assert torch.cat([labels for _, labels in parts]).tolist() == list(range(count))
        images = torch.cat([images for images, _ in parts])
        whole = torch.cat([images for images, _ in batches(data, 20).evaluate(split)])
        assert torch.equal(images, whole)


@settings(max_examples=60, deadline=None)
@given(n=st.integers(1, 60), batch_size=st.integers(1, 60), world=st.integers(1, 8), seed=st.integers(0, 2**63 - 1))
def test_any_sizes_share_an_epoch(n: int, batch_size: int, world: int, seed: int) -> None:
    data = in_memory(n)
    if batch_size > n or world > batch_size:
        with pytest.raises(ConfigError):
            batches(data, batch_size, world=world)
        return
    parts = [list(batches(data, batch_size, rank, world).train(seed)) for rank in range(world)]
    assert_same(together(parts), list(batches(data, batch_size).train(seed)))


def test_the_epoch_seed_alone_decides_order_and_augmentation() -> None:
    for data in (in_memory(), noisy()):
        one = batches(data)
        first, again, other = list(one.train(1)), list(one.train(1)), list(one.train(2))
        assert_same(first, again)
        assert not torch.equal(first[0][1], other[0][1])
        place = {int(label): image for images, labels in other for image, label in zip(images, labels, strict=True)}
        same = [torch.equal(image, place[int(label)]) for image, label in zip(*first[0], strict=True)]
        assert not all(same)  # augmented anew


@pytest.mark.parametrize("split", ["train", "val"])
def test_loader_processes_change_nothing(split: str, closing: list[Batches]) -> None:
    here, there = batches(noisy()), batches(noisy(), loader_workers=2)
    closing += [here, there]
    for seed in (4, 5):
        if split == "train":
            assert_same(list(there.train(seed)), list(here.train(seed)))
        else:
            assert_same(list(there.evaluate("val")), list(here.evaluate("val")))


@pytest.mark.parametrize("loader_workers", [0, 2])
@pytest.mark.parametrize("data", [in_memory(), noisy()], ids=["memory", "files"])
def test_the_randomness_of_the_process_stays_untouched(data: Data, loader_workers: int, closing: list[Batches]) -> None:
    one = batches(data, loader_workers=loader_workers)
    closing.append(one)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    for _ in range(2):
        for passed in (one.train(3), one.evaluate("val"), one.evaluate("test")):
            for _ in passed:
                assert torch.equal(before[0], torch.get_rng_state())
    assert torch.equal(before[0], torch.get_rng_state())
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before[1:]


def test_loader_processes_live_from_epoch_to_epoch_until_closed() -> None:
    one = batches(image_data(Process(), Process(), Process(), 24, (1, 1, 3)), 4, loader_workers=2)

    def facts(pass_: Iterator[Batch]) -> list[set[int]]:
        images = torch.cat([images for images, _ in pass_]).flatten(1).long()
        return [set(column.tolist()) for column in images.unbind(1)]

    pids, threads, ignored = facts(one.train(0))
    assert len(pids) == 2
    assert os.getpid() not in pids
    assert (threads, ignored) == ({1}, {1})
    assert facts(one.train(1))[0] == pids
    assert facts(one.evaluate("val"))[0] <= pids
    assert facts(one.evaluate("test"))[0] <= pids
    one.close()
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), "loader processes end with close()")


@pytest.mark.parametrize("loader_workers", [0, 2])
def test_an_epoch_may_be_left_in_its_middle(loader_workers: int, closing: list[Batches]) -> None:
    one, fresh = batches(noisy(), loader_workers=loader_workers), batches(noisy())
    closing += [one, fresh]
    left = one.train(1)
    next(left)
    assert_same(list(one.train(2)), list(fresh.train(2)))
    with pytest.raises(RuntimeError, match="another pass over the data began"):
        next(left)


class Plain(Noisy):
    """Says how its samples are without the noise."""

    def unaugmented(self) -> Noiseless:
        return Noiseless(self.n)


class Noiseless(Noisy):
    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.full((1, 1, 3), float(index)), index


@pytest.mark.parametrize("loader_workers", [0, 2])
@pytest.mark.parametrize("kind", [Plain, lambda n: Subset(Plain(n + 3), range(n))], ids=["data set", "a part of one"])
def test_calibration_reads_samples_that_nothing_augments(
    kind: Callable[[int], Dataset[object]], loader_workers: int, closing: list[Batches]
) -> None:
    """The same ones on every rank; a data set that cannot say how they are is read as it is."""
    data = image_data(kind(70), Noisy(11), Noisy(13), num_classes=80, input_shape=(1, 1, 3))
    closing += [batches(data, rank=rank, world=2, loader_workers=loader_workers) for rank in range(2)]
    first, second = (list(one.calibration(5, samples=25)) for one in closing)
    assert_same(first, second)
    assert [len(labels) for _, labels in first] == [10, 10, 5]
    assert all(torch.equal(images[:, 0, 0, 0], labels.float()) for images, labels in first)
    assert not torch.equal(first[0][1], next(closing[0].calibration(6, samples=25))[1])
    noisy_ones = next(batches(noisy()).calibration(5, samples=10))
    assert not torch.equal(noisy_ones[0][:, 0, 0, 0], noisy_ones[1].float())


@pytest.mark.parametrize("loader_workers", [0, 2])
def test_a_sample_that_fails_is_named_in_one_sentence(loader_workers: int, closing: list[Batches]) -> None:
    one = batches(image_data(Failing(40), Noisy(9), Failing(9), 40, (1, 1, 3)), loader_workers=loader_workers)
    closing.append(one)
    with pytest.raises(DataError) as caught:
        list(one.train(0))
    assert re.fullmatch(
        r"train sample 7 cannot be read: ValueError: no such thing \(.*/test_batches.py:\d+\)", str(caught.value)
    )
    with pytest.raises(DataError, match="test sample 7 cannot"):
        list(one.evaluate("test"))
    assert len(list(one.evaluate("val"))) == 1  # the loaders survive


class Holes(Dataset[object]):
    """Sample i is (i, i), but of sample `index` the input or the target is `value`."""

    def __init__(self, n: int, index: int = -1, value: float = float("nan"), part: int = 1) -> None:
        self.n, self.index, self.value, self.part = n, index, value, part

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        sample = [torch.full((2,), float(index)), torch.tensor(float(index))]
        if index == self.index:
            sample[self.part] = torch.full_like(sample[self.part], self.value)
        return sample[0], sample[1]


@pytest.mark.parametrize("loader_workers", [0, 2])
@pytest.mark.parametrize(
    ("value", "part", "message"),
    [
        ("nan", 1, "train sample 8 must have finite targets, got nan: leave such samples out, or replace the value"),
        ("-inf", 1, "train sample 8 must have finite targets, got -inf: leave"),
        ("nan", 0, "train sample 8 must have finite inputs, got nan: leave"),
        ("-inf", 0, None),  # as in a mask of attention
    ],
)
def test_a_sample_of_nan_is_named_when_it_is_read(
    loader_workers: int, value: str, part: int, message: str | None, closing: list[Batches]
) -> None:
    data = complete(Data(Holes(40, 8, float(value), part), Holes(9), Holes(9)))  # 8 is not among those looked at
    one = batches(data, loader_workers=loader_workers)
    closing.append(one)
    if message is None:
        assert len(list(one.train(0))) == 4
        return
    with pytest.raises(DataError, match=message):
        list(one.train(0))


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_first_sample_of_nan_is_named_before_training(split: str) -> None:
    splits = {name: Holes(40, 0 if name == split else -1) for name in ("train", "val", "test")}
    with pytest.raises(DataError, match=f"{split} sample 0 must have finite targets, got nan"):
        complete(Data(**splits))


@pytest.mark.parametrize(("classes", "shape"), [(30, (1, 1, 3)), (40, (1, 3, 1))])
def test_samples_are_checked_when_read(classes: int, shape: tuple[int, int, int]) -> None:
    rule = r"train sample 3\d must have as its label an integer in \[0, 30\)" if classes == 30 else "must have shape"
    with pytest.raises(DataError, match=rule):
        list(batches(image_data(Noisy(40), Noisy(9), Noisy(9), classes, shape)).train(0))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 3)):
        for name in ("cat", "dog"):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (20 + i, 30, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / split / name / f"{i:02d}.JPEG")
    return tmp_path


def imagefolder(root: Path) -> Data:
    return load_data("imagefolder", {"image_size": 16, "val_fraction": 0.1}, root=str(root))


def test_jpegs_are_the_same_for_any_workers_and_loaders(folder: Path, closing: list[Batches]) -> None:
    data = imagefolder(folder)
    closing += [batches(data, 8, rank, 2, loader_workers=2) for rank in range(2)]
    single = batches(data, 8)
    for seed in (0, 1):
        expected = list(single.train(seed))
        assert_same(together([list(one.train(seed)) for one in closing]), expected)
        assert all(images.dtype == torch.float32 and images.shape == (8, 3, 16, 16) for images, _ in expected)
    labels = [labels for one in closing for _, labels in one.evaluate("test")]
    assert torch.cat(labels).tolist() == [0, 0, 0, 1, 1, 1]


def test_a_loaded_image_is_what_torchvision_makes_of_it(folder: Path) -> None:
    from torchvision import transforms

    data = imagefolder(folder)
    usual = transforms.Compose(
        [
            transforms.Resize(18),
            transforms.CenterCrop(16),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    images = torch.cat([images for images, _ in batches(data, 8).evaluate("test")])
    expected = torch.stack([usual(Image.open(path)) for path in sorted((folder / "val").rglob("*.JPEG"))])
    torch.testing.assert_close(images, expected, rtol=1e-5, atol=1e-5)


def test_calibration_decodes_images_as_evaluation_does(folder: Path) -> None:
    data = imagefolder(folder)
    one = batches(data, 8)
    calibrated = {bytes(image.numpy()) for images, _ in one.calibration(0, samples=16) for image in images}
    evaluated = dataclasses.replace(data, test=data.train.unaugmented())
    assert calibrated <= {
        bytes(image.numpy()) for images, _ in batches(evaluated, 8).evaluate("test") for image in images
    }
    assert len(calibrated) == 16


@pytest.mark.parametrize("loader_workers", [0, 2])
def test_a_truncated_jpeg_is_named(folder: Path, loader_workers: int, closing: list[Batches]) -> None:
    data = imagefolder(folder)
    path = Path(data.train.file_of(5))
    path.write_bytes(path.read_bytes()[:-200])
    one = batches(data, 4, loader_workers=loader_workers)
    closing.append(one)
    with pytest.raises(DataError) as caught:
        [list(one.train(seed)) for seed in range(3)]
    assert str(caught.value).startswith(f"train sample 5 ({path}) cannot be read: OSError: image file is truncated")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("n", "batch_size", "world", "message"),
    [
        (20, 21, 1, "batch_size must be at most 20, the number of training samples, got 21"),
        (20, 4, 5, "workers must be at most 4, the batch size that they share, got 5"),
    ],
)
def test_batches_that_cannot_be_shared(n: int, batch_size: int, world: int, message: str) -> None:
    for attempt in (
        lambda: check_batch_size(n, batch_size, world),
        lambda: batches(in_memory(n), batch_size, world=world),
    ):
        with pytest.raises(ConfigError) as caught:
            attempt()
        assert str(caught.value) == message


@pytest.mark.parametrize("loader_workers", [0, 2])
def test_the_time_that_training_waits_for_data(closing: list[Batches], loader_workers: int) -> None:
    """That of reading, less what is read while something else goes on; in memory there is none."""
    slow = image_data(Slow(70), Slow(11), Slow(13), num_classes=70, input_shape=(1, 1, 3))
    closing.append(one := batches(slow, loader_workers=loader_workers))
    list(one.evaluate("test"))
    one.take_waited()
    began = time.perf_counter()
    list(one.train(0))
    took = time.perf_counter() - began
    assert 0.7 / max(1, loader_workers) * 0.9 <= one.take_waited() <= took
    assert one.take_waited() == 0
    waits = []
    for epoch in range(1, 6 if loader_workers else 2):
        for _ in one.train(epoch):
            time.sleep(0.4)  # much longer than a batch takes to read
        waits.append(one.take_waited())
        if waits[-1] < 0.4:
            break  # on a busy machine not every epoch
    assert waits[-1] < 0.4 if loader_workers else waits[-1] >= 0.7
    memory = batches(in_memory())
    list(memory.train(0))
    assert memory.take_waited() == 0


def test_other_settings_are_checked() -> None:
    with pytest.raises(ConfigError, match=r"rank must be a whole number from 0 to 1, got 2"):
        batches(in_memory(), rank=2, world=2)
    with pytest.raises(ConfigError, match="loader_workers must be a whole number of 0 or more, got -1"):
        batches(in_memory(), loader_workers=-1)
    with pytest.raises(ValueError, match="load_data or complete"):
        batches(image_data(Noisy(20), None, Noisy(9), 20, (1, 1, 3)))


@pytest.mark.parametrize("normalize", [None, ((0.25, 0.5), (0.5, 2.0))])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("channels_last", [False, True])
def test_images_become_normalised_floats_in_the_layout_asked_for(normalize, dtype, channels_last) -> None:
    stored = torch.randint(0, 256, (6, 2, 5, 4), generator=torch.Generator().manual_seed(0)).to(dtype)
    split = TensorDataset(stored.clone(), torch.arange(6).to(torch.uint8))
    data = complete(image_data(split, split, split, 6, (2, 5, 4), normalize=normalize))
    mean, std = (torch.tensor(v).view(2, 1, 1) for v in normalize or ((0.0, 0.0), (1.0, 1.0)))
    expected = ((stored / 255 if dtype == torch.uint8 else stored) - mean) / std
    one = batches(data, 6, channels_last=channels_last)
    for images, labels in (*one.train(0), *one.evaluate("test")):
        torch.testing.assert_close(images, expected[labels])
        assert labels.dtype == torch.int64
        layout = torch.channels_last if channels_last else torch.contiguous_format
        assert images.is_contiguous(memory_format=layout)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("data", [in_memory(), noisy()], ids=["memory", "files"])
def test_a_gpu_gets_the_same_batches(data: Data, closing: list[Batches]) -> None:
    gpu = torch.device("cuda")
    closing.append(Batches(data, batch_size=10, device=gpu, loader_workers=2, channels_last=True))
    for mine, theirs in zip(closing[0].train(3), batches(data).train(3), strict=True):
        assert mine[0].device.type == mine[1].device.type == "cuda"
        assert_same([(mine[0].cpu(), mine[1].cpu())], [theirs])


def test_changing_a_batch_in_place_does_not_change_the_data() -> None:
    one = batches(in_memory(augmented=False))
    before = [[(images.clone(), labels.clone()) for images, labels in p()] for p in passes(one)]
    for made in passes(one):
        for images, labels in made():
            images.zero_()
            labels.zero_()
    for again, first in zip(passes(one), before, strict=True):
        assert_same(list(again()), first)


def passes(one: Batches):
    return [lambda: one.train(0), lambda: one.evaluate("val"), lambda: one.evaluate("test")]


def test_evaluation_batches_shrink_with_the_size_of_the_images() -> None:
    def sizes(side: int, batch_size: int) -> list[int]:
        split = TensorDataset(torch.zeros(700, 1, side, side, dtype=torch.uint8), torch.zeros(700).long())
        one = batches(complete(image_data(split, split, split, 1, (1, side, side))), batch_size)
        return [len(labels) for _, labels in one.evaluate("val")]

    assert sizes(8, 10) == [512, 188]
    assert sizes(256, 10) == [256, 256, 188]
    assert sizes(256, 400) == [400, 300]


@pytest.mark.parametrize("loader_workers", [0, 2])
@pytest.mark.parametrize("augmented", [False, True])
def test_an_epoch_can_begin_at_any_of_its_steps(
    folder: Path, loader_workers: int, augmented: bool, closing: list
) -> None:
    """In memory and read by loaders; after the last step there is nothing left."""
    images = torch.arange(23 * 16).view(23, 1, 4, 4).float()
    splits = [TensorDataset(images, torch.arange(23)) for _ in range(3)]
    memory = image_data(
        *splits, num_classes=23, input_shape=(1, 4, 4), augment=CropAndFlip(pad=1) if augmented else None
    )
    for data, size in ((memory, 5), (imagefolder(folder), 4)):
        one = batches(data, size, loader_workers=loader_workers)
        closing.append(one)
        whole = list(one.train(3))
        for first in range(len(whole) + 1):
            assert_same(list(one.train(3, first=first)), whole[first:])
