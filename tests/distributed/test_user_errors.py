"""An exception in the user's own code on a worker is told once, with its line, and not tried again."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
import tiny
import torch.distributed as dist
from torch import Tensor, nn

from orchestrator.distributed.job import main
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.opening import open_store

pytestmark = pytest.mark.ray


class Late(nn.Module):
    """Fails in the tenth step, on the second worker alone; the first one waits for it in a collective."""

    steps = 0

    def forward(self, images: Tensor) -> Tensor:
        if self.training and dist.is_initialized() and dist.get_rank() == 1:
            Late.steps += 1
            if Late.steps == 10:
                raise IndexError("my own mistake")
        return images


def late(num_classes: int, input_shape: tuple[int, int, int]) -> nn.Module:
    return nn.Sequential(Late(), tiny.model(num_classes, input_shape))


def test_an_exception_on_one_worker_ends_the_job_at_once(ray, tmp_path, monkeypatch, capfd):
    experiment = dataclasses.replace(tiny.EXPERIMENT, model="test_user_errors:late")
    monkeypatch.setattr("sys.argv", ["job", "--storage", str(tmp_path), "--workers", "2"])
    assert main(experiment) == 1
    output = "".join(capfd.readouterr())
    (error,) = re.findall(r"^error: (.*)", output, flags=re.MULTILINE)
    place = rf"{re.escape(__file__)}:\d+"
    told = re.fullmatch(rf"IndexError: my own mistake \({place}\); the worker's log: \S+?:(/.*)", error)
    assert told, error
    log = Path(told[1]).read_text()
    assert '"message": "the worker failed"' in log
    assert "in forward" in log, "the traceback"
    assert "started again" not in output
    assert "Traceback" not in output
    (failure,) = Ledger(open_store(str(tmp_path))).failures()
    assert (failure["round"], failure["reason"]) == (0, error)
