"""A packed data set is the folder it was made of: same images, labels and splits, each once an epoch, or a sentence."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from s3_server import FaultProxy
from torch import Tensor

from orchestrator.__main__ import main as command
from orchestrator.errors import ConfigError, DataError
from orchestrator.storage import s3
from orchestrator.storage.store import open_store
from orchestrator.training.batches import Batches
from orchestrator.training.data import Data, load_data
from orchestrator.training.pack import pack
from orchestrator.training.packed import BLOCK, CONTENTS, SCHEMA, PackedImages, PackedSplit, is_packed
from orchestrator.training.rng import seed_all

CPU = torch.device("cpu")
Batch = tuple[Tensor, Tensor]
OPTIONS = {"image_size": 16, "val_fraction": 0.1}
COUNTS = {"cat": 90, "dog": 60, "ü x": 21}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """171 + 12 JPEGs of noise in three classes, of different sizes, some of them grey."""
    root, random = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for split, counts in (("train", COUNTS), ("val", dict.fromkeys(COUNTS, 4))):
        for name, count in counts.items():
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                shape = (90 + i % 7, 100) if i % 5 == 0 else (90 + i % 7, 100, 3)
                file = root / split / name / f"{i:03}.JPEG"
                Image.fromarray(random.integers(0, 256, shape, dtype=np.uint8)).save(file, quality=95)
    return root


@pytest.fixture(scope="module")
def packed(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("packed") / "out"
    pack(str(folder), str(out), shard_mb=1)
    return out


@pytest.fixture
def copy(packed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(packed, tmp_path / "copy"))


@pytest.fixture
def closing() -> Iterator[list[Batches]]:
    opened: list[Batches] = []
    yield opened
    for one in opened:
        one.close()


def load(root: Path | str) -> Data:
    return load_data("imagefolder", OPTIONS, root=str(root))


def batches(data: Data, rank: int = 0, world: int = 1, loader_workers: int = 0, batch_size: int = 12) -> Batches:
    return Batches(data, batch_size=batch_size, rank=rank, world=world, device=CPU, loader_workers=loader_workers)


def assert_same(got: list[Batch], expected: list[Batch]) -> None:
    assert len(got) == len(expected)
    for mine, theirs in zip(got, expected, strict=True):
        assert torch.equal(mine[0], theirs[0])
        assert torch.equal(mine[1], theirs[1])


def together(parts: list[list[Batch]]) -> list[Batch]:
    return [(torch.cat([p[0] for p in step]), torch.cat([p[1] for p in step])) for step in zip(*parts, strict=True)]


def by_name(data: Data, split: str, root: str) -> dict[str, tuple[Tensor, int]]:
    """Every sample of a split under the name of its file, augmented by the same seed."""
    samples, found = data.split(split), {}
    for index in range(len(samples)):
        seed_all(7)
        name = samples.file_of(index).removeprefix(root).split(".parquet: ")[-1].lstrip("/")
        found[name] = samples[index]
    assert len(found) == len(samples)
    return found


# The same data.


@pytest.mark.parametrize("place", ["local", "s3"])
def test_packed_images_are_those_of_the_folder(
    folder: Path, packed: Path, place: str, request: pytest.FixtureRequest
) -> None:
    root = str(packed)
    if place == "s3":
        root = request.getfixturevalue("s3_uri")
        pack(str(folder), root, shard_mb=1)
    theirs, ours = load(folder), load(root)
    assert (ours.num_classes, ours.input_shape, ours.normalize) == (3, (3, 16, 16), theirs.normalize)
    assert [len(ours.split(split)) for split in ("train", "val", "test")] == [154, 17, 12]
    for split in ("train", "val", "test"):
        expected = by_name(theirs, split, str(folder / ("val" if split == "test" else "train")))
        got = by_name(ours, split, root)
        assert got.keys() == expected.keys()
        for name, (image, label) in expected.items():
            assert torch.equal(got[name][0], image)
            assert got[name][1] == label
        assert sorted(ours.split(split).targets.tolist()) == sorted(theirs.split(split).targets.tolist())


def test_files_are_stored_as_they_are_and_readable_by_others(folder: Path, packed: Path) -> None:
    for split in ("train", "val"):
        shards = sorted(path for path in (packed / split).iterdir() if path.name != "index.parquet")
        assert len(shards) > (split == "train")
        table = pa.concat_tables([pq.read_table(path) for path in shards])
        assert table.schema.equals(SCHEMA)
        assert all(size <= 2 << 20 for size in (path.stat().st_size for path in shards))
        found = dict(zip(table["name"].to_pylist(), table["image"].to_pylist(), strict=True))
        files = {str(path.relative_to(folder / split)): path.read_bytes() for path in (folder / split).rglob("*.JPEG")}
        assert found == files


def test_any_run_of_rows_holds_every_class_in_its_share(packed: Path) -> None:
    labels = pq.read_table(packed / "train" / "index.parquet")["label"].to_numpy()
    share = np.bincount(labels) / len(labels)
    for first in range(len(labels) - 40):
        assert np.abs(np.bincount(labels[first : first + 40], minlength=3) - 40 * share).max() <= 2.5


def test_the_same_folder_gives_the_same_bytes(folder: Path, packed: Path, tmp_path: Path) -> None:
    pack(str(folder), str(tmp_path / "again"), shard_mb=1)
    files = sorted(path.relative_to(packed) for path in packed.rglob("*") if path.is_file())
    assert sorted(p.relative_to(tmp_path / "again") for p in (tmp_path / "again").rglob("*") if p.is_file()) == files
    for file in files:
        assert (tmp_path / "again" / file).read_bytes() == (packed / file).read_bytes()


def test_the_size_of_the_files_decides_nothing(folder: Path, packed: Path, tmp_path: Path) -> None:
    pack(str(folder), str(tmp_path / "one"), shard_mb=100)
    one, many = load(tmp_path / "one"), load(packed)
    assert one.identity == many.identity
    assert_same(list(batches(one).train(1)), list(batches(many).train(1)))


def test_identity_is_every_byte_and_not_the_folders(folder: Path, packed: Path, tmp_path: Path) -> None:
    changed = Path(shutil.copytree(folder, tmp_path / "images"))
    file = changed / "train" / "dog" / "031.JPEG"
    file.write_bytes(file.read_bytes() + b"\0")
    pack(str(changed), str(tmp_path / "out"))
    other_size = load_data("imagefolder", {**OPTIONS, "image_size": 8}, root=str(packed))
    every = [load(root).identity for root in (folder, packed, tmp_path / "out")]
    assert len({*every, other_size.identity}) == 4


# An epoch.


@pytest.mark.parametrize(("world", "loader_workers"), [(1, 2), (2, 0), (3, 0), (3, 1), (5, 0)])
def test_every_sample_at_most_once_the_same_for_any_workers(
    packed: Path, world: int, loader_workers: int, closing: list[Batches]
) -> None:
    data = load(packed)
    single = batches(data)
    ranks = [batches(data, rank, world, loader_workers) for rank in range(world)]
    closing += ranks
    orders = []
    for seed in (0, 1):
        expected = list(single.train(seed))
        assert_same(together([list(one.train(seed)) for one in ranks]), expected)
        assert [len(labels) for _, labels in expected] == [12] * (154 // 12)
        order = data.train.shuffled(154 // 12, 12, torch.Generator().manual_seed(seed))
        assert torch.equal(data.train.targets[order], torch.stack([labels for _, labels in expected]))
        assert len(order.unique()) == 154 // 12 * 12
        orders.append(order)
        for split in ("val", "test"):
            whole = torch.cat([images for images, _ in single.evaluate(split)])
            parts = torch.cat([images for one in ranks for images, _ in one.evaluate(split)])
            assert len(whole) == len(data.split(split))
            assert torch.equal(parts, whole)
    assert not torch.equal(*orders)


@pytest.mark.parametrize("loader_workers", [0, 2])
@pytest.mark.parametrize("first", [1, 7, 11])
def test_an_epoch_begun_in_its_middle_is_its_tail(
    packed: Path, loader_workers: int, first: int, closing: list[Batches]
) -> None:
    closing.append(batches(load(packed), loader_workers=loader_workers))
    assert_same(list(closing[0].train(5, first=first)), list(batches(load(packed)).train(5))[first:])


class Counting(PackedSplit):
    """Rows without files; it counts how often a block is read."""

    def __init__(self, rows: int) -> None:
        self.labels = np.zeros(rows, dtype=np.int64)
        self.reads: list[int] = []

    def begin(self, block: int) -> Future[object]:
        self.reads.append(block)
        return Future()


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 3000),
    cut=st.floats(0, 0.9),
    batch_size=st.integers(1, 200),
    readers=st.integers(1, 16),
    seed=st.integers(0, 2**62),
)
def test_an_epoch_reads_every_block_about_once(rows: int, cut: float, batch_size: int, readers: int, seed: int) -> None:
    split = Counting(rows)
    samples = PackedImages(split, int(cut * rows), rows, lambda file: torch.zeros(1))
    steps = len(samples) // batch_size
    order = samples.shuffled(steps, batch_size, torch.Generator().manual_seed(seed))
    assert order.shape == (steps, batch_size)
    assert len(order.unique()) == order.numel()
    if order.numel():
        assert 0 <= int(order.min()) <= int(order.max()) < len(samples)
    for columns in torch.tensor_split(order, readers, dim=1):
        reader = PackedImages(split, int(cut * rows), rows, lambda file: torch.zeros(1))
        for indices, ahead in zip(columns.tolist(), [*columns.tolist(), []][1:], strict=True):
            reader.fetch(indices, ahead)
            assert len(reader._blocks) <= 2 * len(indices)
    # A block is read again only where the run of a place in the batch ends within it.
    assert len(split.reads) <= len(set(split.reads)) + batch_size


def test_a_batch_has_images_of_as_many_blocks_as_it_can() -> None:
    samples = PackedImages(Counting(100 * BLOCK), 0, 100 * BLOCK, lambda file: torch.zeros(1))
    order = samples.shuffled(100 * BLOCK // 50, 50, torch.Generator().manual_seed(0))
    assert all(len((step // BLOCK).unique()) >= 49 for step in order)


def test_an_epoch_from_a_bucket_asks_for_each_block_once(
    folder: Path, s3_uri: str, fault_proxy: FaultProxy, closing: list[Batches]
) -> None:
    pack(str(folder), s3_uri, shard_mb=1)
    data = load(s3_uri)
    expected = list(batches(load(s3_uri)).train(3))
    closing.append(batches(data, loader_workers=2))
    before = fault_proxy.count("GET")
    assert_same(list(closing[0].train(3)), expected)
    asked = fault_proxy.count("GET") - before
    blocks = -(-171 // BLOCK)
    assert blocks <= asked <= 2 * blocks + 12  # at the worst, both processes need every block


# What goes wrong.


def test_an_outage_in_an_epoch_is_waited_for(
    folder: Path, s3_uri: str, fault_proxy: FaultProxy, closing: list[Batches], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "FIRST_PAUSE_S", 0.05)
    pack(str(folder), s3_uri, shard_mb=1)
    expected = list(batches(load(s3_uri)).train(3))
    closing.append(batches(load(s3_uri), loader_workers=2))
    fault_proxy.inject("truncate", method="GET", part="/train/", times=2)
    fault_proxy.inject("status", method="GET", part="/train/", times=2)
    assert_same(list(closing[0].train(3)), expected)
    assert fault_proxy.faults_left == 0


def rewritten(path: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    pq.write_table(change(pq.read_table(path)), path)


def relabelled(root: Path) -> None:
    """An index whose sum is right and whose third label is none of the classes."""

    def change(table: pa.Table) -> pa.Table:
        labels = table["label"].to_pylist()
        return table.set_column(1, "label", pa.array([*labels[:20], 9, *labels[21:]]))

    index = root / "train" / "index.parquet"
    rewritten(index, change)
    edit(root, lambda c: c["splits"]["train"].update(index=hashlib.sha256(index.read_bytes()).hexdigest()))


def edit(root: Path, change: Callable[[dict], object]) -> None:
    contents = json.loads((root / CONTENTS).read_text())
    change(contents)
    (root / CONTENTS).write_text(json.dumps(contents))


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def emptied(root: Path) -> None:
    index = root / "val" / "index.parquet"
    rewritten(index, lambda table: table.slice(0, 0))
    empty = {"files": [], "index": hashlib.sha256(index.read_bytes()).hexdigest()}
    edit(root, lambda c: c["splits"]["val"].update(empty))


DAMAGE: list[tuple[Callable[[Path], object], str]] = [
    (lambda r: (r / "train" / "00001.parquet").unlink(), r"train/00001.parquet is missing: copy it there again"),
    (lambda r: cut_short(r / "train" / "00000.parquet"), r"train/00000.parquet is cut off or damaged, .*of \d+ bytes"),
    (lambda r: (r / "val" / "00000.parquet").write_bytes(b""), "val/00000.parquet is cut off or damaged"),
    (
        lambda r: shutil.copy(r / "train" / "00001.parquet", r / "train" / "00000.parquet"),
        "train/00000.parquet is cut off or damaged",
    ),
    (lambda r: (r / "val" / "index.parquet").unlink(), "val/index.parquet is missing"),
    (lambda r: rewritten(r / "val" / "index.parquet", lambda t: t.slice(1)), r"index.parquet is not the file .*sha256"),
    (relabelled, r"label of train sample 3 \(.*/train/00000.parquet: .*JPEG\) must be an integer in \[0, 3\), got 9"),
    (emptied, "the test split must hold at least one sample, got none"),
    (lambda r: (r / CONTENTS).write_text("{"), "dataset.json is not the table of contents of a packed data set"),
    (lambda r: (r / CONTENTS).write_text("[1]"), "dataset.json is not the table of contents of a packed data set"),
    (lambda r: edit(r, lambda c: c["splits"].pop("val")), "dataset.json is not the table .*KeyError: 'val'"),
    (lambda r: edit(r, lambda c: c.update(format=2)), "dataset.json is of format 2, this version reads 1"),
    (
        lambda r: edit(r, lambda c: c["splits"]["train"]["files"].pop()),
        "train/index.parquet must name the rows of all files",
    ),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGE)
def test_damage_is_named_before_training(copy: Path, damage: Callable[[Path], object], message: str) -> None:
    damage(copy)
    with pytest.raises(DataError, match=message) as caught:
        load(copy)
    assert "\n" not in str(caught.value)


def test_a_file_with_other_columns_is_named(copy: Path) -> None:
    shard = copy / "val" / "00000.parquet"
    rewritten(shard, lambda table: table.rename_columns(["name", "label", "jpeg"]))
    edit(copy, lambda c: c["splits"]["val"]["files"][0].__setitem__(1, shard.stat().st_size))
    with pytest.raises(DataError, match=r"must have the columns name: string, .*image: binary, got .*jpeg: binary"):
        load(copy)


@pytest.mark.parametrize("loader_workers", [0, 2])
def test_a_changed_byte_is_found_when_it_is_read(copy: Path, loader_workers: int, closing: list[Batches]) -> None:
    shard = copy / "train" / "00001.parquet"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    closing.append(batches(load(copy), loader_workers=loader_workers))
    with pytest.raises(DataError, match=r"train/00001.parquet is damaged in block \d .*copy it again") as caught:
        list(closing[0].train(0))
    assert "\n" not in str(caught.value)


def test_an_image_that_cannot_be_decoded_is_named_by_its_file(folder: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(folder, tmp_path / "images"))
    file = root / "train" / "cat" / "050.JPEG"
    file.write_bytes(file.read_bytes()[:-2000])
    pack(str(root), str(tmp_path / "out"))
    with pytest.raises(
        DataError, match=r"\(.*/train/00000.parquet: cat/050.JPEG\) cannot be read: OSError: .*runcated"
    ):
        [list(batches(load(tmp_path / "out")).train(seed)) for seed in range(3)]


@pytest.mark.parametrize("uri", ["s3", "file"])
def test_a_place_without_a_packed_data_set_says_how_to_make_one(
    uri: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    root = request.getfixturevalue("s3_uri") if uri == "s3" else f"file://{tmp_path}"
    with pytest.raises(DataError, match=r"dataset.json is missing: `orchestrator dataset pack FOLDER .*written last"):
        load(root)


def test_a_killed_pack_is_no_data_set_and_is_not_written_over(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    slow = (
        "import sys, time, orchestrator.training.pack as p\n"
        "p.pack(sys.argv[1], sys.argv[2], shard_mb=1, on_progress=lambda done, total: time.sleep(0.3))"
    )
    process = subprocess.Popen([sys.executable, "-c", slow, str(folder), str(out)], cwd=Path(__file__).parents[2])
    deadline = time.monotonic() + 60
    while not (out / "train" / "00000.parquet").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not is_packed(str(out))
    with pytest.raises(DataError, match=r"dataset.json is missing"):
        load(f"file://{out}")
    with pytest.raises(ConfigError, match=r"out must be empty, it holds 1 file\(s\), such as train/00000.parquet"):
        pack(str(folder), str(out))


def odd_name(root: Path) -> None:
    (root / "train" / "cat" / "000.JPEG").rename(root / "train" / "cat" / os.fsdecode(b"\xff.JPEG"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda root: (root / "train" / "cat" / "007.JPEG").write_bytes(b""), "cat/007.JPEG is empty: put the image"),
        (lambda root: shutil.rmtree(root / "val" / "dog"), "must have the same classes; only one of them has dog"),
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
    assert f"error: {s3_uri} must be empty, it holds a packed data set already" in capsys.readouterr().err
    assert command([*arguments[:3], s3_uri + "2", "--shard-mb", "0"]) == 1
    assert "error: --shard-mb must be 1 or more, got 0" in capsys.readouterr().err


def test_reading_and_packing_need_no_ray() -> None:
    code = "import sys, orchestrator.training.pack; assert not [m for m in sys.modules if m.split('.')[0] == 'ray']"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
