"""Load images from class folders, laid out as ImageNet's, or from packed Parquet files with the same content."""

from __future__ import annotations

import copy
import hashlib
import logging
import os
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from orchestrator.data.dataset import Data, KnownSamples, Samples, fixed_order
from orchestrator.data.decoding import IMAGE_ENDINGS, PIXELS, check_background, decoded
from orchestrator.data.image_data import image_data
from orchestrator.errors import DataError
from orchestrator.lazy import lazy
from orchestrator.validate import flag, fraction, whole

if TYPE_CHECKING:
    from orchestrator.data import parquet_reader
else:
    parquet_reader = lazy("orchestrator.data.parquet_reader")  # which imports pyarrow

Array = np.ndarray[Any, Any]
Decode = Callable[[Any], Tensor]  # takes a file name or an open file
Add = Callable[[bytes], None]  # adds bytes to the hash that identifies the data

MAX_ENDINGS = 8  # in a warning about ignored files

logger = logging.getLogger(__name__)


def imagefolder(
    root: str | None = None,
    image_size: int = 224,
    val_fraction: float = 0.01,
    upright: bool = False,
    background: str | None = None,
) -> Data:
    """Load root/train/CLASS/*.jpg, and root/val/CLASS/*.jpg as the TEST split: ImageNet's layout.

    `root` may also be the output of `orchestrator dataset pack`, in a folder or at s3://bucket/prefix. Validation is
    cut from train by a fixed seed and has the evaluation's transform. Training: random resized crop and flip;
    evaluation: resize the shorter side to 8/7 of `image_size`, central crop (Krizhevsky et al. 2012; Szegedy et al.
    2015).

    Names that begin with a dot are ignored. Files without one of `IMAGE_ENDINGS` are ignored with a warning that
    counts them. An image of 16 bits a channel keeps the upper 8; one of floats is refused. EXIF orientation is applied
    only if `upright`. Transparency is dropped, which shows the colours stored below it, unless `background` names a
    colour to put behind it, such as "white".

    Raises DataError if the layout is wrong or files are missing, ConfigError for a wrong option.
    """
    whole("image_size", image_size, minimum=1)
    flag("upright", upright)
    check_background(background)
    if root is None:
        raise DataError(
            "data 'imagefolder' needs --data (in Python data=), the folder with train/CLASS/*.jpg and val/CLASS/*.jpg, "
            "or a packed data set"
        )
    load = _packed if parquet_reader.is_packed(root) else _folder
    digest = hashlib.sha256(repr((image_size, val_fraction, upright, background, PIXELS)).encode())
    classes, train, val, test = load(root, val_fraction, digest.update, *_decoders(image_size, upright, background))
    return image_data(
        train,
        val,
        test,
        num_classes=len(classes),
        input_shape=(3, image_size, image_size),
        normalize=((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        identity=digest.hexdigest(),
        labels=tuple(classes),
    )


class Scan(NamedTuple):
    """The images of a split: names (n,) as bytes relative to its folder, sorted within a class, and labels (n,)."""

    folder: Path
    names: Array
    labels: Array


def scan(root: str) -> tuple[list[str], dict[str, Scan]]:
    """Return the class names, sorted and in the order of the labels, and the images in root/train and root/val.

    Hidden names are skipped; a warning counts the other files that are ignored. Raises DataError.
    """
    folders = {split: Path(os.path.expanduser(root)) / split for split in ("train", "val")}
    classes = _classes(folders["train"])
    if different := set(classes) ^ set(_classes(folders["val"])):
        raise DataError(
            f"{root}/train and {root}/val must have the same classes; only one of them has "
            f"{', '.join(sorted(different)[:5])}"
        )
    return classes, {split: Scan(folder, *_scan(folder, classes)) for split, folder in folders.items()}


_Splits = tuple[list[str], Samples, Samples, Samples]  # names of the classes, train, val, test


def _folder(root: str, val_fraction: float, add: Add, training: Decode, evaluation: Decode) -> _Splits:
    classes, found = scan(root)
    whole, test = found["train"], found["val"]
    cut = _cut(val_fraction, len(whole.names))
    order = fixed_order(whole.labels)
    val, train = np.sort(order[:cut]), np.sort(order[cut:])
    for array in (whole.names, whole.labels, test.names, test.labels):
        add(repr(array.dtype).encode() + array.tobytes())
    for name in whole.names[np.linspace(0, len(whole.names) - 1, 16).astype(int)]:  # the content of a few files
        add((whole.folder / os.fsdecode(name)).read_bytes())
    return (
        classes,
        ImageFiles(whole.folder, whole.names[train], whole.labels[train], training, evaluation),
        ImageFiles(whole.folder, whole.names[val], whole.labels[val], evaluation),
        ImageFiles(test.folder, test.names, test.labels, evaluation),
    )


def _packed(root: str, val_fraction: float, add: Add, training: Decode, evaluation: Decode) -> _Splits:
    packed = parquet_reader.open_packed(root)
    add(packed.identity)
    rows = len(packed.train.labels)
    cut = _cut(val_fraction, rows)  # the rows are in the same fixed order that `_folder` cuts
    return (
        list(packed.classes),
        parquet_reader.PackedImages(packed.train, cut, rows, training, evaluation),
        parquet_reader.PackedImages(packed.train, 0, cut, evaluation),
        parquet_reader.PackedImages(packed.test, 0, len(packed.test.labels), evaluation),
    )


class ImageFiles(KnownSamples):
    """Image files and their labels; each image is decoded on access, as uint8 (3, H, W).

    Names and labels are arrays: every loader process would copy the pages of a list of a million strings, because
    reading a Python object writes its reference count.
    """

    def __init__(
        self, folder: Path, names: Array, labels: Array, decode: Decode, evaluation: Decode | None = None
    ) -> None:
        self._folder, self._names, self._decode, self._evaluation = folder, names, decode, evaluation or decode
        self.targets = torch.from_numpy(labels)

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self._decode(self.file_of(index)), int(self.targets[index])

    def file_of(self, index: int) -> str:
        return os.path.join(self._folder, os.fsdecode(self._names[index]))

    def unaugmented(self) -> ImageFiles:
        """Return the same images, decoded as in evaluation."""
        plain = copy.copy(self)
        plain._decode = self._evaluation
        return plain


def _cut(val_fraction: float, samples: int) -> int:
    cut = max(1, round(fraction("val_fraction", val_fraction, error=DataError) * samples))
    if cut >= samples:
        raise DataError(f"val_fraction must leave training images, got {val_fraction} of {samples}")
    return cut


def _decoders(size: int, upright: bool, background: str | None) -> tuple[Decode, Decode]:
    """Return the decoders for training and evaluation; the other changes happen on the device, on whole batches."""
    from torchvision import transforms as t

    training = t.Compose([t.RandomResizedCrop(size), t.RandomHorizontalFlip()])
    evaluation = t.Compose([t.Resize(round(size * 256 / 224)), t.CenterCrop(size)])
    return (
        partial(decoded, transform=training, upright=upright, background=background),
        partial(decoded, transform=evaluation, upright=upright, background=background),
    )


def _classes(folder: Path) -> list[str]:
    expected = f"expected {folder}/CLASS/*.jpg, one folder for each class"
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder: {expected}")
    names = [entry.name for entry in _entries(folder) if _is_true(entry.is_dir)]
    if not names:
        raise DataError(f"{folder} holds no class folders: {expected}")
    return names


def _scan(folder: Path, classes: list[str]) -> tuple[Array, Array]:
    """Return names (n,), as bytes relative to `folder`, sorted within a class, and labels (n,) of all images."""
    above = {_identity(place) for place in (folder, *folder.resolve().parents)}
    with ThreadPoolExecutor(8) as pool:  # a network file system serves several requests at once
        found = list(pool.map(lambda name: _images(folder, name, set(above)), classes))
    _warn_of_ignored_files(folder, sum((others for _, others in found), Counter[str]()))
    for name, (files, _) in zip(classes, found, strict=True):
        if not files:
            raise DataError(f"{folder / name} holds no images: expected files ending in {', '.join(IMAGE_ENDINGS)}")
    names = np.array([os.fsencode(file) for files, _ in found for file in files])
    return names, np.repeat(np.arange(len(classes)), [len(files) for files, _ in found])


def _warn_of_ignored_files(folder: Path, others: Counter[str]) -> None:
    """Warn of ignored files: `others`, counted by their ending, and images that are not in a class folder."""
    for entry in _entries(folder):
        if not _is_true(entry.is_dir):
            others["in no class folder" if entry.name.lower().endswith(IMAGE_ENDINGS) else _ending(entry.name)] += 1
    first = not (dist.is_available() and dist.is_initialized()) or dist.get_rank() == 0
    if others and first:
        counts = ", ".join(f"{count} {what}" for what, count in others.most_common(MAX_ENDINGS))
        more = ", ..." if len(others) > MAX_ENDINGS else ""
        rule = f"images must lie in a class folder and end in {', '.join(IMAGE_ENDINGS)}"
        logger.warning("%s: %d file(s) are left out: %s%s; %s", folder, others.total(), counts, more, rule)


def _images(folder: Path, name: str, seen: set[tuple[int, int]]) -> tuple[list[str], Counter[str]]:
    """Return the sorted images of a class, and the number of other files by ending.

    Follows links, but skips the folders in `seen` and reads none twice, because links may form a cycle.
    """
    found, others, ahead = list[str](), Counter[str](), [name]
    for inside in ahead:
        if (identity := _identity(folder / inside)) in seen:
            continue
        seen.add(identity)
        for entry in _entries(folder / inside):
            if _is_true(entry.is_dir):
                ahead.append(f"{inside}/{entry.name}")
            elif entry.name.lower().endswith(IMAGE_ENDINGS):
                if not _is_true(entry.is_file):  # opening a pipe would wait for ever
                    raise DataError(f"{entry.path} must be a file or a link to one: put the image there, or remove it")
                found.append(f"{inside}/{entry.name}")
            else:
                others[_ending(entry.name)] += 1
    return sorted(found), others


def _ending(name: str) -> str:
    ending = os.path.splitext(name)[1].lower()
    return f"ending in {ending}" if ending else "without an ending"


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """Return the visible entries, sorted, so that the same folder gives the same images on every machine.

    Names that begin with a dot are skipped: Jupyter, macOS and others create such files. Raises DataError.
    """
    try:
        with os.scandir(folder) as entries:
            visible = [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {error.strerror or error}") from error
    return sorted(visible, key=lambda entry: entry.name)


def _is_true(test: Callable[[], bool]) -> bool:
    try:
        return test()
    except OSError:  # such as for a link to itself
        return False


def _identity(folder: Path) -> tuple[int, int]:
    try:
        found = os.stat(folder)
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {error.strerror or error}") from error
    return found.st_dev, found.st_ino
