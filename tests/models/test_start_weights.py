"""Networks that were trained already: what they start from, what belongs to their keys, and a sentence for mistakes."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlparse

import pytest
import torch
from safetensors.torch import load_file, save_file, save_model
from torch import Tensor, nn
from torch.utils.data import TensorDataset
from torchvision import models

from orchestrator.data.dataset import Data
from orchestrator.data.image_data import image_data
from orchestrator.driver import Driver
from orchestrator.errors import ConfigError
from orchestrator.experiment import Experiment, round_keys, round_settings
from orchestrator.export import load_packed, save_packed
from orchestrator.models.build import build_model
from orchestrator.models.classifiers import published_tensors
from orchestrator.models.start_weights import load_start_weights
from orchestrator.problem import load_problem
from orchestrator.pruning import OneShot
from orchestrator.runner import run
from orchestrator.schedules import Constant
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.opening import open_store
from orchestrator.techniques import RandomReinitialisation, WeightRewinding
from orchestrator.training.config import TrainingConfig
from orchestrator.training.trainer import Trainer


def data() -> Data:
    images = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    samples = TensorDataset(images, torch.arange(16) % 2)
    return image_data(samples, samples, samples, 2, (3, 8, 8))


class Net(nn.Sequential):
    """With running statistics, and with two layers that share a weight."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten())
        self.one, self.two = nn.Linear(144, 144), nn.Linear(144, 144)
        self.two.weight = self.one.weight
        self.head = nn.Linear(144, num_classes)


def net(num_classes: int) -> nn.Module:
    return Net(num_classes)


EXPERIMENT = Experiment(
    name="started",
    model=f"{__name__}:net",
    data=f"{__name__}:data",
    path=OneShot(0.5),
    training=TrainingConfig(epochs=1, batch_size=8, schedule=Constant(1e-30)),  # which leaves all weights as they are
)
SHAPE = (3, 8, 8)


def trained(num_classes: int = 2, seed: int = 1) -> Net:
    """A network that has moved away from any initialisation, running statistics included."""
    torch.manual_seed(seed)
    made = Net(num_classes)
    with torch.no_grad():
        for tensor in (*made.parameters(), made[1].running_mean):
            tensor.copy_(torch.randn(tensor.shape))
        made[1].running_var.uniform_(0.5, 2)
        made[1].num_batches_tracked += 12
    return made


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file with weights of a network for two classes."""
    path = tmp_path / "trained.safetensors"
    save_model(trained(), str(path))
    return path


def started(file: Path | str, **changes: object) -> Experiment:
    return dataclasses.replace(EXPERIMENT, start_from=str(file), **changes)  # type: ignore[arg-type]


def keys(experiment: Experiment) -> list[str]:
    return round_keys(round_settings(experiment, load_problem(experiment)[0]))


def test_the_dense_round_starts_from_the_bits_of_the_file(file: Path, tmp_path: Path) -> None:
    experiment = started(file, technique=WeightRewinding())
    problem, loaded = load_problem(experiment)
    driver = Driver(experiment, Ledger(open_store(str(tmp_path / "runs"))), problem)
    request = driver.next_work()
    assert request is not None
    initial = Trainer(experiment, loaded).train(request).snapshots[0].model
    wanted = trained().state_dict()
    assert initial.keys() == wanted.keys() - {"two.weight"}
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in initial.items())


def test_the_control_of_random_weights_draws_them(file: Path, tmp_path: Path) -> None:
    dense, pruned = run(started(file, technique=RandomReinitialisation()), str(tmp_path / "runs"))
    ledger = Ledger(open_store(str(tmp_path / "runs")))
    (first, _), (last, masks) = (ledger.load(record) for record in (dense, pruned))
    wanted = trained().state_dict()
    assert torch.equal(first.model["one.weight"], wanted["one.weight"])
    assert not (last.model["one.weight"] == wanted["one.weight"])[masks["one.weight"]].any()


def test_new_layers_are_drawn_by_the_seed_and_the_others_are_not(tmp_path: Path) -> None:
    path = tmp_path / "ten.safetensors"
    save_model(trained(num_classes=10), str(path))
    experiment = started(path, new_layers=("head",))
    module, drawn = (
        build_model(EXPERIMENT.model, {}, {"num_classes": 2, "input_shape": SHAPE}, seed=3) for _ in range(2)
    )
    loaded = load_start_weights(module, experiment, SHAPE)
    ours, fresh, theirs = module.state_dict(), drawn.state_dict(), load_file(path)
    for name, tensor in ours.items():
        wanted = fresh[name] if name.startswith("head.") else theirs.get(name, theirs["one.weight"])
        assert torch.equal(tensor, wanted), name
    assert set(loaded) == {name for name in theirs if not name.startswith("head.")}
    assert not any(name.startswith("head") for name in load_problem(experiment)[0].constants)


def test_only_the_content_of_the_file_is_part_of_the_keys(file: Path, tmp_path: Path) -> None:
    tensors = load_file(file)
    moved, half, other = (tmp_path / f"{name}.safetensors" for name in ("moved", "half", "other"))
    file.rename(moved)
    save_file({**tensors, "1.running_mean": tensors["1.running_mean"] + 1}, other)
    save_file({name: t.bfloat16() if t.is_floating_point() else t for name, t in tensors.items()}, half)
    found = [keys(started(moved)), keys(EXPERIMENT), keys(started(other)), keys(started(half))]
    assert len({key for path in found for key in path}) == 8
    save_file(tensors, file)
    assert keys(started(file)) == keys(started(moved))


def test_a_worker_with_another_file_is_refused(file: Path, tmp_path: Path) -> None:
    experiment = started(file)
    problem, loaded = load_problem(experiment)
    request = Driver(experiment, Ledger(open_store(str(tmp_path / "runs"))), problem).next_work()
    assert request is not None
    save_file({**load_file(file), "1.running_mean": torch.zeros(4)}, file)
    with pytest.raises(ConfigError, match=r"same weights on every node, but 1\.running_mean differ from those"):
        Trainer(experiment, loaded).train(request)
    file.unlink()
    with pytest.raises(ConfigError, match=r"that every node can read, got '.*trained.safetensors' \(no such file"):
        Trainer(experiment, loaded).train(request)


@pytest.mark.parametrize("name", ["one.weight", "two.weight"])
def test_a_shared_weight_may_have_either_of_its_names(name: str, file: Path) -> None:
    tensors = load_file(file)
    weight = tensors.pop("one.weight", tensors.pop("two.weight", None))
    assert weight is not None
    save_file({**tensors, name: weight}, file)
    assert keys(started(file))
    module = net(2)
    assert name in load_start_weights(module, started(file), SHAPE)
    assert torch.equal(module.one.weight, weight)
    assert module.one.weight is module.two.weight


def test_a_file_may_have_the_sign_of_a_stored_round_in_its_name(file: Path, tmp_path: Path) -> None:
    plain = keys(started(file))
    assert keys(started(file.rename(tmp_path / "ok#1.safetensors"))) == plain


def test_a_storage_that_does_not_exist_is_named_and_not_made(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    with pytest.raises(
        ConfigError,
        match=r"^start_from must be a file that exists, or STORAGE#KEY, got '.*missing#3f': folder .*missing does not",
    ):
        load_problem(started(f"{missing}#3f"))
    assert not missing.exists()


Change = Callable[[dict[str, Tensor]], object]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("0.bias"), r"missing: 0\.bias: give weights of exactly this model"),
        (lambda t: [t.pop(n) for n in list(t) if n != "0.bias"], r"missing: 0\.weight, .* and 6 more: give"),
        (lambda t: t.update(extra=torch.ones(1)), "unexpected: extra: give weights of exactly this model"),
        (
            lambda t: t.update({"head.weight": torch.ones(7, 144), "head.bias": torch.ones(7)}),
            r"of another shape: head\.(weight|bias) .*instead of.*: new_layers=\(\"head\",\) draws these layers anew",
        ),
        (lambda t: t.update({"0.bias": torch.ones(4).int()}), r"another kind: 0\.bias torch.int32 instead of torch.fl"),
        (lambda t: t.update({"0.bias": torch.full((4,), torch.nan)}), r"must hold finite weights, got others in 0\.bi"),
        (lambda t: t.update({"two.weight": torch.ones(144, 144)}), r"different values for one.weight, two.weight, wh"),
    ],
)
def test_tensors_that_are_not_the_models_are_named(change: Change, message: str, file: Path) -> None:
    tensors = load_file(file)
    tensors.setdefault("one.weight", tensors.pop("two.weight", torch.empty(0)))
    change(tensors)
    save_file(tensors, file)
    with pytest.raises(ConfigError, match=message) as caught:
        load_problem(started(file))
    assert "start_from" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_refused_and_nothing_is_unpickled(tmp_path: Path) -> None:
    pickled, marker = tmp_path / "model.pt", tmp_path / "marker"
    torch.save(Trap(marker), pickled)
    for path, reason in ((pickled, "header"), (tmp_path, "no such file"), (tmp_path / "no", "no such file")):
        rule = rf"must be a safetensors file .*\(.*{reason}.*\): .*save_model\(model, path\)"
        with pytest.raises(ConfigError, match=rule):
            load_problem(started(path))
    assert not marker.exists()


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (self.folder,)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"start_from": 3}, "start_from must be a text .* got 3: give the path of a safetensors file"),
        ({"new_layers": "head"}, "new_layers must be a tuple, got 'head'"),
        ({"new_layers": (3,)}, r"new_layers\[0\] must be a text .* got 3"),
        ({"new_layers": ("head",)}, "new_layers must be empty without start_from or pretrained"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_problem(dataclasses.replace(EXPERIMENT, **changes))  # type: ignore[arg-type]


def test_the_way_out_names_the_new_layers_that_are_already_given(file: Path) -> None:
    tensors = load_file(file)
    save_file({**tensors, "0.bias": torch.ones(9)}, file)
    with pytest.raises(ConfigError, match=r'new_layers=\("head", "0",\) draws these layers anew'):
        load_problem(started(file, new_layers=("head",)))


def test_new_layers_must_be_layers_of_the_model(file: Path) -> None:
    with pytest.raises(ConfigError, match=r"must name layers of the model, got 'heads'; it has 0\.weight"):
        load_problem(started(file, new_layers=("heads",)))


# The published weights of torchvision, put where its download would be.

SMALL = "torchvision:squeezenet1_1"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of torch's downloads, and no network."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    for proxy in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(proxy, "http://127.0.0.1:9")
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def published(name: str, cache: Path) -> Path:
    weights = models.get_model_weights(name.partition(":")[2]).DEFAULT
    return cache / Path(urlparse(weights.url).path).name


def small(**changes: object) -> Experiment:
    options = {"pretrained": True}
    return dataclasses.replace(EXPERIMENT, model=SMALL, model_options=options, **changes)  # type: ignore[arg-type]


def built(classes: int, pretrained: bool = True) -> nn.Module:
    return build_model(SMALL, {"pretrained": pretrained}, {"num_classes": classes, "input_shape": SHAPE}, seed=0)


def test_published_weights_are_loaded_on_request_and_a_new_classifier_is_asked_for(cache: Path) -> None:
    torch.manual_seed(0)
    theirs = models.squeezenet1_1().state_dict()
    torch.save(theirs, published(SMALL, cache))
    same = built(1000)
    load_start_weights(same, small(), SHAPE)
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in same.state_dict().items())
    other = built(7)
    with pytest.raises(ConfigError, match=r'instead of \(7, 512, 1, 1\).*: new_layers=\("classifier\.1",\) draws'):
        load_start_weights(other, small(), SHAPE)
    load_start_weights(other, small(new_layers=("classifier.1",)), SHAPE)
    for name, tensor in other.state_dict().items():
        assert torch.equal(tensor, theirs[name]) is not name.startswith("classifier.1"), name


def test_a_start_from_two_places_is_refused(file: Path) -> None:
    with pytest.raises(ConfigError, match="starts from start_from or from pretrained weights, got both for 'torchv"):
        load_start_weights(built(1000), small(start_from=str(file)), SHAPE)


def test_published_weights_that_hold_code_are_refused(cache: Path, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    torch.save({"features.0.weight": Trap(marker)}, published(SMALL, cache))
    with pytest.raises(ConfigError, match=r"published weights of .*squeezenet1_1 cannot be loaded \(UnpicklingError"):
        load_start_weights(built(1000), small(), SHAPE)
    assert not marker.exists()


def test_offline_is_one_sentence_and_the_architecture_alone_needs_no_network(cache: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot be loaded \(URLError: .*: start the job where there is a network"):
        load_start_weights(built(1000), small(), SHAPE)
    with pytest.raises(ConfigError, match="published weights of torchvision:squeezenet1_1 cannot be loaded"):
        load_problem(small())
    module = built(1000).eval()
    path = save_packed(module, tmp_path / "net", model=SMALL, options={"pretrained": True})
    assert torch.equal(load_packed(path).features[0].weight, module.features[0].weight)
    assert not list(cache.iterdir())


def test_a_classifier_with_two_outputs_starts_without_the_second(cache: Path) -> None:
    """GoogLeNet's published weights read images in another scale, and come with classifiers that only training uses."""
    theirs = models.GoogLeNet(num_classes=1000, aux_logits=True, init_weights=False).state_dict()
    torch.save(theirs, published("torchvision:googlenet", cache))
    options = {"pretrained": True, "init_weights": False}
    found = published_tensors("torchvision:googlenet", options, SHAPE)
    module = build_model("torchvision:googlenet", options, {"num_classes": 1000, "input_shape": SHAPE}, seed=0)
    assert module.transform_input
    assert found.keys() == module.state_dict().keys()
    assert torch.equal(found["fc.weight"], theirs["fc.weight"])


def test_published_weights_of_timm_that_do_not_exist_or_cannot_be_reached(cache: Path) -> None:
    pytest.importorskip("timm")
    with pytest.raises(ConfigError, match=r"timm has no published weights for 'resnet18\.nonsense'"):
        published_tensors("timm:resnet18.nonsense", {"pretrained": True}, SHAPE)
    with pytest.raises(ConfigError, match=r"published weights of timm:resnet18 cannot be loaded \("):
        published_tensors("timm:resnet18", {"pretrained": True}, SHAPE)
