"""A folder of images and the packed data set made of it."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from orchestrator.data.parquet_writer import pack

COUNTS = {"cat": 90, "dog": 60, "ü x": 21}


@pytest.fixture(scope="session")
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


@pytest.fixture(scope="session")
def packed(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("packed") / "out"
    pack(str(folder), str(out), shard_mb=1)
    return out


@pytest.fixture
def copy(packed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(packed, tmp_path / "copy"))
