"""Which weights a density counts, which ones `compression` counts, and which initial weights belong to a key."""

import dataclasses
import itertools
import math
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from orchestrator.data.dataset import Data
from orchestrator.data.image_data import image_data
from orchestrator.driver import Driver
from orchestrator.errors import ConfigError, DamagedError
from orchestrator.experiment import Experiment, Problem, round_keys, round_settings
from orchestrator.export import ExampleInputs, load_packed, save_packed
from orchestrator.formatting import name_largest
from orchestrator.models.constants import check_constants, constants_of
from orchestrator.problem import load_problem
from orchestrator.pruning import DEFAULT_KINDS, KINDS, Explicit, Kind, OneShot, kept_count
from orchestrator.record import Record
from orchestrator.report import print_table
from orchestrator.runner import run
from orchestrator.schedules import Constant
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.opening import open_store
from orchestrator.training.config import TrainingConfig
from orchestrator.training.optimizer import SGD, AdamW
from orchestrator.training.trainer import Trainer
from orchestrator.work.train import Train


def data() -> Data:
    images = torch.randn(40, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    samples = TensorDataset(images, torch.arange(40) % 2)
    return image_data(samples, None, samples, 2, (1, 8, 8))


class Rows(nn.Module):
    """Reads an image row by row."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.rows = nn.LSTM(8, 6, num_layers=2, batch_first=True, bidirectional=True)
        self.cell, self.head = nn.GRUCell(12, 5), nn.Linear(5, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.cell(self.rows(images[:, 0])[0][:, -1]))


def rows(num_classes: int) -> nn.Module:
    return Rows(num_classes)


def mlp(num_classes: int) -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, num_classes))


def old_weight_norm(num_classes: int) -> nn.Module:
    made = mlp(num_classes)
    with pytest.warns(FutureWarning):
        made[1] = nn.utils.weight_norm(made[1])
    return made


def weight_norm(num_classes: int) -> nn.Module:
    made = mlp(num_classes)
    made[1] = nn.utils.parametrizations.weight_norm(made[1])
    return made


def frozen(num_classes: int, everything: bool = False) -> nn.Module:
    made = mlp(num_classes)
    (made if everything else made[1]).requires_grad_(False)
    return made


def bare(num_classes: int) -> nn.Module:
    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.head = nn.Parameter(torch.randn(64, 16)), nn.Linear(16, num_classes)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.head((images.flatten(1) @ self.first).relu())

    return Bare()


def pretrained(num_classes: int, file: str) -> nn.Module:
    """A first layer from a file, a new head, and a table that is computed."""
    made = mlp(num_classes)
    made[1].load_state_dict(torch.load(file)["layer"])
    made.register_buffer("table", torch.linalg.inv(torch.randn(64, 64, generator=torch.Generator().manual_seed(0))))
    return made


class Words(nn.Module):
    """Reads each row of an image as a word, by its brightest pixel; `tied`: it also scores them by its table."""

    def __init__(self, num_classes: int, tied: bool, sparse: bool) -> None:
        super().__init__()
        self.table = nn.Embedding(8, 6, sparse=sparse)
        self.memory = nn.LSTM(6, 6, batch_first=True)
        self.scores = nn.Linear(6, 8, bias=False)
        self.head = nn.Linear(8, num_classes)
        if tied:
            self.scores.weight = self.table.weight

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.scores(self.memory(self.table(images[:, 0].argmax(2)))[0][:, -1]))


def words(num_classes: int, tied: bool = False, sparse: bool = False) -> nn.Module:
    return Words(num_classes, tied, sparse)


def leaves_out(num_classes: int, head: bool = False) -> nn.Module:
    made = mlp(num_classes)
    made.prune_exclude = ["3"] if head else ["1"]
    return made


EXPERIMENT = Experiment(
    name="counted",
    model=f"{__name__}:rows",
    data=f"{__name__}:data",
    path=OneShot(0.25),
    training=TrainingConfig(epochs=1, batch_size=20, schedule=Constant(0.1)),
)


def of(model: str, **changes: object) -> Experiment:
    return dataclasses.replace(EXPERIMENT, model=f"{__name__}:{model}", **changes)


def all_weights(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters() if parameter.dim() > 1)


def test_recurrent_weights_are_pruned_exactly_and_the_network_is_exported(tmp_path: Path) -> None:
    experiment = of("rows", path=Explicit((0.5, 0.2)))
    records = run(experiment, str(tmp_path))
    total = all_weights(rows(2))
    ledger = Ledger(open_store(str(tmp_path)))
    for record, density in zip(records, experiment.densities(), strict=True):
        state, masks = ledger.load(record)
        nonzero = sum(int(state.model[name].count_nonzero()) for name in record.layers)
        assert nonzero == record.kept == kept_count(density, total)
        assert (record.prunable, record.weights, record.unpruned) == (total, total, {})
        assert record.compression == total / record.kept
        assert all(int(mask.sum()) == record.layers[name][0] for name, mask in masks.items())
    assert sum("weight_h" in name or "weight_i" in name for name in records[0].layers) == 10
    module = rows(2).eval()
    module.load_state_dict(state.model)
    loaded = load_problem(experiment)[1]
    options = {"model": experiment.model, "arguments": loaded.model_arguments, "example": ExampleInputs.of(loaded)}
    packed = load_packed(save_packed(module, tmp_path / "net", **options), model=experiment.model)
    image = torch.randn(3, 1, 8, 8)
    assert torch.equal(packed(image), module(image))


@pytest.mark.parametrize(
    ("model", "stays"),
    [
        ("weight_norm", {"1.parametrizations.weight.original0": 16, "1.parametrizations.weight.original1": 1024}),
        ("old_weight_norm", {"1.weight_g": 16, "1.weight_v": 1024}),
        ("frozen", {"1.weight": 1024}),
        ("bare", {"first": 1024}),
    ],
)
def test_weights_that_cannot_be_pruned_are_counted_and_named(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    model: str,
    stays: dict[str, int],
) -> None:
    records = run(of(model), str(tmp_path))
    total = 32 + sum(stays.values())
    message = caplog.messages[0]
    assert f"32 of the {total:,} weights of model '{__name__}:{model}' are prunable ({32 / total:.1%})" in message
    assert message.endswith(name_largest(stays))
    for record, kept in zip(records, (32, 8), strict=True):
        assert (record.kept, record.prunable, record.weights) == (kept, 32, total)
        assert record.unpruned == {name: [size, size] for name, size in stays.items()}
        assert record.compression == total / (kept + total - 32)
        assert Record.from_json(record.to_json(), "a file") == record
    print_table(records)
    said = " ".join(capsys.readouterr().out.split())
    share = f"all {total:,} weights, of which {32 / total:.1%} are prunable"
    assert f"{share}; these are not: {name_largest(stays)}" in said


EMBEDDINGS = (*DEFAULT_KINDS, "embedding")
CELL, TABLE, HEAD = 4 * 6 * (6 + 6), 8 * 6, 8 * 2  # weights of the layers of Words


@pytest.mark.parametrize(
    ("tied", "kinds", "prunable", "unpruned"),
    [
        (False, DEFAULT_KINDS, CELL + TABLE + HEAD, TABLE),
        (False, EMBEDDINGS, CELL + 2 * TABLE + HEAD, 0),
        (True, DEFAULT_KINDS, CELL + TABLE + HEAD, 0),
        (True, EMBEDDINGS, CELL + TABLE + HEAD, 0),
        (True, ("recurrent",), CELL, TABLE + HEAD),
        (False, ("embedding",), TABLE, CELL + TABLE + HEAD),
    ],
)
def test_embeddings_are_pruned_on_request_and_a_tied_weight_once(
    tmp_path: Path, tied: bool, kinds: tuple[Kind, ...], prunable: int, unpruned: int
) -> None:
    experiment = of("words", model_options={"tied": tied}, kinds=kinds)
    record = run(experiment, str(tmp_path))[-1]
    assert (record.prunable, record.weights) == (prunable, prunable + unpruned)
    state, masks = Ledger(open_store(str(tmp_path))).load(record)
    assert sum(int(state.model[name].count_nonzero()) for name in masks) == record.kept == kept_count(0.25, prunable)
    module = words(2, tied)
    module.load_state_dict(state.model, strict=not tied)  # storage holds a tied weight once
    if tied:
        assert torch.equal(module.scores.weight, state.model["table.weight"])


def test_what_is_pruned_is_part_of_the_keys_of_pruned_rounds() -> None:
    choices: list[tuple[Kind, ...]] = [DEFAULT_KINDS, EMBEDDINGS, ("linear", "recurrent"), ("recurrent", "linear")]
    found = [keys(of("words", kinds=kinds)) for kinds in choices]
    assert len({dense for dense, _ in found}) == 1, "the dense round is shared"
    default, more, fewer, swapped = (pruned for _, pruned in found)
    assert len({default, more, fewer}) == 3
    assert fewer == swapped, "their order decides nothing"


@pytest.mark.parametrize("kinds", [(), ("embeddings",), ("linear", 3), ([],)])
def test_kinds_of_layers_that_do_not_exist_are_refused(kinds: tuple[Kind, ...]) -> None:
    with pytest.raises(ConfigError, match=r"kinds(\[\d\])? must (hold one or more|be one) of convolution, .*, got"):
        of("words", kinds=kinds)
    with pytest.raises(ConfigError, match="kinds must be a tuple, got 'linear'"):
        of("words", kinds="linear")


def test_sparse_gradients_are_refused_before_training() -> None:
    with pytest.raises(ConfigError, match=r"must be dense, .*: table\.weight; build the embedding with sparse=False"):
        load_problem(of("words", model_options={"sparse": True}))


@pytest.mark.parametrize("optimizer", [SGD(weight_decay=0.1), AdamW(weight_decay=0.1)], ids=str)
def test_frozen_weights_keep_their_bits(tmp_path: Path, optimizer: SGD | AdamW) -> None:
    training = dataclasses.replace(EXPERIMENT.training, optimizer=optimizer)
    dense, pruned = run(of("frozen", training=training, kinds=KINDS), str(tmp_path))
    assert (pruned.layers.keys(), pruned.unpruned) == ({"3.weight"}, {"1.weight": [1024, 1024]})
    ledger = Ledger(open_store(str(tmp_path)))
    first, last = (ledger.load(record)[0].model["1.weight"] for record in (dense, pruned))
    assert torch.equal(first, last)


def test_a_model_with_nothing_but_frozen_weights_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"nothing to prune: .* a weight that is trained \(requires_grad True\)"):
        load_problem(of("frozen", model_options={"everything": True}))
    with pytest.raises(ConfigError, match=r"no prunable weight left: loosen exclude \('3',\)"):
        load_problem(of("frozen", exclude=("3",)))


def test_what_the_user_excludes_is_counted_without_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    problem, _ = load_problem(of("mlp", exclude=("3",)))
    assert (problem.prunable, problem.unpruned) == ({"1.weight": (16, 64)}, {"3.weight": 32})
    assert not caplog.messages


def test_a_record_written_before_these_fields_is_read_and_a_false_one_is_not(tmp_path: Path) -> None:
    record = run(of("mlp"), str(tmp_path))[-1]
    assert (record.unpruned, record.compression) == ({}, record.prunable / record.kept)
    for wrong in ({"a": [2, 1]}, {"a": [1]}, ["a"], {"a": [0, 2**63]}):
        damaged = dataclasses.replace(record, unpruned=wrong).to_json()  # type: ignore[arg-type]
        with pytest.raises(DamagedError, match=r"is not a record \(unpruned"):
            Record.from_json(damaged, "a file")


# The initial weights.


def keys(experiment: Experiment, problem: Problem | None = None) -> list[str]:
    return round_keys(round_settings(experiment, problem or load_problem(experiment)[0]))


def write(file: Path, seed: int) -> None:
    torch.manual_seed(seed)
    torch.save({"layer": nn.Linear(64, 16).state_dict()}, file)


def test_other_weights_in_the_same_file_are_another_experiment(tmp_path: Path) -> None:
    file = tmp_path / "best.pt"
    experiment = of("pretrained", model_options={"file": str(file)})
    write(file, seed=1)
    first, again = keys(experiment), keys(experiment)
    write(file, seed=2)
    other = keys(experiment)
    assert first == again
    assert not set(first) & set(other)


def test_what_a_model_computes_may_differ_in_its_last_bits(tmp_path: Path) -> None:
    """It does between processors, and between numbers of threads."""
    write(tmp_path / "best.pt", seed=1)
    experiment = of("pretrained", model_options={"file": str(tmp_path / "best.pt")})
    one = load_problem(experiment)[0]
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        assert keys(experiment) == keys(experiment, one)
    finally:
        torch.set_num_threads(threads)
    assert set(one.constants) == {"1.weight", "1.bias", "table"}


def test_what_the_seed_decides_is_not_a_constant() -> None:
    """Its last bits differ between kinds of processors, and the seed is in every key."""
    problem, _ = load_problem(of("mlp"))
    other, _ = load_problem(of("mlp", seed=7))
    assert problem == other
    assert problem.constants == {}
    made = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    again = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    norm = {"1.weight", "1.bias", "1.running_mean", "1.running_var", "1.num_batches_tracked"}
    assert set(constants_of(made, again)) == norm


def holding(tensor: torch.Tensor, buffer: bool = False) -> nn.Module:
    """Return a module with nothing but `tensor`."""
    made = nn.Module()
    if buffer:
        made.register_buffer("it", tensor, persistent=False)
    else:
        made.it = nn.Parameter(tensor, requires_grad=tensor.is_floating_point())
    return made


def digests(tensor: torch.Tensor, buffer: bool = False) -> dict[str, str]:
    return constants_of(holding(tensor, buffer), holding(tensor.clone(), buffer))


ODD = torch.tensor([math.inf, -math.inf, math.nan, 1.0])
TENSORS = [
    torch.empty(0),
    torch.tensor(math.nan),
    torch.ones(1).expand(4),
    torch.eye(2).T,
    ODD,
    torch.ones(3, dtype=torch.uint16),
    torch.ones(3, dtype=torch.complex64),
    torch.eye(3).to(torch.float8_e5m2),
    torch.eye(3).bool(),
]


@pytest.mark.parametrize("buffer", [False, True])
@pytest.mark.parametrize("tensor", TENSORS)
def test_any_tensor_has_a_digest_that_does_not_depend_on_its_layout(tensor: torch.Tensor, buffer: bool) -> None:
    if buffer or tensor.is_floating_point() or tensor.is_complex():
        assert digests(tensor, buffer) == digests(tensor.clone().contiguous(), buffer) != {}


def sines(length: int) -> torch.Tensor:
    angles = torch.arange(length)[:, None] / 10000 ** (torch.arange(64) / 64)
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def test_the_last_bits_of_a_buffer_that_is_computed_decide_nothing() -> None:
    table = sines(2048)
    for seed in range(20):
        noise = torch.randn(table.shape, generator=torch.Generator().manual_seed(seed))
        assert digests(table * (1 + 1e-7 * noise), buffer=True) == digests(table, buffer=True)
    for other in (sines(2047), table * 1.02, -table, table.flip(0), table.roll(1), table + 0.02):
        assert digests(other, buffer=True) != digests(table, buffer=True)
    assert digests(ODD, buffer=True) != digests(ODD.flip(0), buffer=True)
    assert digests(torch.zeros(3), buffer=True) != digests(torch.zeros(4), buffer=True)


def test_a_node_whose_bits_tip_over_where_the_digest_is_rounded_is_not_refused() -> None:
    """Some table lies on every such edge; a node whose file is another one is refused."""
    values = torch.linspace(1, 1.1, 2000, dtype=torch.float64)
    edges = [
        (one, other)
        for one, other in itertools.pairwise(values)
        if digests(one, buffer=True) != digests(other, buffer=True)
    ]
    assert 5 < len(edges) < 20
    for one, other in edges:
        check_constants(holding(one, True), holding(one, True), digests(other, buffer=True), "m")
    with pytest.raises(ConfigError, match="but it differ from those"):
        check_constants(holding(one * 2, True), holding(one * 2, True), digests(one, buffer=True), "m")


class Projected(nn.Module):
    """Projects images onto a basis from a file, kept as a buffer or as some rows of a larger one."""

    def __init__(self, num_classes: int, file: str, rows: bool) -> None:
        super().__init__()
        basis = torch.load(file)["layer"]["weight"]
        if rows:
            self.first = nn.Linear(64, 20)
            self.first.weight.data[:16] = basis
        else:
            self.register_buffer("basis", basis)
        self.head = nn.Linear(20 if rows else 16, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        flat = images.flatten(1)
        return self.head(self.first(flat) if hasattr(self, "first") else flat @ self.basis.T)


def projected(num_classes: int, file: str, rows: bool) -> nn.Module:
    return Projected(num_classes, file, rows)


@pytest.mark.parametrize("rows", [False, True])
def test_a_buffer_and_rows_that_are_loaded_belong_to_the_key(tmp_path: Path, rows: bool) -> None:
    file = tmp_path / "basis.pt"
    experiment = of("projected", model_options={"file": str(file), "rows": rows})
    write(file, seed=1)
    problem, loaded = load_problem(experiment)
    first, other_seed = keys(experiment, problem), load_problem(dataclasses.replace(experiment, seed=7))[0]
    assert other_seed == problem
    trainer, request = first_work(experiment, problem, tmp_path / "runs", loaded)
    assert trainer.train(request).history
    write(file, seed=2)
    assert not set(first) & set(keys(experiment))
    with pytest.raises(ConfigError, match=f"but {'first.weight' if rows else 'basis'} differ from those"):
        trainer.train(request)


def first_work(experiment: Experiment, problem: Problem, storage: Path, data: Data) -> tuple[Trainer, Train]:
    request = Driver(experiment, Ledger(open_store(str(storage))), problem).next_work()
    assert isinstance(request, Train)
    return Trainer(experiment, data), request


def test_a_worker_that_builds_other_weights_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "best.pt"
    experiment = of("pretrained", model_options={"file": str(file)})
    write(file, seed=1)
    problem, loaded = load_problem(experiment)
    trainer, request = first_work(experiment, problem, tmp_path / "runs", loaded)
    assert trainer.train(request).history
    write(file, seed=2)
    with pytest.raises(ConfigError, match=r"must start with the same weights on every node, but 1\.weight, 1\.bias"):
        trainer.train(request)


def test_what_a_model_freezes_or_leaves_out_by_itself_decides_its_keys() -> None:
    trained, still = load_problem(of("mlp"))[0], load_problem(of("frozen"))[0]
    assert trained.model_identity != still.model_identity
    one, other = (load_problem(of("leaves_out", model_options={"head": head}))[0] for head in (False, True))
    assert one.model_identity == other.model_identity
    assert keys(of("leaves_out"), one)[0] == keys(of("leaves_out"), other)[0], "the dense round is shared"
    assert not set(keys(of("leaves_out"), one)[1:]) & set(keys(of("leaves_out"), other)[1:])
