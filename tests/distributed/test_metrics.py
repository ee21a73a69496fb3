"""What is counted of the storage: bytes always, seconds only where training waits."""

from __future__ import annotations

import time
from collections import Counter

import pytest

from orchestrator.distributed.metrics import MeteredStore, Metrics
from orchestrator.errors import StorageError
from orchestrator.storage.opening import open_store


class Counted(Metrics):
    """Keeps what is added, in place of handing it to Ray."""

    def __init__(self) -> None:
        self.added: Counter[str] = Counter()

    def add(self, **amounts: float) -> None:
        self.added.update(amounts)  # type: ignore[arg-type]


@pytest.mark.parametrize("in_background", [False, True])
def test_bytes_always_and_seconds_where_training_waits(tmp_path, monkeypatch, in_background):
    counted, plain = Counted(), open_store(str(tmp_path))
    store = MeteredStore(plain, counted, in_background=in_background)
    write = type(plain).write
    monkeypatch.setattr(type(plain), "write", lambda *args: (time.sleep(0.1), write(*args)))
    began = time.perf_counter()
    store.write("a/b", b"12345")
    assert store.read("a/b") == b"12345"
    with pytest.raises(StorageError):
        store.read("a/missing")
    assert counted.added["storage_uploaded_bytes"] == 5
    if in_background:
        assert "storage_blocked_seconds" not in counted.added
    else:
        assert 0.1 <= counted.added["storage_blocked_seconds"] <= time.perf_counter() - began


def test_a_failure_is_a_wait_too():
    counted = Counted()

    def fail() -> None:
        with counted.blocked_on_storage():
            time.sleep(0.05)
            raise StorageError("gone")

    with pytest.raises(StorageError):
        fail()
    assert counted.added["storage_blocked_seconds"] >= 0.05
