"""A path whose rounds train and search a supernet: repeatable, resumable, shared, and honest."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from elastic import ALL, ELASTIC, SEARCH, begun, works
from torch import nn

from orchestrator.amc.latency import LatencyTable, LayerTimes
from orchestrator.amc.recalibrate import recalibrated
from orchestrator.errors import ConfigError, DamagedError
from orchestrator.experiment import Experiment, round_keys, round_settings
from orchestrator.models.ofa_networks import ImageArguments, build_alone
from orchestrator.ofa.block_latency import every_block, layer_name, subnet_layers
from orchestrator.ofa.elastic import Supernet
from orchestrator.ofa.evolution import SubnetEvolution
from orchestrator.ofa.extract import extract
from orchestrator.ofa.front_search import FrontSearch
from orchestrator.ofa.phases import ONE, SINGLE_STAGE, Phase, Phases
from orchestrator.ofa.spaces import find_space
from orchestrator.ofa.subnet import Elastic
from orchestrator.problem import load_problem
from orchestrator.pruning import Geometric
from orchestrator.pruning.macs import count_macs
from orchestrator.pruning.structure import Dense
from orchestrator.randomness import derive
from orchestrator.record import Record
from orchestrator.rounds import StoredRound
from orchestrator.storage.checkpoint import pack_progress, unpack_progress
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.opening import open_store
from orchestrator.storage.score_files import score_files
from orchestrator.train_state import TrainState
from orchestrator.training.distillation import Distillation
from orchestrator.work.preparation import Work
from orchestrator.work.scoring import Evaluate
from orchestrator.work.train import Train


def records(folder: Path, experiment: Experiment = ELASTIC) -> list[Record]:
    return begun(experiment, folder)[0].records()


def tensors(folder: Path, record: Record):
    return Ledger(open_store(str(folder))).load(record)[0].model


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Work]]:
    folder = tmp_path_factory.mktemp("whole")
    return folder, works(ELASTIC, folder)


def test_round_0_is_that_of_any_other_path(whole):
    """The same key, hence the same bits: a network that is pruned and a supernet share their dense run."""
    pruned = dataclasses.replace(ELASTIC, path=Geometric(), name="pruned")
    assert begun(pruned, whole[0])[0].keys[0] == begun(ELASTIC, whole[0])[0].keys[0]
    assert isinstance(whole[1][0], Train)
    assert whole[1][0].phase is None


def test_each_phase_is_a_round_and_each_budget_another_one(whole):
    found = records(whole[0])
    assert [record.technique for record in found] == ["Dense", "Phase", "Phase", "Phase", "FrontSearch", "FrontSearch"]
    assert [record.epochs for record in found] == [1, 1, 2, 1, 0, 0]
    assert [record.kept == record.prunable for record in found] == [True] * 4 + [False] * 2
    assert all("val_smallest_accuracy" in record.metrics for record in found[1:4])
    assert not works(ELASTIC, whole[0])  # another job finds everything done


def test_a_found_network_costs_and_achieves_what_the_search_said(whole):
    driver, trainer = begun(ELASTIC, whole[0])
    for index, budget in ((4, 0.4), (5, 0.7)):
        record, structure = driver.records()[index], driver._rounds[index].structure
        assert record.search is not None
        assert record.search["score"] == record.val
        assert record.search["cost"] == record.metrics["macs_kept"] <= budget
        network = trainer.networks.built(0, structure)
        dense = trainer.networks.built(0, driver._rounds[0].structure)
        costs = [count_macs(module, torch.zeros(1, 1, 4, 4)).dense for module in (network, dense)]
        assert costs[0] / costs[1] == record.search["cost"]
        assert sum(p.numel() for p in network.parameters()) == record.channels["parameters"][0]
        assert record.search["results"].keys() == {"predictor and evolution", "random"}
        assert {result["evaluations"] for result in record.search["results"].values()} == {6}
        scores = [result["score"] for result in record.search["results"].values()]
        assert record.val == max(scores)


def test_a_score_is_that_of_the_extracted_network_with_batch_norm_measured_by_hand(whole):
    driver, trainer = begun(ELASTIC, whole[0])
    trained = driver._rounds[3]
    supernet = Supernet(find_space("small"), ImageArguments(3, (1, 4, 4)))
    supernet.load_state_dict(trained.state().model)
    work = next(work for work in whole[1] if isinstance(work, Evaluate))
    scores = driver._rounds.scores(trained.key)
    for candidate in work.generation.candidates:
        network = extract(supernet.eval(), candidate.structure.architecture)
        batches = trainer.batches.calibration(derive(trained.key, "calibration"), 32)
        network = recalibrated(network, batches, lambda module, batch: module(batch.inputs))
        with torch.no_grad():
            right = sum(int((network(b.inputs).argmax(1) == b.targets).sum()) for b in trainer.batches.evaluate("val"))
        assert scores[candidate.digest].value == pytest.approx(right / 30)


def test_each_network_is_scored_once_whoever_asks(whole, tmp_path):
    """A search with other batches asks only for what no search has asked for."""
    shutil.copytree(whole[0], tmp_path / "runs")
    known = scored_in(tmp_path / "runs")
    assert len(known) == len(set(known))
    other = dataclasses.replace(ELASTIC, path=dataclasses.replace(ELASTIC.path, search=replace(SEARCH, first=6)))
    done = works(other, tmp_path / "runs")
    assert not set(known) & set(digests(done))
    assert [type(work) for work in done if not isinstance(work, Evaluate)] == [Train, Train]


def test_a_search_that_was_killed_after_any_generation_goes_on_where_it_was(whole, tmp_path):
    driver, _ = begun(ELASTIC, whole[0])
    for key in driver.keys[:4]:
        shutil.copytree(whole[0] / "rounds" / key, tmp_path / "rounds" / key)
    done = []
    while step := works(ELASTIC, tmp_path, 1):
        torch.rand(7)  # whatever else draws in the process
        done += step
    assert sorted(digests(done)) == sorted(scored_in(whole[0])) == sorted(scored_in(tmp_path))
    for mine, theirs in zip(records(tmp_path)[4:], records(whole[0])[4:], strict=True):
        assert unvarying(mine) == unvarying(theirs)


@pytest.mark.parametrize("index", [1, 2, 3])
def test_a_phase_that_was_killed_in_the_middle_of_an_epoch_has_the_same_bits(index, whole):
    driver, trainer = begun(ELASTIC, whole[0])
    work, kept = whole[1][index], []

    def keep(take_progress):
        kept.append(unpack_progress(pack_progress(take_progress()), "a file"))
        if len(kept) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trainer.do(work, on_step=keep)
    assert kept[1].place == (0, 2)
    again = begun(ELASTIC, whole[0])[1].do(work, resume=kept[1])
    stored = tensors(whole[0], driver.records()[index])
    assert all(torch.equal(again.state.model[name], tensor) for name, tensor in stored.items())
    assert [each.numbers() for each in again.history] == driver.records()[index].history


def test_a_phase_of_the_largest_network_without_a_teacher_is_plain_training_to_the_bit(whole):
    _, trainer = begun(ELASTIC, whole[0])
    work = whole[1][1]
    phase = Phase(1, 0.05, largest=ONE, teacher="none")
    elastic = trainer.do(dataclasses.replace(work, phase=(phase, find_space("small")), teacher=None))
    start = TrainState(tensors(whole[0], records(whole[0])[0]))
    plain = trainer.do(dataclasses.replace(work, phase=None, teacher=None, structure=Dense(), start=start))
    for name, tensor in plain.state.model.items():
        assert torch.equal(elastic.state.model[f"network.{name}"], tensor)
    assert not any(elastic.state.model[name].any() for name in elastic.state.model if name.startswith("kernels"))
    assert elastic.history[0].train_loss == plain.history[0].train_loss


def test_the_teacher_of_each_phase_is_the_dense_round(whole):
    dense = tensors(whole[0], records(whole[0])[0])
    for work in whole[1][1:4]:
        assert all(torch.equal(work.teacher.model[name], tensor) for name, tensor in dense.items())
    assert whole[1][0].teacher is None


def test_channels_are_sorted_before_the_first_phase_with_several_widths(whole):
    """And only there: before the last phase, whose start differs from the end of the one before by their order."""
    starts = [work.start.model for work in whole[1][1:4]]
    ends = [tensors(whole[0], record) for record in records(whole[0])[:3]]
    name = "stages.0.0.project.conv.weight"
    assert torch.equal(starts[0][f"network.{name}"], ends[0][name])
    assert torch.equal(starts[1][f"network.{name}"], ends[1][f"network.{name}"])
    importance = ends[2][f"network.{name}"].abs().sum((0, 2, 3))
    order = importance.argsort(descending=True, stable=True)
    assert torch.equal(starts[2][f"network.{name}"], ends[2][f"network.{name}"][:, order])


def test_single_stage_training_begins_without_a_dense_run(tmp_path):
    sandwich = (dataclasses.replace(SINGLE_STAGE[0], epochs=1, rate=0.05, warmup_epochs=0.0),)
    experiment = dataclasses.replace(ELASTIC, dense_epochs=0, path=Phases(sandwich, batch_size=16))
    done = works(experiment, tmp_path)
    assert [work.epochs for work in done] == [0, 1]
    assert done[1].teacher is None
    assert records(tmp_path, experiment)[1].metrics["train_loss"] < 1.2


def unvarying(record: Record) -> Record:
    """Return the record without what may differ between two runs."""
    varying = {"seconds": 0.0, "samples_per_second": 0.0, "finished_at": "", "attempts": 1}
    return dataclasses.replace(record, search={**record.search, "seconds": 0.0}, **varying)


def digests(done: list[Work]) -> list[str]:
    generations = [work.generation for work in done if isinstance(work, Evaluate)]
    return [candidate.digest for generation in generations for candidate in generation.candidates]


def scored_in(folder: Path) -> list[str]:
    store = open_store(str(folder))
    return [digest for file in score_files(store) for digest in json.loads(store.read(file))["scores"]]


# Keys and errors.


def keys_of(path: Phases) -> list[str]:
    experiment = dataclasses.replace(ELASTIC, path=path)
    return round_keys(round_settings(experiment, load_problem(experiment)[0]))


def test_a_phase_decides_its_own_round_and_later_ones():
    before = keys_of(ELASTIC.path)
    changed = keys_of(replace(ELASTIC.path, phases=(ALL[0], replace(ALL[1], rate=0.04), ALL[2])))
    assert [mine == other for mine, other in zip(before, changed, strict=True)] == [True] * 2 + [False] * 4
    assert keys_of(replace(ELASTIC.path, batch_size=32))[:2] != before[:2]
    assert keys_of(replace(ELASTIC.path, search=None)) == before[:4]


def table(seconds: float = 1e-5, threads: int = 1) -> LatencyTable:
    """Return a table in which every layer of the space takes as long."""
    supernet = Elastic(find_space("small"), ImageArguments(3, (1, 4, 4)))
    names = {layer_name(s) for each in every_block(supernet.space) for s in subnet_layers(supernet, each)}
    return LatencyTable("any", threads, "made", {name: LayerTimes(1, [1], [1], [[seconds]]) for name in names})


CHANGES = {
    "macs": (0.4, 0.6),
    "parameters": (0.5,),
    "latency": {"latency_ms": (1.0,), "table": table()},
    "other table": {"latency_ms": (1.0,), "table": table(threads=2)},
    "evaluations": 7,
    "first": 5,
    "batch": 3,
    "predictor": "mlp",
    "evolution": SubnetEvolution(8, generations=5),
    "calibration": 16,
}


def test_every_field_of_a_search_decides_what_it_found_and_not_the_supernet():
    changes = [value if isinstance(value, dict) else {name: value} for name, value in CHANGES.items()]
    assert {name for change in changes for name in change} == {field.name for field in dataclasses.fields(FrontSearch)}
    searches = [SEARCH, *(replace(SEARCH, **change) for change in changes)]
    keys = [keys_of(replace(ELASTIC.path, search=search)) for search in searches]
    assert len({each[3] for each in keys}) == 1
    assert len({each[4] for each in keys}) == len(searches)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model": "resnet8"}, "a path of Phases needs the largest network of a space, model='ofa:SPACE'"),
        ({"model": "ofa:large"}, "space must be one of mobilenetv3, compofa, resnet50d, small, got 'large'"),
        (
            {"model_options": {"architecture": find_space("small").smallest().to_json()}},
            "needs the largest network of a space, model='ofa:SPACE' without an architecture",
        ),
        ({"dense_epochs": 0}, "a phase whose teacher is 'dense round' needs a dense round of 1 epoch or more"),
        ({"path": Phases(ALL[:2])}, "the last phase must train all 1,764 networks of the space 'small', got 36"),
        ({"distillation": Distillation()}, "a path of Phases needs distillation=None"),
        ({"training": replace(ELASTIC.training, compile=True)}, "and training.compile=False"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_phases_that_do_not_fit_the_experiment_are_refused(changes, sentence):
    with pytest.raises(ConfigError, match=re.escape(sentence)):
        dataclasses.replace(ELASTIC, **changes)


@pytest.mark.parametrize(
    ("search", "sentence"),
    [
        (
            {"macs": (0.1,)},
            r"no network of the space 'small' has 23,718.4 macs \(0.1 of the largest network's\) or less: the "
            r"minimum is 68,608 \(0.2893\), of small: 3x2 \| 3x2",
        ),
        ({"batch": 1}, "batch must be a whole number of 2 or more, got 1"),
        ({"first": 1}, "first must be a whole number of 2 or more, got 1"),
    ],
    ids=["budget", "batch", "first"],
)
def test_a_search_that_cannot_end_well_is_refused_before_anything_is_trained(search, sentence, tmp_path):
    experiment = dataclasses.replace(ELASTIC, path=replace(ELASTIC.path, search=replace(SEARCH, **search)))
    with pytest.raises(ConfigError, match=sentence):
        begun(experiment, tmp_path)


def test_a_budget_of_latency_counts_the_layers_that_the_table_has(whole, tmp_path):
    """Every layer takes 10 us."""
    search = replace(SEARCH, macs=(), latency_ms=(0.2,), table=table())
    shutil.copytree(whole[0], tmp_path / "runs")
    experiment = dataclasses.replace(ELASTIC, path=replace(ELASTIC.path, search=search))
    works(experiment, tmp_path / "runs")
    record = records(tmp_path / "runs", experiment)[4]
    layers = sum(isinstance(layer, nn.Conv2d | nn.Linear) for layer in network_of_record(record).modules())
    assert record.search["cost"] == pytest.approx(0.01 * layers)
    assert layers <= 20


def network_of_record(record: Record) -> nn.Module:
    return build_alone("small", num_classes=3, input_shape=(1, 4, 4), architecture=record.search["architecture"])


def test_a_latency_table_of_other_images_is_refused(tmp_path):
    lacking = dataclasses.replace(table(), layers=dict(list(table().layers.items())[:3]))
    search = replace(SEARCH, latency_ms=(1.0,), table=lacking)
    with pytest.raises(ConfigError, match=r"the latency table lacks the layer .* make it again"):
        begun(dataclasses.replace(ELASTIC, path=replace(ELASTIC.path, search=search)), tmp_path)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"macs": ()}, "FrontSearch needs a budget"),
        ({"macs": (0.5, 0.5)}, "FrontSearch.macs must hold each budget once, got (0.5, 0.5)"),
        ({"macs": (0.0,)}, "FrontSearch.macs[0] must be a finite number above 0"),
        ({"macs": (1.5,)}, "it is a fraction of the largest network's"),
        ({"evaluations": 3}, "FrontSearch.first must be a whole number from 1 to 3, got 4: they are measured first"),
        (
            {"latency_ms": (1.0,)},
            "FrontSearch.table must be a LatencyTable with latency_ms, and None without, got None",
        ),
        ({"table": table()}, "FrontSearch.table must be a LatencyTable with latency_ms, and None without"),
        ({"latency_ms": (0.0,), "table": table()}, "FrontSearch.latency_ms[0] must be a finite number above 0"),
        ({"calibration": 0}, "FrontSearch.calibration must be a whole number of 1 or more"),
    ],
)
def test_a_search_with_a_bad_field_is_refused(fields, sentence):
    with pytest.raises(ConfigError, match=re.escape(sentence)):
        replace(SEARCH, **fields)


def test_a_stored_supernet_of_another_space_is_damaged(whole, tmp_path):
    driver, _ = begun(ELASTIC, whole[0])
    record = driver.records()[3]
    stored = StoredRound(record.key, driver.ledger, driver.problem)
    other = replace(record, channels={**record.channels, "space": "compofa"})
    stored.__dict__["record"] = other
    with pytest.raises(DamagedError, match="it is of the space 'compofa', not 'small'"):
        _ = stored.structure
