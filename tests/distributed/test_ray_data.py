"""Ray Data reads a packed split as it is: every row once."""

from __future__ import annotations

from pathlib import Path

import pytest
import ray.data
from PIL import Image

from orchestrator.data.parquet_writer import pack

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.mark.usefixtures("ray")
def test_ray_data_reads_every_row_once(tmp_path: Path) -> None:
    for split, count in (("train", 70), ("val", 2)):
        for index in range(count):
            file = tmp_path / "images" / split / f"class{index % 2}" / f"{index}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (20, 10), (index, 0, 0)).save(file)
    pack(str(tmp_path / "images"), str(tmp_path / "packed"))
    rows = ray.data.read_parquet(str(tmp_path / "packed" / "train")).take_all()
    found = sorted((row["name"], row["label"], row["image"]) for row in rows)
    files = sorted((tmp_path / "images" / "train").rglob("*.png"))
    expected = [(f"{file.parent.name}/{file.name}", int(file.parent.name[-1]), file.read_bytes()) for file in files]
    assert found == sorted(expected)
