"""Make `Data` from labelled images: check samples; augment and normalise batches on the device."""

from __future__ import annotations

import functools
import operator
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from orchestrator.data.dataset import About, Data, Samples, is_tensors
from orchestrator.errors import ConfigError, DataError
from orchestrator.nested import kind_of
from orchestrator.user_code import called
from orchestrator.validate import finite, tuple_of, whole

ChannelValues = tuple[float, ...]  # one for each channel


class Augment(Protocol):
    """Change a batch of training images at random. The random numbers are passed in, so that they can be repeated."""

    @property
    def draws(self) -> int:
        """Return how many random numbers one image needs."""
        ...

    def __call__(self, images: Tensor, u: Tensor) -> Tensor:
        """Return changed `images` (n, C, H, W), float32 or uint8 as stored. `u` (n, draws) is uniform in [0, 1)."""
        ...


def image_data(
    train: Samples,
    val: Samples | None,
    test: Samples,
    num_classes: int,
    input_shape: tuple[int, int, int],
    augment: Augment | None = None,
    normalize: tuple[ChannelValues, ChannelValues] | None = None,
    *,
    labels: tuple[str, ...] = (),
    normalized: tuple[ChannelValues, ChannelValues] | None = None,
    val_fraction: float = 0.1,
    identity: str = "",
) -> Data:
    """Make `Data` from labelled images. A sample is (image (C, H, W), label), and `input_shape` is (C, H, W).

    Images are float32, or uint8 that become float32 in [0, 1] on the device; `normalize` is a (mean, std) per
    channel applied after that. `augment` works on batches of `train`, on the device. A validation split that is cut
    from `train` has train's own transforms. The model's function may take num_classes and input_shape.

    Two arguments inform users of the exported network, and affect neither training nor keys: `labels` names the
    classes; `normalized` is the (mean, std) by which the given images, once in [0, 1], are normalized already.

    Raises DataError or ConfigError for a wrong value.
    """
    whole("num_classes", num_classes, minimum=1, error=DataError)
    shape: object = input_shape
    if not (isinstance(shape, tuple) and len(shape) == 3):
        raise DataError(f"input_shape must be a tuple (channels, height, width), got {shape!r}")
    tuple_of("input_shape", shape, partial(whole, minimum=1, error=DataError))
    if labels and len(labels) != num_classes:
        raise DataError(f"labels must name all {num_classes} classes or none, got {len(labels)} names")
    _check_augment_value(augment)
    if normalize and normalized:
        raise DataError("normalize and normalized must not both be given: images are normalized before or here")
    for name, value in (("normalize", normalize), ("normalized", normalized)):
        _check_normalization(name, value, channels=shape[0])
    mean, std = normalize or normalized or ((0.0,) * shape[0], (1.0,) * shape[0])
    return Data(
        train,
        val,
        test,
        model_arguments={"num_classes": num_classes, "input_shape": input_shape},
        prepare=ImagePreparation(input_shape, augment, normalize),
        check=ImageSample(num_classes, input_shape),
        about=About(labels or tuple(map(str, range(num_classes))), tuple(mean), tuple(std)),
        val_fraction=val_fraction,
        identity=identity,
    )


@dataclass(frozen=True)
class ImagePreparation:
    """Augment training images, turn uint8 into float32 in [0, 1], and normalise each channel."""

    input_shape: tuple[int, int, int]
    augment: Augment | None
    normalize: tuple[ChannelValues, ChannelValues] | None

    @property
    def draws(self) -> int:
        """Return how many random numbers a training image needs."""
        return self.augment.draws if self.augment else 0

    def __call__(self, inputs: Tensor, targets: Tensor, u: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return images (n, C, H, W) as float32 for the model, and the labels unchanged. May overwrite `inputs`."""
        images = inputs
        if self.augment is not None and u is not None:
            with called(f"augment {_name(self.augment)}, called with (images, u),", self.augment):
                images = self.augment(images, u)
            self._check_augmented(inputs, images)
        result = images.to(torch.float32)
        mean, std = (_per_channel(values, images.device) for values in self._constants())
        if images.dtype == torch.uint8:
            return result.sub_(mean * 255).div_(std * 255), targets
        return result.sub_(mean).div_(std) if self.normalize else result, targets

    def _constants(self) -> tuple[ChannelValues, ChannelValues]:
        """Return the mean and standard deviation of each channel."""
        channels = self.input_shape[0]
        return self.normalize or ((0.0,) * channels, (1.0,) * channels)

    def _check_augmented(self, images: Tensor, result: object) -> None:
        shape = (len(images), *self.input_shape)
        if not (
            isinstance(result, Tensor)
            and result.shape == shape
            and (result.dtype == images.dtype or result.is_floating_point())
        ):
            got = f"{result.dtype} {tuple(result.shape)}" if isinstance(result, Tensor) else type(result).__name__
            raise ConfigError(
                f"augment {_name(self.augment)} must turn {images.dtype} images of shape {shape} into images of the "
                f"same shape and dtype, or floating point, got {got}"
            )


@dataclass(frozen=True)
class ImageSample:
    """Check a sample, and return it as (image, label) with an int label."""

    num_classes: int
    input_shape: tuple[int, int, int]

    def __call__(self, sample: Any) -> tuple[Tensor, int]:
        """Return the checked sample. Raises ValueError with the rule that it breaks."""
        if not (isinstance(sample, tuple | list) and len(sample) == 2):
            raise ValueError(f"must be a pair (image, label), got {kind_of(sample)}")
        image, label = sample
        if not isinstance(image, Tensor) or image.dtype not in (torch.float32, torch.uint8):
            got = str(image.dtype) if isinstance(image, Tensor) else type(image).__name__
            raise ValueError(f"must be a float32 or uint8 tensor, got {got}")
        if image.layout is not torch.strided:
            raise ValueError(f"must be dense, got {image.layout}: call to_dense() on it")
        if tuple(image.shape) != self.input_shape:
            raise ValueError(f"must have shape {self.input_shape}, got {tuple(image.shape)}")
        return image, self.label(label)

    def label(self, label: Any) -> int:
        """Return a label as an int. Raises ValueError unless it is in [0, num_classes)."""
        try:
            number = operator.index(label)
        except (TypeError, ValueError):
            number = -1
        if not 0 <= number < self.num_classes:
            value = label.item() if isinstance(label, Tensor) and label.numel() == 1 else label
            raise ValueError(f"must have as its label an integer in [0, {self.num_classes}), got {value!r}")
        return number

    def check_tensors(self, samples: Samples) -> None:
        """Raise ValueError unless the labels of a split in memory are integers of shape (n,)."""
        if not is_tensors(samples) or len(samples.tensors) != 2:
            return
        labels = samples.tensors[1]
        if labels.ndim != 1 or labels.is_floating_point() or labels.is_complex():
            got = f"{labels.dtype} of shape {tuple(labels.shape)}"
            raise ValueError(f"must have integers of shape (n,) as labels, got {got}")


@functools.cache
def _per_channel(values: ChannelValues, device: torch.device) -> Tensor:
    """Return `values` as (C, 1, 1) on `device`."""
    return torch.tensor(values, device=device).view(-1, 1, 1)


def _name(augment: object) -> str:
    return getattr(augment, "__name__", type(augment).__name__)


def _check_augment_value(augment: Any) -> None:
    if augment is None:
        return
    with called(f"draws of augment {_name(augment)}"):
        draws: object = getattr(augment, "draws", None)
    if not callable(augment):
        raise DataError(f"augment must be None or callable, got {augment!r:.200}")
    whole(f"draws of augment {_name(augment)}", draws, minimum=0, error=DataError)


def _check_normalization(name: str, value: Any, channels: int) -> None:
    if value is not None:
        mean, std = tuple_of(name, value, lambda _, numbers: numbers, length=2, error=DataError)
        number = partial(finite, error=DataError)
        tuple_of(f"mean of {name}", mean, number, length=channels, error=DataError)
        tuple_of(f"std of {name}", std, partial(number, above=0), length=channels, error=DataError)
