"""What 1,000 paths x 20 rounds on 1,000 workers ask of the storage and of their drivers.

The driver actors' own code runs (driver, ledger, claims, checkpoints), one after another on a simulated clock, in
which a request takes 20 ms; only Ray and the training itself are left out. `pytest tests/benchmarks/test_scale.py -m
bench -s` prints the tables.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import tiny
import torch
from benchmarks.simulated_store import Clock, RealClock, SimulatedStore
from tiny import measured

from orchestrator.distributed import actor as actor_module
from orchestrator.distributed import metrics, path_trainer, sweep, trial
from orchestrator.distributed.tensors import share, unshare
from orchestrator.driver import Driver
from orchestrator.experiment import Experiment, Problem, round_keys, round_settings
from orchestrator.pruning import Geometric
from orchestrator.storage import claims
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.progress import newest_progress, write_progress
from orchestrator.task import ACCURACY
from orchestrator.train_state import TrainState
from orchestrator.work.train import EpochMetrics, Progress, Train, Trained

pytestmark = [pytest.mark.bench, pytest.mark.timeout(1800)]
PATHS, ROUNDS = 1000, 20
LATENCY = 0.02  # seconds a request
ROUND, CHECKPOINT, BEAT, GROUP = 300.0, 30.0, 10.0, 10.0  # seconds: a round, between checkpoints, heartbeats, a start
ARRIVAL = 60.0  # seconds in which all paths start
S3_LIMITS = {"reads": 5500, "writes": 3500}  # a second and prefix; https://docs.aws.amazon.com/AmazonS3 "performance"
SHAPES = {"conv.weight": (4, 3, 3, 3), "fc.weight": (10, 20)}
PROBLEM = Problem(SHAPES, "model", "data", ACCURACY)


def train(request: Train) -> Trained:
    """Weights that depend on the round's key alone, masked as training would leave them."""
    generator = torch.Generator().manual_seed(int(request.key[:8], 16))
    model = {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
    model = {
        name: weight * request.structure.tensors()[name] if request.structure.tensors() else weight
        for name, weight in model.items()
    }
    optimizer = {f"{name}/momentum_buffer": tensor * 0.5 for name, tensor in model.items()}
    history = tuple(EpochMetrics(request.first_epoch + e, 0.1, 1.0, measured(0.5)) for e in range(request.epochs))
    return Trained(TrainState(model, optimizer), history, measured(0.75), seconds=ROUND, samples_per_second=1.0)


@dataclass
class World:
    """The clock, the storage and what is measured: seconds on the clock and of this processor, by purpose."""

    clock: Clock
    store: SimulatedStore
    chance: random.Random
    seconds: Counter[str] = field(default_factory=Counter)
    cpu: Counter[str] = field(default_factory=Counter)
    longest: Counter[str] = field(default_factory=Counter)
    rounds: int = 0
    _events: list[tuple[float, int, Iterator[float]]] = field(default_factory=list)
    _number: Iterator[int] = field(default_factory=itertools.count)

    def start(self, process: Iterator[float], at: float = 0.0) -> None:
        """Run `process` from `at` on; it yields for how many seconds it sleeps."""
        heapq.heappush(self._events, (at, next(self._number), process))

    def run(self) -> None:
        while self._events:
            self.clock.now, _, process = heapq.heappop(self._events)
            for pause in process:
                self.start(process, self.clock.now + pause)
                break

    def timed(self, purpose: str, call: Callable[..., Any], *arguments: Any) -> Any:
        self.store.purpose = purpose
        began, cpu = self.clock.now, time.process_time()
        result = call(*arguments)
        took = self.clock.now - began
        self.seconds[purpose] += took
        self.cpu[purpose] += time.process_time() - cpu
        self.longest[purpose] = max(self.longest[purpose], took)
        return result


class Path:
    """One path with its actor, its group of one worker, its trial in Ray Tune, and its heartbeat."""

    def __init__(self, world: World, experiment: Experiment) -> None:
        self.world, self.experiment = world, experiment
        self.over = False

    def life(self) -> Iterator[float]:
        timed, actor_class = self.world.timed, actor_module.DriverActor.__ray_metadata__.modified_class
        arguments = (self.experiment, self.world.store.uri, PROBLEM, "job", f"owner {id(self)}")
        self.actor = timed("start of a path", actor_class, *arguments)
        self.world.start(self.heartbeat(), self.world.clock.now + BEAT)
        self.world.start(self.trial(), self.world.clock.now)
        since = self.world.clock.now
        while (step := timed("wait for another's round", self.actor.next_step)).what != "end":
            if step.what == "wait":
                yield path_trainer.pause(self.world.clock.now - since, path_trainer.MAX_WAIT_SECONDS)
                continue
            yield GROUP
            yield from self.group()
            since = self.world.clock.now
        self.over = True

    def group(self) -> Iterator[float]:
        timed, started = self.world.timed, True
        while (key := timed("between two rounds", self.actor.next_key, started)) is not None:
            started = False
            request, refs = timed("between two rounds", self.actor.work, key)
            request = request.joined(unshare(refs[0]))
            timed("between two rounds", newest_progress, self.world.store, key)
            yield from self.training(request)
            result, now = train(request), self.world.clock.now
            timed("commit, in the background", self.actor.finish, request.split()[0], [share(result)])
            self.world.rounds += 1
            self.world.clock.now = now  # the next round is asked for meanwhile

    def training(self, request: Train) -> Iterator[float]:
        left, saved = ROUND * self.world.chance.uniform(0.9, 1.1), 0
        while left > CHECKPOINT:
            yield CHECKPOINT
            left, saved, now = left - CHECKPOINT, saved + 1, self.world.clock.now
            progress = Progress(request.key, 0, request.start or train(request).state, (), 0.0, 1, saved)
            self.world.timed("checkpoints", write_progress, self.world.store, progress)
            self.world.clock.now = now
        yield left

    def heartbeat(self) -> Iterator[float]:
        while not self.over:
            self.world.timed("heartbeats", self.actor._claims._renew)
            yield BEAT

    def trial(self) -> Iterator[float]:
        ledger, keys, told, since = Ledger(self.world.store), self.actor._driver.keys, 0, self.world.clock.now
        while told < len(keys):
            if self.world.timed("trial looks for a record", ledger.record, keys[told]) is None:
                yield path_trainer.pause(self.world.clock.now - since, trial.MAX_POLL_SECONDS)
            else:
                told, since = told + 1, self.world.clock.now


@pytest.fixture
def world(monkeypatch):
    clock = Clock()
    store = SimulatedStore(clock, LATENCY)
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    monkeypatch.setattr(metrics, "_keep_shown", lambda shown: None)  # a thread for each process, of which this is one
    monkeypatch.setattr(actor_module.ray, "get", lambda value: value)
    monkeypatch.setattr(actor_module.ray, "put", lambda value: value)
    monkeypatch.setattr(actor_module, "share", lambda value: value)
    monkeypatch.setattr(actor_module, "unshare", lambda value: value)
    monkeypatch.setattr(actor_module, "open_store", lambda uri: store)
    monkeypatch.setattr(claims, "_impatient", lambda store, seconds: getattr(store, "_store", store))
    monkeypatch.setattr(claims, "time", clock)
    monkeypatch.setattr(claims.Claims, "_beat", lambda self: None)  # Path.heartbeat beats on the simulated clock
    yield World(clock, store, random.Random(0))
    logging.disable(logging.NOTSET)


def experiments(dense_runs: int) -> list[Experiment]:
    """`PATHS` of them; those of one seed share its dense run, and prune at paces of their own."""
    paths = [Geometric(remove=0.2 - 0.0001 * (number // dense_runs), rounds=ROUNDS) for number in range(PATHS)]
    return [replace(tiny.EXPERIMENT, seed=n % dense_runs, path=path) for n, path in enumerate(paths)]


@pytest.mark.parametrize("dense_runs", [1000, 10], ids=["1,000 dense runs", "10 dense runs"])
def test_a_thousand_paths(world, dense_runs):
    began = time.process_time()
    for experiment in experiments(dense_runs):
        world.start(Path(world, experiment).life(), world.chance.uniform(0, ARRIVAL))
    world.run()
    assert world.rounds == dense_runs + PATHS * ROUNDS
    show(world, time.process_time() - began)


def test_a_sweep_that_is_finished_is_started_again(world, monkeypatch):
    """Every record of every path is read twice: to see what is missing, and for the outcome."""
    world.store.clock, world.store.latency = Clock(), 0.0
    replicates = [replace(e, name=f"e{number}") for number, e in enumerate(experiments(1000))]
    driver = Driver(replicates[0], Ledger(world.store), PROBLEM)
    work = driver.next_work()
    record = driver.finish(work, train(work))
    for experiment in replicates:
        for number, key in enumerate(round_keys(round_settings(experiment, PROBLEM))):
            world.store.write(f"rounds/{key}/record.json", replace(record, key=key, round=number).to_json())
    store = SimulatedStore(RealClock(), LATENCY)
    store.files, store._folders = world.store.files, world.store._folders
    monkeypatch.setattr(sweep, "open_store", lambda uri: store)
    monkeypatch.setattr(sweep, "load_problem", lambda *_: (PROBLEM, None))
    cpu = time.process_time()
    result = sweep.sweep_paths(replicates, store.uri)
    assert {outcome.state for outcome in result.outcomes} == {"finished"}
    assert sum(len(outcome.records) for outcome in result.outcomes) == PATHS * (ROUNDS + 1)
    counts = ", ".join(f"{count:,} {kind}" for (_, kind), count in store.requests.items())
    cpu = time.process_time() - cpu
    print(f"\n{PATHS:,} finished paths looked at in {result.seconds:.0f} s ({cpu:.0f} s of this processor): {counts}")


def show(world: World, cpu: float) -> None:
    kinds, requests = ("GET", "LIST", "PUT", "DELETE"), world.store.requests
    print(f"\n{world.rounds:,} rounds of {ROUND:g} s in {world.clock.now / 3600:.1f} h, {cpu:.0f} s of this processor")
    print(f"{'requests a round':26}" + "".join(f"{kind:>9}" for kind in kinds) + f"{'all':>9}{'s':>9}{'CPU ms':>9}")
    for purpose in [*world.seconds, "all"]:
        counts = [sum(n for (p, k), n in requests.items() if k == kind and purpose in (p, "all")) for kind in kinds]
        timing = [sum(found.values()) if purpose == "all" else found[purpose] for found in (world.seconds, world.cpu)]
        values = [*(count / world.rounds for count in (*counts, sum(counts))), timing[0] / world.rounds]
        print(f"{purpose:26}" + "".join(f"{v:9.2f}" for v in values) + f"{1000 * timing[1] / world.rounds:9.2f}")
    for what, limit in S3_LIMITS.items():
        peak, second = max((count, second) for (kind, second), count in world.store.rates.items() if kind == what)
        print(f"most {what} a second: {peak:,} (second {second:,}), {peak / limit:.2f} of what S3 gives one prefix")
