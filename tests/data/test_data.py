"""Data: splits that never move, an identity that follows the content, and a sentence for every mistake."""

from __future__ import annotations

import hashlib
import math
import os
import pickle
import random
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, Subset, TensorDataset, random_split

from orchestrator.data import builtin
from orchestrator.data.builtin import CropAndFlip
from orchestrator.data.dataset import About, Data, fixed_order
from orchestrator.data.image_data import image_data
from orchestrator.data.load import complete, load_data
from orchestrator.errors import ConfigError, DataError

USER_MODULE = """
import torch
from torch.utils.data import TensorDataset
from orchestrator.data.dataset import Data
from orchestrator.data.image_data import image_data

def split(n):
    return TensorDataset(torch.zeros(n, 1, 4, 4), torch.arange(n) % 3)

def plain(n=30):
    return image_data(split(n), split(6), split(9), num_classes=3, input_shape=(1, 4, 4))

def rooted(root, n=30):
    assert root == "/some/folder"
    return plain(n)

def needs(n):
    return plain(n)

def text():
    return "data"

def broken():
    return open("/no/such/file")
"""


def tensors(n: int = 40, classes: int = 4, seed: int = 0) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    return TensorDataset(torch.rand(n, 2, 3, 3, generator=generator), torch.arange(n) % classes)


def make(**changes: object) -> Data:
    given = {"train": tensors(40), "val": tensors(8, seed=1), "test": tensors(12, seed=2), "num_classes": 4}
    return image_data(**{**given, "input_shape": (2, 3, 3), **changes})


class Listed(Dataset[object]):
    """A map-style data set of whatever samples it is given."""

    def __init__(self, *samples: object, **attributes: object) -> None:
        self.given = samples
        self.__dict__.update(attributes)

    def __len__(self) -> int:
        return len(self.given)

    def __getitem__(self, index: int) -> object:
        if isinstance(self.given[index], Exception):
            raise self.given[index]
        return self.given[index]


class Endless(IterableDataset[object]):
    def __iter__(self) -> Iterator[object]:
        return iter(())


GOOD = (torch.zeros(2, 3, 3), 0)
WRONG = (torch.zeros(2, 3, 3), 9)


def sparse() -> TensorDataset:
    images, labels = tensors(5).tensors
    return TensorDataset(images.to_sparse(), labels)


class Draws:
    """An augmentation whose `draws` is a number, or raises it."""

    def __init__(self, number: int | Exception) -> None:
        self.number = number

    @property
    def draws(self) -> int:
        if isinstance(self.number, Exception):
            raise self.number
        return self.number

    def __call__(self, images: Tensor, u: Tensor) -> Tensor:
        return images


def without(value: float) -> TensorDataset:
    images, labels = tensors(5).tensors
    images[3, 1, 2, 2] = value
    return TensorDataset(images, labels)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_classes": 0}, "num_classes must be a whole number of 1 or more, got 0"),
        ({"num_classes": True}, "num_classes must be .* got True"),
        ({"train": None}, "the train split must be a map-style Dataset with a length, got NoneType"),
        ({"test": [].append}, "the test split must be a map-style Dataset with a length, got builtin_function"),
        ({"val": sparse()}, "each tensor of the val split must be dense, got torch.sparse_coo: call to_dense"),
        ({"val": Subset(sparse(), [0])}, "each tensor of the val split must be dense, got torch.sparse_coo"),
        ({"val": Listed((GOOD[0].to_sparse(), 0))}, "val sample 0 must be dense, got torch.sparse_coo"),
        ({"train": Subset(tensors(), [True] * 40)}, "indices of a Subset must be a list of whole numbers, got bool"),
        ({"train": Subset(tensors(), torch.arange(40.0))}, "must be a list of whole numbers, got float"),
        ({"train": Subset(tensors(), [3, 40])}, "indices of a Subset must be below its 40 samples, got 40"),
        ({"augment": Draws(-1)}, "draws of augment Draws must be a whole number of 0 or more, got -1"),
        ({"input_shape": (3, 3)}, r"input_shape must be .* got \(3, 3\)"),
        ({"input_shape": [2, 3, 3]}, "input_shape must be a tuple"),
        ({"augment": torch.flip}, "draws of augment flip must be a whole number of 0 or more, got None"),
        ({"normalize": ((0.5,), (0.5,))}, r"mean of normalize must be a tuple of 2, got \(0.5,\)"),
        ({"normalize": 0.5}, "normalize must be a tuple of 2, got 0.5"),
        ({"normalize": (("a", "b"), (1.0, 1.0))}, r"mean of normalize\[0\] must be a finite number, got 'a'"),
        ({"normalize": ((0.5, 0.5), (0.5, 0.0))}, r"std of normalize\[1\] must be a finite number above 0, got 0.0"),
        ({"normalize": ((0.5, 0.5), (0.5, math.inf))}, r"std of normalize\[1\] must be .* got inf"),
        ({"num_classes": 3}, r"train sample 3 must have as its label an integer in \[0, 3\), got 3"),
        ({"test": TensorDataset(torch.zeros(3, 2, 3, 3), torch.tensor([0, 1, -1]))}, "test sample 2 .*got -1"),
        ({"val": TensorDataset(torch.zeros(2, 2, 3, 3), torch.zeros(2))}, "val split .*torch.float32"),
        ({"val": TensorDataset(torch.zeros(2, 2, 3, 3), torch.zeros(2, 1).long())}, r"val split .*shape \(2, 1\)"),
        ({"train": TensorDataset(torch.zeros(2, 2, 3, 3)), "val": None}, r"train split must hold two tensors"),
        ({"train": Subset(tensors(), [])}, "the train split must hold at least one sample, got none"),
        ({"test": Endless()}, "the test split must be a map-style Dataset with a length, got Endless"),
        ({"input_shape": (2, 3, 4)}, r"train sample 0 must have shape \(2, 3, 4\), got \(2, 3, 3\)"),
        ({"val": without(float("nan"))}, "val sample 3 must hold finite numbers"),
        ({"train": without(float("-inf"))}, "train sample 3 must hold finite numbers"),
        ({"val": TensorDataset(torch.zeros(2, 2, 3, 3).double(), torch.zeros(2).long())}, "val sample 0 .*float64"),
        ({"test": Listed((np.zeros((2, 3, 3)), 0))}, "test sample 0 must be a float32 or uint8 tensor, got ndarray"),
        ({"test": Listed((GOOD[0], 4))}, r"test sample 0 must have as its label an integer in \[0, 4\), got 4"),
        ({"test": Listed((GOOD[0], 0.0))}, "test sample 0 must have as its label an integer .*got 0.0"),
        ({"test": Listed((GOOD[0], "cat"))}, "test sample 0 .*got 'cat'"),
        ({"test": Listed(GOOD, targets=[0, 9])}, None),  # `targets` that are not the labels are not believed
        ({"test": Listed(GOOD, GOOD, targets=[0, 9])}, None),
        ({"test": Listed(GOOD, GOOD, targets=[0, 9], target_transform=abs)}, None),
        ({"test": Listed(*[GOOD] * 50, WRONG, *[GOOD] * 50, targets=[0] * 50 + [9] + [0] * 50)}, "sample 50 .*got 9"),
        ({"test": Listed(GOOD, WRONG, targets=[0, 9], samples=[("a", 0), ("b.jpg", 9)])}, r"test sample 1 \(b.jpg\)"),
        (
            {"test": Listed(OSError("cut\noff"), samples=[("b.jpg", 0)])},
            r"0 \(b.jpg\) cannot be read: OSError: cut of",
        ),
        ({"test": Listed((*GOOD, 1))}, "test sample 0 must be a pair .* got tuple of 3"),
        ({"test": Listed(GOOD[0])}, r"test sample 0 must be a pair \(image, label\), got Tensor"),
        ({"val": None, "val_fraction": float("nan")}, r"val_fraction must be a number in \(0, 1\), got nan"),
        ({"val": None, "val_fraction": "x"}, r"val_fraction must be a number in \(0, 1\), got 'x'"),
        ({"val": None, "val_fraction": True}, r"val_fraction must be a number in \(0, 1\), got True"),
        ({"val": None, "val_fraction": 0.0}, r"val_fraction must be a number in \(0, 1\), got 0.0"),
        ({"val": None, "val_fraction": 0.01}, "val_fraction 0.01 of 40 training samples gives 0"),
        ({"val": None, "val_fraction": 1.0}, r"val_fraction must be a number in \(0, 1\), got 1.0"),
        ({"val": None, "val_fraction": 0.99}, "val_fraction 0.99 of 40 training samples gives 40"),
    ],
)
def test_unusable_data_is_named(changes: dict[str, object], message: str | None) -> None:
    if message is None:
        complete(make(**changes))
        return
    with pytest.raises(DataError, match=message) as caught:
        complete(make(**changes))
    assert "\n" not in str(caught.value)


def test_validation_is_cut_by_a_seed_that_is_not_the_users() -> None:
    whole = tensors(400)
    cuts = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        cuts.append(complete(make(train=whole, val=None)))
    assert cuts[0].identity == cuts[1].identity
    train, val = cuts[0].train, cuts[0].val
    assert isinstance(train, TensorDataset)
    assert isinstance(val, TensorDataset)
    assert (len(train), len(val)) == (360, 40)
    assert torch.bincount(val.tensors[1]).tolist() == [10, 10, 10, 10]
    rows = {tuple(image.flatten().tolist()) for part in (train, val) for image in part.tensors[0]}
    assert rows == {tuple(image.flatten().tolist()) for image in whole.tensors[0]}


def test_a_cut_of_other_data_sets_is_a_part_of_them() -> None:
    data = complete(make(train=Listed(*[(torch.full((2, 3, 3), float(i)), i % 4) for i in range(20)]), val=None))
    read = sorted(int(part[i][0][0, 0, 0]) for part in (data.train, data.split("val")) for i in range(len(part)))
    assert read == list(range(20))
    assert len(data.split("val")) == 2


@pytest.mark.parametrize("counts", [[7, 7, 7], [50, 3, 1], [1], [4, 0, 9]])
def test_any_cut_of_the_fixed_order_is_stratified(counts: list[int]) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    order = fixed_order(labels)
    assert sorted(order) == list(range(len(labels)))
    for cut in range(len(labels) + 1):
        got = np.bincount(labels[order[:cut]], minlength=len(counts))
        expected = np.array(counts) * cut / len(labels)
        assert np.abs(got - expected).max() <= 1.5


def test_parts_of_tensors_stay_in_memory() -> None:
    train, val = random_split(tensors(40), [30, 10])
    data = complete(make(train=train, val=Subset(val, [1, 2])))
    assert isinstance(data.train, TensorDataset)
    assert isinstance(data.val, TensorDataset)
    assert torch.equal(data.val.tensors[0][1], val[2][0])


@pytest.mark.parametrize("count", [1, 31, 40])
@pytest.mark.parametrize("kind", [torch.tensor, np.array, tuple, list])
def test_the_indices_of_a_part_may_be_any_whole_numbers(count: int, kind: Callable[[list[int]], object]) -> None:
    places = torch.randperm(40, generator=torch.Generator().manual_seed(count))[:count].tolist()
    data = complete(make(test=Subset(tensors(), kind(places))))
    assert torch.equal(data.test.tensors[0], tensors().tensors[0][places])
    listed = Listed(*(tensors()[i] for i in range(40)))
    assert complete(make(test=Subset(listed, kind(places)))).test[0][1] == places[0] % 4


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.int16])
@pytest.mark.parametrize("kind", [TensorDataset, type("Own", (TensorDataset,), {})])
def test_labels_may_be_of_any_integers(dtype: torch.dtype, kind: type[TensorDataset]) -> None:
    images, labels = tensors().tensors
    narrow = kind(images, (labels % 2).to(dtype))
    data = complete(make(train=narrow, val=None, test=Subset(narrow, [0, 1, 2])))
    assert [int(label) for _, label in data.test] == [0, 1, 0]
    with pytest.raises(DataError, match=r"train sample 1 must have as its label an integer in \[0, 1\)"):
        complete(make(train=narrow, val=None, num_classes=1))


@dataclass(frozen=True)
class Shift:
    """An augmentation with a setting."""

    by: float
    draws: int = 1

    def __call__(self, images: Tensor, u: Tensor) -> Tensor:
        return images + self.by


def changed(index: int, tensor: int) -> TensorDataset:
    images, labels = tensors(40).tensors
    if tensor == 0:
        images[index, 0, 0, 0] += 1
    else:
        labels[index] = (labels[index] + 1) % 4
    return TensorDataset(images, labels)


def test_identity_follows_everything_that_decides_the_result() -> None:
    assert complete(make()).identity == complete(make(), "some.module:function").identity  # content, not name
    variants: list[dict[str, object]] = [
        {},
        {"train": changed(5, 0)},
        {"train": changed(39, 1)},
        {"train": TensorDataset(tensors().tensors[0], tensors().tensors[1].int())},
        {"val": tensors(9, seed=1)},
        {"val": None},
        {"val": None, "val_fraction": 0.2},
        {"test": tensors(12, seed=3)},
        {"num_classes": 5},
        {"normalize": ((0.0, 0.0), (1.0, 1.0))},
        {"normalize": ((0.0, 0.1), (1.0, 1.0))},
        {"augment": Shift(1.0)},
        {"augment": Shift(2.0)},
        {"test": Listed(GOOD)},
        {"test": Listed(GOOD, GOOD)},
    ]
    identities = [complete(make(**variant)).identity for variant in variants]
    assert len(set(identities)) == len(variants)
    assert all(len(identity) == 64 for identity in identities)
    assert complete(make(identity="mine")).identity == "mine"
    listed = make(test=Listed(GOOD))
    assert complete(listed, "a:b").identity != complete(listed, "a:c").identity


def test_completing_leaves_the_randomness_of_the_process_alone() -> None:
    class Noisy(Listed):
        def __getitem__(self, index: int) -> object:
            return torch.rand(2, 3, 3) + random.random() + float(np.random.rand()), 0

    torch.manual_seed(3)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    complete(make(train=Noisy(*range(20)), val=None))
    assert torch.equal(before[0], torch.get_rng_state())
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before[1:]


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module of the user's."""
    (tmp_path / "user_data.py").write_text(USER_MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "user_data", raising=False)
    return "user_data"


def test_user_functions_get_root_if_they_take_it(user: str) -> None:
    with pytest.raises(ConfigError, match="is not in files: leave --data out, got '/some/folder'"):
        load_data(f"{user}:plain", {}, root="/some/folder")
    assert len(load_data(f"{user}:rooted", {"n": 12}, root="/some/folder").train) == 12
    assert len(load_data(f"{user}:rooted", {"root": "/some/folder"}).train) == 30


@pytest.mark.parametrize(
    ("spec", "options", "root", "error", "message"),
    [
        ("nist", {}, None, ConfigError, "cifar10.*digits.*imagefolder.*'nist'"),
        ("digits", {"n": 3}, None, ConfigError, "'digits' does not fit the options .*it takes no options"),
        ("user_data:plain", {"m": 3}, None, ConfigError, "'user_data:plain' does not fit .*'m'.*it takes n"),
        ("user_data:needs", {}, None, ConfigError, "missing a required argument: 'n'"),
        ("user_data:rooted", {"root": "/a"}, "/b", ConfigError, "must not hold root: it is given already"),
        ("user_data:text", {}, None, ConfigError, "must return orchestrator.data.dataset.Data, got str"),
        ("user_data:broken", {}, None, DataError, "'user_data:broken' failed: FileNotFoundError: .*/no/such/file"),
        ("user_data:missing", {}, None, ConfigError, "missing"),
        ("cifar10", {}, None, DataError, "needs --data .*cifar-10-batches-py"),
        ("cifar10", {}, "/no/such", DataError, "cifar-10-batches-py in it, got '/no/such'; .*download=True"),
        (
            "imagefolder",
            {},
            None,
            DataError,
            "needs --data .*, the folder with train/CLASS/.* and val/CLASS/",
        ),
        ("imagefolder", {"image_size": 0}, "/tmp", ConfigError, "image_size must be .* got 0"),
        ("imagefolder", {}, "/no/such", DataError, "/no/such/train is not a folder: expected /no/such/train/CLASS"),
    ],
)
def test_what_cannot_be_loaded_is_named(user, spec, options, root, error, message) -> None:
    with pytest.raises(error, match=message):
        load_data(spec, options, root=root)


def test_digits_are_split_once_and_for_all() -> None:
    data = load_data("digits", {})
    train, val, test = (data.split(name) for name in ("train", "val", "test"))
    assert (len(train), len(val), len(test)) == (1200, 300, 297)
    for part in (train, val, test):
        counts = torch.bincount(part.tensors[1], minlength=10)
        assert counts.max() - counts.min() <= 0.04 * len(part)  # the whole has 174 to 183 of each
    std, mean = torch.std_mean(train.tensors[0])
    assert (round(mean.item(), 4), round(std.item(), 4)) == (0.0, 1.0)
    whole = torch.cat([part.tensors[0] for part in (train, val, test)])
    assert len(whole.flatten(1).unique(dim=0)) == len(whole)  # no digit in two splits
    # Changes only with the data or the split, and then every key changes with it.
    assert hashlib.sha256(torch.cat([p.tensors[1] for p in (train, val, test)]).numpy().tobytes()).hexdigest() == (
        "cb0e8b58b02df59ae95b4a3b4fa5887a0e99246cd2d6ba2c4c64cef61216ce84"
    )


def test_digits_are_those_of_scikit_learn() -> None:
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    assert (builtin._digits_table() == np.column_stack([pixels, labels])).all()


def test_digits_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(DataError, match=r"a required package .* pip install -e '\.' -c constraints"):
        load_data("digits", {})


@pytest.fixture
def cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in the layout of CIFAR-10 with few images, whose sums torchvision is told to expect."""
    from torchvision.datasets import CIFAR10

    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    rng = np.random.default_rng(0)

    def write(name: str, content: object) -> str:
        blob = pickle.dumps(content)
        (folder / name).write_bytes(blob)
        return hashlib.md5(blob).hexdigest()

    def batch(name: str, n: int) -> list[str]:
        images = rng.integers(0, 256, (n, 3072), dtype=np.uint8)
        return [name, write(name, {"data": images, "labels": [i % 10 for i in range(n)]})]

    monkeypatch.setattr(CIFAR10, "train_list", [batch(f"data_batch_{i}", 40) for i in range(1, 6)])
    monkeypatch.setattr(CIFAR10, "test_list", [batch("test_batch", 30)])
    meta = {"filename": "batches.meta", "key": "label_names"}
    names = {"label_names": [str(i) for i in range(10)]}
    monkeypatch.setattr(CIFAR10, "meta", {**meta, "md5": write("batches.meta", names)})
    return tmp_path


def test_cifar10_keeps_bytes_and_cuts_a_tenth(cifar: Path) -> None:
    data = load_data("cifar10", {}, root=str(cifar))
    assert [len(data.split(name)) for name in ("train", "val", "test")] == [180, 20, 30]
    assert torch.bincount(data.val.tensors[1]).tolist() == [2] * 10
    assert data.train.tensors[0].dtype == torch.uint8
    first = pickle.loads((cifar / "cifar-10-batches-py" / "test_batch").read_bytes())["data"][0]
    assert data.test.tensors[0][0].flatten().tolist() == first.tolist()
    assert data.prepare.augment == CropAndFlip(pad=4)


def test_damaged_cifar10_is_an_error(cifar: Path) -> None:
    path = cifar / "cifar-10-batches-py" / "data_batch_3"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(DataError, match=r"undamaged cifar-10-batches-py"):
        load_data("cifar10", {}, root=str(cifar))


def test_crop_and_flip_equals_one_image_at_a_time() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(1, 256, (50, 3, 6, 5), dtype=torch.uint8, generator=generator)
    u = torch.rand(50, 3, generator=generator)
    u[0], u[1] = 0.0, 1 - 2**-24  # both ends of the draws
    got = CropAndFlip(pad=2)(images, u)
    for image, (row, column, flip), result in zip(images, u.tolist(), got, strict=True):
        padded = torch.zeros(3, 10, 9, dtype=torch.uint8)
        padded[:, 2:8, 2:7] = image
        crop = padded[:, int(row * 5) : int(row * 5) + 6, int(column * 5) : int(column * 5) + 5]
        assert torch.equal(result, crop.flip(2) if flip < 0.5 else crop)


def write_images(root: Path, train: dict[str, int], val: dict[str, int], side: int = 40) -> Path:
    """JPEGs of one colour each, of different shapes."""
    for split, classes in (("train", train), ("val", val)):
        for label, (name, count) in enumerate(classes.items()):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                colour = (40 * label, 10 * i % 256, 99)
                Image.new("RGB", (side + i % 7, side), colour).save(root / split / name / f"{i:03d}.JPEG")
    return root


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_images(tmp_path / "images", {"cat": 20, "dog": 30}, {"cat": 3, "dog": 2})


def test_imagefolder_splits(folder: Path) -> None:
    data = load_data("imagefolder", {"image_size": 24, "val_fraction": 0.2}, root=str(folder))
    assert data.model_arguments["num_classes"] == 2
    assert data.model_arguments["input_shape"] == (3, 24, 24)
    assert [torch.bincount(data.split(name).targets).tolist() for name in ("train", "val", "test")] == [
        [16, 24],
        [4, 6],
        [3, 2],
    ]
    files = [data.split(name).file_of(i) for name in ("train", "val") for i in range(len(data.split(name)))]
    assert sorted(files) == sorted(str(path) for path in (folder / "train").rglob("*.JPEG"))
    for name, repeatable in (("train", False), ("val", True), ("test", True)):
        split = data.split(name)
        for i in range(len(split)):
            image, label = split[i]
            assert image.shape == (3, 24, 24)
            assert image.dtype == torch.uint8
            assert label == ["cat", "dog"].index(Path(split.file_of(i)).parent.name)
            assert abs(int(image[0, 0, 0]) - 40 * label) <= 3
        assert split._decode.keywords["transform"].transforms[0].__class__.__name__ == (
            "Resize" if repeatable else "RandomResizedCrop"
        )


def test_imagefolder_evaluates_as_torchvision_does(tmp_path: Path) -> None:
    from torchvision import transforms

    root = write_images(tmp_path, {"a": 2, "b": 2}, {"a": 1, "b": 1})
    noise = np.random.default_rng(0).integers(0, 256, (50, 61, 3), dtype=np.uint8)
    Image.fromarray(noise).save(root / "val" / "a" / "000.JPEG")
    Image.fromarray(noise[:, :, 0]).save(root / "val" / "b" / "000.JPEG")  # grey becomes RGB
    data = load_data("imagefolder", {"image_size": 28, "val_fraction": 0.3}, root=str(root))
    usual = transforms.Compose([transforms.Resize(32), transforms.CenterCrop(28), transforms.PILToTensor()])
    for i in range(2):
        image, _ = data.test[i]
        assert torch.equal(image, usual(Image.open(data.test.file_of(i)).convert("RGB")))


def test_imagefolder_finds_nested_linked_and_oddly_named_files(tmp_path: Path) -> None:
    root = write_images(tmp_path / "images", {"a b": 3, "ü": 3}, {"a b": 1, "ü": 1})
    (root / "train" / "a b" / "notes.txt").write_text("not an image")
    os.symlink(root / "train" / "ü", root / "train" / "a b" / "more")
    (root / "train" / "ü" / "000.JPEG").rename(root / "train" / "ü" / "zwölf.jpg")
    data = load_data("imagefolder", {"image_size": 8, "val_fraction": 0.2}, root=str(root))
    assert len(data.train) + len(data.val) == 9
    assert any(data.train.file_of(i).endswith("zwölf.jpg") for i in range(len(data.train)))


def test_imagefolder_identity_is_the_layout_and_the_size_not_the_place(folder: Path, tmp_path: Path) -> None:
    def identity(root: Path, **options: object) -> str:
        return load_data("imagefolder", {"image_size": 8, "val_fraction": 0.1, **options}, root=str(root)).identity

    first = identity(folder)
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    assert identity(copy) == first
    assert len({first, identity(folder, image_size=9), identity(folder, val_fraction=0.2)}) == 3
    (copy / "train" / "cat" / "000.JPEG").rename(copy / "train" / "cat" / "x.JPEG")
    renamed = identity(copy)
    (copy / "val" / "dog" / "000.JPEG").rename(copy / "val" / "dog" / "x.JPEG")
    assert len({first, renamed, identity(copy)}) == 3


def empty_class(root: Path) -> None:
    (root / "train" / "eel").mkdir()
    (root / "val" / "eel").mkdir()


def flat_val(root: Path) -> None:
    shutil.rmtree(root / "val")
    (root / "val").mkdir()
    Image.new("RGB", (9, 9)).save(root / "val" / "1.JPEG")


def cut_short(split: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        path = root / split / "cat" / "000.JPEG"
        path.write_bytes(path.read_bytes()[:300])

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda root: shutil.rmtree(root / "val"), r"images/val is not a folder: expected .*images/val/CLASS/\*.jpg"),
        (flat_val, r"images/val holds no class folders: expected .*/val/CLASS/\*.jpg"),
        (lambda root: (root / "val" / "eel").mkdir(), "must have the same classes; only one of them has eel"),
        (empty_class, r"train/eel holds no images: expected files ending in .jpg"),
        (cut_short("val"), r"test sample 0 \(.*images/val/cat/000.JPEG\) cannot be read: OSError: .*[Tt]runcated"),
    ],
)
def test_imagefolder_mistakes_are_named(folder: Path, change: Callable[[Path], None], message: str) -> None:
    change(folder)
    with pytest.raises(DataError, match=message):
        load_data("imagefolder", {"image_size": 8}, root=str(folder))


def test_a_number_of_draws_that_cannot_be_read_is_one_sentence() -> None:
    with pytest.raises(ConfigError, match=rf"draws of augment Draws failed: OSError: none \({__file__}:\d+\)"):
        complete(make(augment=Draws(OSError("none"))))


@pytest.mark.parametrize("fraction", [0.0, -1.0, 1.0, 2.0, True])
def test_imagefolder_val_fraction(folder: Path, fraction: float) -> None:
    with pytest.raises(DataError, match=rf"val_fraction must be a number in \(0, 1\), got {fraction}"):
        load_data("imagefolder", {"image_size": 8, "val_fraction": fraction}, root=str(folder))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"labels": ("a", "b")}, "labels must name all 3 classes or none, got 2 names"),
        ({"normalized": ((0.5,), (0.0,))}, r"std of normalized\[0\] must be a finite number above 0"),
        ({"normalize": ((0.0,), (1.0,)), "normalized": ((0.0,), (1.0,))}, "must not both be given"),
    ],
)
def test_what_is_told_to_users_of_the_network_is_checked(change, words):
    with pytest.raises(DataError, match=words):
        told(**change)


def test_names_and_past_normalisation_are_no_part_of_the_identity():
    named = told(labels=("a", "b", "c"), normalized=((0.5,), (0.2,)))
    assert complete(named).identity == complete(tiny.data()).identity
    assert named.about == About(("a", "b", "c"), (0.5,), (0.2,))


def told(**about: object) -> Data:
    """Return the tiny data with something to say of it."""
    data = tiny.data()
    return image_data(data.train, data.val, data.test, 3, (1, 6, 6), **about)
