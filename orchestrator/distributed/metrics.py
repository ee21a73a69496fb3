"""Show a run to Prometheus, through Ray: gauges `ray_rewind_...` with the tags `experiment` and `seed`."""

from __future__ import annotations

import contextlib
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import TypeVar

from ray.util.metrics import Counter, Gauge

from orchestrator.storage.store import File, Files, Store

GAUGES = {
    "rewind_round": "Round that is being trained.",
    "rewind_density": "Fraction of the prunable weights that this round keeps.",
    "rewind_val_objective": "The task's objective on validation data after the newest epoch.",
    "rewind_epochs_done": "Epochs done of the round.",
    "rewind_samples_per_second": "Training samples per second over all workers.",
    "rewind_claims_waiting": "1 while the path waits for a round that another owner trains.",
}
COUNTERS = {
    "rewind_restarts_total": "Groups of workers that were started again.",
    "rewind_storage_blocked_seconds_total": "Seconds that workers did not train because the storage was not done.",
    "rewind_data_blocked_seconds_total": "Seconds that workers waited for a batch: to be read, decoded, handed over.",
    "rewind_storage_uploaded_bytes_total": "Bytes written to the storage.",
}
REPEAT_SECONDS = 1.0
_TAGS = ("experiment", "seed")
T = TypeVar("T")


class Metrics:
    """The metrics of one path, as one process adds to them."""

    def __init__(self, experiment: str, seed: int) -> None:
        tags = {"experiment": experiment, "seed": str(seed)}
        self._gauges = {name: Gauge(name, about, _TAGS) for name, about in GAUGES.items()}
        self._counters = {name: Counter(name, about, _TAGS) for name, about in COUNTERS.items()}
        for metric in (*self._gauges.values(), *self._counters.values()):
            metric.set_default_tags(tags)
        self._shown: dict[str, float] = {}

    def show(self, **values: float) -> None:
        """Set gauges, named without `rewind_`, until they are set again or this process ends."""
        first = not self._shown
        self._shown |= values
        self.set_again()
        if first:
            threading.Thread(target=_keep_shown, args=(weakref.ref(self),), name="gauges", daemon=True).start()

    def set_again(self) -> None:
        for name, value in list(self._shown.items()):  # another thread may show more
            self._gauges[f"rewind_{name}"].set(value)

    def add(self, **amounts: float) -> None:
        """Add to counters, named without `rewind_` and `_total`."""
        for name, amount in amounts.items():
            if amount > 0:
                self._counters[f"rewind_{name}_total"].inc(amount)

    @contextlib.contextmanager
    def blocked_on_storage(self) -> Iterator[None]:
        """Count the seconds of the block, in which a commit waits for the storage and nothing is trained."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.add(storage_blocked_seconds=time.perf_counter() - began)


def _keep_shown(shown: weakref.ref[Metrics]) -> None:
    """Set the gauges again and again: Ray forgets one that was not set for twenty seconds, and epochs are longer."""
    while (metrics := shown()) is not None:
        metrics.set_again()
        del metrics
        time.sleep(REPEAT_SECONDS)


class MeteredStore:
    """A store that counts the bytes written to it and, unless training goes on meanwhile, the time they take."""

    def __init__(self, store: Store, metrics: Metrics, *, in_background: bool = False) -> None:
        self._store, self._metrics = store, metrics
        self._waiting = contextlib.nullcontext if in_background else metrics.blocked_on_storage
        self.is_local = store.is_local

    @property
    def uri(self) -> str:
        return self._store.uri

    def read(self, path: str, max_bytes: int | None = None) -> bytes:
        return self._timed(lambda: self._store.read(path, max_bytes))

    def read_part(self, path: str, start: int, size: int) -> bytes:
        return self._timed(lambda: self._store.read_part(path, start, size))

    def write(self, path: str, data: bytes | memoryview) -> None:
        self._timed(lambda: self._store.write(path, data), len(data))

    def create(self, path: str, data: bytes) -> bool:
        return self._timed(lambda: self._store.create(path, data), len(data))

    def exists(self, path: str) -> bool:
        return self._timed(lambda: self._store.exists(path))

    def list(self, prefix: str = "") -> list[str]:
        return self._timed(lambda: self._store.list(prefix))

    def delete(self, path: str) -> None:
        self._timed(lambda: self._store.delete(path))

    def delete_tree(self, prefix: str) -> None:
        self._timed(lambda: self._store.delete_tree(prefix))

    def files(self, prefix: str = "") -> tuple[Files, Files]:
        return self._timed(lambda: self._store.files(prefix))

    def unfinished(self) -> Files:
        return self._timed(self._store.unfinished)

    def discard(self, file: File) -> None:
        self._timed(lambda: self._store.discard(file))

    def check(self) -> None:
        self._timed(self._store.check)

    def _timed(self, call: Callable[[], T], size: int = 0) -> T:
        with self._waiting():
            result = call()
        self._metrics.add(storage_uploaded_bytes=size)
        return result
