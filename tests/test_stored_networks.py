"""`orchestrator.load`: the network of a finished round as a module like any other."""

from __future__ import annotations

import pickle
import re
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch

import orchestrator
from orchestrator.errors import ConfigError, StorageError
from orchestrator.export.packed_file import load_packed
from orchestrator.pruning import OneShot
from orchestrator.record import MODEL, Record
from orchestrator.runner import run
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.opening import open_store
from orchestrator.training.state import model_tensors

TRUST = (tiny.EXPERIMENT.model, tiny.EXPERIMENT.data)


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[Record]]:
    """Train a dense round and a pruned one."""
    place = str(tmp_path_factory.mktemp("runs"))
    return place, run(replace(tiny.EXPERIMENT, path=OneShot(0.5)), place)


def test_a_round_is_a_module_with_its_weights(storage: tuple[str, list[Record]]) -> None:
    place, records = storage
    for record in records:
        module = orchestrator.load(place, record.key[:10], trust=TRUST)
        assert not module.training
        tensors = model_tensors(module)
        kept = sum(int(tensors[name].count_nonzero()) for name in record.layers)
        assert kept == record.kept
        assert all(torch.isfinite(tensor).all() for tensor in tensors.values())


def test_a_record_loads_its_own_network(storage: tuple[str, list[Record]], monkeypatch: pytest.MonkeyPatch) -> None:
    place, records = storage
    monkeypatch.chdir(Path(place).parent)
    read = Ledger(open_store(Path(place).name)).record(records[1].key)
    monkeypatch.chdir("/")
    record = pickle.loads(pickle.dumps(read))
    mine = model_tensors(record.load_module(trust=TRUST))
    named = model_tensors(orchestrator.load(place, record.key, trust=TRUST))
    assert mine.keys() == named.keys()
    assert all(torch.equal(mine[name], named[name]) for name in mine)


def test_a_record_that_no_storage_holds_says_how_to_load(storage: tuple[str, list[Record]]) -> None:
    _, records = storage
    text = records[1].to_json()
    assert b"storage" not in text
    read = Record.from_json(text, "a file")
    assert read == records[1]
    with pytest.raises(ConfigError, match=r"was not read from a storage: use orchestrator\.load"):
        read.load_module()


@pytest.mark.parametrize(
    ("key", "trust", "message"),
    [
        ("zz", TRUST, "key must be the beginning of a round's key, got 'zz': orchestrator status has them"),
        ("", TRUST, "key must be the beginning of one key, got '', which 2 have"),
        (
            "OWN",
            (),
            r"names a function for its model, 'tiny:.*', and a function for its data, 'tiny:.*': "
            rf"pass trust={re.escape(str(list(TRUST)))} if that is code of yours",
        ),
    ],
)
def test_what_names_no_round_or_code_is_a_sentence(
    storage: tuple[str, list[Record]], key: str, trust: tuple[str, ...], message: str
) -> None:
    place, records = storage
    with pytest.raises(ConfigError, match=message):
        orchestrator.load(place, records[0].key if key == "OWN" else key, trust=trust)


def test_a_storage_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"folder .*/none does not exist: give the --storage of a job that has run"):
        orchestrator.load(str(tmp_path / "none"), "ab")
    assert not list(tmp_path.iterdir())


def test_the_stored_weights_of_a_round_are_no_packed_file(storage: tuple[str, list[Record]]) -> None:
    place, records = storage
    with pytest.raises(ConfigError, match=r"holds the stored weights of a round.*orchestrator\.load\(STORAGE, KEY\)"):
        load_packed(Path(place) / records[1].file(MODEL))


def test_fast_kernels_say_what_the_round_says(storage: tuple[str, list[Record]]) -> None:
    place, records = storage
    images = torch.rand(5, 1, 6, 6)
    plain = orchestrator.load(place, records[1].key, trust=TRUST)
    fast = orchestrator.load(place, records[1].key, trust=TRUST, kernels="fast", batch=5)
    with torch.no_grad():
        torch.testing.assert_close(fast(images), plain(images), rtol=1e-5, atol=1e-5)
    with pytest.raises(ConfigError, match="kernels must be one of dense, fast, got 'quick'"):
        orchestrator.load(place, records[1].key, trust=TRUST, kernels="quick")  # type: ignore[arg-type]
