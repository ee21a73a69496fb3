"""Images a second from a packed data set, in a folder and in a bucket, against class folders and Ray Data."""

from __future__ import annotations

import hashlib
import io
import logging
import statistics
import time
from operator import truediv

import numpy as np
import pytest
import ray.data
import torch
from PIL import Image

from orchestrator.data.batches import Batches
from orchestrator.data.load import load_data
from orchestrator.data.parquet_layout import BLOCK_ROWS
from orchestrator.data.parquet_reader import PackedImages
from orchestrator.data.parquet_writer import pack
from orchestrator.distributed import cluster

pytestmark = [pytest.mark.bench, pytest.mark.timeout(900)]
IMAGES, BATCH, EPOCHS = 3000, 64, 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """JPEGs of 400 x 300 pixels in 20 classes, which become 224 x 224 ones."""
    root, random = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for split, count in (("train", IMAGES), ("val", 20)):
        for index in range(count):
            file = root / split / f"class{index % 20:02}" / f"{index:05}.JPEG"
            file.parent.mkdir(parents=True, exist_ok=True)
            coarse = Image.fromarray(random.integers(0, 256, (75, 100, 3), dtype=np.uint8))
            coarse.resize((400, 300)).save(file, quality=90)
    return root


def test_samples_per_second(folder, tmp_path, s3_uri):
    began = time.perf_counter()
    pack(str(folder), str(tmp_path / "packed"), shard_mb=8)
    packing = time.perf_counter() - began
    pack(str(folder), s3_uri, shard_mb=8)
    places = {"folder": str(folder), "packed": str(tmp_path / "packed"), "bucket": s3_uri}
    opened, rates = {}, {place: [] for place in places}
    for place, root in places.items():
        data = load_data("imagefolder", {"image_size": 224}, root=root)
        opened[place] = Batches(data, batch_size=BATCH, device=torch.device("cpu"), loader_workers=2)
    for epoch in range(EPOCHS + 1):
        for place, batches in opened.items():
            began = time.perf_counter()
            images = sum(len(labels) for _, labels in batches.train(epoch))
            if epoch:  # the first starts the processes
                rates[place].append(images / (time.perf_counter() - began))
    for batches in opened.values():
        batches.close()
    median = {place: statistics.median(values) for place, values in rates.items()}
    ratio = {place: statistics.median(map(truediv, values, rates["folder"])) for place, values in rates.items()}
    print(
        f"\nimages/s with 2 loader processes: class folders {median['folder']:.0f}, packed {median['packed']:.0f}, "
        f"packed in a bucket {median['bucket']:.0f}; median of the epochs' ratios to class folders: packed "
        f"{ratio['packed']:.2f}, bucket {ratio['bucket']:.2f}; packing {IMAGES / packing:.0f} images/s"
    )
    assert ratio["packed"] > 0.9


def test_samples_per_second_against_ray_data(folder, tmp_path, monkeypatch):
    """The same images, decoding and batches through both, on the same two cores, an epoch each in turn."""
    pack(str(folder), str(tmp_path), shard_mb=8)
    data = load_data("imagefolder", {"image_size": 224}, root=str(tmp_path))
    ours = Batches(data, batch_size=BATCH, device=torch.device("cpu"), loader_workers=2)
    order = data.train.shuffled(ours.steps_per_epoch, BATCH, torch.Generator().manual_seed(0))
    first, again = ([(digest(images), labels) for images, labels in ours.train(0)] for _ in range(2))
    assert [images for images, _ in first] == [images for images, _ in again]
    assert torch.equal(torch.stack([labels for _, labels in first]), data.train.targets[order])
    assert len(order.unique()) == order.numel()

    decode = data.train._decode

    def decoded(rows):
        return {**rows, "image": np.stack([decode(io.BytesIO(image)).numpy() for image in rows["image"]])}

    context = ray.data.DataContext.get_current()
    monkeypatch.setattr(context.execution_options, "preserve_order", True)
    monkeypatch.setattr(context, "enable_progress_bars", False)
    monkeypatch.setattr(context, "target_max_block_size", 2 << 20)  # else so few images would be one task's
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    monkeypatch.setenv("RAY_worker_niceness", "0")  # as the loader processes are
    with cluster.connected(None):
        rows = ray.data.read_parquet(str(tmp_path / "train"), columns=["name", "label", "image"])
        theirs = rows.map_batches(decoded, batch_size=BLOCK_ROWS)
        names = [name for batch in theirs.iter_batches(batch_size=BATCH) for name in batch["name"]]
        assert len(names) == len(set(names)) == IMAGES
        paces = {"ours": [], "Ray Data": []}
        for epoch in range(EPOCHS):
            paces["ours"].append(pace(images for images, _ in ours.train(epoch)))
            batches = theirs.iter_batches(batch_size=BATCH, drop_last=True, prefetch_batches=2)
            paces["Ray Data"].append(pace(ours._finish(torch.from_numpy(batch["image"])) for batch in batches))
    ours.close()
    median = {
        reader: [statistics.median(values) for values in zip(*each, strict=True)] for reader, each in paces.items()
    }
    print(
        "\n"
        + ", ".join(
            f"{reader}: {rate:.0f} images/s, first batch after {wait:.1f} s" for reader, (wait, rate) in median.items()
        )
        + f"; ours / Ray Data {median['ours'][1] / median['Ray Data'][1]:.2f}"
    )
    assert median["ours"][1] > 0.9 * median["Ray Data"][1]


def digest(images):
    return hashlib.sha256(images.numpy().tobytes()).digest()


def pace(batches):
    """Seconds to the first batch, and images a second after the first quarter, when nothing read ahead is left."""
    began = time.perf_counter()
    times = [time.perf_counter() for batch in batches]
    quarter = len(times) // 4
    return times[0] - began, BATCH * (len(times) - 1 - quarter) / (times[-1] - times[quarter])


def test_the_order_of_an_epoch_of_imagenet():
    """A permutation of 1.27 million rows in blocks against a plain one."""

    class Rows:
        labels = np.zeros(1_281_167, dtype=np.int64)

    samples = PackedImages(Rows(), 12_812, len(Rows.labels), torch.tensor)
    began = time.perf_counter()
    samples.shuffled(len(samples) // 1024, 1024, torch.Generator().manual_seed(0))
    ours, began = time.perf_counter() - began, time.perf_counter()
    torch.randperm(len(samples), generator=torch.Generator().manual_seed(0))
    plain = time.perf_counter() - began
    print(f"\norder of an epoch in blocks of {BLOCK_ROWS}: {ours:.2f} s (torch.randperm {plain:.2f} s)")
    assert ours < 2.0
