"""Damage and malice in a packed data set end in a sentence that names the file, and take little memory."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.data.batches import Batches
from orchestrator.data.dataset import Data
from orchestrator.data.load import load_data
from orchestrator.data.parquet_layout import BLOCK_ROWS, CONTENTS, CONTENTS_BYTES, FILES, index_file
from orchestrator.data.parquet_reader import open_packed
from orchestrator.errors import DataError

BOMB = "[" * 200_000
TERABYTE = 1 << 40


def load(root: Path | str) -> Data:
    return load_data("imagefolder", {"image_size": 16, "val_fraction": 0.1}, root=str(root))


def edit(root: Path, change: Callable[[dict], object]) -> None:
    contents = json.loads((root / CONTENTS).read_text())
    change(contents)
    (root / CONTENTS).write_text(json.dumps(contents))


def files(root: Path, change: Callable[[list], object]) -> None:
    edit(root, lambda contents: change(contents["splits"]["train"]["files"]))


def reindexed(root: Path, change: Callable[[list[str]], list[str]], split: str = "train") -> None:
    """Another index, whose sum is right. `change` gets its lines."""
    index = root / index_file(split)
    index.write_text("".join(change(index.read_text().splitlines(keepends=True))))
    described = {"index": hashlib.sha256(index.read_bytes()).hexdigest()}
    edit(root, lambda contents: contents["splits"][split].update(described))


def with_row(root: Path, row: int, **fields: object) -> None:
    """One row of train's index says something else."""

    def change(lines: list[str]) -> list[str]:
        values = dict(
            zip(("name", "label", "start", "size", "crc"), lines[row].rstrip("\n").rsplit(",", 4), strict=True)
        )
        lines[row] = ",".join(map(str, {**values, **fields}.values())) + "\n"
        return lines

    reindexed(root, change)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def grow(path: Path) -> None:
    """To a terabyte that takes no room on the disk, and ends like a Parquet file."""
    with open(path, "r+b") as file:
        file.seek(TERABYTE - 4)
        file.write(b"PAR1")


def endless(root: Path) -> None:
    """As large as its index says, and as many rows: only an absolute limit can refuse that."""
    grow(root / index_file("train"))
    grow(root / "train" / "00001.parquet")
    files(root, lambda f: f[-1].__setitem__(slice(None), [TERABYTE, TERABYTE]))


def endless_block(root: Path) -> None:
    files(root, lambda f: f[-1].__setitem__(1, TERABYTE))
    grow(root / "train" / "00001.parquet")
    with_row(root, -1, size=2 << 30)


NO_CONTENTS = r"dataset.json is not the table of contents of a packed data set \("
NO_ORDER = r"train/_index.csv must place the images of a file one after another"
DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda r: (r / "train" / "00001.parquet").unlink(), r"train/00001.parquet is missing: copy it there"),
    "cut off": (
        lambda r: cut_short(r / "train" / "00000.parquet"),
        r"train/00000.parquet is cut off .*of [\d,]+ bytes",
    ),
    "empty": (lambda r: (r / "val" / "00000.parquet").write_bytes(b""), "val/00000.parquet is cut off or damaged"),
    "another file": (
        lambda r: shutil.copy(r / "train" / "00001.parquet", r / "train" / "00000.parquet"),
        "train/00000.parquet is cut off or damaged",
    ),
    "no index": (lambda r: (r / index_file("val")).unlink(), "val/_index.csv is missing: copy it there"),
    "another index": (lambda r: cut_short(r / index_file("val")), r"val/_index.csv does not have the sha256"),
    "index of a terabyte": (lambda r: grow(r / index_file("train")), "train/_index.csv is damaged: it has 1,099,511,"),
    "index of another kind": (
        lambda r: reindexed(r, lambda lines: ["PAR1", "\0" * 1000]),
        r"train/_index.csv must hold name, label, start, size, crc \(ArrowInvalid",
    ),
    "two numbers": (lambda r: reindexed(r, lambda lines: ["a,1,2\n", *lines[1:]]), "train/_index.csv must hold name"),
    "a label in words": (lambda r: with_row(r, 3, label="cat"), "train/_index.csv must hold name, .*ArrowInvalid"),
    "a row too few": (lambda r: reindexed(r, lambda lines: lines[1:]), "train/_index.csv must name the rows of all"),
    "no label": (lambda r: with_row(r, 20, label=""), "train/_index.csv must name the rows of all files"),
    "another label": (
        lambda r: with_row(r, 20, label=9),
        r"train sample 3 \(.*/train/00000.parquet: .*JPEG\) must have as its label an integer in \[0, 3\), got 9",
    ),
    "an image before the others": (lambda r: with_row(r, 40, start=4), NO_ORDER),
    "an image of no bytes": (lambda r: with_row(r, 40, size=0), NO_ORDER),
    "an image beyond the file": (lambda r: with_row(r, -1, size=TERABYTE), NO_ORDER),
    "an image at a negative place": (lambda r: with_row(r, 0, start=-5), NO_ORDER),
    "an image that ends beyond all numbers": (lambda r: with_row(r, -1, start=2**63 - 9, size=2**63 - 9), NO_ORDER),
    "an image of gigabytes": (endless_block, "train/_index.csv must have 32 images in at most 1,073,741,824 bytes"),
    "one image as large as its file": (lambda r: with_row(r, 0, start=0, size=1 << 20), NO_ORDER),
    "another image": (lambda r: with_row(r, 17, crc=1), r"train/00000.parquet is damaged in .*JPEG \(CRC-32\): copy"),
    "no JSON": (lambda r: (r / CONTENTS).write_text("{"), NO_CONTENTS),
    "an index of a terabyte for as many rows": (
        endless,
        "train/_index.csv is damaged: it has 1,099,511,.* at most 2,147,483,648 are allowed",
    ),
    "no object": (lambda r: (r / CONTENTS).write_text("[1]"), NO_CONTENTS),
    "nested": (lambda r: (r / CONTENTS).write_text(BOMB), NO_CONTENTS + "it is nested too deeply"),
    "a terabyte": (
        lambda r: grow(r / CONTENTS),
        rf"dataset.json is damaged: .* at most {CONTENTS_BYTES:,} are allowed",
    ),
    "no val": (lambda r: edit(r, lambda c: c["splits"].pop("val")), NO_CONTENTS + "splits.val is missing"),
    "no files": (
        lambda r: files(r, lambda f: f.clear()),
        NO_CONTENTS + "splits.train .*: a split must have 1 to 100,000",
    ),
    "endless files": (
        lambda r: files(r, lambda f: f.extend(f[:1] * FILES)),
        NO_CONTENTS + "splits.train .*: a split must have 1",
    ),
    "infinite": (
        lambda r: files(r, lambda f: f.append([1, float("inf")])),
        NO_CONTENTS + r"splits.train.files\[.*\]\[1\] must be a whole .* inf",
    ),
    "no rows": (
        lambda r: files(r, lambda f: f.insert(0, [0, 9])),
        NO_CONTENTS + "splits.train .*: a file's rows and bytes",
    ),
    "more rows than bytes": (
        lambda r: files(r, lambda f: f.append([9, 5])),
        NO_CONTENTS + "splits.train .*: a file's rows",
    ),
    "half a block": (
        lambda r: files(r, lambda f: f[0].__setitem__(0, BLOCK_ROWS + 1)),
        NO_CONTENTS + "splits.train .*: every file but the last must have whole blocks of 32 rows",
    ),
    "an exabyte": (lambda r: files(r, lambda f: f[-1].__setitem__(1, 1 << 60)), "train/0000.*.parquet is cut off"),
    "endless rows": (lambda r: files(r, lambda f: f[-1].__setitem__(0, f[-1][1])), "_index.csv must name the rows of"),
    "a file less": (lambda r: files(r, lambda f: f.pop()), "train/_index.csv must name the rows of all files"),
    "no classes": (lambda r: edit(r, lambda c: c.update(classes=[])), NO_CONTENTS + "classes must be names, got"),
    "numbers": (
        lambda r: edit(r, lambda c: c.update(classes=[1, 2, 3])),
        NO_CONTENTS + r"classes\[0\] must be a text",
    ),
    "a class without a name": (
        lambda r: edit(r, lambda c: c["classes"].append("")),
        NO_CONTENTS + "classes must be names, got",
    ),
    "a class twice": (
        lambda r: edit(r, lambda c: c["classes"].append("cat")),
        NO_CONTENTS + ".*: the names of its classes must differ",
    ),
    "a class without images": (
        lambda r: edit(r, lambda c: c["classes"].extend(["newt", "owl"])),
        "train must have images of every class, but has none of 'newt'",
    ),
    "older": (lambda r: edit(r, lambda c: c.update(format=1)), "dataset.json has format 1, but this version reads 3"),
    "a format without end": (lambda r: edit(r, lambda c: c.update(format="9" * 9999)), NO_CONTENTS + "format must be"),
}


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize("case", DAMAGE)
def test_damage_is_named_before_training(copy: Path, case: str) -> None:
    damage, message = DAMAGE[case]
    damage(copy)
    with pytest.raises(DataError, match=message) as caught:
        load(copy)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("loader_workers", [0, 2])
def test_a_changed_byte_is_found_when_it_is_read(copy: Path, loader_workers: int) -> None:
    shard = copy / "train" / "00001.parquet"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    batches = Batches(load(copy), batch_size=12, device=torch.device("cpu"), loader_workers=loader_workers)
    with pytest.raises(DataError, match=r"train/00001.parquet is damaged in .*JPEG \(CRC-32\): copy it") as caught:
        list(batches.train(0))
    batches.close()
    assert "\n" not in str(caught.value)


def test_a_file_that_goes_while_it_is_read_is_named(copy: Path) -> None:
    data = load(copy)
    (copy / "train" / "00001.parquet").unlink()
    with pytest.raises(
        DataError, match=r"train/00001.parquet has changed since it was opened \(file .* does not exist"
    ):
        list(Batches(data, batch_size=12, device=torch.device("cpu")).train(0))


@dataclasses.dataclass(frozen=True)
class Change:
    file: str
    place: float
    bytes: bytes


changes = st.lists(
    st.builds(
        Change,
        st.sampled_from([CONTENTS, index_file("train"), index_file("val"), "train/00000.parquet", "val/00000.parquet"]),
        st.floats(0, 0.9999),
        st.binary(min_size=1, max_size=4),
    ),
    min_size=1,
    max_size=3,
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=changes)
def test_any_bytes_give_the_same_images_or_a_sentence(packed: Path, copy: Path, changes: list[Change]) -> None:
    shutil.copytree(packed, copy, dirs_exist_ok=True)
    for change in changes:
        content = bytearray((copy / change.file).read_bytes())
        place = int(change.place * len(content))
        content[place : place + len(change.bytes)] = change.bytes
        (copy / change.file).write_bytes(content)
    for split in ("train", "val"):  # sums that fit again
        described = hashlib.sha256((copy / index_file(split)).read_bytes()).hexdigest()
        try:
            edit(copy, lambda c, split=split, index=described: c["splits"][split].update(index=index))
        except (KeyError, TypeError, ValueError, AttributeError):
            break
    expected = images(packed)
    with contextlib.suppress(DataError):
        assert images(copy) == expected


def images(root: Path) -> list[bytes]:
    splits = open_packed(str(root))[1:3]
    blocks = [split.block(block) for split in splits for block in range(-(-len(split.labels) // BLOCK_ROWS))]
    return [bytes(image) for block in blocks for image in block]


@pytest.mark.parametrize("uri", ["s3", "file"])
def test_a_place_without_a_packed_data_set_says_how_to_make_one(
    uri: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    root = request.getfixturevalue("s3_uri") if uri == "s3" else f"file://{tmp_path}"
    with pytest.raises(DataError, match=r"dataset.json is missing: `orchestrator dataset pack FOLDER .*written last"):
        load(root)
