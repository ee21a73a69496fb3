"""A path whose rounds search what each layer keeps: repeatable, resumable, shared, and honest."""

from __future__ import annotations

import dataclasses
import json
import re
import time
from pathlib import Path

import pytest
import tiny
import torch
from searching import AMC, SEARCHED, begun, scored, searching, works
from torch.utils.data import Dataset, TensorDataset

from orchestrator import Amc, FineTuning
from orchestrator.__main__ import main
from orchestrator.amc.agents import Cem, Evolution
from orchestrator.amc.ddpg import Ddpg
from orchestrator.amc.latency import LatencyTable, LayerTimes, read_latency_table
from orchestrator.amc.sensitivity import Sensitivity
from orchestrator.data.dataset import Data
from orchestrator.data.load import load_data
from orchestrator.driver import Driver
from orchestrator.errors import ConfigError, DamagedError
from orchestrator.experiment import Experiment, round_keys, round_settings
from orchestrator.export import ExampleInputs, load_packed
from orchestrator.export.candidates import candidate
from orchestrator.export.deploy import deploy
from orchestrator.problem import load_problem
from orchestrator.pruning import AtMost, Explicit, OneShot
from orchestrator.pruning.candidate import Score
from orchestrator.pruning.macs import count_macs
from orchestrator.pruning.structure import Dense
from orchestrator.record import Record
from orchestrator.schedules import Constant
from orchestrator.storage.claims import Claims
from orchestrator.storage.clean import leftovers
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.opening import open_store
from orchestrator.storage.score_files import score_files
from orchestrator.storage.verify import verify
from orchestrator.work.keys import claim_key
from orchestrator.work.scoring import Evaluate, Scored, scores_key
from orchestrator.work.train import Train


def ledger_of(folder: Path) -> Ledger:
    return Ledger(open_store(str(folder)))


def result_of(folder: Path, experiment: Experiment = SEARCHED) -> Record:
    """Return the record of the last round, without what may differ between two runs."""
    record = ledger_of(folder).record(begun(experiment, folder)[0].keys[-1])
    assert record is not None
    assert record.search is not None
    varying = {"seconds": 0.0, "samples_per_second": 0.0, "finished_at": "", "attempts": 1}
    return dataclasses.replace(record, search={**record.search, "seconds": 0.0}, **varying)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    works(SEARCHED, folder)
    return folder


def test_a_round_trains_what_the_search_found_and_its_record_holds_the_proof(whole: Path) -> None:
    record = result_of(whole)
    assert record.search is not None
    assert record.metrics["macs_kept"] == record.search["cost"] <= 0.4
    assert record.search["results"].keys() == {"Cem", "Uniform", "Random"}
    assert [record.search["results"][name]["evaluations"] for name in ("Cem", "Uniform", "Random")] == [8, 1, 8]
    assert {name: list(map(len, curve)) for name, curve in record.search["scores"].items()} == {
        "Cem": [4, 4], "Uniform": [1], "Random": [4, 4],
    }  # fmt: skip
    assert record.search["score"] == max(result["final_score"] for result in record.search["results"].values())
    kept = {layer: len(sides["out"]) for layer, sides in record.kept_channels.items() if "out" in sides}
    for layer, ratio in record.search["ratios"].items():
        assert ratio == kept.get(layer, 8) / 8
    assert record.search["epochs"] > record.search["scored"] == len(scored_in(whole)) >= 4
    assert ledger_of(whole).record(begun(SEARCHED, whole)[0].keys[0]).search is None


def scored_in(folder: Path) -> list[str]:
    """Return the digests of all scores in storage, one as often as it is there."""
    store = open_store(str(folder))
    return [digest for file in score_files(store) for digest in json.loads(store.read(file))["scores"]]


def test_a_search_that_was_killed_after_any_generation_goes_on_where_it_was(whole: Path, tmp_path: Path) -> None:
    """Killed after each work: the same record, and every candidate is scored once."""
    done = []
    while step := works(SEARCHED, tmp_path, 1):
        torch.rand(7)  # whatever else draws in the process
        done += step
    assert result_of(tmp_path) == result_of(whole)
    digests = scored(done)
    assert len(digests) == len(set(digests)) == result_of(whole).search["scored"]
    assert sorted(digests) == sorted(scored_in(tmp_path)) == sorted(scored_in(whole))


def test_a_generation_of_which_a_part_is_stored_is_completed(whole: Path, tmp_path: Path) -> None:
    """As another search leaves it, whose generations are others."""
    works(SEARCHED, tmp_path, 1)
    driver, trainer, _ = begun(SEARCHED, tmp_path)
    work = driver.next_work()
    assert isinstance(work, Evaluate)
    candidates = work.generation.candidates[1:3]
    part = dataclasses.replace(work, generation=dataclasses.replace(work.generation, candidates=candidates))
    driver.finish(part, trainer.do(part))
    digests = scored(works(SEARCHED, tmp_path))
    assert not {candidate.digest for candidate in candidates} & set(digests)
    assert result_of(tmp_path) == result_of(whole)


def test_a_generation_that_was_stopped_in_its_middle_is_completed(whole: Path, tmp_path: Path) -> None:
    """What was scored by then is kept, and an answer without a score changes nothing."""
    works(SEARCHED, tmp_path, 1)
    driver, trainer, _ = begun(SEARCHED, tmp_path)
    work = driver.next_work()
    driver.finish(work, Scored({}))
    assert driver.next_work().key == work.key
    answer = trainer.do(work, on_score=lambda work, done, best: done < 2)
    assert list(answer.scores) == [candidate.digest for candidate in work.generation.candidates[:2]]
    driver.finish(work, answer)
    assert driver.next_work().generation.candidates == work.generation.candidates[2:]
    digests = scored(works(SEARCHED, tmp_path))
    assert not answer.scores.keys() & set(digests)
    assert len(digests) + 2 == len(scored_in(whole))
    assert result_of(tmp_path) == result_of(whole)


def test_what_is_next_stays_the_same_until_it_is_scored(tmp_path: Path) -> None:
    works(SEARCHED, tmp_path, 1)
    driver, trainer, _ = begun(SEARCHED, tmp_path)
    work = driver.next_work()
    assert driver.next_work() is work
    assert not driver.is_stored(work.key)
    answer = trainer.do(work)
    driver.finish(work, answer)
    driver.finish(work, answer)
    assert driver.is_stored(work.key)
    assert driver.next_work().key != work.key
    assert (work.generation.number, work.generation.of, work.generation.best) == (1, 6, None)
    second = driver.next_work().generation
    assert second.number > 1
    assert second.best == max(score.value for score in answer.scores.values())


def test_the_best_score_that_is_shown_is_within_the_budget_and_of_as_much_training(tmp_path: Path) -> None:
    """Sensitivity probes one layer at a time, beyond the budget: the network with all channels has the best score."""
    experiment = searching(dataclasses.replace(AMC, agent=Sensitivity(), evaluations=12, generation=6))
    works(experiment, tmp_path, 1)
    driver, _, _ = begun(experiment, tmp_path)
    kinds: dict[int, list[bool]] = {1: [], 2: []}
    best: dict[int, float] = {}
    while isinstance(work := driver.next_work(), Evaluate):
        candidates = work.generation.candidates
        epochs = candidates[0].epochs
        assert work.generation.best == best.get(epochs)
        scores = {c.digest: Score(0.5 / epochs + n / 100 if c.allowed else 0.9, 0.1) for n, c in enumerate(candidates)}
        kinds[epochs] += [candidate.allowed for candidate in candidates]
        allowed = [scores[c.digest].value for c in candidates if c.allowed]
        if allowed:
            best[epochs] = max(*allowed, best.get(epochs, 0.0))
        driver.finish(work, Scored(scores))
    assert set(kinds[1]) == {True, False}
    assert set(kinds[2]) == {True}


def test_searches_of_one_round_share_their_scores(whole: Path, tmp_path: Path) -> None:
    """Another technique asks for nothing new, another agent only for what the first has not asked for."""
    works(SEARCHED, tmp_path)
    tuned = dataclasses.replace(SEARCHED, technique=FineTuning(1))
    assert [type(work) for work in works(tuned, tmp_path)] == [Train]
    known = set(scored_in(tmp_path))
    digests = scored(works(searching(dataclasses.replace(AMC, agent=Evolution())), tmp_path))
    assert not known & set(digests)
    assert len(scored_in(tmp_path)) == len(known) + len(digests)


def test_the_best_of_a_rival_is_retrained_without_another_score(whole: Path, tmp_path: Path) -> None:
    """So that scores and accuracy after retraining can be compared."""
    works(SEARCHED, tmp_path)
    best = result_of(tmp_path).search
    for name, result in best["results"].items():
        experiment = searching(dataclasses.replace(AMC, take=name))
        assert not scored(works(experiment, tmp_path))
        taken = result_of(tmp_path, experiment)
        assert (taken.search["found_by"], taken.search["score"]) == (name, result["final_score"])
        assert taken.search["ratios"] == result["ratios"]
        assert {**taken.search, **{field: best[field] for field in ("found_by", "score", "ratios", "cost")}} == best


def test_later_rounds_search_within_what_is_left(tmp_path: Path) -> None:
    for mode in ("channels", "weights"):
        experiment = searching(dataclasses.replace(AMC, mode=mode, evaluations=4), SEARCHED)
        experiment = dataclasses.replace(experiment, path=Explicit([0.6, 0.3]))
        works(experiment, tmp_path)
        keys = begun(experiment, tmp_path)[0].keys
        first, second = (ledger_of(tmp_path).record(key) for key in keys[1:])
        assert first.search["cost"] <= 0.6
        assert second.search["cost"] <= 0.3
        for layer, sides in first.kept_channels.items():
            for side, channels in sides.items():
                assert set(second.kept_channels[layer][side]) <= set(channels)
        masks = [ledger_of(tmp_path).load(record)[1] for record in (first, second)]
        assert all(not (masks[1][name] & ~mask).any() for name, mask in masks[0].items())


@pytest.mark.parametrize("reconstruct", ["bn", "least_squares"])
@pytest.mark.parametrize("agent", [Ddpg(hidden=8, batch=8, warm_up=4), Sensitivity()], ids=["ddpg", "sensitivity"])
def test_other_agents_and_reconstructions_run(reconstruct, agent, tmp_path: Path) -> None:
    """The paper's way: no training before a score."""
    selection = dataclasses.replace(AMC, agent=agent, reconstruct=reconstruct, tune_epochs=0, finalist_epochs=1)
    experiment = searching(selection)
    works(experiment, tmp_path)
    search = result_of(tmp_path, experiment).search
    assert search["agent"] == type(agent).__name__
    assert search["epochs"] < search["scored"]


# Test data.


class Guarded(Dataset):
    """Samples that cannot be read while `closed`."""

    closed = False

    def __init__(self, samples: TensorDataset) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int):
        if Guarded.closed:
            raise AssertionError("test data were read during a search")
        return self.samples[index]


def guarded() -> Data:
    data = tiny.data()
    return dataclasses.replace(data, test=Guarded(data.test))


def test_a_search_reads_no_test_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = dataclasses.replace(SEARCHED, data=f"{__name__}:guarded")
    driver, trainer, _ = begun(experiment, tmp_path)
    evaluated = 0
    while (work := driver.next_work()) is not None:
        monkeypatch.setattr(Guarded, "closed", isinstance(work, Evaluate))
        evaluated += isinstance(work, Evaluate)
        driver.finish(work, trainer.do(work))
    assert evaluated > 2
    monkeypatch.setattr(Guarded, "closed", True)
    with pytest.raises(Exception, match="test data were read"):
        trainer.evaluate(Dense(), trainer.module, "test")


# Keys and errors.

TABLE = LatencyTable("any", 1, "onnxruntime", {"0": LayerTimes(36, [8], [1], [[1e-5]])})
CHANGES = {
    "unit": {"unit": "parameters"},
    "agent": {"agent": Cem(elite=0.5)},
    "kind": {"agent": Evolution()},
    "evaluations": {"evaluations": 9},
    "generation": {"generation": 3},
    "finalists": {"finalists": 1},
    "tune_epochs": {"tune_epochs": 0},
    "finalist_epochs": {"finalist_epochs": 3},
    "tune_rate": {"tune_rate": 0.01},
    "reconstruct": {"reconstruct": "bn"},
    "calibration": {"calibration": 7},
    "round_to": {"round_to": 2},
    "mode": {"mode": "weights"},
    "table": {"unit": "latency", "table": TABLE},
    "take": {"take": "Uniform"},
    "pattern": {"mode": "weights", "pattern": AtMost(2)},
}


def keys_of(selection: Amc) -> list[str]:
    problem, _ = load_problem(SEARCHED)
    return round_keys(round_settings(searching(selection), problem))


def test_every_field_changes_the_key_of_the_round_and_not_of_the_dense_one() -> None:
    assert {name for change in CHANGES.values() for name in change} == {f.name for f in dataclasses.fields(Amc)}
    other = dataclasses.replace(TABLE, threads=2)
    changed = [dataclasses.replace(AMC, **change) for change in CHANGES.values()]
    changed += [AMC, dataclasses.replace(AMC, unit="latency", table=other)]
    dense, searched = zip(*map(keys_of, changed), strict=True)
    assert len(set(dense)) == 1
    assert len(set(searched)) == len(changed)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"evaluations": 4, "generation": 5},
            "generation must be a whole number from 1 to 4, got 5: it must be at most",
        ),
        ({"evaluations": 4, "finalists": 5}, "finalists must be a whole number from 1 to 4, got 5"),
        ({"finalist_epochs": 1}, "finalist_epochs must be a whole number of 2 or more, got 1"),
        ({"unit": "latency"}, "Amc.table must be a LatencyTable with unit 'latency': orchestrator latency writes one"),
        (
            {"unit": "latency", "table": "table.json"},
            "read_latency_table(file) of orchestrator.amc.latency reads it, got 'table.json'",
        ),
        ({"table": TABLE}, "Amc.table must be None unless unit is 'latency'"),
        ({"unit": "flops"}, "Amc.unit must be one of macs, parameters, weights, latency, got 'flops'"),
        ({"mode": "weights", "reconstruct": "least_squares"}, "must be none or bn with mode='weights'"),
        ({"reconstruct": "magic"}, "reconstruct must be one of none, bn, least_squares"),
        ({"tune_rate": 0.0}, "tune_rate must be a finite number above 0"),
        ({"round_to": 0}, "Amc.round_to must be a whole number of 1 or more"),
        (
            {"ratios": {"conv*": 0.5}},
            "ratios and Amc cannot be combined, because Amc searches for the ratio of each layer",
        ),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_a_bad_setting_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        dataclasses.replace(AMC, **change)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"path": OneShot(0.01)}, r"density 0.01 of the macs cannot be reached.* the smallest density is 0.0\d+"),
        (
            {"selection": dataclasses.replace(AMC, agent=Sensitivity(), evaluations=3, generation=2)},
            "evaluations must be a whole number of 4 or more, got 3",
        ),
        ({"selection": dataclasses.replace(AMC, agent=Ddpg())}, "Ddpg.warm_up must be below evaluations, 8, got 100"),
        ({"min_kept_per_layer": 1}, "min_kept_per_layer must be 0 with Amc"),
        (
            {"model": "tiny:normed"},
            "has no channels that can be removed: choose a selection that removes single weights",
        ),
        (
            {"selection": dataclasses.replace(AMC, unit="latency", table=TABLE)},
            "the latency table lacks the layer '2.0': make it again",
        ),
    ],
    ids=["budget", "sensitivity", "ddpg", "minimum", "model", "table"],
)
def test_a_search_that_cannot_end_well_is_refused_before_anything_is_trained(changes, message, tmp_path) -> None:
    experiment = dataclasses.replace(SEARCHED, **changes)
    with pytest.raises(ConfigError, match=message):
        Driver(experiment, ledger_of(tmp_path), load_problem(experiment)[0])


def test_a_damaged_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "table.json").write_text(TABLE.to_json()[:-9])
    with pytest.raises(ConfigError, match="cannot be used"):
        dataclasses.replace(AMC, unit="latency", table=read_latency_table(tmp_path / "table.json"))


def test_a_search_by_latency_keeps_within_the_measured_time(tmp_path: Path) -> None:
    """A layer takes as many microseconds as it multiplies pairs of channels."""
    sizes = list(range(1, 9))
    times = [[1e-6 * out * into for into in sizes] for out in sizes]
    layers = {
        "0": LayerTimes(36, sizes, [1], [row[:1] for row in times]),
        "2.0": LayerTimes(36, sizes, sizes, times),
        "2.6": LayerTimes(1, [3], [32], [[1e-6]]),
    }
    experiment = searching(dataclasses.replace(AMC, unit="latency", table=LatencyTable("any", 1, "made", layers)))
    works(experiment, tmp_path)
    record = result_of(tmp_path, experiment)
    first, second = (len(record.kept_channels[layer].get("out", sizes)) for layer in ("0", "2.0"))
    assert record.search["cost"] == pytest.approx((first + first * second + 1) / (8 + 64 + 1))
    assert record.search["cost"] <= 0.4


# Storage.


def test_scores_are_verified_and_a_damaged_file_is_named(tmp_path: Path) -> None:
    works(SEARCHED, tmp_path, 2)
    store = open_store(str(tmp_path))
    (file,) = score_files(store)
    assert [found.problem for found in verify(Ledger(store)) if found.path == file] == [None]
    content = store.read(file)
    for damaged in (content[:-20], content.replace(b'"value": 0.', b'"value": 1.'), b"[]"):
        store.write(file, damaged)
        (problem,) = (found.problem for found in verify(Ledger(store)) if found.problem)
        assert problem.startswith(f"{file} is damaged")
        with pytest.raises(DamagedError, match=f"{file} is damaged .*: delete it, and its job scores"):
            begun(SEARCHED, tmp_path)[0].next_work()
    store.write(file.replace(Path(file).stem, "0" * 24), content)
    store.delete(file)
    with pytest.raises(DamagedError, match="it is of the work"):
        begun(SEARCHED, tmp_path)[0].next_work()


def test_status_tells_how_many_candidates_were_scored(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", str(whole)]) == 0
    line = f"searched, seed 0: {len(scored_in(whole))} candidates for the round after 0 were scored\n"
    assert line in capsys.readouterr().out


def test_what_a_search_found_is_exported_as_any_round(whole: Path, tmp_path: Path) -> None:
    record, loaded = result_of(whole), load_data(SEARCHED.data, {})
    found = candidate("found", ledger_of(whole), record, loaded, ExampleInputs.of(loaded))
    assert record.channels is not None
    exported = deploy([found], tmp_path, formats=["packed"])
    (facts,), (artifact,) = exported.networks, exported.artifacts
    assert (facts.macs, facts.parameters) == tuple(record.channels[unit][0] for unit in ("macs", "parameters"))
    images, labels = loaded.test.tensors
    with torch.inference_mode():
        answers = load_packed(tmp_path / artifact.file, model=SEARCHED.model)(images).argmax(1)
    assert float((answers == labels).double().mean()) == pytest.approx(record.metrics["test_accuracy"])


def test_the_claim_on_scores_goes_when_there_are_some(whole: Path) -> None:
    store = open_store(str(whole))
    dense, searched = begun(SEARCHED, whole)[0].keys
    names = [claim_key(scores_key(key, "0" * 24)) for key in (dense, searched)]
    with Claims(store, "searched.0 on here, 1", lease_seconds=3600) as claims:
        assert all(claims.acquire(name) for name in names)
    found = [left.file.path for left in leftovers(Ledger(store), now=time.time() + 1e6).found]
    assert {path.split("/")[1] for path in found if path.startswith("claims/")} == {names[0]}


def test_the_network_that_is_trained_costs_what_the_record_says(whole: Path) -> None:
    record = result_of(whole)
    driver, trainer, data = begun(SEARCHED, whole)
    structure = driver._rounds[1].structure
    network = trainer.networks.built(0, structure)
    dense = trainer.networks.built(0, driver._rounds[0].structure)
    costs = [count_macs(module, data.inputs).dense for module in (network, dense)]
    assert costs[0] / costs[1] == record.search["cost"]


@pytest.mark.parametrize("network", ["Chain", "Joined", "Depthwise", "Attention", "residual"])
def test_searches_cut_every_kind_of_network(network: str, tmp_path: Path) -> None:
    """Channels that are chained, concatenated, filtered one by one, mixed by attention, and added."""
    experiment = dataclasses.replace(
        tiny.with_training(epochs=1, batch_size=128, schedule=Constant(0.02)),
        model=f"amc.channel_networks:{network}",
        data="digits",
        path=OneShot(0.6),
        selection=Amc(
            evaluations=4,
            generation=4,
            finalists=1,
            tune_epochs=0,
            finalist_epochs=1,
            reconstruct="least_squares",
            round_to=2,
        ),
    )
    works(experiment, tmp_path)
    record = result_of(tmp_path, experiment)
    assert record.metrics["macs_kept"] == pytest.approx(record.search["cost"])
    assert record.search["cost"] <= 0.6
