"""The built-in data sets by short name; each is an example of what "package.module:function" must return."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from orchestrator.errors import ConfigError, DataError
from orchestrator.training.data import Data, fixed_order

Array = np.ndarray[Any, Any]
IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


def digits() -> Data:
    """1,797 handwritten digits of 8 x 8 pixels, 1,200 / 300 / 297 (Alpaydin and Kaynak 1998; in scikit-learn)."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise DataError("data 'digits' needs scikit-learn: pip install 'rewind-orchestrator[digits]'") from None
    source = load_digits()
    images, labels = torch.from_numpy(source.images / 16).float().unsqueeze(1), torch.from_numpy(source.target)
    train, val, test = np.split(fixed_order(source.target), (1200, 1500))
    std, mean = torch.std_mean(images[train])
    images = (images - mean) / std
    return Data(
        TensorDataset(images[train], labels[train]),
        TensorDataset(images[val], labels[val]),
        TensorDataset(images[test], labels[test]),
        num_classes=10,
        input_shape=(1, 8, 8),
        labels=tuple("0123456789"),
        normalized=((float(mean),), (float(std),)),
    )


def cifar10(root: str | None = None) -> Data:
    """CIFAR-10 (Krizhevsky 2009), 45,000 / 5,000 / 10,000, with the augmentation of He et al. 2016, section 4.2.

    `root` holds torchvision's folder cifar-10-batches-py. Raises DataError if it is not there or damaged.
    """
    from torchvision.datasets import CIFAR10

    rule = (
        "data 'cifar10' needs root, a folder with the unpacked, undamaged cifar-10-batches-py in it, "
        f"got {root!r}; torchvision.datasets.CIFAR10(root, download=True) puts it there"
    )
    if root is None:
        raise DataError(rule)
    try:
        # Unpickles the files in `root`, after their md5 sums were found to be those of the published ones.
        whole, held_out = (CIFAR10(root, train=train, download=False) for train in (True, False))
    except RuntimeError:
        raise DataError(rule) from None
    val, train = np.split(fixed_order(np.array(whole.targets)), (len(whole) // 10,))
    return Data(
        _cifar_tensors(whole, train),
        _cifar_tensors(whole, val),
        _cifar_tensors(held_out, np.arange(len(held_out))),
        num_classes=10,
        input_shape=(3, 32, 32),
        augment=CropAndFlip(pad=4),
        normalize=((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
        labels=tuple(whole.classes),
    )


def imagefolder(root: str | None = None, image_size: int = 224, val_fraction: float = 0.01) -> Data:
    """Folders as ImageNet's: root/train/CLASS/*.jpg, and root/val/CLASS/*.jpg, which is the TEST split here.

    Validation is cut from train by a fixed seed and has the evaluation's transform. Training: random resized crop
    and flip; evaluation: the shorter side to 8/7 of `image_size`, central crop (Krizhevsky et al. 2012; Szegedy et
    al. 2015). Raises DataError where the folders are not laid out so.
    """
    if not (isinstance(image_size, int) and image_size >= 1):
        raise ConfigError(f"image_size must be a whole number of pixels, 1 or more, got {image_size!r}")
    if root is None:
        raise DataError("data 'imagefolder' needs root, the folder with train/CLASS/*.jpg and val/CLASS/*.jpg")
    folders = {split: Path(root).expanduser() / split for split in ("train", "val")}
    classes = _classes(folders["train"])
    if different := set(classes) ^ set(_classes(folders["val"])):
        raise DataError(
            f"{root}/train and {root}/val must have the same classes; only one of them has "
            f"{', '.join(sorted(different)[:5])}"
        )
    names, labels = _scan(folders["train"], classes)
    test_names, test_labels = _scan(folders["val"], classes)
    cut = max(1, round(val_fraction * len(names)))
    if not 0 < val_fraction < 1 or cut >= len(names):
        raise DataError(f"val_fraction must be in (0, 1) and leave training images, got {val_fraction} of {len(names)}")
    order = fixed_order(labels)
    val, train = np.sort(order[:cut]), np.sort(order[cut:])
    training, evaluation = _transforms(image_size)
    digest = hashlib.sha256(repr((image_size, val_fraction)).encode())
    for array in (names, labels, test_names, test_labels):
        digest.update(repr(array.dtype).encode() + array.tobytes())
    for name in names[np.linspace(0, len(names) - 1, 16).astype(int)]:  # the files themselves, a few of a million
        digest.update((folders["train"] / os.fsdecode(name)).read_bytes())
    return Data(
        ImageFiles(folders["train"], names[train], labels[train], training),
        ImageFiles(folders["train"], names[val], labels[val], evaluation),
        ImageFiles(folders["val"], test_names, test_labels, evaluation),
        num_classes=len(classes),
        input_shape=(3, image_size, image_size),
        normalize=((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        identity=digest.hexdigest(),
        labels=tuple(classes),
    )


BUILTIN: Mapping[str, Callable[..., Data]] = {"digits": digits, "cifar10": cifar10, "imagefolder": imagefolder}


@dataclass(frozen=True)
class CropAndFlip:
    """Zero padding, a random crop of the original size, a random horizontal flip (He et al. 2016, section 4.2)."""

    pad: int
    draws: ClassVar[int] = 3

    def __call__(self, images: Tensor, u: Tensor) -> Tensor:
        """`images` (n, C, H, W); `u` (n, 3) uniform in [0, 1): the crop's row, its column, flip below one half."""
        n, channels, height, width = images.shape
        top, left = (u[:, :2] * (2 * self.pad + 1)).long().unbind(1)
        ahead = torch.arange(width, device=u.device)
        columns = left[:, None] + torch.where(u[:, 2:] < 0.5, width - 1 - ahead, ahead)  # (n, W)
        rows = top[:, None] + torch.arange(height, device=u.device)  # (n, H)
        place = rows[:, :, None] * (width + 2 * self.pad) + columns[:, None, :]  # (n, H, W) in the padded image
        padded = F.pad(images, (self.pad,) * 4).flatten(2)
        return padded.gather(2, place.view(n, 1, -1).expand(-1, channels, -1)).view(images.shape)


class ImageFiles(Dataset[tuple[Tensor, int]]):
    """Image files and their labels; an image is decoded when asked for, as uint8 (3, H, W).

    Names and labels are arrays: the pages of a list of a million strings would be copied into every loader process,
    because reading a Python object writes its reference count.
    """

    def __init__(self, folder: Path, names: Array, labels: Array, transform: Callable[[Any], Any]) -> None:
        self._folder, self._names, self._transform = folder, names, transform
        self.targets = torch.from_numpy(labels)

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        from PIL import Image

        with Image.open(self.file_of(index)) as image:
            changed = self._transform(image if image.mode == "RGB" else image.convert("RGB"))
        return torch.from_numpy(np.array(changed)).permute(2, 0, 1), int(self.targets[index])

    def file_of(self, index: int) -> str:
        return os.path.join(self._folder, os.fsdecode(self._names[index]))


def _transforms(size: int) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """Of PIL images, for training and for evaluation; the rest happens on the device, on whole batches."""
    from torchvision import transforms as t

    training = t.Compose([t.RandomResizedCrop(size), t.RandomHorizontalFlip()])
    return training, t.Compose([t.Resize(round(size * 256 / 224)), t.CenterCrop(size)])


def _classes(folder: Path) -> list[str]:
    expected = f"expected {folder}/CLASS/*.jpg, one folder for each class"
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder: {expected}")
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if entry.is_dir())
    if not names:
        raise DataError(f"{folder} holds no class folders: {expected}")
    return names


def _scan(folder: Path, classes: list[str]) -> tuple[Array, Array]:
    """Names (n,), as bytes relative to `folder`, sorted within a class, and labels (n,) of all images."""
    with ThreadPoolExecutor(8) as pool:  # a network file system answers many questions at once
        found = list(pool.map(lambda name: _images(folder, name), classes))
    for name, files in zip(classes, found, strict=True):
        if not files:
            raise DataError(f"{folder / name} holds no images: expected files ending in {', '.join(IMAGE_ENDINGS)}")
    names = np.array([os.fsencode(file) for files in found for file in files])
    return names, np.repeat(np.arange(len(classes)), [len(files) for files in found])


def _images(folder: Path, name: str) -> list[str]:
    found: list[str] = []
    for place, _, files in os.walk(folder / name, followlinks=True):
        inside = os.path.relpath(place, folder)
        found += (f"{inside}/{file}" for file in files if file.lower().endswith(IMAGE_ENDINGS))
    return sorted(found)


def _cifar_tensors(source: Any, indices: Array) -> TensorDataset:
    """uint8 images (n, 3, 32, 32): a quarter of the memory, and the padding of a crop is black."""
    images = torch.from_numpy(source.data[indices]).permute(0, 3, 1, 2).contiguous()
    return TensorDataset(images, torch.tensor(source.targets)[indices])
