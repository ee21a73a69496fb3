"""The packed file: equal bit by bit, as small as promised, and whatever is wrong with it is told."""

import dataclasses
import json
import math
import os

import numpy as np
import pytest
import tiny
import torch
from export import networks
from export.networks import ABOUT, ARGUMENTS, GREY, images, pruned, settled
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn

from orchestrator.data.image_data import image_data
from orchestrator.data.load import complete
from orchestrator.errors import ConfigError, DamagedError, ExportError
from orchestrator.export import ExampleInputs, batch_norm, fold_batch_norm, load_packed, packed_file, save_packed
from orchestrator.export.example import observe
from orchestrator.export.gaps import decode_gaps, encode_gaps, gap_bytes
from orchestrator.export.interface import Interface, TensorInfo
from orchestrator.export.streams import pack, unpack
from orchestrator.models.build import build_model
from orchestrator.pruning import fewer_channels
from orchestrator.training.int8_weights import quantised, restored
from orchestrator.training.state import model_tensors


def built(name, density=None):
    spec = f"export.networks:{name}" if hasattr(networks, name) else name
    module = settled(build_model(spec, {}, ARGUMENTS, seed=3))
    return spec, pruned(module, density) if density else module


def bits(module):
    return {n: (t.dtype, tuple(t.shape), t.detach().numpy().tobytes() if t.dtype != torch.bfloat16 else t.view(
        torch.int16).numpy().tobytes()) for n, t in model_tensors(module).items()}  # fmt: skip


def named_input(module):
    return "input" if isinstance(module, nn.Sequential) else "x"


def loaded(path):
    """The network of a file of this test's own."""
    try:
        model = networks.described_in(path).model
    except (OSError, SafetensorError, KeyError, OverflowError, RecursionError, TypeError, ValueError):
        model = None  # `load_packed` says what is wrong
    return load_packed(path, model=model)


VALUES = st.sampled_from([0.0, -0.0, 1.0, -2.5, float("inf"), float("nan"), 1e-45])


@settings(max_examples=60)
@given(
    st.dictionaries(
        st.text(min_size=1, max_size=5),
        st.tuples(
            st.lists(st.integers(0, 5), max_size=3),
            st.lists(VALUES, min_size=125, max_size=125),
            st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.bool]),
        ),
        max_size=4,
    )
)
def test_tensors_come_back_bit_by_bit(content):
    tensors = {}
    for name, (shape, values, dtype) in content.items():
        flat = torch.tensor(values[: torch.Size(shape).numel()])
        tensors[name] = (flat if dtype.is_floating_point else flat.nan_to_num(0, 0, 0)).to(dtype).reshape(shape)
    again = unpack(*pack(tensors), "f")
    assert list(again) == list(tensors)
    for name, tensor in tensors.items():
        assert (again[name].dtype, again[name].shape) == (tensor.dtype, tensor.shape)
        got, given = again[name].flatten(), tensor.flatten()
        if pack({name: tensor})[0][name].kept is not None:
            given = given.masked_fill(given == 0, 0)  # a removed weight may have been a negative zero
        assert torch.equal(got.view(torch.uint8), given.view(torch.uint8))


@given(st.lists(st.booleans(), max_size=40), st.integers(0, 1100), st.booleans())
def test_gaps_come_back_however_long_they_are(flags, zeros, last):
    given = np.array([*flags, *[False] * zeros, last])
    data = encode_gaps(given)
    assert data.size == gap_bytes(given.sum(), given.size)
    assert np.array_equal(decode_gaps(data, given.size), given)
    if given.any():
        assert decode_gaps(data, int(np.flatnonzero(given)[-1])) is None, "the last value would stand behind the end"


@pytest.mark.parametrize(("density", "stream"), [(0.1, "gaps"), (0.8, "masks")])
def test_where_values_stand_costs_little_more_than_its_entropy(density, stream):
    flags = torch.rand(100_000, generator=torch.Generator().manual_seed(0)) < density
    _, streams = pack({"w": flags.float().masked_fill(flags, 1.5)})
    assert set(streams) == {"float32", stream}
    entropy = -(density * math.log2(density) + (1 - density) * math.log2(1 - density)) * flags.numel() / 8
    assert streams[stream].numel() < 1.05 * entropy


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize(
    ("name", "density"),
    [
        *[(name, None) for name in ("flow", "tied", "data_flow", "no_channels", "mixed", "torchvision:mobilenet_v2")],
        *[(name, 0.1) for name in ("flow", "tied", "mixed", "torchvision:mobilenet_v2")],
    ],
)
def test_a_network_comes_back_bit_by_bit(tmp_path, name, density):
    spec, module = built(name, density)
    module.train()
    before = bits(module)
    example = None if name == "no_channels" else GREY  # which torch cannot run
    path = save_packed(module, tmp_path / "new" / "n.packed", model=spec, arguments=ARGUMENTS, example=example)
    assert bits(module) == before
    assert module.training
    again = loaded(path)
    assert not again.training
    assert bits(again) == before
    expected = Interface(
        (TensorInfo(named_input(module), "float32", ("batch", *networks.SHAPE)),),
        (TensorInfo("output", "float32", ("batch", 4)),),
        *dataclasses.astuple(ABOUT),
    )
    assert networks.described_in(path).interface == (expected if example else Interface())
    assert [file.name for file in path.parent.iterdir()] == ["n.packed"]


@pytest.mark.parametrize(
    ("name", "weights", "fold"),
    [
        ("resnet8", "exact", False),
        ("resnet8", "float16", False),
        ("resnet8", "int8", False),
        ("torchvision:mobilenet_v2", "float16", True),
        ("torchvision:resnet18", "exact", True),
    ],
)
def test_a_network_with_fewer_channels_comes_back(tmp_path, name, weights, fold):
    spec, module = built(name)
    smaller, kept = fewer_channels(module, images(1), 0.5)
    dense = save_packed(module, tmp_path / "dense", model=spec, arguments=ARGUMENTS, example=GREY)
    options = {"model": spec, "arguments": ARGUMENTS, "channels": kept, "example": GREY}
    path = save_packed(smaller, tmp_path / "n", **options, weights=weights, fold=fold)
    assert path.stat().st_size < 0.6 * dense.stat().st_size
    again = load_packed(path)
    assert networks.described_in(path).channels == kept
    rounded = weights != "exact"
    if not rounded and not fold:
        assert bits(again) == bits(smaller)
    with torch.no_grad():
        expected = smaller(images())
        close = {"rtol": 0.05, "atol": 0.02 * float(expected.abs().max())} if rounded else {"rtol": 1e-4, "atol": 1e-4}
        torch.testing.assert_close(again(images()), expected, **close)


def test_of_a_torchvision_classifier_the_name_is_enough(tmp_path):
    module = build_model("torchvision:squeezenet1_1", {}, {"num_classes": 17, "input_shape": (3, 224, 224)}, seed=0)
    path = save_packed(module, tmp_path / "n", model="torchvision:squeezenet1_1")
    assert bits(loaded(path)) == bits(module)
    assert networks.described_in(path).interface.labels == tuple(map(str, range(17)))


def test_the_same_network_gives_the_same_bytes(tmp_path):
    files = [tmp_path / "a", tmp_path / "b"]
    for file in files:
        spec, module = built("flow", 0.3)
        save_packed(module, file, model=spec, arguments=ARGUMENTS, example=GREY)
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_shared_weight_is_stored_once(tmp_path):
    spec, module = built("tied")
    path = save_packed(module, tmp_path / "n", model=spec, arguments=ARGUMENTS, example=GREY)
    values = 192 * 192 + 2 * 192 + 192 * 4 + 4
    assert 3 * values < path.stat().st_size < 4 * values + 2000
    again = loaded(path)
    assert again.first.weight is again.second.weight


def test_a_negative_zero_is_a_removed_weight(tmp_path):
    """Which `weight * mask` leaves of a negative one: as a value it would cost as much as any other."""
    spec, module = built("tied", 0.1)
    positive = save_packed(module, tmp_path / "a", model=spec, arguments=ARGUMENTS, example=GREY).read_bytes()
    with torch.no_grad():
        module.first.weight[module.first.weight == 0] = -0.0
    assert save_packed(module, tmp_path / "b", model=spec, arguments=ARGUMENTS, example=GREY).read_bytes() == positive


def test_half_rounds_weights_and_nothing_else(tmp_path):
    spec, module = built("flow", 0.5)
    again = loaded(
        save_packed(module, tmp_path / "n", model=spec, arguments=ARGUMENTS, example=GREY, weights="float16")
    )
    for name, tensor in model_tensors(module).items():
        expected = tensor.half().float() if tensor.ndim >= 2 else tensor
        assert torch.equal(model_tensors(again)[name], expected), name
    with torch.no_grad():
        module.fc.weight[0, 0] = 70000.0
    with pytest.raises(ExportError, match=r"float16 holds finite values up to 65504, but fc\.weight has others"):
        save_packed(module, tmp_path / "n", model=spec, arguments=ARGUMENTS, example=GREY, weights="float16")


def test_int8_is_the_nearest_step_of_each_channel_and_zeros_stay(tmp_path):
    spec, module = built("flow", 0.5)
    again = loaded(save_packed(module, tmp_path / "n", model=spec, arguments=ARGUMENTS, example=GREY, weights="int8"))
    for name, tensor in model_tensors(module).items():
        got = model_tensors(again)[name]
        if tensor.ndim < 2:
            assert torch.equal(got, tensor), name
        else:
            rows, step = tensor.detach().flatten(1), tensor.detach().flatten(1).abs().amax(1) / 127
            assert (got.flatten(1) - rows).abs().le(0.5001 * step.unsqueeze(1)).all(), name
            assert not got[tensor == 0].any(), name
            assert torch.allclose(got.detach().flatten(1).abs().amax(1), rows.abs().amax(1))


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"bias": torch.ones(3)}, "int8 needs a float32 weight of two or more dimensions, and the network has none"),
        ({"fc.weight": torch.full((2, 2), torch.inf)}, r"int8 holds finite values, but fc\.weight has others"),
    ],
)
def test_what_int8_cannot_hold(tensors, message):
    with pytest.raises(ExportError, match=message):
        quantised(tensors)


def test_a_scale_that_does_not_fit_is_damage():
    stored = quantised({"w": torch.eye(3)})
    assert torch.equal(restored(stored, "f")["w"], torch.eye(3))
    with pytest.raises(DamagedError, match="f: the scale of w does not fit its int8 weights"):
        restored({**stored, "w:scale": torch.ones(2)}, "f")


def test_folded_is_the_same_function_with_fewer_tensors(tmp_path):
    spec, module = built("flow", 0.5)
    again = loaded(save_packed(module, tmp_path / "n", model=spec, arguments=ARGUMENTS, example=GREY, fold=True))
    assert isinstance(again.bn1, nn.Identity)
    assert isinstance(module.bn1, nn.BatchNorm2d)
    with torch.no_grad():
        torch.testing.assert_close(again(images()), module(images()), rtol=1e-5, atol=1e-5)


def test_resnet50_at_a_tenth_is_as_small_as_promised(tmp_path):
    module = build_model("torchvision:resnet50", {}, {"num_classes": 1000, "input_shape": (3, 224, 224)}, seed=0)
    module = pruned(settled(module), 0.1)
    whole = save_packed(module, tmp_path / "whole", model="torchvision:resnet50")
    half = save_packed(module, tmp_path / "half", model="torchvision:resnet50", weights="float16")
    int8 = save_packed(module, tmp_path / "int8", model="torchvision:resnet50", weights="int8")
    sizes = [file.stat().st_size for file in (whole, half, int8)]
    print("ResNet-50 at density 0.1, not folded: {:,} bytes, {:,} as float16, {:,} as int8".format(*sizes))
    assert all(size <= most for size, most in zip(sizes, (9_500_000, 5_400_000, 4_000_000), strict=True))
    assert bits(loaded(whole)) == bits(module)


# What is wrong with a file.


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    spec, module = built("flow", 0.3)
    return save_packed(
        module, tmp_path_factory.mktemp("good") / "n", model=spec, arguments=ARGUMENTS, example=GREY
    ).read_bytes()


def test_a_file_cut_short_anywhere_is_refused(tmp_path, good):
    path = tmp_path / "n"
    for size in [*range(0, len(good), 97), len(good) - 1]:
        path.write_bytes(good[:size])
        with pytest.raises(DamagedError, match=f"^{path} is cut short or damaged"):
            loaded(path)


def test_a_flipped_bit_anywhere_is_refused(tmp_path, good):
    path = tmp_path / "n"
    for place in range(0, 8 * len(good), 211):
        changed = bytearray(good)
        changed[place // 8] ^= 1 << place % 8
        path.write_bytes(changed)
        with pytest.raises((DamagedError, ConfigError), match=f"^{path} "):
            loaded(path)


def changed_network(blob, **changes):
    """The file with other metadata, and the sha256 that fits them."""
    header = json.loads(blob[8 : 8 + int.from_bytes(blob[:8], "little")])
    content = json.loads(header["__metadata__"]["packed"])
    del content["sha256"]
    return packed_file._sealed({**content, **{key: value(content[key]) for key, value in changes.items()}}, load(blob))


def with_tensor(name, dtype, shape, kept):
    return {"tensors": lambda tensors: {**tensors, name: [dtype, shape, kept]}}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            with_tensor("fc.weight", "float32", [1 << 20, 1 << 20], 10),
            r"fc\.weight is float32 \(1048576, 1048576\), there it is float32 \(4, 8\)",
        ),
        (
            with_tensor("conv1.weight", "float32", [8, 3, 3, 3], 3),
            "compressed by zstd|values, its mask keeps|must have",
        ),
        (with_tensor("conv1.weight", "float32", [8, 3, 3, 3], None), "compressed by zstd|must have"),
        ({"tensors": lambda t: {n: v for n, v in t.items() if n != "fc.bias"}}, r"only one of the two has fc\.bias"),
        (with_tensor("fc.bias", "os", [4], None), "is os"),
        (with_tensor("fc.bias", "float32", [-4], None), r"\[1\]\[0\] must be a whole number of 0 or more, got -4"),
        (with_tensor("fc.bias", "float32", [4], 5), "how many values it keeps, at most all"),
        (with_tensor("fc.bias", "float32", [4], 2.0), "must be a whole number, got 2.0"),
        (with_tensor("fc.bias", "float32", [True], None), "must be a whole number, got True"),
        (with_tensor("fc.bias", "float32", "4", 5), "is cut short or damaged"),
        ({"tensors": lambda t: 3}, "is cut short or damaged"),
        ({"model": lambda m: 3}, "model must be a text, got 3"),
        ({"options": lambda o: [1]}, r"options must be an object, got \[1\]"),
        ({"interface": lambda i: {**i, "std": [0, 1, 1]}}, r"std\[0\] must be a finite number above 0"),
        ({"interface": lambda i: {**i, "mean": [1]}}, "std must be a tuple of 1"),
        ({"interface": lambda i: {**i, "inputs": [{"name": "x"}]}}, r"interface\.inputs\[0\]\.dtype is missing"),
        ({"interface": lambda i: []}, "interface must be an object"),
        ({"arguments": lambda a: [4]}, r"arguments must be an object, got \[4\]"),
        ({"arguments": lambda a: {**a, "num_classes": 5}}, "this installation's 'export.networks:flow' is another"),
        ({"channels": lambda c: "all"}, "channels must be an object, got 'all'"),
        ({"channels": lambda c: {"conv1": {"out": ["0"]}}}, "must be a whole number, got '0'"),
        ({"model": lambda m: "export.networks:tied"}, "this installation's 'export.networks:tied' is another network"),
        ({"folded": lambda f: True}, "is another network: only one of the two has bn1"),
    ],
)
def test_what_does_not_fit_the_architecture_is_refused_before_memory_is_taken(tmp_path, good, changes, words):
    path = tmp_path / "n"
    path.write_bytes(changed_network(good, **changes))
    with pytest.raises(DamagedError, match=words):
        loaded(path)


def test_an_unknown_model_is_told(tmp_path, good):
    path = tmp_path / "n"
    path.write_bytes(changed_network(good, model=lambda m: "resnet21"))
    with pytest.raises(ConfigError, match="model must be one of"):
        loaded(path)


@pytest.mark.parametrize(
    ("channels", "words"),
    [
        ({"conv9": {"out": [0]}}, "must name layers that can lose channels, got 'conv9'"),
        ({"conv1": {"out": []}}, "conv1 would lose all its channels"),
        ({"conv1": {"out": [0, 99]}}, r"kept channels must ascend within 0\.\.7"),
        ({"conv1": {"out": [0, 0]}}, "kept channels must ascend"),
    ],
)
def test_channels_that_the_architecture_does_not_have_are_refused(tmp_path, good, channels, words):
    path = tmp_path / "n"
    path.write_bytes(changed_network(good, channels=lambda c: channels))
    with pytest.raises(ConfigError, match=f"^{path} cannot be built by this installation: .*{words}"):
        loaded(path)


def test_channels_of_which_the_tensors_are_not_there_are_refused(tmp_path, good):
    path = tmp_path / "n"
    path.write_bytes(changed_network(good, channels=lambda c: {"fc": {"in": [0, 1, 2]}}))
    with pytest.raises(DamagedError, match=r"another network: fc\.weight is float32 \(4, 8\), there it is .* \(4, 3\)"):
        loaded(path)


def test_the_file_does_not_decide_which_code_runs(tmp_path, good):
    path = tmp_path / "n"
    path.write_bytes(good)
    with pytest.raises(ConfigError, match=f"^{path} holds a network of 'export.networks:flow': pass model='export"):
        load_packed(path)
    with pytest.raises(ConfigError, match=r"holds a network of 'export\.networks:flow'"):
        load_packed(path, model="resnet8")
    marker = tmp_path / "marker"
    path.write_bytes(changed_network(good, model=lambda m: "os:mkdir", options=lambda o: {"path": str(marker)}))
    for named in (None, "export.networks:flow"):
        with pytest.raises(ConfigError, match="holds a network of 'os:mkdir'"):
            load_packed(path, model=named)
    assert not marker.exists()


@pytest.mark.parametrize("options", [{"round_nearest": 0}, {"width_mult": "1"}, {"norm_layer": "x"}, {"dropout": 9}])
def test_options_that_build_nothing_are_told(tmp_path, good, options):
    path = tmp_path / "n"
    path.write_bytes(changed_network(good, model=lambda m: "torchvision:mobilenet_v2", options=lambda o: options))
    with pytest.raises(ConfigError, match=f"^{path} cannot be built by this installation: torchvision"):
        load_packed(path)


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (4, "has format 4, this one reads up to 3: update rewind-orchestrator"),
        (2, "was written by an earlier version, whose format 2 is not read any more: export its network again"),
    ],
)
def test_another_format_is_refused(tmp_path, good, number, words):
    path = tmp_path / "n"
    content = {"format": number, "sha256": "of what we do not know"}
    path.write_bytes(save(load(good), {"packed": json.dumps(content)}))
    with pytest.raises(DamagedError, match=words):
        loaded(path)


@pytest.mark.parametrize("number", ["1e400", "-1e400", "NaN", "-1", "true", '"2"', "[]", "[" * 100_000])
def test_a_format_that_is_no_number_of_ours_is_damage(tmp_path, good, number):
    path = tmp_path / "n"
    path.write_bytes(save(load(good), {"packed": f'{{"format": {number}, "sha256": "of what we do not know"}}'}))
    with pytest.raises(DamagedError, match=f"^{path} is cut short or damaged"):
        loaded(path)


@pytest.mark.parametrize("fold", [True, False])
def test_a_network_without_weights_is_not_written(tmp_path, fold):
    spec, module = built("resnet8")
    with pytest.raises(ExportError, match=r"has no values to write, as of .*weight: load them"):
        save_packed(module.to("meta"), tmp_path / "n", model=spec, arguments=ARGUMENTS, example=GREY, fold=fold)
    assert not list(tmp_path.iterdir())


def test_a_pickle_is_not_opened(tmp_path):
    torch.save(nn.Linear(2, 2), tmp_path / "n")
    with pytest.raises(DamagedError, match="is not a packed file"):
        loaded(tmp_path / "n")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot read .*give a file that save_packed wrote"):
        loaded(tmp_path / "missing")


# What cannot be saved.


def test_a_fold_that_would_change_the_function_is_refused(tmp_path, monkeypatch):
    spec, module = built("resnet8")

    def wrong(folded):
        fold_batch_norm(folded)
        folded.conv1.bias.data += 1.0

    monkeypatch.setattr(batch_norm, "fold_batch_norm", wrong)
    with pytest.raises(ExportError, match="that changes the outputs of the network"):
        save_packed(settled(module), tmp_path / "n", model=spec, arguments=ARGUMENTS, example=GREY, fold=True)
    assert not (tmp_path / "n").exists()


def test_the_name_must_build_the_network(tmp_path):
    _, module = built("flow")
    with pytest.raises(ConfigError, match=r"got 'export.networks:tied': only one of the two has"):
        save_packed(module, tmp_path / "n", model="export.networks:tied", arguments=ARGUMENTS, example=GREY)
    other = {**ARGUMENTS, "num_classes": 2}
    with pytest.raises(ConfigError, match=r"fc\.weight is float32 \(4, 8\), there it is float32 \(2, 8\)"):
        save_packed(module, tmp_path / "n", model="export.networks:flow", arguments=other)
    assert list(tmp_path.iterdir()) == []


def test_images_of_another_shape_must_be_told(tmp_path):
    with pytest.raises(ExportError, match=r"Tied cannot take images of shape \(3, 224, 224\), say what it takes"):
        save_packed(built("tied")[1], tmp_path / "n", model="torchvision:resnet18")


def test_a_place_that_cannot_be_written(tmp_path):
    spec, module = built("tied")
    (tmp_path / "file").write_text("")
    with pytest.raises(ExportError, match=r"cannot write .*/file/n .*: choose another folder"):
        save_packed(module, tmp_path / "file" / "n", model=spec, arguments=ARGUMENTS, example=GREY)


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch, good):
    path = tmp_path / "n"
    path.write_bytes(good)

    def full(*args):
        raise OSError(28, "No space left on device")

    spec, module = built("flow")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ExportError, match="No space left on device"):
        save_packed(module, path, model=spec, arguments=ARGUMENTS, example=GREY)
    assert path.read_bytes() == good
    assert [file.name for file in tmp_path.iterdir()] == ["n"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"mean": (0.5,)}, "std must be a tuple of 1"),
        ({"std": (1.0, 0.0, 1.0)}, r"std\[1\] must be a finite number above 0, got 0.0"),
        ({"mean": (float("nan"),) * 3}, r"mean\[0\] must be a finite number, got nan"),
        ({"labels": "cat"}, r"labels must be a tuple, got 'cat': write \['cat'\]"),
    ],
)
def test_what_the_data_says_is_checked(tmp_path, change, words):
    spec, module = built("tied")
    about = dataclasses.replace(ABOUT, **change)
    with pytest.raises(ConfigError, match=words):
        save_packed(
            module, tmp_path / "n", model=spec, arguments=ARGUMENTS, example=dataclasses.replace(GREY, about=about)
        )
    assert list(tmp_path.iterdir()) == []


def test_what_json_cannot_hold_is_one_sentence(tmp_path):
    spec, module = built("tied")
    with pytest.raises(ConfigError, match="arguments must hold only JSON values by name"):
        save_packed(module, tmp_path / "n", model=spec, arguments={**ARGUMENTS, "weights": torch.ones(4)})


def test_without_an_example_a_file_says_nothing_of_its_inputs_and_nothing_is_folded(tmp_path):
    spec, module = built("flow")
    path = save_packed(module, tmp_path / "n", model=spec, arguments=ARGUMENTS)
    assert networks.described_in(path).interface == Interface()
    assert bits(loaded(path)) == bits(module)
    with pytest.raises(ExportError, match="fold needs an example, on which the folded network is checked"):
        save_packed(module, tmp_path / "m", model=spec, arguments=ARGUMENTS, fold=True)


@pytest.mark.parametrize(
    ("normalize", "normalized", "expected"),
    [
        (((0.5,), (0.25,)), None, ((0.5,), (0.25,))),
        (None, ((0.5,), (0.25,)), ((0.5,), (0.25,))),
        (None, None, ((0.0,), (1.0,))),
    ],
)
def test_the_interface_says_what_the_data_says(normalize, normalized, expected):
    made = tiny.data()
    data = complete(
        image_data(made.train, made.val, made.test, 3, (1, 6, 6), normalize=normalize, normalized=normalized)
    )
    example = ExampleInputs.of(data)
    assert example.others == ()
    interface = observe(tiny.model(3, (1, 6, 6)).eval(), example).call.interface
    assert interface == Interface(
        (TensorInfo("input", "float32", ("batch", 1, 6, 6)),),
        (TensorInfo("output", "float32", ("batch", 3)),),
        ("0", "1", "2"),
        *expected,
    )
