"""Stop weak paths of a sweep by successive halving; they stay stopped when the sweep is started again."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import ASHAScheduler

from orchestrator.objective import Objective
from orchestrator.sealed import seal
from orchestrator.storage.store import Store


class Stops:
    """Store which paths of a sweep were stopped, in `sweeps/<sha256 of the keys>/<path>.json`."""

    def __init__(self, store: Store, keys: Iterable[str]) -> None:
        """Open the list of the sweep that `keys`, those of every path's last round, identify."""
        self._store = store
        self._folder = f"sweeps/{hashlib.sha256(' '.join(sorted(keys)).encode()).hexdigest()}"

    def add(self, path: str, after_round: int) -> None:
        self._store.write(f"{self._folder}/{path}.json", seal({"path": path, "stopped_after_round": after_round}))

    def paths(self) -> set[str]:
        return {file.rsplit("/", 1)[1].removesuffix(".json") for file in self._store.list(self._folder)}


class Halving(ASHAScheduler):  # type: ignore[misc]
    """Run ASHA (Li et al. 2020) with the round as its resource: it stops the weaker half of the paths at each rung."""

    def __init__(self, stops: Stops, rounds: int, before: Mapping[str, Sequence[float]], objective: Objective) -> None:
        """Fill the rungs with `before`: for every path, the validation objective of the rounds already in storage.

        A path is not stopped at rungs that it passed before.
        """
        metric = f"val_{objective.name}"
        super().__init__(time_attr="round", metric=metric, mode=objective.mode, max_t=rounds, reduction_factor=2)
        self._stops, self._before = stops, before
        for path, values in before.items():
            trial = SimpleNamespace(trial_id=f"before: {path}")
            self.on_trial_add(None, trial)
            for round, value in enumerate(values):
                super().on_trial_result(
                    None, trial, {"round": round, metric: value}
                )  # ASHA's own, which stores no stop

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        if "failure" not in result and result["round"] < len(self._before.get(result["path"], ())):
            return str(self.CONTINUE)
        decision: str = super().on_trial_result(tune_controller, trial, result)
        if decision == self.STOP and "failure" not in result and result["round"] < result["rounds"]:
            self._stops.add(result["path"], result["round"])
        return decision
