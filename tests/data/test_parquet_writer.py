"""Packing: what others find in the files, what is no image, and what an interrupted pack leaves."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pyarrow.dataset import dataset

from orchestrator.__main__ import main as command
from orchestrator.data.images import scan
from orchestrator.data.load import load_data
from orchestrator.data.parquet_layout import BLOCK_ROWS, CONTENTS, IMAGE_BYTES, SCHEMA
from orchestrator.data.parquet_reader import is_packed, open_packed
from orchestrator.data.parquet_writer import pack
from orchestrator.errors import ConfigError, DataError
from orchestrator.storage.opening import open_store


def test_others_read_the_images_as_they_were(folder: Path, packed: Path) -> None:
    for split in ("train", "val"):
        table = dataset(packed / split).to_table()  # as a folder
        assert table.schema.equals(SCHEMA)
        shards = sorted((packed / split).glob("[0-9]*.parquet"))
        assert len(shards) > (split == "train")
        assert all(shard.stat().st_size <= 2 << 20 for shard in shards)
        files = {str(path.relative_to(folder / split)): path.read_bytes() for path in (folder / split).rglob("*.JPEG")}
        assert len(table) == len(files)
        assert dict(zip(table["name"].to_pylist(), table["image"].to_pylist(), strict=True)) == files
        classes = sorted(path.name for path in (folder / split).iterdir())
        assert [classes[label] for label in table["label"].to_pylist()] == [
            name.split("/")[0] for name in table["name"].to_pylist()
        ]
        footers = [pq.read_metadata(shard) for shard in shards]
        blocks = [footer.row_group(number).num_rows for footer in footers for number in range(footer.num_row_groups)]
        assert blocks == [BLOCK_ROWS] * (len(files) // BLOCK_ROWS) + [len(files) % BLOCK_ROWS]


def test_any_run_of_rows_holds_every_class_in_its_share(packed: Path) -> None:
    labels = open_packed(str(packed)).train.labels
    share = np.bincount(labels) / len(labels)
    for first in range(len(labels) - 40):
        assert np.abs(np.bincount(labels[first : first + 40], minlength=3) - 40 * share).max() <= 2.5


def test_the_same_folder_gives_the_same_bytes(folder: Path, packed: Path, tmp_path: Path) -> None:
    pack(str(folder), str(tmp_path / "again"), shard_mb=1)
    files = sorted(path.relative_to(packed) for path in packed.rglob("*") if path.is_file())
    assert sorted(p.relative_to(tmp_path / "again") for p in (tmp_path / "again").rglob("*") if p.is_file()) == files
    for file in files:
        assert (tmp_path / "again" / file).read_bytes() == (packed / file).read_bytes()


def test_a_killed_pack_is_no_data_set_and_is_not_written_over(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    slow = (
        "import pathlib, sys, time, orchestrator.data.parquet_writer as p\n"
        "first = pathlib.Path(sys.argv[2], 'train', '00000.parquet')\n"
        "def hold(done, total): first.exists() and (print('held', flush=True), time.sleep(600))\n"
        "p.pack(sys.argv[1], sys.argv[2], shard_mb=1, on_progress=hold)"
    )
    command = [sys.executable, "-c", slow, str(folder), str(out)]
    with subprocess.Popen(command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"  # the first shard is written
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not is_packed(str(out))
    with pytest.raises(DataError, match=r"dataset.json is missing"):
        open_packed(str(out))
    with pytest.raises(ConfigError, match=r"got 2 file\(s\), such as _packing, of a pack that was inter"):
        pack(str(folder), str(out))
    (out / "notes.txt").touch()
    with pytest.raises(ConfigError, match=r"must be empty, got 3 file\(s\), such as _packing: choose another"):
        pack(str(folder), str(out))


@pytest.mark.parametrize("place", ["local", "s3"])
def test_of_two_packs_to_one_place_the_second_touches_nothing(
    folder: Path, tmp_path: Path, place: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = str(tmp_path / "out") if place == "local" else request.getfixturevalue("s3_uri")
    other = Path(shutil.copytree(folder, tmp_path / "other"))
    (other / "train" / "cat" / "000.JPEG").unlink()

    def late(root: str) -> object:
        """The first one begins, and ends, while the second one looks through its folder."""
        if root == str(other):
            pack(str(folder), out, shard_mb=1)
        return scan(root)

    refusals = []

    def progress(done: int, total: int) -> None:
        """And a third one comes while the first is under way."""
        with pytest.raises(ConfigError, match=r"is still running|another pack is running") as refusal:
            pack(str(other), out)
        refusals.append(refusal)

    pack(str(folder), out, shard_mb=1, on_progress=progress)
    assert refusals
    before = {path: open_store(out).read(path) for path in open_store(out).list()}
    open_store(out).delete_tree("train")
    open_store(out).delete_tree("val")
    open_store(out).delete(CONTENTS)
    monkeypatch.setattr("orchestrator.data.parquet_writer.scan", late)
    with pytest.raises(ConfigError, match="got a packed data set already"):
        pack(str(other), out)
    assert {path: open_store(out).read(path) for path in open_store(out).list()} == before
    assert len(open_packed(out).train.labels) == 171


def test_a_postscript_file_is_no_image(folder: Path, tmp_path: Path) -> None:
    """Pillow would start Ghostscript for it."""
    root = Path(shutil.copytree(folder, tmp_path / "images"))
    Image.new("RGB", (20, 20)).save(root / "train" / "cat" / "page.jpg", format="EPS")
    with pytest.raises(DataError, match=r"page.jpg is not an image"):
        pack(str(root), str(tmp_path / "out"))


LINKS = ["..", "../..", "../../..", "/", "../cat", "deep", "loop", "nowhere"]


@pytest.mark.timeout(60)
def test_links_that_go_round_are_not_followed(folder: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(folder, tmp_path / "images"))
    expected = scan(str(root))[1]["train"].names.tolist()
    cat = root / "train" / "cat"
    (cat / "deep").mkdir()
    for number, target in enumerate(LINKS):
        (cat / f"link{number}").symlink_to(target)
        (cat / "deep" / f"link{number}").symlink_to(f"../{target}")
    (cat / "loop").symlink_to("loop")
    (root / "val" / "loop").symlink_to("loop")
    assert scan(str(root))[1]["train"].names.tolist() == expected


def test_linked_images_and_folders_are_packed_once(folder: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(folder, tmp_path / "images"))
    cat = root / "train" / "cat"
    shutil.copytree(folder / "val" / "dog", tmp_path / "elsewhere")
    for link in ("a", "b"):
        (cat / link).symlink_to(tmp_path / "elsewhere")
    (cat / "one.jpg").symlink_to(tmp_path / "elsewhere" / "000.JPEG")
    shutil.move(root / "val" / "cat", tmp_path / "class")
    (root / "val" / "cat").symlink_to(tmp_path / "class")
    found = scan(str(root))[1]
    added = {*found["train"].names.tolist()} - {*scan(str(folder))[1]["train"].names.tolist()}
    assert added == {b"cat/one.jpg", *(b"cat/a/%03d.JPEG" % number for number in range(4))}
    assert len(found["val"].names) == 12


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", ["pipe", "link to a pipe", "link to nothing", "link to itself"])
@pytest.mark.parametrize("use", ["pack", "load"])
def test_what_only_has_the_name_of_an_image_is_named(folder: Path, tmp_path: Path, kind: str, use: str) -> None:
    root = Path(shutil.copytree(folder, tmp_path / "images"))
    image, pipe = root / "train" / "cat" / "new.jpg", tmp_path / "pipe"
    os.mkfifo(image if kind == "pipe" else pipe)
    if kind != "pipe":
        image.symlink_to(
            {"link to a pipe": str(pipe), "link to nothing": "gone.jpg", "link to itself": "new.jpg"}[kind]
        )
    with pytest.raises(DataError, match=r"train/cat/new.jpg must be a file or a link to one: put the image there, or"):
        pack(str(root), str(tmp_path / "out")) if use == "pack" else load_data("imagefolder", {}, root=str(root))


NAMES = [
    '"quoted".jpg',
    "a,b.jpg",
    "a\nb.jpg",
    "a\r\n.jpg",
    " .jpg",
    "ü/中.jpg",
    "'.jpg",
    "NULL.jpg",
    "\\.jpg",
    '".jpg',
]


def test_any_name_comes_back(folder: Path, tmp_path: Path) -> None:
    (image,) = (folder / "train" / "cat").glob("007.JPEG")
    for split in ("train", "val"):
        for name in NAMES:
            file = tmp_path / "images" / split / "only" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(image, file)
    pack(str(tmp_path / "images"), str(tmp_path / "out"))
    split = open_packed(str(tmp_path / "out")).test
    assert sorted(split.file_of(row).split(": only/")[1] for row in range(len(NAMES))) == sorted(NAMES)
    assert {bytes(content) for content in split.block(0)} == {image.read_bytes()}


def test_the_content_of_an_image_decides_and_not_its_name(folder: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(folder, tmp_path / "images"))  # ImageNet has a PNG whose name ends in .JPEG
    Image.new("L", (9, 9)).save(root / "val" / "cat" / "000.JPEG", "PNG")
    pack(str(root), str(tmp_path / "out"))
    assert (root / "val" / "cat" / "000.JPEG").read_bytes() in open_packed(str(tmp_path / "out")).test.block(0)


def damaged_png(root: Path) -> None:
    file = root / "train" / "cat" / "000.png"
    Image.new("RGB", (9, 9)).save(file)
    content = bytearray(file.read_bytes())
    content[50] ^= 1
    file.write_bytes(content)


def huge(root: Path) -> None:
    with open(root / "train" / "cat" / "000.JPEG", "r+b") as file:
        file.truncate(IMAGE_BYTES + 1)


def odd_name(root: Path) -> None:
    (root / "train" / "cat" / "000.JPEG").rename(root / "train" / "cat" / os.fsdecode(b"\xff.JPEG"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda root: (root / "train" / "cat" / "007.JPEG").write_bytes(b""),
            "cat/007.JPEG is not an image, or is damaged",
        ),
        (
            lambda root: (root / "val" / "dog" / "x.jpg").write_text("a text"),
            "val/dog/x.jpg is not an image, or is dam",
        ),
        (
            damaged_png,
            r"cat/000.png is not an image, or is damaged \(SyntaxError\): put the image there again, or",
        ),
        (lambda root: shutil.rmtree(root / "val" / "dog"), "must have the same classes; only one of them has dog"),
        (huge, "cat/000.JPEG has 33,550,337 bytes, at most 33,550,336 can be packed: train from the folder"),
        (odd_name, r"file names must be UTF-8 to be packed, got b'cat/\\xff.JPEG'"),
    ],
)
def test_what_cannot_be_packed(folder: Path, tmp_path: Path, change: Callable[[Path], None], message: str) -> None:
    root = Path(shutil.copytree(folder, tmp_path / "images"))
    change(root)
    with pytest.raises(DataError, match=message):
        pack(str(root), str(tmp_path / "out"))
    assert not (tmp_path / "out" / CONTENTS).exists()


# The command.


def test_the_command_packs_into_a_bucket_once(folder: Path, s3_uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["dataset", "pack", str(folder), s3_uri, "--shard-mb", "1"]
    assert command(arguments) == 0
    files = open_store(s3_uri).list()
    assert CONTENTS in files
    said = capsys.readouterr().out
    assert re.fullmatch(rf"packed: 183 images, 2\.\d MB in {len(files) - 3} files: {s3_uri}\n", said)
    assert command(arguments) == 1
    assert f"error: {s3_uri} must be empty, got a packed data set already" in capsys.readouterr().err
    assert command([*arguments[:3], s3_uri + "2", "--shard-mb", "0"]) == 1
    assert "error: --shard-mb must be a whole number of 1 or more, got 0" in capsys.readouterr().err


def test_reading_and_packing_need_no_ray() -> None:
    code = (
        "import sys, orchestrator.data.parquet_writer; assert not [m for m in sys.modules if m.split('.')[0] == 'ray']"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
