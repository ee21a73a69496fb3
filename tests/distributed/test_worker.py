"""What a worker tells the driver of an error in the user's code, without a Ray."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest

from orchestrator.distributed import worker


def test_sys_exit_in_the_users_code_fails_the_round_and_is_not_tried_again(monkeypatch):
    parts = ("DriverLink", "Metrics", "RoundLog", "open_store", "MeteredStore", "ProgressWriter", "load_data")
    mocks = {name: MagicMock() for name in (*parts, "check_folder_is_here", "Trainer", "_checkpoint", "Watch")}
    for name, mock in mocks.items():
        monkeypatch.setattr(worker, name, mock)
    monkeypatch.setattr(worker.ray.train.torch, "get_device", lambda: "cpu")
    mocks["Trainer"].return_value.do = lambda *_, **__: sys.exit(3)
    experiment = SimpleNamespace(name="mine", seed=0, data="digits", data_options={})
    with pytest.raises(SystemExit):
        worker.train_path(MagicMock(threads=1, experiment=experiment))
    link = mocks["DriverLink"].return_value
    assert link.fail.call_args.args[1].startswith(f"SystemExit: 3 ({__file__}:")
    assert not link.crashed.called
