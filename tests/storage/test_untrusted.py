"""Storage content is not trusted: whatever a bucket's owner puts there ends in a sentence that names the file.

Nothing of a claimed size is made: every attack below claims gigabytes, and runs with little more memory than it holds.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import struct
from collections.abc import Callable
from typing import Any

import pytest
import tiny
import torch
from s3_server import FaultProxy
from safetensors.torch import save
from storage.test_ledger import KEY, MASKS, STATE, damage, record, rewritten
from tiny import measured
from waiting import wait_for

from orchestrator.__main__ import main
from orchestrator.driver import Driver
from orchestrator.errors import DamagedError, StorageError
from orchestrator.problem import load_problem
from orchestrator.record import MODEL, OPTIMIZER
from orchestrator.report import path_records
from orchestrator.sealed import sha256_of
from orchestrator.storage.checkpoint import (
    pack_model,
    pack_progress,
    unpack_model,
    unpack_optimizer,
    unpack_progress,
    unpack_snapshot,
)
from orchestrator.storage.claims import LINK_BYTES, SWEPT, Claims, holders
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.opening import open_store
from orchestrator.storage.process import is_gone, this_process
from orchestrator.storage.progress import newest_progress, write_progress
from orchestrator.storage.s3 import S3Store
from orchestrator.storage.store import JSON_BYTES, Store
from orchestrator.train_state import TrainState
from orchestrator.training.trainer import Trainer
from orchestrator.work.train import EpochMetrics, Progress

pytestmark = pytest.mark.usefixtures("little_memory")
BOMB = "[" * 200_000
FILE = "rounds/k/model-0123.safetensors"


@pytest.fixture
def ledger(tmp_path) -> Ledger:
    return Ledger(open_store(str(tmp_path / "runs")))


def raw(header: dict[str, Any] | bytes, data: bytes = b"") -> bytes:
    """A safetensors file with any header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def tensor(dtype: str, shape: list[int], begin: int, end: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def masked(shapes: Any, bits: int = 6, **more: torch.Tensor) -> bytes:
    """A model of one weight `w` whose header says what it likes of the shapes."""
    bits_of = torch.zeros(-(-bits // 8), dtype=torch.uint8)
    text = shapes if isinstance(shapes, str) else json.dumps(shapes)
    return save({"w": torch.ones(0), "w#mask": bits_of, **more}, {"shapes": text})


MODELS = {
    "a header of terabytes": struct.pack("<Q", 1 << 45) + b"{}",
    "a tensor of terabytes": raw({"w": tensor("F32", [1 << 40], 0, 1 << 42)}),
    "a shape beyond the data": raw({"w": tensor("F32", [1 << 40], 0, 4)}, b"1234"),
    "a shape that overflows": raw({"w": tensor("F32", [1 << 40, 1 << 40], 0, 4)}, b"1234"),
    "a negative shape": raw({"w": tensor("F32", [-1], 0, 4)}, b"1234"),
    "trailing bytes": raw({"w": tensor("F32", [1], 0, 4)}, b"12345678"),
    "overlapping tensors": raw({"w": tensor("F32", [1], 0, 4), "v": tensor("F32", [1], 0, 4)}, b"1234"),
    "an unknown type": raw({"w": tensor("F1", [1], 0, 4)}, b"1234"),
    "a nested header": raw(b'{"__metadata__":' + BOMB.encode()),
    "a list for a header": raw(b"[]"),
    "a mask of 2^60 bits": masked({"w": [1 << 30, 1 << 30]}),
    "a mask whose sizes overflow": masked({"w": [1 << 62] * 8}),
    "a mask of endless sizes": masked({"w": [1 << 40] * 100_000}),
    "a mask of negative sizes": masked({"w": [-2, -3]}),
    "a mask of one negative size": masked({"w": [-6]}),
    "a mask of no size": masked({"w": [0, 1 << 62]}, 0),
    "a mask of fractions": masked({"w": [2.0, 3]}),
    "a mask of booleans": masked({"w": [True, 6]}),
    "a mask of text": masked({"w": "6"}),
    "a mask without sizes": masked({"w": None}),
    "shapes that are a list": masked(["w"]),
    "shapes that are no JSON": masked("{"),
    "shapes that are nested": masked(BOMB),
    "shapes with digits without end": masked('{"w": [' + "9" * 10_000 + "]}"),
    "a mask for no tensor": masked({"w": [2, 3], "v": [6]}, **{"v#mask": torch.zeros(1, dtype=torch.uint8)}),
    "a mask that is missing": masked({"w": [2, 3], "v": [6]}, v=torch.ones(6)),
    "a mask of floats": save({"w": torch.ones(0), "w#mask": torch.zeros(1)}, {"shapes": '{"w": [2, 3]}'}),
    "more values than kept": save(
        {"w": torch.ones(5), "w#mask": torch.zeros(1, dtype=torch.uint8)}, {"shapes": '{"w": [2, 3]}'}
    ),
}


@pytest.mark.parametrize("case", MODELS)
def test_a_hostile_model_is_named(case: str) -> None:
    with pytest.raises(DamagedError, match=rf"^{FILE}: ") as caught:
        unpack_model(MODELS[case], FILE)
    assert len(str(caught.value)) < 1000


SHAPES = {"w": (2, 3)}
BITS_32M = torch.zeros(4 << 20, dtype=torch.uint8)
OTHERS = {
    "a larger mask, whole in itself": save({"w": torch.ones(0), "w#mask": BITS_32M}, {"shapes": '{"w": [8192, 4096]}'}),
    "the same size in another shape": pack_model({"w": torch.ones(3, 2)}, {"w": MASKS["w"].reshape(3, 2)}),
    "a mask of another weight too": pack_model({**STATE.model}, {**MASKS, "b": torch.ones(2, dtype=torch.bool)}),
    "a mask of another weight only": pack_model({**STATE.model}, {"b": torch.ones(2, dtype=torch.bool)}),
    "no mask, another shape": pack_model({"w": torch.ones(6)}, {}),
    "no weight": pack_model({"b": torch.ones(2)}, {}),
    "integers": pack_model({"w": torch.ones(2, 3, dtype=torch.int64)}, {}),
}


@pytest.mark.parametrize("case", OTHERS)
def test_a_model_of_other_shapes_is_named(case: str) -> None:
    with pytest.raises(DamagedError, match=rf"^{FILE}: "):
        unpack_model(OTHERS[case], FILE, SHAPES)


def test_a_model_of_these_shapes_is_read() -> None:
    for masks in (MASKS, {}):
        model, again = unpack_model(pack_model(STATE.model, masks), FILE, SHAPES)
        assert torch.equal(model["w"], STATE.model["w"])
        assert again.keys() == masks.keys()


@pytest.mark.parametrize("cut", [BOMB, "{", "{}", '"w/m"', "[1]", "[[]]", '["w"]', '["b/m"]', '["v/m"]', "null"])
def test_a_hostile_optimizer_is_named(cut: str) -> None:
    blob = save({"w/m": torch.ones(5), "b/m": torch.ones(2)}, {"cut": cut})
    with pytest.raises(DamagedError, match=r"^rounds/k/optimizer: "):
        unpack_optimizer(blob, MASKS, "rounds/k/optimizer")


STATE_OF_ROUND = TrainState({"w": torch.ones(2, 3)}, {"w/m": torch.ones(2, 3)})
EPOCH = EpochMetrics(0, 0.1, 1.0, measured(0.5))
GOOD = {"key": "k", "epochs_done": 1, "history": (EPOCH,), "seconds": 1.0, "attempts": 1}
PROGRESS: dict[str, dict[str, Any]] = {
    "a count that is none": {"epochs_done": "1"},
    "a count below 0": {"attempts": -1},
    "a count without end": {"attempts": 1 << 80},
    "no finite time": {"seconds": math.nan},
    "more epochs than history": {"epochs_done": 10**6},
    "an epoch that is none": {"history": (EpochMetrics(0.5, 0.1, 1.0, measured(0.5)),)},  # type: ignore[arg-type]
    "a loss that is none": {"history": (EpochMetrics(0, 0.1, "x", measured(0.5)),)},  # type: ignore[arg-type]
    "no finite loss": {"history": (EpochMetrics(0, 0.1, math.inf, measured(0.5)),)},
    "a key that is none": {"key": 5},
    "steps without the workers' parts": {"steps_done": 3},
    "parts without steps": {"parts": torch.ones(1, 1, dtype=torch.float64)},
    "parts of another form": {"steps_done": 3, "parts": torch.ones(4, dtype=torch.float64)},
    "parts of another type": {"steps_done": 3, "parts": torch.ones(1, 1)},
    "parts of nobody": {"steps_done": 3, "parts": torch.ones(0, 1, dtype=torch.float64)},
}


@pytest.mark.parametrize("case", PROGRESS)
def test_hostile_progress_with_a_right_sha256_is_named(case: str) -> None:
    assert unpack_progress(pack_progress(Progress(state=STATE_OF_ROUND, **GOOD)), "f").epochs_done == 1
    blob = pack_progress(Progress(state=STATE_OF_ROUND, **{**GOOD, **PROGRESS[case]}))
    with pytest.raises(DamagedError, match=r"^train/k/1: not a mid-round checkpoint"):
        unpack_progress(blob, "train/k/1")


def test_a_snapshot_of_neither_model_nor_optimizer_is_named() -> None:
    with pytest.raises(DamagedError, match=r"^snapshots/k/1: not a safetensors file"):
        unpack_snapshot(sealed(MODELS["a tensor of terabytes"]), "snapshots/k/1")
    with pytest.raises(DamagedError, match=r"^snapshots/k/1: not a training state"):
        unpack_snapshot(sealed(save({"../w": torch.ones(1)})), "snapshots/k/1")


def sealed(blob: bytes) -> bytes:
    return hashlib.sha256(blob).digest() + blob


@pytest.fixture
def trainer() -> Trainer:
    _, data = load_problem(tiny.EXPERIMENT)
    return Trainer(tiny.EXPERIMENT, data, device=torch.device("cpu"))


@pytest.fixture
def driver(ledger: Ledger) -> Driver:
    return Driver(tiny.EXPERIMENT, ledger, load_problem(tiny.EXPERIMENT)[0])


WORKERS_PARTS = torch.ones(1, 3, dtype=torch.float64)
CHECKPOINTS: dict[str, Callable[[Progress], Progress]] = {
    "another tensor": lambda p: changed(p, model={"evil": torch.ones(1)}),
    "another shape": lambda p: changed(p, model={"6.weight": torch.ones(3, 33)}),
    "an optimizer's state of nothing": lambda p: changed(p, optimizer={"noslash": torch.ones(1)}),
    "an optimizer's state of no parameter": lambda p: changed(p, optimizer={"evil/momentum_buffer": torch.ones(1)}),
    "an optimizer's state that is too large": lambda p: changed(p, optimizer={"6.bias/x": torch.ones(100)}),
    "other epochs": lambda p: changed(p, history=(EpochMetrics(7, 0.1, 1.0, measured(0.5)),)),
    "more epochs than the round has": lambda p: changed(
        p, epochs_done=5, history=tuple(EpochMetrics(e, 0.1, 1.0, measured(0.5)) for e in range(5))
    ),
    "more steps than an epoch has": lambda p: changed(p, steps_done=7, parts=torch.ones(1, 17, dtype=torch.float64)),
    "an average that the training does not have": lambda p: dataclasses.replace(
        p, average={name: tensor.clone() for name, tensor in p.state.model.items()}
    ),
    "other parts": lambda p: changed(p, steps_done=3, parts=WORKERS_PARTS),
}


def changed(progress: Progress, model: Any = None, optimizer: Any = None, **fields: Any) -> Progress:
    state = TrainState({**progress.state.model, **(model or {})}, {**progress.state.optimizer, **(optimizer or {})})
    return dataclasses.replace(progress, state=state, **fields)


@pytest.mark.parametrize("case", CHECKPOINTS)
def test_a_checkpoint_of_another_model_is_passed_over(
    driver: Driver, trainer: Trainer, caplog: pytest.LogCaptureFixture, case: str
) -> None:
    request, kept = driver.next_work(), []
    assert request is not None
    trainer.do(request, on_epoch=lambda request, metrics, speed, take: kept.append(take()))
    store = driver.ledger.store
    write_progress(store, kept[0])
    check = lambda progress: trainer.check(request, progress)  # noqa: E731
    assert newest_progress(store, request.key, check).place == (1, 0)
    hostile = CHECKPOINTS[case](kept[1])
    file = f"train/{request.key}/000099-00000000.safetensors"
    store.write(file, pack_progress(hostile))
    assert newest_progress(store, request.key, check).place == (1, 0)
    assert file in caplog.text


def test_a_checkpoint_that_is_too_large_is_passed_over(
    driver: Driver, trainer: Trainer, caplog: pytest.LogCaptureFixture
) -> None:
    request, kept = driver.next_work(), []
    trainer.do(request, on_epoch=lambda request, metrics, speed, take: kept.append(take()))
    write_progress(driver.ledger.store, kept[0])
    grow(driver.ledger, f"train/{request.key}/000099-00000000.safetensors", 1 << 40)
    assert newest_progress(driver.ledger.store, request.key, max_bytes=trainer.max_progress_bytes).place == (1, 0)
    assert f"at most {trainer.max_progress_bytes:,} are allowed" in caplog.text


def test_a_round_that_would_start_from_another_model_names_where_it_lies(driver: Driver, trainer: Trainer) -> None:
    dense = driver.next_work()
    result = trainer.train(dense)
    result.state.model["evil"] = torch.ones(1)
    driver.finish(dense, result)
    with pytest.raises(DamagedError, match=rf"round 1 cannot start from what rounds/{dense.key} .* 'evil'"):
        trainer.train(driver.next_work())


def test_a_parent_of_other_shapes_is_told_by_the_driver(driver: Driver, trainer: Trainer, ledger: Ledger) -> None:
    dense = driver.next_work()
    result = trainer.train(dense)
    result.state.model["0.weight"] = torch.ones(8, 1, 3, 4)
    committed = driver.finish(dense, result)
    again = Driver(tiny.EXPERIMENT, ledger, load_problem(tiny.EXPERIMENT)[0])
    with pytest.raises(DamagedError, match=rf"^{committed.file(MODEL)}: the model's '0.weight'"):
        again.next_work()


RECORDS = {
    "nested": lambda data: b'{"format": ' + BOMB.encode(),
    "nested settings": rewritten(settings=json.loads("[" * 100 + "]" * 100)),
    "deeply nested settings": rewritten(settings={"a": json.loads("[" * 500 + "]" * 500)}),
    "digits without end": lambda data: data.replace(b'"kept": 3', b'"kept": ' + b"9" * 10_000),
    "not a number": rewritten(density=math.nan),
    "a number that is true": rewritten(density=True),
    "a count that is true": rewritten(workers=True),
    "not a number in settings": rewritten(settings={"a": [math.inf]}),
    "history without its numbers": rewritten(history=[{"train_loss": 1.0}]),
    "history as text": rewritten(history=[{"train_loss": 1.0, "val_accuracy": "<b>"}]),
    "layers of three numbers": rewritten(layers={"w": [1, 2, 3]}),
    "a layer that keeps more than it has": rewritten(layers={"w": [7, 6]}),
    "dead layers that are none": rewritten(dead_layers=[1]),
    "a format of an earlier version": rewritten(format=1),
    "an endless number": rewritten(metrics={"train_loss": 1e308, "val_accuracy": 0.5, "test_accuracy": 0.5}),
    "a count below 0": rewritten(kept=-3),
    "nothing kept": rewritten(kept=0),
    "more kept than there is": rewritten(kept=7),
    "a count as text": rewritten(workers="8"),
    "a time that is none": rewritten(seconds=math.inf),
    "an objective without a direction": rewritten(objective={"name": "accuracy", "higher_is_better": None}),
    "a format as text": rewritten(format="1"),
    "a key with a path": rewritten(key="../" * 20),
    "a key that is a page": rewritten(key="<script>alert(1)</script>"),
    "a key that clears the screen": rewritten(key="\x1b[2J"),
    "a blob of negative size": rewritten(blobs={n: {"sha256": "0" * 64, "bytes": -1} for n in (MODEL, OPTIMIZER)}),
    "a blob without a sha256": rewritten(blobs={n: {"sha256": 1, "bytes": 1} for n in (MODEL, OPTIMIZER)}),
    "a path for a sha256": rewritten(blobs={n: {"sha256": "/../" * 16, "bytes": 1} for n in (MODEL, OPTIMIZER)}),
    "a blob with more": rewritten(blobs={MODEL: {"sha256": "", "bytes": 1, "\x1b[2J": 1}}),
}


@pytest.mark.parametrize("case", RECORDS)
def test_a_hostile_record_is_named_wherever_it_is_read(ledger: Ledger, case: str, capsys) -> None:
    ledger.commit(record(), STATE, MASKS)
    damage(ledger, "record.json", RECORDS[case])
    for read in (lambda: ledger.record(KEY), ledger.records):
        with pytest.raises(DamagedError, match=rf"^rounds/{KEY}/record.json ") as caught:
            read()
        assert len(str(caught.value)) < 1000
    for command in ("status", "verify", "report"):
        out = ["--out", ledger.store.uri + "-report"] if command == "report" else []
        assert main([command, ledger.store.uri, *out]) == 1
        told = capsys.readouterr()
        assert f"rounds/{KEY}/record.json" in told.out + told.err
        assert "\x1b" not in told.out + told.err


def with_sha256(content: dict[str, Any]) -> bytes:
    """A file whose content is not what it should be, though its sha256 fits: written on purpose."""
    return json.dumps({**content, "sha256": sha256_of(content)}).encode()


def grow(ledger: Ledger, path: str, size: int) -> None:
    """Make a file of `size` bytes that takes no room on the disk."""
    place = f"{ledger.store.uri}/{path}"
    os.makedirs(os.path.dirname(place), exist_ok=True)
    with open(place, "ab") as file:
        file.truncate(size)


def test_files_that_are_too_large_are_not_read(ledger: Ledger) -> None:
    committed = ledger.commit(record(), STATE, MASKS)
    grow(ledger, committed.file(MODEL), 1 << 40)
    with pytest.raises(DamagedError, match=rf"^{committed.file(MODEL)} is damaged: it has 1,099,511,627,776 bytes"):
        ledger.load(committed)
    grow(ledger, f"snapshots/{KEY}/0.safetensors", 1 << 40)
    with pytest.raises(DamagedError, match=rf"^snapshots/{KEY}/0.safetensors is damaged: .* at most "):
        ledger.snapshot(KEY, "0")
    assert any("snapshots/" in file and "delete it" in (problem or "") for file, problem in ledger.verify())
    unfinished = f"snapshots/{KEY[::-1]}/0.safetensors"
    grow(ledger, unfinished, 1 << 40)
    with pytest.raises(DamagedError, match=rf"^{unfinished} is of a round that is not finished"):
        ledger.snapshot(KEY[::-1], "0")
    with pytest.raises(DamagedError, match=rf"^{unfinished} is damaged: .* at most 5,000 are allowed"):
        ledger.snapshot(KEY[::-1], "0", 5000)
    assert unfinished not in [file for file, _ in ledger.verify()]
    grow(ledger, f"rounds/{KEY}/record.json", 1 << 40)
    with pytest.raises(DamagedError, match=rf"^rounds/{KEY}/record.json is damaged: .* at most {JSON_BYTES:,}"):
        ledger.record(KEY)
    grow(ledger, f"rounds/{KEY[::-1]}/failed.json", 1 << 40)
    with pytest.raises(DamagedError, match=r"failed.json is damaged"):
        ledger.failures()
    grow(ledger, f"claims/{KEY}/1.json", 1 << 40)
    assert holders(ledger.store) == {KEY: "unknown"}


def test_an_object_that_is_exchanged_while_it_is_read_is_read_up_to_the_limit(
    s3_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second request, for bulk, finds another object than the first one measured."""
    store = S3Store(s3_uri, bulk_bytes=4)
    store.write("a", b"12345")
    get = store._client.get_object

    def exchanged(**request: Any) -> Any:
        answer = get(**request)
        store.write("a", b"n" * 100_000)
        return answer

    monkeypatch.setattr(store._client, "get_object", exchanged)
    with pytest.raises(DamagedError, match=r"^a is damaged: it has 100,000 bytes, at most 5 are allowed"):
        store.read("a", 5)


def test_a_name_that_is_taken_by_something_huge_is_taken(s3_uri: str, fault_proxy: FaultProxy) -> None:
    store = S3Store(s3_uri, bulk_bytes=4)
    store.write("a", b"n" * 100_000)
    fault_proxy.inject("status", method="PUT", status=500, times=1)
    fault_proxy.seen.clear()
    assert store.create("a", b"12345") is False
    assert [method for method, _ in fault_proxy.seen] == ["PUT", "PUT", "GET"], "looked at, as its answer may be lost"


@pytest.mark.parametrize("uri", ["local", "s3"])
def test_a_store_reads_up_to_the_limit(uri: str, tmp_path, request: pytest.FixtureRequest) -> None:
    store = open_store(str(tmp_path) if uri == "local" else request.getfixturevalue("s3_uri"))
    store.write("a/b", b"12345")
    assert store.read("a/b", 5) == b"12345"
    with pytest.raises(DamagedError, match=r"^a/b is damaged: it has 5 bytes, at most 4 are allowed"):
        store.read("a/b", 4)


@pytest.mark.parametrize(
    "content",
    [BOMB, '{"reason": ' + BOMB, "[]", '{"job": "j"}', "9" * 10_000, *({"job": "j", "reason": x} for x in ([], True))],
)
def test_a_hostile_note_of_a_failure_is_no_failure_of_ours(driver: Driver, content: str | dict[str, Any]) -> None:
    data = content.encode() if isinstance(content, str) else with_sha256(content)
    driver.ledger.store.write(f"rounds/{driver.keys[0]}/failed.json", data)
    assert driver.failure("j") in (None, "None")


@pytest.mark.parametrize(
    "content",
    [
        BOMB,
        '{"name": "a", "seed": 0, "keys": ' + BOMB,
        '{"name": "a", "seed": 0}',
        {"name": "a", "seed": 0},
        {"name": "a", "seed": True, "keys": []},
        {"name": "a", "seed": 0, "keys": [5]},
        {"name": "a", "seed": 0, "keys": "ab"},
        {"name": "a", "seed": 0, "keys": [], "rewinds_to": [math.nan]},
        {"name": "a", "seed": 1 << 80, "keys": []},
    ],
)
def test_a_hostile_path_is_named(ledger: Ledger, content: str | dict[str, Any], capsys) -> None:
    data = content.encode() if isinstance(content, str) else with_sha256(content)
    ledger.commit(record(), STATE, MASKS)
    ledger.store.write("experiments/a.0.json", data)
    assert main(["report", ledger.store.uri, "--out", ledger.store.uri + "-report"]) == 1
    assert "error: experiments/a.0.json does not say" in capsys.readouterr().err


def test_a_path_that_names_a_round_again_and_again_has_it_once(ledger: Ledger) -> None:
    ledger.commit(record(), STATE, MASKS)
    ledger.write_experiment("a", 0, {"name": "a", "seed": 0, "keys": [KEY] * 10_000})
    assert len(path_records(ledger)[0]) == 1


NAMES = ["rounds/../../evil/record.json", "rounds/\x1b[2J/record.json", "rounds//record.json", "rounds/./record.json"]


def test_names_that_are_refused_are_not_listed(s3_uri: str) -> None:
    store = S3Store(s3_uri)
    for name in NAMES:
        store._client.put_object(Bucket=store.bucket, Key=store._root + name, Body=b"{}")
    assert store.list() == []
    assert Ledger(store).records() == []
    assert list(Ledger(store).verify()) == []
    for name in NAMES:
        with pytest.raises(StorageError, match=r"a path in storage"):
            store.read(name)


@pytest.mark.parametrize("name", [b"\x1b[2J", b"back\\slash", b"\xff"])
def test_names_that_are_refused_are_not_listed_in_a_folder(ledger: Ledger, name: bytes) -> None:
    folder = os.fsencode(f"{ledger.store.uri}/rounds/") + name
    os.makedirs(folder)
    with open(folder + b"/record.json", "wb"):
        pass
    assert ledger.store.list() == []


def link(store: Store, number: int, **changes: Any) -> None:
    whole = {"owner": "another", "host": "h", "process": "", "instance": "i", "lease_seconds": 0.2, "released": False}
    store.write(f"claims/k/{number}.json", with_sha256({**whole, **changes}))


LINKS: dict[str, Callable[[Ledger], None]] = {
    "a terabyte": lambda ledger: grow(ledger, "claims/k/1.json", 1 << 40),
    "a lease for ever": lambda ledger: link(ledger.store, 1, lease_seconds=1e300),
    "a process without end": lambda ledger: link(ledger.store, 1, process="9" * 5000 + " 1 " + this_process()),
    "an owner without end": lambda ledger: link(ledger.store, 1, owner="o" * LINK_BYTES),
    "nested": lambda ledger: ledger.store.write("claims/k/1.json", BOMB[:60_000].encode()),
}


@pytest.mark.parametrize("case", LINKS)
def test_a_hostile_claim_ends_with_its_lease(ledger: Ledger, case: str) -> None:
    LINKS[case](ledger)
    with Claims(ledger.store, "we", lease_seconds=0.2) as claims:
        assert claims.holder("k") in ("unknown", "another")
        wait_for(lambda: claims.acquire("k"), "the lease ends", pause=0.02)


def test_a_folder_full_of_links_is_emptied_little_by_little(ledger: Ledger) -> None:
    for number in range(1, 201):
        link(ledger.store, number, released=True)
    with Claims(ledger.store, "we", lease_seconds=3600) as claims:
        assert claims.acquire("k")
        assert len(ledger.store.list("claims/k")) == 201 - SWEPT


def test_a_process_of_too_many_digits_is_none() -> None:
    assert not is_gone(this_process().replace(this_process().split()[0], "9" * 5000, 1))
