"""Provide the built-in data sets by short name; each shows what a user's "package.module:function" must return."""

from __future__ import annotations

import gzip
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import TensorDataset

from orchestrator.data.dataset import Data, fixed_order
from orchestrator.data.image_data import image_data
from orchestrator.data.images import imagefolder
from orchestrator.data.lexicon import cmudict
from orchestrator.data.text import chars
from orchestrator.errors import DataError
from orchestrator.extras import extra
from orchestrator.validate import whole

Array = np.ndarray[Any, Any]


def digits() -> Data:
    """Return 1,797 handwritten digits of 8 x 8 pixels, split 1,200 / 300 / 297.

    Alpaydin and Kaynak 1998; scikit-learn holds them. Raises DataError without scikit-learn.
    """
    table = _digits_table()
    images = torch.from_numpy(table[:, :-1] / 16).float().view(-1, 1, 8, 8)
    labels = torch.from_numpy(table[:, -1].astype(np.int64))
    train, val, test = np.split(fixed_order(labels.numpy()), (1200, 1500))
    std, mean = torch.std_mean(images[train])
    images = (images - mean) / std
    return image_data(
        TensorDataset(images[train], labels[train]),
        TensorDataset(images[val], labels[val]),
        TensorDataset(images[test], labels[test]),
        num_classes=10,
        input_shape=(1, 8, 8),
        labels=tuple("0123456789"),
        normalized=((float(mean),), (float(std),)),
    )


def _digits_table() -> Array:
    """Return scikit-learn's table (1797, 65) of pixels in 0..16 and the label, without importing scikit-learn.

    The import would take half as long as that of torch, in each process. Raises DataError without scikit-learn.
    """
    with extra(None, "data 'digits'", DataError):
        if (package := importlib.util.find_spec("sklearn")) is None or package.origin is None:
            raise ModuleNotFoundError("No module named 'sklearn'", name="sklearn")
        with gzip.open(Path(package.origin).parent / "datasets/data/digits.csv.gz", "rt") as file:
            return np.loadtxt(file, delimiter=",")


def cifar10(root: str | None = None, samples: int | None = None) -> Data:
    """Return CIFAR-10 (Krizhevsky 2009), split 45,000 / 5,000 / 10,000, augmented as in He et al. 2016, section 4.2.

    `root` holds torchvision's folder cifar-10-batches-py. `samples`: how many of the 45,000 to train on, None for all.
    Raises DataError if the folder is missing or damaged.
    """
    from torchvision.datasets import CIFAR10

    rule = (
        "data 'cifar10' needs --data (in Python data=), a folder with the unpacked, undamaged cifar-10-batches-py in "
        f"it, got {root!r}; torchvision.datasets.CIFAR10(root, download=True) puts it there"
    )
    if root is None:
        raise DataError(rule)
    try:
        # This unpickles the files in `root`, but only after their md5 sums match those of the published files.
        training, held_out = (CIFAR10(root, train=train, download=False) for train in (True, False))
    except RuntimeError:
        raise DataError(rule) from None
    val, train = np.split(fixed_order(np.array(training.targets)), (len(training) // 10,))
    if samples is not None:
        whole("samples", samples, minimum=1, maximum=len(train))
    return image_data(
        _cifar_tensors(training, train[:samples]),
        _cifar_tensors(training, val),
        _cifar_tensors(held_out, np.arange(len(held_out))),
        num_classes=10,
        input_shape=(3, 32, 32),
        augment=CropAndFlip(pad=4),
        normalize=((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
        labels=tuple(training.classes),
    )


BUILTIN: Mapping[str, Callable[..., Data]] = {
    "digits": digits,
    "cifar10": cifar10,
    "imagefolder": imagefolder,
    "chars": chars,
    "cmudict": cmudict,
}


@dataclass(frozen=True)
class CropAndFlip:
    """Pad with zeros, crop at random to the original size, flip at random horizontally (He et al. 2016, sec. 4.2)."""

    pad: int
    draws: ClassVar[int] = 3

    def __call__(self, images: Tensor, u: Tensor) -> Tensor:
        """Return augmented `images` (n, C, H, W). `u` (n, 3) in [0, 1): the crop's row and column; flip if < 0.5."""
        n, channels, height, width = images.shape
        top, left = (u[:, :2] * (2 * self.pad + 1)).long().unbind(1)
        ahead = torch.arange(width, device=u.device)
        columns = left[:, None] + torch.where(u[:, 2:] < 0.5, width - 1 - ahead, ahead)  # (n, W)
        rows = top[:, None] + torch.arange(height, device=u.device)  # (n, H)
        place = rows[:, :, None] * (width + 2 * self.pad) + columns[:, None, :]  # (n, H, W) in the padded image
        padded = F.pad(images, (self.pad,) * 4).flatten(2)
        return padded.gather(2, place.view(n, 1, -1).expand(-1, channels, -1)).view(images.shape)


def _cifar_tensors(source: Any, indices: Array) -> TensorDataset:
    """Return uint8 images (n, 3, 32, 32), which need a quarter of float32's memory and make a crop's padding black."""
    images = torch.from_numpy(source.data[indices]).permute(0, 3, 1, 2).contiguous()
    return TensorDataset(images, torch.tensor(source.targets)[indices])
