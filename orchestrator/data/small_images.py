"""Write a tiny data set in ImageNet's layout, to try the code for a large one."""

from __future__ import annotations

from pathlib import Path

import numpy as np

SMALL_IMAGES = {"image_size": 64, "val_fraction": 0.25}  # options of `imagefolder` that fit these images


def write_small_images(root: Path) -> None:
    """Write 64 training and 16 test JPEGs to `root`, in four classes that differ by a tint under noise."""
    from PIL import Image

    random = np.random.default_rng(0)
    for split, images in (("train", 64), ("val", 16)):
        for index in range(images):
            file = root / split / f"class{index % 4}" / f"{index:03}.JPEG"
            file.parent.mkdir(parents=True, exist_ok=True)
            tint = np.array([index % 2, index // 2 % 2, 0]) * 80
            Image.fromarray((random.integers(0, 170, (80, 100, 3)) + tint).astype(np.uint8)).save(file)
