"""Search a stored supernet in this process: its rounds are finished, and the search's are added behind them."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Sequence
from typing import Any

from orchestrator.decode import decode
from orchestrator.driver import Driver
from orchestrator.errors import ConfigError, DamagedError, DataError
from orchestrator.experiment import Experiment, Problem, round_keys
from orchestrator.export.candidates import check_code, find_round
from orchestrator.export.recorded_task import task_from_json
from orchestrator.field_json import as_json
from orchestrator.ofa.architecture import Architecture
from orchestrator.ofa.front_search import FrontSearch
from orchestrator.ofa.front_state import candidate_of
from orchestrator.ofa.phases import Phase, Phases
from orchestrator.ofa.stage import Largest
from orchestrator.ofa.subnet import Subnet
from orchestrator.problem import load_problem
from orchestrator.pruning.candidate import Generation, Scores
from orchestrator.record import Record
from orchestrator.rounds import StoredRound
from orchestrator.schedules import Constant
from orchestrator.sealed import sha256_of
from orchestrator.storage.claims import Claims
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.score_files import read_new_scores, write_scores
from orchestrator.train_state import TrainState
from orchestrator.training.config import TrainingConfig
from orchestrator.training.trainer import Trainer
from orchestrator.work.keys import claim_key
from orchestrator.work.preparation import Work
from orchestrator.work.scoring import Evaluate

AT_ONCE = 64  # networks whose scores are stored together
WAIT_SECONDS = 1.0  # between two looks at work that another process does


def search_supernet(
    ledger: Ledger,
    key: str,
    search: FrontSearch,
    *,
    data: str | None = None,
    trust: Sequence[str] = (),
    on_work: Callable[[Work], None] = lambda work: None,
) -> list[Record]:
    """Return the records of the networks that `search` finds in the supernet of a round, one for each budget.

    `key`: the beginning of the key of its last phase. `data`: where the data is, for data sets in files. `trust`:
    functions and task classes of the user's that the rounds name and that may run here. Scores and records go to the
    ledger, as those of a path with the same search do: what is there already is not computed again.

    Raises ConfigError for a round that is not a whole supernet and for a budget that no network meets, DataError for
    other data than the supernet was trained on.
    """
    records = _chain(ledger, find_round(ledger.records([]), key, "--supernet"))
    experiment, problem, trainer = _begun(records, search, data, trust)
    driver = Driver(experiment, ledger, problem, settings=_settings(records, search))
    owner = f"{driver.experiment.name}.{driver.experiment.seed} on {platform.node()}, {os.getpid()}"
    with Claims(ledger.store, owner) as claims:
        while (work := driver.next_work()) is not None:
            claim = claim_key(work.key)
            if not claims.acquire(claim):
                time.sleep(WAIT_SECONDS)
                continue
            # Another process may have done it a moment ago, or a part of it.
            if (work := driver.next_work()) is not None and claim_key(work.key) == claim:
                on_work(work)
                driver.finish(work, trainer.do(work))
            claims.release(claim)
    return driver.records()[len(records) :]


def measure_all(
    ledger: Ledger,
    key: str,
    search: FrontSearch,
    *,
    data: str | None = None,
    trust: Sequence[str] = (),
    on_measured: Callable[[int, int], None] = lambda done, of: None,
) -> dict[Architecture, float]:
    """Return the score of every network of a supernet's space, as `search` would measure it; those stored are read.

    Meant for a small space, to judge a search by the truth. It adds no round, and registers no experiment, which a
    report would count. Raises as `search_supernet` does.
    """
    records = _chain(ledger, find_round(ledger.records([]), key, "--supernet"))
    _, problem, trainer = _begun(records, search, data, trust)
    trained, supernet = records[-1], problem.supernet
    assert supernet is not None  # the experiment has phases
    subnets = {each: Subnet(supernet, each) for each in supernet.space.enumerate()}
    candidates = {each: candidate_of(subnet, search.scoring) for each, subnet in subnets.items()}
    known = _scores(ledger, trained.key)
    missing = [candidate for candidate in candidates.values() if candidate.digest not in known]
    stored = StoredRound(trained.key, ledger, problem)
    state = TrainState(stored.state().model)
    for start in range(0, len(missing), AT_ONCE):
        part = Generation(tuple(missing[start : start + AT_ONCE]), 1, 1, None)
        work = Evaluate(trained.key, trained.round, trained.round, state, supernet, search.scoring, part)
        scored = trainer.do(work)
        write_scores(ledger.store, work.key, scored.scores)
        on_measured(len(candidates) - len(missing) + start + len(part.candidates), len(candidates))
    known = _scores(ledger, trained.key)
    return {each: known[candidate.digest].value for each, candidate in candidates.items()}


def _scores(ledger: Ledger, key: str) -> Scores:
    files = read_new_scores(ledger.store, key, ())
    return {digest: score for scores in files.values() for digest, score in scores.items()}


def _begun(
    records: Sequence[Record], search: FrontSearch, data: str | None, trust: Sequence[str]
) -> tuple[Experiment, Problem, Trainer]:
    """Return an experiment whose path is that of `records` and of the search, its problem, and a trainer for it."""
    check_code(records, trust)
    experiment = _experiment(records, search)
    problem, loaded = load_problem(experiment, data)
    if problem.data_identity != records[0].settings["data_identity"]:
        raise DataError(f"round {records[-1].key[:12]} was trained on other data: pass --data as the job had it")
    return experiment, problem, Trainer(experiment, loaded)


def _chain(ledger: Ledger, record: Record) -> list[Record]:
    """Return the records from the dense round to `record`. Raise ConfigError unless it ends the training."""
    phase = record.settings.get("phase")
    if not isinstance(phase, dict) or phase.get("largest") != as_json(Largest()):
        raise ConfigError(
            f"--supernet must be the round of a path's last phase, which trains all networks of its space, got round "
            f"{record.round} of {record.experiment!r}: orchestrator status lists them"
        )
    chain = [record]
    while (parent := chain[0].parent) is not None:
        if (found := ledger.record(parent)) is None:
            raise DamagedError(f"rounds/{parent}/record.json, the parent of {chain[0].key[:12]}, is missing")
        chain.insert(0, found)
    return chain


def _settings(records: Sequence[Record], search: FrontSearch) -> list[dict[str, Any]]:
    """Return the settings of all rounds: the recorded ones, and those of the search."""
    recorded = [record.settings for record in records]
    if round_keys(recorded) != [record.key for record in records]:
        raise DamagedError(
            f"rounds/{records[-1].key}/record.json is damaged: its key does not follow from its settings"
        )
    common = {name: value for name, value in recorded[-1].items() if name not in ("phase", "phase_batch_size")}
    found = [{"search": as_json(search), "budget": budget} for budget in range(len(search.limits))]
    return [*recorded, *({**common, **each, "round": r} for r, each in enumerate(found, start=len(recorded)))]


def _experiment(records: Sequence[Record], search: FrontSearch) -> Experiment:
    """Return an experiment that scores networks as those of `records` do, and trains nothing."""
    dense, settings = records[0], records[-1].settings
    training = settings["training"]
    phases = tuple(decode(Phase, _without_types(record.settings["phase"])) for record in records[1:])
    digest = sha256_of(as_json(search))[:8]
    return Experiment(
        name=f"{records[-1].experiment[:80]}-search-{digest}",
        model=settings["model"],
        model_options=settings["model_options"],
        data=settings["data"],
        data_options=settings["data_options"],
        task=task_from_json(settings["task"]),
        training=TrainingConfig(
            epochs=max(1, dense.epochs),
            batch_size=training["batch_size"],
            schedule=Constant(1.0),
            precision=training["precision"],
            channels_last=training["channels_last"],
        ),
        dense_epochs=dense.epochs,
        path=Phases(phases, settings["phase_batch_size"], search),
        seed=records[-1].seed,
    )


def _without_types(value: Any) -> Any:
    """Return what `as_json` wrote without the names of the types."""
    if isinstance(value, dict):
        return {name: _without_types(item) for name, item in value.items() if name != "type"}
    return value
