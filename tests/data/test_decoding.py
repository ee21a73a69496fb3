"""Image folders as they are found: hidden names, other endings, deep pixels, EXIF orientation, transparency."""

from __future__ import annotations

import io
import logging
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from orchestrator.data.dataset import Data
from orchestrator.data.decoding import decoded
from orchestrator.data.images import scan
from orchestrator.data.load import load_data
from orchestrator.data.parquet_reader import open_packed
from orchestrator.data.parquet_writer import pack
from orchestrator.errors import ConfigError, DataError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of three images each in train, and one each in val."""
    for split, count in (("train", 3), ("val", 1)):
        for label, name in enumerate(("cat", "dog")):
            place = tmp_path / "images" / split / name
            place.mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (8, 8), (100 * label, i, 0)).save(place / f"{i}.png")
    return tmp_path / "images"


def load(root: Path, **options: object) -> Data:
    return load_data("imagefolder", {"image_size": 8, "val_fraction": 0.3, **options}, root=str(root))


def names(root: Path) -> list[str]:
    return [name.decode() for name in scan(str(root))[1]["train"].names]


def test_names_that_begin_with_a_dot_are_neither_classes_nor_images(folder: Path) -> None:
    before, identity = names(folder), load(folder).identity
    for place in ("train/.ipynb_checkpoints", "val/.ipynb_checkpoints", "train/cat/.ipynb_checkpoints", "train/.Trash"):
        (folder / place).mkdir()
        Image.new("RGB", (8, 8)).save(folder / place / "0-checkpoint.png")
    (folder / "train" / "dog" / "._1.png").write_bytes(b"\0\5\x16\7 Mac OS X")
    (folder / "train" / ".DS_Store").touch()
    assert scan(str(folder))[0] == ["cat", "dog"]
    assert names(folder) == before
    assert load(folder).identity == identity


@pytest.mark.parametrize("use", ["load", "pack"])
def test_files_that_are_left_out_are_counted_by_ending(
    folder: Path, tmp_path: Path, use: str, caplog: pytest.LogCaptureFixture
) -> None:
    cat = folder / "train" / "cat"
    for name in ("1.jp2", "2.JP2", "notes.txt", "README"):
        (cat / name).touch()
    for name in ("lost.png", "dog.tar", "x.JP2"):
        (folder / "train" / name).touch()
    with caplog.at_level(logging.WARNING):
        load(folder) if use == "load" else pack(str(folder), str(tmp_path / "out"))
    assert [record.getMessage() for record in caplog.records] == [
        f"{folder}/train: 7 file(s) are left out: 3 ending in .jp2, 1 without an ending, 1 ending in .txt, "
        "1 ending in .tar, 1 in no class folder; images must lie in a class folder and end in "
        ".jpg, .jpeg, .png, .bmp, .webp, .gif, .tif, .tiff, .ppm, .pgm"
    ]


@pytest.mark.parametrize("ending", ["jpeg", "PNG", "bmp", "webp", "gif", "tif", "TIFF", "ppm", "pgm"])
def test_every_ending_of_torchvision_is_read(folder: Path, tmp_path: Path, ending: str) -> None:
    Image.new("L", (8, 8), 77).save(folder / "train" / "cat" / f"x.{ending}")
    assert f"cat/x.{ending}" in names(folder)
    pack(str(folder), str(tmp_path / "out"))
    for data in (load(folder), load(tmp_path / "out")):
        parts = [(split, i) for split in (data.train, data.val) for i in range(len(split))]
        (image,) = [split[i][0] for split, i in parts if split.file_of(i).endswith(f"cat/x.{ending}")]
        assert (image.float() - 77).abs().max() <= 1


def pixels(file: io.BytesIO | Path, **options: object) -> Tensor:
    return decoded(file, Image.Image.copy, **options)


def saved(image: Image.Image, form: str, **options: object) -> io.BytesIO:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file


RAMP = np.arange(256, dtype=np.uint16).reshape(16, 16)


@pytest.mark.parametrize(
    "file",
    [
        saved(Image.fromarray(RAMP * 257), "PNG"),
        saved(Image.fromarray(RAMP * 257), "TIFF"),
        saved(Image.fromarray((RAMP * 257).astype(">u2")), "TIFF"),
        saved(Image.fromarray(RAMP * 257), "PPM"),
        io.BytesIO(b"P5 16 16 4095\n" + (RAMP * 16).astype(">u2").tobytes()),  # 12 bits, as the file says
    ],
    ids=["png", "little-endian tiff", "big-endian tiff", "pgm", "pgm of 12 bits"],
)
def test_sixteen_bits_become_eight(file: io.BytesIO) -> None:
    assert torch.equal(pixels(file), torch.arange(256).to(torch.uint8).view(16, 16).expand(3, 16, 16))


@pytest.mark.parametrize(
    ("image", "options", "mode"),
    [
        (Image.fromarray(RAMP.astype(np.float32)), {}, "F"),
        (Image.fromarray(RAMP.astype(np.int32)), {}, "I"),
        (Image.fromarray(RAMP), {"tiffinfo": {262: 0}}, "I;16"),  # zero is white
    ],
    ids=["floats", "32 bits", "zero is white"],
)
def test_pixels_without_a_scale_to_eight_bits_are_refused(folder, tmp_path, image, options, mode) -> None:
    file = folder / "val" / "cat" / "0.tif"
    image.save(file, **options)
    (folder / "val" / "cat" / "0.png").unlink()
    rule = f"pixels must have 8 or 16 bits a channel, with zero as black, got TIFF mode {mode}: save the image"
    with pytest.raises(DataError, match=rf"test sample 0 \({file}\) cannot be read: DepthError: {rule}"):
        load(folder)
    with pytest.raises(DataError, match=f"{file} cannot be packed: {rule}"):
        pack(str(folder), str(tmp_path / "out"))


def turned(place: Path) -> None:
    """A picture whose upper half is white, stored as a camera on its side does."""
    upright = Image.new("RGB", (8, 8))
    upright.paste("white", (0, 0, 8, 4))
    exif = Image.Exif()
    exif[274] = 6  # to be turned a quarter clockwise
    upright.transpose(Image.Transpose.ROTATE_90).save(place, exif=exif)


def transparent(place: Path) -> None:
    """Its lower half is fully transparent, with black below."""
    image = Image.new("RGBA", (8, 8), (255, 255, 255, 255))
    image.paste((0, 0, 0, 0), (0, 4, 8, 8))
    image.save(place)


UPPER_HALF = torch.cat([torch.full((4, 8), 255), torch.zeros(4, 8)]).to(torch.uint8)


@pytest.mark.parametrize(
    ("make", "options", "stored", "changed"),
    [
        (turned, {"upright": True}, UPPER_HALF.rot90(1), UPPER_HALF),
        (transparent, {"background": "white"}, UPPER_HALF, torch.full((8, 8), 255, dtype=torch.uint8)),
        (transparent, {"background": "#000"}, UPPER_HALF, UPPER_HALF),
    ],
    ids=["EXIF orientation", "white behind", "black behind"],
)
def test_orientation_and_transparency(
    folder: Path, tmp_path: Path, make: Callable[[Path], None], options: dict[str, object], stored, changed
) -> None:
    make(tmp_path / "x.png")
    assert torch.equal(pixels(tmp_path / "x.png"), stored.expand(3, 8, 8))
    assert torch.equal(pixels(tmp_path / "x.png", **options), changed.expand(3, 8, 8))
    assert load(folder, **options).identity != load(folder).identity
    pack(str(folder), str(tmp_path / "out"))
    assert load(tmp_path / "out", **options).identity != load(tmp_path / "out").identity


def deep_png(kind: int, pixels: list[list[int]], transparent: list[int]) -> io.BytesIO:
    """A PNG of one row, 16 bits a channel: `kind` 0 is grey, 2 RGB; Pillow writes none with a transparent colour."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    def deep(numbers: list[int]) -> bytes:
        return np.array(numbers, ">u2").tobytes()

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", len(pixels), 1, 16, kind, 0, 0, 0))
    row = b"\0" + b"".join(map(deep, pixels))
    body = chunk(b"tRNS", deep(transparent)) + chunk(b"IDAT", zlib.compress(row)) + chunk(b"IEND", b"")
    return io.BytesIO(b"\x89PNG\r\n\x1a\n" + head + body)


@pytest.mark.parametrize(
    ("kind", "stored", "transparent"),
    [
        (0, [[40000], [40001], [10]], [40000]),
        (2, [[40000, 10, 99], [40000, 10 + 256, 99], [0, 0, 0]], [40000, 10, 99]),
        (2, [[0, 0, 99], [0, 0, 99 + 256], [256, 0, 99]], [0, 0, 99]),
    ],
    ids=["grey", "RGB", "RGB below 256"],
)
def test_a_transparent_colour_of_sixteen_bits_is_replaced(
    kind: int, stored: list[list[int]], transparent: list[int]
) -> None:
    plain = pixels(deep_png(kind, stored, transparent)).permute(1, 2, 0)[0]
    assert torch.equal(plain, (torch.tensor(stored) >> 8).to(torch.uint8).expand(3, 3))
    blue = pixels(deep_png(kind, stored, transparent), background="blue").permute(1, 2, 0)[0]
    assert blue[0].tolist() == [0, 0, 255]
    assert torch.equal(blue[1:], plain[1:])


def test_the_first_frame_of_an_animation_is_the_image() -> None:
    first, second = Image.new("RGB", (4, 4), "white"), Image.new("RGB", (4, 4), "black")
    for form in ("GIF", "TIFF", "WEBP", "PNG"):
        file = saved(first, form, save_all=True, append_images=[second])
        assert torch.equal(pixels(file), torch.full((3, 4, 4), 255, dtype=torch.uint8)), form


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"upright": 1}, "upright must be True or False, got 1"),
        ({"image_size": True}, "image_size must be a whole number of 1 or more, got True"),
        ({"background": "no colour"}, "background must be None or a colour .* got 'no colour'"),
        ({"background": 3}, "background must be None or a colour .* got 3"),
    ],
)
def test_options_are_checked(folder: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(folder, **options)


def test_packing_keeps_image_files_as_they_are(folder: Path, tmp_path: Path) -> None:
    """Options apply when images are read, so one packed data set serves all of them."""
    transparent(folder / "val" / "cat" / "0.png")
    pack(str(folder), str(tmp_path / "out"))
    assert (folder / "val" / "cat" / "0.png").read_bytes() in open_packed(str(tmp_path / "out")).test.block(0)
