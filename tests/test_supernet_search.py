"""A stored supernet is searched from the command line, and what is found is a network like any other."""

from __future__ import annotations

import dataclasses
import re
import shutil
from pathlib import Path

import pytest
import torch
from elastic import ELASTIC, SEARCH, begun, works

from orchestrator import Geometric, export
from orchestrator.__main__ import main
from orchestrator.amc.latency import LatencyTable, LayerTimes
from orchestrator.data.dataset import Data
from orchestrator.errors import ConfigError
from orchestrator.models.ofa_networks import ImageArguments
from orchestrator.ofa.block_latency import every_block, layer_name, subnet_layers
from orchestrator.ofa.phases import Phases
from orchestrator.ofa.spaces import Space, find_space
from orchestrator.ofa.subnet import Elastic
from orchestrator.problem import load_problem
from orchestrator.pruning.structure import Dense
from orchestrator.report import path_records
from orchestrator.report.page import count_sharing
from orchestrator.storage.claims import Claims
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.opening import open_store
from orchestrator.supernet_search import measure_all, search_supernet
from orchestrator.work.keys import claim_key
from orchestrator.work.scoring import Evaluate

SPACE = find_space("small")
SUPERNET = dataclasses.replace(ELASTIC, path=dataclasses.replace(ELASTIC.path, search=None))
TRUST = ("elastic:data",)


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> tuple[Ledger, str]:
    """Return a ledger with a supernet, and the supernet's key."""
    folder = tmp_path_factory.mktemp("runs")
    key = works(SUPERNET, folder)[-1].key
    return Ledger(open_store(str(folder))), key


@pytest.fixture(scope="module")
def found(runs):
    ledger, key = runs
    done = []
    return search_supernet(ledger, key[:12], SEARCH, trust=TRUST, on_work=done.append), done


def test_a_search_of_a_stored_supernet_adds_the_rounds_that_its_path_would_have(runs, found):
    records, done = found
    keys = begun(ELASTIC, Path(runs[0].store.uri))[0].keys
    assert [record.key for record in records] == keys[4:]
    assert [type(work) for work in done].count(Evaluate) == len(done) - 2
    assert not works(ELASTIC, Path(runs[0].store.uri))


def test_a_second_search_computes_nothing_again(runs, found):
    done = []
    again = search_supernet(*runs, SEARCH, trust=TRUST, on_work=done.append)
    assert (again, done) == (found[0], [])


def test_a_search_waits_for_what_another_process_does(runs, tmp_path, monkeypatch):
    """Until the other gives its claim up: then its work is done here."""
    folder = tmp_path / "runs"
    shutil.copytree(runs[0].store.uri, folder)
    shutil.rmtree(folder / "scores", ignore_errors=True)
    search, store, waits = dataclasses.replace(SEARCH, calibration=31), open_store(str(folder)), []
    first = begun(dataclasses.replace(ELASTIC, path=dataclasses.replace(ELASTIC.path, search=search)), folder)[0]
    key = claim_key(first.next_work().key)
    with Claims(store, "another", lease_seconds=3600) as other:
        assert other.acquire(key)

        def wait(seconds: float) -> None:
            waits.append(seconds)
            other.release(key)

        monkeypatch.setattr("orchestrator.supernet_search.time.sleep", wait)
        found = search_supernet(Ledger(store), runs[1], search, trust=TRUST)
    assert len(waits) == 1
    assert len(found) == 2


def test_every_network_can_be_measured_and_is_then_known(runs, monkeypatch):
    """Of a space that is cut down to two networks, so that it takes no time."""
    few = [find_space("small").smallest(), find_space("small").largest()]
    monkeypatch.setattr(Space, "enumerate", lambda space: iter(few))
    told, experiments = [], list(runs[0].store.list("experiments/"))
    scores = measure_all(*runs, SEARCH, trust=TRUST, on_measured=lambda done, of: told.append((done, of)))
    assert list(scores) == few
    assert measure_all(*runs, SEARCH, trust=TRUST, on_measured=lambda *_: pytest.fail("measured again")) == scores
    assert list(runs[0].store.list("experiments/")) == experiments  # which reports count


def test_a_report_counts_the_rounds_of_a_supernet_once_for_all_searches_of_it(runs, found):
    records = [
        each for each in path_records(runs[0])[0] if each.experiment == "elastic" or "-search-" in each.experiment
    ]
    assert len({record.experiment for record in records}) > 1
    sharing = count_sharing(records)
    assert (sharing.saved, sharing.epochs_asked) == (0, SUPERNET.training.epochs + SUPERNET.path.epochs)


def test_the_command_prints_a_line_for_each_budget(runs, found, capsys):
    arguments = ["--supernet", runs[1][:10], "--macs", "0.4,0.7", "--evaluations", "64", "--trust", "elastic:data"]
    assert main(["ofa", "search", runs[0].store.uri, *arguments]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch("generation 1 of 2: [1-9][0-9] networks to measure", lines[0])
    assert re.match(
        r"macs 0.4: val \d+.\d\d % at 0.3\d\d \(random search: .* %\), key [0-9a-f]{12}, small: 3x", lines[-2]
    )
    assert lines[-1].startswith("macs 0.7: val ")


def test_few_evaluations_are_divided_between_the_first_networks_and_those_of_the_predictor(runs, capsys):
    arguments = ["--supernet", runs[1][:10], "--macs", "0.6", "--evaluations", "4", "--trust", "elastic:data"]
    assert main(["ofa", "search", runs[0].store.uri, *arguments]) == 0
    assert "generation 1 of 3: 2 networks to measure" in capsys.readouterr().out


def test_a_table_of_another_device_is_used_if_it_is_meant(runs, tmp_path, capsys):
    shapes = {
        layer_name(shape): LayerTimes(1, [1], [1], [[1e-5]])
        for architecture in every_block(SPACE)
        for shape in subnet_layers(Elastic(SPACE, ImageArguments(3, (1, 4, 4))), architecture)
    }
    file = tmp_path / "table.json"
    file.write_text(LatencyTable("another chip", 1, "made", shapes).to_json())
    arguments = ["ofa", "search", runs[0].store.uri, "--supernet", runs[1], "--trust", "elastic:data"]
    arguments += ["--latency-ms", "0.2", "--latency-table", str(file), "--evaluations", "2"]
    assert main(arguments) == 1
    assert "got 'another chip'" in (error := capsys.readouterr().err)
    assert "--other-processor" in error
    assert main([*arguments, "--other-processor"]) == 0
    assert "latency_ms 0.2: val" in capsys.readouterr().out


def test_a_search_reads_no_test_data(runs, tmp_path, monkeypatch):
    """Only the measurement of the network that was found does."""
    folder = tmp_path / "runs"
    shutil.copytree(runs[0].store.uri, folder)
    search = dataclasses.replace(SEARCH, calibration=30)  # which nothing was scored with
    experiment = dataclasses.replace(ELASTIC, path=dataclasses.replace(ELASTIC.path, search=search))
    driver, trainer = begun(experiment, folder)

    def closed(data, name: str):
        if name == "test":
            raise AssertionError("test data were read during a search")
        return original(data, name)

    original, scored = Data.split, 0
    while isinstance(work := driver.next_work(), Evaluate):
        with monkeypatch.context() as patched:
            patched.setattr(Data, "split", closed)
            driver.finish(work, trainer.do(work))
        scored += 1
    assert scored > 2
    monkeypatch.setattr(Data, "split", closed)
    with pytest.raises(AssertionError, match="test data were read"):
        trainer.evaluate(Dense(), trainer.module, "test")


def test_what_was_found_is_exported(runs, found, tmp_path):
    record = found[0][0]
    export.write(runs[0], tmp_path, rounds=[record.key], formats=["packed"], trust=TRUST)
    network = export.load_packed(tmp_path / "subnet.safetensors")
    driver, trainer = begun(ELASTIC, Path(runs[0].store.uri))
    stored = driver._rounds[4].state().model
    assert all(torch.equal(tensor, stored[name]) for name, tensor in network.state_dict().items())
    assert trainer.evaluate(Dense(), network, "test")["accuracy"] == record.test


def test_what_was_found_is_pruned_further(runs, found):
    """The round's own weights, with its batch norm: a dense round without an epoch measures what the search did."""
    ledger, record = runs[0], found[0][0]
    experiment = dataclasses.replace(
        ELASTIC,
        name="pruned",
        model_options={"architecture": record.search["architecture"]},
        start_from=f"{ledger.store.uri}#{record.key[:16]}",
        dense_epochs=0,
        path=Geometric(rounds=1),
    )
    works(experiment, Path(ledger.store.uri))
    records = begun(experiment, Path(ledger.store.uri))[0].records()
    assert records[0].val == record.val
    assert records[0].prunable == record.kept
    assert records[1].kept == round(0.8 * record.kept)


def test_a_network_of_the_supernet_starts_from_its_weights_and_alone_from_none(runs):
    driver, _ = begun(SUPERNET, Path(runs[0].store.uri))
    supernet = driver._rounds[3].state().model
    options = {"architecture": find_space("small").smallest().to_json()}
    taken = dataclasses.replace(
        ELASTIC, model_options=options, path=Geometric(), start_from=f"{runs[0].store.uri}#{runs[1]}"
    )
    alone = dataclasses.replace(taken, start_from=None)
    problems = [load_problem(experiment)[0] for experiment in (taken, alone)]
    assert problems[0].prunable == problems[1].prunable
    assert problems[0].model_identity != problems[1].model_identity
    network = begun(taken, Path(runs[0].store.uri))[1]
    first = network._initial(driver_work(taken, runs)).model["stem.0.conv.weight"]
    assert torch.equal(first, supernet["network.stem.0.conv.weight"])


def driver_work(experiment, runs):
    return begun(experiment, Path(runs[0].store.uri))[0].next_work()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"dense_epochs": 0}, "start_from must be the round of a network that orchestrator ofa search found"),
        ({"model": "ofa:compofa"}, "must be a supernet of the model's own space, 'ofa:compofa', got one of 'small'"),
        ({"model": "resnet8"}, "must be a supernet of the model's own space, 'resnet8', got one of 'small'"),
        ({"start_from": "{runs}#"}, "start_from must be STORAGE#KEY with the beginning of one round's key, got ''"),
        ({"start_from": "{runs}#nothing"}, "got 'nothing', which 0 rounds in"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_a_start_that_does_not_fit_is_refused(changes, sentence, runs):
    changes = {"start_from": f"{{runs}}#{runs[1]}", "path": Geometric(), **changes}
    changes["start_from"] = changes["start_from"].format(runs=runs[0].store.uri)
    with pytest.raises(ConfigError, match=re.escape(sentence)):
        load_problem(dataclasses.replace(ELASTIC, **changes))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--supernet", "{dense}", "--macs", "0.5"], "--supernet must be the round of a path's last phase"),
        (
            ["--supernet", "nothing", "--macs", "0.5"],
            "--supernet must be the beginning of a round's key, got 'nothing'",
        ),
        (["--supernet", "{key}", "--macs", "half"], "--macs must be numbers with commas between them"),
        (["--supernet", "{key}", "--macs", ","], "--macs must be numbers with commas between them"),
        (
            ["--supernet", "{key}", "--macs", "0.5,1.5"],
            "--macs must be a finite number above 0 and of 1 or less, got 1.5",
        ),
        (["--supernet", "{key}", "--macs", "0.5,0.50"], "--macs must hold each number once, got '0.5,0.50'"),
        (["--supernet", "{key}"], "a search needs a budget: give --macs 0.5, --parameters 0.5, or --latency-ms 2"),
        (["--supernet", "{key}", "--latency-ms", "2"], "--latency-ms and --latency-table need each other"),
        (["--supernet", "{key}", "--macs", "0.5", "--latency-table", "t"], "and --latency-table need each other"),
        (
            ["--supernet", "{key}", "--macs", "0.3,0.5,0.7", "--evaluations", "2"],
            "--evaluations must be a whole number of 3 or more, got 2",
        ),
        (
            ["--supernet", "{key}", "--macs", "0.01", "--trust", "elastic:data"],
            "macs (0.01 of the largest network's) or less: the minimum is 68,608 (0.",
        ),
        (
            ["--supernet", "{key}", "--macs", "0.5", "--out", "/dev/null/x"],
            "--out must be a folder that can be written",
        ),
        (["--supernet", "{key}", "--macs", "0.5"], "pass --trust elastic:data if that is code of yours"),
    ],
    ids=[
        "dense",
        "nothing",
        "half",
        "comma",
        "above",
        "twice",
        "none",
        "no table",
        "no latency",
        "few",
        "minimum",
        "out",
        "trust",
    ],
)
def test_the_command_refuses_what_cannot_be_in_one_sentence(arguments, sentence, runs, capsys):
    keys = begun(SUPERNET, Path(runs[0].store.uri))[0].keys
    given = [argument.format(key=runs[1], dense=keys[0]) for argument in arguments]
    assert main(["ofa", "search", runs[0].store.uri, *given]) == 1
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1


def test_a_supernet_itself_cannot_be_exported(runs, tmp_path):
    with pytest.raises(ConfigError, match="is a supernet of many networks: orchestrator ofa search finds one in it"):
        export.write(runs[0], tmp_path, rounds=[runs[1]], trust=TRUST)


def test_a_path_of_phases_is_what_the_supernet_was_trained_by(runs):
    assert isinstance(SUPERNET.path, Phases)
    assert begun(SUPERNET, Path(runs[0].store.uri))[0].keys[-1] == runs[1]
