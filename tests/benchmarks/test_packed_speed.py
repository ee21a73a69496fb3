"""Images a second from a packed data set, in a folder and in a bucket, against those from class folders, in one run."""

from __future__ import annotations

import statistics
import time

import numpy as np
import pytest
import torch
from PIL import Image

from orchestrator.training.batches import Batches
from orchestrator.training.data import load_data
from orchestrator.training.pack import pack
from orchestrator.training.packed import BLOCK, PackedImages

pytestmark = [pytest.mark.bench, pytest.mark.timeout(900)]
IMAGES, BATCH, EPOCHS = 4000, 128, 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """JPEGs of 160 x 120 pixels, about 6 KB each, in 20 classes."""
    root, random = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for split, count in (("train", IMAGES), ("val", 20)):
        for index in range(count):
            file = root / split / f"class{index % 20:02}" / f"{index:05}.JPEG"
            file.parent.mkdir(parents=True, exist_ok=True)
            coarse = Image.fromarray(random.integers(0, 256, (30, 40, 3), dtype=np.uint8))
            coarse.resize((160, 120)).save(file, quality=90)
    return root


def test_images_per_second(folder, tmp_path, s3_uri):
    began = time.perf_counter()
    pack(str(folder), str(tmp_path / "packed"), shard_mb=8)
    packing = time.perf_counter() - began
    pack(str(folder), s3_uri, shard_mb=8)
    places = {"folder": str(folder), "packed": str(tmp_path / "packed"), "bucket": s3_uri}
    opened, rates = {}, {place: [] for place in places}
    for place, root in places.items():
        data = load_data("imagefolder", {"image_size": 64}, root=root)
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
    print(
        f"\nimages/s with 2 loader processes: class folders {median['folder']:.0f}, packed {median['packed']:.0f}, "
        f"packed in a bucket {median['bucket']:.0f}; packed / class folders {median['packed'] / median['folder']:.2f}, "
        f"bucket / class folders {median['bucket'] / median['folder']:.2f}; packing {IMAGES / packing:.0f} images/s"
    )
    assert median["packed"] > 0.9 * median["folder"]


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
    print(f"\norder of an epoch in blocks of {BLOCK}: {ours:.2f} s (torch.randperm {plain:.2f} s)")
    assert ours < 2.0
