"""Models: sizes known from the literature, the same bits from the same seed, and a sentence for every mistake."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from orchestrator.data.dataset import Data
from orchestrator.data.image_data import image_data
from orchestrator.data.load import complete
from orchestrator.errors import ConfigError
from orchestrator.model_check import check_model
from orchestrator.models.build import build_model
from orchestrator.models.spec import names_known_code
from orchestrator.pruning import prunable_weights
from orchestrator.task import Classification

USER_MODULE = """
import random
import numpy as np
import torch
from torch import nn

def plain(hidden=4):
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, hidden), nn.ReLU(), nn.Linear(hidden, 10))

def sized(num_classes, input_shape):
    return nn.Sequential(nn.Flatten(), nn.Linear(input_shape[0] * 64, num_classes))

def anything(**options):
    assert sorted(options) == ["extra", "input_shape", "num_classes"], options
    return nn.Linear(2, 2)

def three_generators():
    layer = nn.Linear(3, 1)
    layer.weight.data = torch.tensor([[torch.rand(()).item(), random.random(), np.random.rand()]])
    return layer

class Wrapped(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.kind, self.fc = kind, nn.Linear(192, 10)
    def forward(self, x):
        logits = self.fc(x.flatten(1))
        return {"tuple": (logits, 1), "narrow": logits[:, :9], "int": logits.argmax(1, keepdim=True).expand(-1, 10),
                "none": None, "flat": logits.flatten()}[self.kind]

def broken():
    raise RuntimeError("out of\\nideas")

def text():
    return "a model"

def no_weights():
    return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(4))

def normed():
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 10), nn.BatchNorm1d(10))

def lazy():
    return nn.LazyLinear(10)

not_a_function = 3
"""


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module of the user's."""
    (tmp_path / "user_models.py").write_text(USER_MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "user_models", raising=False)
    return "user_models"


def build(
    spec: str, num_classes: int = 10, shape: tuple[int, int, int] = (3, 8, 8), seed: int = 0, **options: object
) -> nn.Module:
    return build_model(spec, options, {"num_classes": num_classes, "input_shape": shape}, seed=seed)


def data(num_classes: int = 10, shape: tuple[int, int, int] = (3, 8, 8)) -> Data:
    split = TensorDataset(torch.zeros(4, *shape), torch.zeros(4, dtype=torch.long))
    return image_data(split, split, split, num_classes, shape)


def resnet_weights(depth: int, width: int, channels: int, classes: int, projection: bool) -> int:
    """He et al. 2016, section 4.2, written as a sum; `projection` is option B."""
    n, w = (depth - 2) // 6, width
    stages = 9 * (2 * n * w**2 + (2 * n - 1) * (2 * w) ** 2 + w * 2 * w + (2 * n - 1) * (4 * w) ** 2 + 2 * w * 4 * w)
    return 9 * channels * w + stages + 4 * w * classes + projection * (w * 2 * w + 2 * w * 4 * w)


@pytest.mark.parametrize(
    ("depth", "options", "channels", "count"),
    [
        (20, {}, 3, 270_896),
        (20, {"shortcut": "padding"}, 3, 268_336),
        (8, {"width": 8}, 1, 19_464),
        (8, {"width": 8, "shortcut": "padding"}, 1, 18_824),
        *((d, {}, 3, resnet_weights(d, 16, 3, 10, True)) for d in (14, 32, 44, 56, 110)),
        (20, {"width": 5, "shortcut": "padding"}, 2, resnet_weights(20, 5, 2, 10, False)),
    ],
)
def test_cifar_resnet_has_the_known_number_of_prunable_weights(depth, options, channels, count) -> None:
    model = build(f"resnet{depth}", shape=(channels, 32, 32), **options)
    assert sum(weight.numel() for weight in prunable_weights(model).values()) == count


@pytest.mark.parametrize("shortcut", ["projection", "padding"])
@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 8, 8), (4, 7, 9), (1, 1, 1)])
def test_cifar_resnet_takes_any_image_in_any_layout(shortcut: str, shape: tuple[int, int, int]) -> None:
    model = build("resnet8", num_classes=7, shape=shape, width=3, shortcut=shortcut)
    check_model(model, complete(data(7, shape)), Classification())
    images = torch.randn(5, *shape)
    model.eval()
    torch.testing.assert_close(model(images.to(memory_format=torch.channels_last)), model(images))


def test_padding_shortcut_passes_the_image_through() -> None:
    model = build("resnet8", shape=(1, 6, 6), width=3, shortcut="padding")
    x = torch.randn(2, 3, 4, 6).to(memory_format=torch.channels_last)
    y = model.layer2[0].shortcut(x)
    assert y.shape == (2, 6, 2, 3)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(y[:, 1:4], x[:, :, ::2, ::2])
    assert not y[:, [0, 4, 5]].any()


@pytest.mark.parametrize("shortcut", ["projection", "padding"])
def test_cifar_resnet_compiles_as_one_graph(shortcut: str) -> None:
    model = build("resnet8", shape=(1, 8, 8), width=4, shortcut=shortcut).eval()
    images = torch.randn(2, 1, 8, 8)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(images), model(images))


@pytest.mark.parametrize("spec", ["resnet8", "torchvision:squeezenet1_0", "user_models:three_generators"])
def test_the_seed_alone_decides_the_weights(spec: str, user: str) -> None:
    first, second, other = (build(spec, seed=seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_building_and_checking_leave_the_randomness_of_the_process_alone(user: str) -> None:
    def draw() -> tuple[float, float, float]:
        return torch.rand(()).item(), random.random(), float(np.random.rand())

    def seed() -> None:
        torch.manual_seed(5)
        random.seed(5)
        np.random.seed(5)

    seed()
    expected = draw()
    seed()
    build("user_models:three_generators")
    check_model(build("resnet8"), complete(data()), Classification())
    assert draw() == expected


def test_torchvision_models_give_plain_logits_while_training() -> None:
    for name, side in (("resnet18", 32), ("mobilenet_v3_small", 32), ("googlenet", 32), ("squeezenet1_0", 32)):
        shape = (3, side, side)
        model = build(f"torchvision:{name}", num_classes=6, shape=shape)
        check_model(model, complete(data(6, shape)), Classification())
        assert model.training
        assert model(torch.randn(2, *shape)).shape == (2, 6), name


def test_torchvision_options_are_passed_on() -> None:
    model = build("torchvision:mobilenet_v3_small", dropout=0.375)
    assert [m.p for m in model.modules() if isinstance(m, nn.Dropout)] == [0.375]


def test_every_torchvision_classifier_is_known_and_nothing_else() -> None:
    with pytest.raises(ConfigError) as caught:
        build("torchvision:?")
    names = str(caught.value).split("the names are ")[1].split(", ")
    assert len(names) >= 80
    assert {"resnet50", "vit_b_16", "googlenet", "convnext_tiny", "swin_v2_b"} < set(names)
    assert not any("segmentation" in name or "rcnn" in name or "quantized" in name for name in names)


def test_a_vision_transformer_is_prunable_as_well() -> None:
    model = build("torchvision:vit_b_16", num_classes=5, shape=(3, 32, 32), image_size=32)
    weights = prunable_weights(model)
    assert weights["heads.head.weight"].shape == (5, 768)
    assert weights["conv_proj.weight"].shape == (768, 3, 16, 16)
    check_model(model, complete(data(5, (3, 32, 32))), Classification())


def test_user_functions_get_what_their_signature_takes(user: str) -> None:
    assert build(f"{user}:plain", hidden=5)[1].out_features == 5
    assert build(f"{user}:sized", num_classes=3, shape=(2, 8, 8))[1].weight.shape == (3, 128)
    assert isinstance(build(f"{user}:anything", extra=1), nn.Linear)


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        ("resnet21", {}, "resnet20.*resnet21"),
        ("resnet20", {"wdth": 3}, "wdth.*it takes .*width"),
        ("resnet20", {"width": 0}, "width must be a whole number of 1 or more, got 0"),
        ("resnet20", {"width": 1.5}, "width must be .* got 1.5"),
        ("resnet20", {"width": True}, "width must be .* got True"),
        ("resnet20", {"shortcut": "A"}, "shortcut must be one of projection, padding, got 'A'"),
        ("resnet20", {"num_classes": 3}, "must not hold num_classes"),
        ("torchvision:resnt50", {}, "no classifier 'resnt50': did you mean resnet50"),
        ("torchvision:qqqq", {}, "no classifier 'qqqq': the names are alexnet, "),
        ("torchvision:deeplabv3_resnet50", {}, "no classifier 'deeplabv3_resnet50'"),
        ("torchvision:resnet18", {"depth": 3}, "resnet18 does not take the options .*depth"),
        ("torchvision:resnet18", {"weights": "DEFAULT"}, "resnet18 does not take the options .*weights"),
        ("torchvision:googlenet", {"aux_logits": True}, "aux_logits"),
        ("torchvision:resnet18", {"pretrained": "yes"}, "pretrained must be True or False, got 'yes'"),
        ("user_models:missing", {}, "missing"),
        ("user_models:not_a_function", {}, "not_a_function"),
        ("user_modelz:plain", {}, "user_modelz"),
        ("user_models:plain", {"depth": 3}, "'user_models:plain' does not fit the options .*depth.*it takes hidden"),
        ("user_models:broken", {}, "'user_models:broken' failed: RuntimeError: out of ideas"),
        ("builtins:dict", {}, "must be a function written in Python"),
        ("user_models:text", {}, "must return a torch.nn.Module, got str"),
        ("user_models:no_weights", {}, "nothing to prune"),
        ("user_models:lazy", {}, "lazy layers"),
    ],
)
def test_mistakes_are_named(user: str, spec: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        build_model(spec, options, {"num_classes": 10, "input_shape": (3, 32, 32)}, seed=0)
    assert "\n" not in str(caught.value)


def test_without_timm_its_models_are_refused_with_the_command_that_installs_it(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ConfigError, match=r"model 'timm:resnet18': cannot import .*'timm'.*: run .* install -e"):
        build("timm:resnet18")


def test_timm_models_take_any_channels_and_classes() -> None:
    pytest.importorskip("timm")
    model = build("timm:resnet18", num_classes=7, shape=(1, 32, 32))
    assert (model.conv1.weight.shape, model.fc.weight.shape) == ((64, 1, 7, 7), (7, 512))
    check_model(model, complete(data(7, (1, 32, 32))), Classification())
    transformer = build("timm:vit_tiny_patch16_224", num_classes=5, shape=(3, 32, 32), img_size=32)
    inner = 12 * (4 + 8) * 192**2  # of each block: four projections of the attention, and a multi-layer perceptron
    assert sum(weight.numel() for weight in prunable_weights(transformer).values()) == inner + 192 * (3 * 16**2 + 5)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnt18", {}, "timm has no model 'resnt18': did you mean resnet18"),
        ("????????????", {}, r"the names are in timm.list_models\(\)"),
        ("hf-hub:timm/resnet18", {}, "timm has no model"),
        ("resnet18.nonsense", {}, "Invalid pretrained tag"),
        ("resnet18", {"depth": 3}, "resnet18 does not take the options .*depth"),
        ("resnet18", {"pretrained": 1}, "pretrained must be True or False, got 1"),
        ("resnet18", {"checkpoint_path": "a.pth"}, "must not hold checkpoint_path: use pretrained or start_from"),
    ],
)
def test_mistakes_with_timm_are_named(name: str, options: dict[str, object], message: str) -> None:
    pytest.importorskip("timm")
    with pytest.raises(ConfigError, match=message):
        build(f"timm:{name}", **options)


def test_torchvision_needs_three_channels() -> None:
    with pytest.raises(ConfigError, match="3 channels, got images with 1"):
        build("torchvision:resnet18", shape=(1, 32, 32))


@pytest.mark.parametrize(
    ("kind", "got"),
    [
        ("none", "got NoneType"),
        ("narrow", r"got \(2, 9\) of torch.float32"),
        ("flat", r"got \(20,\)"),
        ("int", r"got \(2, 10\) of torch.int64"),
    ],
)
def test_check_model_says_what_came(user: str, kind: str, got: str) -> None:
    model = build(f"{user}:Wrapped", kind=kind)
    rule = r"must (give float logits of shape \(samples, 10\)|return a tensor, .*)"
    with pytest.raises(ConfigError, match=f"the model {rule}, {got}"):
        check_model(model, complete(data()), Classification())


def test_check_model_wraps_what_the_forward_raises(user: str) -> None:
    model = build(f"{user}:Wrapped", kind="tuple")
    with pytest.raises(
        ConfigError, match=r"Wrapped cannot take inputs of shape \(2, 3, 9, 9\): RuntimeError"
    ) as caught:
        check_model(model, complete(data(shape=(3, 9, 9))), Classification())
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert model.training


def test_batch_norm_of_a_vector_needs_two_samples_on_every_worker(user: str) -> None:
    """Batch norm after a linear layer has no variance in one sample; after a convolution, it has the pixels'."""
    model = build(f"{user}:normed")
    check_model(model, complete(data()), Classification(), smallest_batch=2)
    with pytest.raises(ConfigError, match=r"cannot be trained on inputs of shape \(1, 3, 8, 8\): .*") as caught:
        check_model(model, complete(data()), Classification(), smallest_batch=1)
    assert str(caught.value).endswith(
        "a worker's share of the batch is one sample: raise batch_size, or lower workers or accumulate"
    )
    check_model(build("resnet8"), complete(data()), Classification(), smallest_batch=1)


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("resnet20", True),
        ("timm:resnet18.a1_in1k", True),
        ("ofa:small", True),
        ("Geometric", True),
        ("my_models:network", False),
        ("my_paths.Slow", False),
        ("orchestrator.storage.clean:clean", False),  # a file from storage may not name any function of ours
    ],
)
def test_the_names_of_the_users_code_have_their_module(name: str, known: bool) -> None:
    assert names_known_code(name) is known
