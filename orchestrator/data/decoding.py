"""Decode one image file: choose the formats, and handle depth, rotation and transparency."""

from __future__ import annotations

from collections.abc import Callable
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from orchestrator.errors import ConfigError

if TYPE_CHECKING:
    from PIL.Image import Image

Transform = Callable[[Any], Any]  # of PIL images
IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")  # or in capitals
IMAGE_FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "GIF", "TIFF", "PPM")  # by content; other decoders start programs (EPS)
PIXELS = "16 bits >> 8, tRNS"  # part of a folder's identity: change it when the same file gives other pixels
_BITS, _PHOTOMETRIC = 258, 262  # TIFF tags: bits of each channel; 0 if zero is white, 1 if it is black


class DepthError(ValueError):
    """An image has pixels of more than 8 bits, and its format does not define their scale."""


def decoded(
    file: str | IO[bytes], transform: Transform, upright: bool = False, background: str | None = None
) -> Tensor:
    """Return the image in `file` as RGB after `transform`, as uint8 (3, H, W).

    It reads the first of several frames or pages. `upright`: turn the image by its EXIF orientation. `background`: the
    colour behind transparent pixels; None drops transparency, which shows the colours stored below it. Channels of 16
    bits keep the upper 8. A PNG of 16 bits may name a transparent colour: all 16 bits are compared in a grey image,
    but only the upper 8 in a coloured one, because Pillow gives no more.

    Raises DepthError, and any exception of a decoder.
    """
    from PIL import Image, ImageOps

    with Image.open(file, formats=IMAGE_FORMATS) as image:
        check_depth(image)
        _scale_transparent_colour(image)
        changed = transform(_rgb(ImageOps.exif_transpose(image) if upright else image, background))
    return torch.from_numpy(np.array(changed)).permute(2, 0, 1)


def check_depth(image: Image) -> None:
    """Raise DepthError for pixels of more than 8 bits that have no scale to 8 bits; Pillow would clip them at 255."""
    if image.mode not in ("I", "F") and not image.mode.startswith("I;"):
        return  # Pillow itself scales 16-bit colours to 8 bits
    if image.format == "TIFF":
        tags: Any = image.tag_v2  # type: ignore[attr-defined]
        scaled = image.mode.startswith("I;16") and tags[_BITS][0] == 16 and tags[_PHOTOMETRIC] == 1
    else:
        scaled = image.mode != "F"  # PNG, and PGM, which Pillow scales to 16 bits
    if not scaled:
        raise DepthError(
            f"pixels must have 8 or 16 bits a channel, with zero as black, got {image.format} mode {image.mode}: "
            "save the image in that form"
        )


def check_background(background: str | None) -> None:
    """Raise ConfigError unless `background` is None or the name of a colour."""
    from PIL import ImageColor

    try:
        if background is not None:
            ImageColor.getcolor(background, "RGB")
    except (ValueError, AttributeError, TypeError):
        raise ConfigError(
            f"background must be None or a colour such as 'white' or '#808080', got {background!r}"
        ) from None


def _scale_transparent_colour(image: Image) -> None:
    """Scale the transparent colour of a 16-bit PNG to 8 bits, as Pillow does with the pixels."""
    tile: Any = image.tile  # type: ignore[attr-defined]
    colour = image.info.get("transparency")
    if image.format == "PNG" and isinstance(colour, tuple) and tile and tile[0][3] == "RGB;16B":
        image.info["transparency"] = tuple(channel >> 8 for channel in colour)


def _rgb(image: Image, background: str | None) -> Image:
    import PIL.Image

    if image.mode == "I" or image.mode.startswith("I;"):
        deep, transparent = np.asarray(image), image.info.get("transparency")
        grey = PIL.Image.fromarray((deep >> 8).astype(np.uint8)).convert("RGB")  # as Pillow does for colours
        if background is not None and transparent is not None:
            grey.paste(background, mask=PIL.Image.fromarray(deep == transparent))
        return grey
    if background is not None and image.has_transparency_data:
        behind = PIL.Image.new("RGBA", image.size, background)
        return PIL.Image.alpha_composite(behind, image.convert("RGBA")).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")
