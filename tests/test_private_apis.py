"""Private names of other packages stand in one file, and do what they are used for in the installed versions."""

from __future__ import annotations

import ast
import importlib
import re
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

import orchestrator
from orchestrator import private_apis

ROOT = Path(orchestrator.__file__).parents[1]
ALLOWED = ("orchestrator/private_apis.py", "orchestrator/distributed/ray_private.py")
FILES = sorted(
    file
    for folder in ("orchestrator", "jobs")
    for file in (ROOT / folder).rglob("*.py")
    if file.relative_to(ROOT).as_posix() not in ALLOWED
)
DOCUMENTED = {"_fields", "_replace", "_exit"}  # in Python's manual: of named tuples, and of os
PRIVATE = re.compile(r"_(?!_)\w+")
PATH = re.compile(r"\w+(\.\w+)*\._(?!_)\w+(\.\w+)*|ray\.core\.generated(\.\w+)*")  # no underscore, but private
READERS = ("getattr", "hasattr", "setattr", "delattr")


def own_names(tree: ast.AST) -> set[str]:
    """Return the names that the classes of a file define: methods, fields, and what is assigned to `self`."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            for line in node.body:
                if isinstance(line, ast.FunctionDef):
                    names.add(line.name)
                targets = line.targets if isinstance(line, ast.Assign) else [getattr(line, "target", None)]
                names |= {target.id for target in targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self":
            names.add(node.attr)
    return names


def foreign_names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield (line, name) of each private name that a file reads but does not define."""
    own = own_names(tree) | DOCUMENTED
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Attribute):
            names = [node.attr]
        elif isinstance(node, ast.keyword):
            names = [node.arg or ""]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in READERS:
            names = [part.value for part in node.args[1:2] if isinstance(part, ast.Constant)]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and "." in node.value:
            names = [node.value]  # of a module that is imported by its name
        for name in names:
            if (PRIVATE.fullmatch(name) and name not in own) or PATH.fullmatch(name):
                yield node.lineno, name


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_no_other_file_uses_what_a_package_keeps_private(file: Path) -> None:
    assert not list(foreign_names(ast.parse(file.read_text())))


@pytest.mark.parametrize(
    "code",
    [
        "torch._foreach_mul_(a, b)",
        "from torch.utils._pytree import tree_map",
        "from torch.nn.modules.conv import _ConvNd",
        "import ray._private.worker",
        "from ray.core.generated import gcs_pb2",
        'import_module("torch._dynamo")',
        'getattr(module, "_orig_mod", module)',
        "Annotation(specs, _annotated=True)",
        "class Ours(Theirs):\n    def f(self):\n        return self._theirs",
    ],
)
def test_a_private_name_is_found(code: str) -> None:
    assert len(list(foreign_names(ast.parse(code)))) == 1


@pytest.mark.parametrize(
    "code",
    [
        "_COUNT = 1\nprint(_COUNT)",
        "class Ours:\n    _all = 0\n    def _f(self):\n        self._x = self._f() + Ours._all",
        "module.__class__.__name__",
        "pair._replace(left=1)._fields",
        'print("_hidden", "a _word in a. sentence")',
    ],
)
def test_a_name_of_ones_own_is_not(code: str) -> None:
    assert not list(foreign_names(ast.parse(code)))


@pytest.mark.parametrize("package", private_apis.READ_IN)
def test_it_was_read_in_the_version_that_is_installed(package: str) -> None:
    pytest.importorskip(package.replace("-", "_"))
    assert version(package).startswith(private_apis.READ_IN[package]), (
        f"read what private_apis.py uses of {package} against the new version, then raise READ_IN"
    )


def test_each_tensor_is_multiplied_and_averaged_in_place() -> None:
    tensors = [torch.tensor([2.0, 3.0]), torch.tensor([4.0])]
    same = list(tensors)
    private_apis.multiply_each(tensors, (torch.tensor([0.0, 1.0]), torch.tensor([2.0])))
    assert [tensor.tolist() for tensor in same] == [[0.0, 3.0], [8.0]]
    private_apis.lerp_each(tensors, [torch.tensor([4.0, 3.0]), torch.tensor([0.0])], 0.25)
    assert [tensor.tolist() for tensor in same] == [[1.0, 3.0], [6.0]]


def test_a_version_rises_with_changes_in_place_alone() -> None:
    tensor = torch.zeros(2)
    before = private_apis.version_of(tensor)
    _ = tensor + 1
    assert private_apis.version_of(tensor) == before
    tensor.add_(1)
    assert private_apis.version_of(tensor) > before


def test_a_module_computes_with_what_its_stores_hold() -> None:
    module = nn.BatchNorm1d(1, eps=0.0).eval()
    parameters, buffers = private_apis.tensor_stores(module)
    assert parameters == dict(module.named_parameters())
    assert buffers == dict(module.named_buffers())
    parameters["weight"] = torch.tensor([3.0])  # which setattr refuses
    buffers["running_mean"] = torch.tensor([1.0])
    assert module(torch.tensor([[2.0]])).item() == 3.0


def test_a_copy_holds_the_tensors_that_it_is_given() -> None:
    module = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Sequential(nn.BatchNorm1d(1)), nn.Dropout()).eval()
    module.register_module("absent", None)
    module.register_buffer("empty", None)
    before = module.state_dict()
    tensors = {f"net.{name}": tensor + 1 for name, tensor in before.items()}
    copied = private_apis.copy_with(module, "net", tensors)
    assert {name: tensor.data_ptr() for name, tensor in copied.state_dict().items()} == {
        name.removeprefix("net."): tensor.data_ptr() for name, tensor in tensors.items()
    }
    assert str(copied) == str(module)
    copied.train().requires_grad_(False)
    assert not any(part.training for part in module.modules())
    assert all(parameter.requires_grad for parameter in module.parameters())
    assert all(module.state_dict()[name].data_ptr() == tensor.data_ptr() for name, tensor in before.items())


def test_hooks_of_the_forward_pass_are_seen() -> None:
    layer = nn.Linear(1, 1)
    for register in (layer.register_forward_hook, layer.register_forward_pre_hook):
        assert not private_apis.has_forward_hooks(layer)
        hook = register(lambda *_: None)
        assert private_apis.has_forward_hooks(layer)
        hook.remove()


def test_a_compiled_module_is_unwrapped_and_another_is_itself() -> None:
    module = nn.Linear(1, 1)
    compiled = torch.compile(module)
    assert compiled is not module
    assert private_apis.uncompiled(compiled) is private_apis.uncompiled(module) is module


def test_the_parts_of_schedulers_are_found() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    parts = [lr_scheduler.StepLR(optimizer, 1), lr_scheduler.ConstantLR(optimizer)]
    sequence = lr_scheduler.SequentialLR(optimizer, list(parts), milestones=[5])
    assert private_apis.schedulers_in(sequence) == parts
    assert private_apis.milestones(sequence) == [5]
    assert private_apis.schedulers_in(lr_scheduler.ChainedScheduler(list(parts), optimizer)) == parts
    assert private_apis.schedulers_in(parts[0]) == []


KINDS = [(torch.optim.SGD, {"momentum": 0.9, "nesterov": True}), (torch.optim.AdamW, {"weight_decay": 0.1})]


def trained(kind: type[torch.optim.Optimizer], settings: dict[str, object]) -> tuple[torch.Tensor, dict[str, object]]:
    """Return a weight, and the state of its optimizer, after three steps and a reload in between."""
    weight = nn.Parameter(torch.linspace(-1, 1, 7))
    optimizer = kind([weight], lr=0.1, fused=True, **settings)
    for step in range(3):
        optimizer.zero_grad(set_to_none=True)
        (weight.sin() * weight).sum().backward()
        optimizer.step()
        if step == 1:
            optimizer.load_state_dict(optimizer.state_dict())
    return weight.detach(), optimizer.state_dict()


@pytest.mark.parametrize(("kind", "settings"), KINDS)
def test_an_eager_optimizer_gives_the_bits_of_torchs_own(
    kind: type[torch.optim.Optimizer], settings: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    weight, state = trained(kind, settings)
    monkeypatch.setitem(sys.modules, "torch._dynamo", None)  # an import of the compiler fails from here on
    with pytest.raises(ImportError):
        trained(kind, settings)
    mine, my_state = trained(private_apis.eager(kind), settings)
    assert torch.equal(mine, weight)
    torch.testing.assert_close(my_state, state, rtol=0, atol=0)


@pytest.mark.parametrize(("kind", "settings"), KINDS)
def test_hooks_of_an_eager_optimizers_step_are_called(
    kind: type[torch.optim.Optimizer], settings: dict[str, object]
) -> None:
    weight = nn.Parameter(torch.ones(2))
    optimizer, seen = private_apis.eager(kind)([weight], lr=0.1, **settings), []
    optimizer.register_step_pre_hook(lambda *_: seen.append("before"))
    optimizer.register_step_post_hook(lambda *_: seen.append("after"))
    weight.grad = torch.ones(2)
    optimizer.step()
    assert seen == ["before", "after"]
    assert isinstance(optimizer, kind)


def test_flattened_channels_are_bounded_only_in_the_block() -> None:
    index_mapping = pytest.importorskip("torch_pruning.dependency").index_mapping
    helpers = pytest.importorskip("torch_pruning")._helpers
    places = [helpers._HybridIndex(idx=place, root_idx=place) for place in range(2)]
    flattened = index_mapping._FlattenIndexMapping(stride=3)
    with private_apis.tolerant_reshapes(widest=6):
        assert [place.idx for place in flattened(places)] == [0, 1, 2, 3, 4, 5]
    with private_apis.tolerant_reshapes(widest=5), pytest.raises(OverflowError):
        flattened(places)
    assert len(flattened(places)) == 6


def test_a_reshape_without_channels_before_it_is_ignored_only_in_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    index_mapping = pytest.importorskip("torch_pruning.dependency").index_mapping

    def divide_by_zero(graph: object, node: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(index_mapping, "update_reshape_index_mapping", divide_by_zero)
    with private_apis.tolerant_reshapes(widest=1):
        index_mapping.update_reshape_index_mapping(None, None)
    with pytest.raises(ZeroDivisionError):
        index_mapping.update_reshape_index_mapping(None, None)


def test_operators_of_onnx_are_parsed_once_and_kept_only_in_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxscript")
    registration = importlib.import_module("torch.onnx._internal.exporter._registration")
    parse, parsed = registration.onnxscript_apis.get_torchlib_ops, []

    def counted() -> list[object]:
        parsed.append(parse())
        return parsed[-1]

    monkeypatch.setattr(registration.onnxscript_apis, "get_torchlib_ops", counted)
    registries = []
    for _ in range(2):
        with private_apis.onnx_operators_kept():
            registries.append(registration.ONNXRegistry.from_torchlib())
    assert len(parsed) == 1
    registries.append(registration.ONNXRegistry.from_torchlib())
    assert len(parsed) == 2
    first, *others = (sorted(map(str, registry.functions)) for registry in registries)
    assert len(first) > 100
    assert others == [first, first]


def test_executorch_computes_with_so_many_threads() -> None:
    library = pytest.importorskip("executorch.extension.pybindings.portable_lib")
    for threads in (1, 2):
        private_apis.set_executorch_threads(threads)
        assert library._threadpool_get_thread_count() == threads
