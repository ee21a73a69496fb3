"""Imports point one way: a file imports what its own layer or a lower one holds, and no files import each other."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import orchestrator

ROOT = Path(orchestrator.__file__).parent
# From the bottom up. A name stands for a file or a whole folder; the longest name that fits a file decides.
LAYERS = (
    ("errors", "lazy", "validate", "decode", "user_code", "formatting", "sealed", "files", "extras", "randomness"),
    ("field_json", "layer_kinds", "private_apis"),
    ("lookup", "processor", "pruning.choices", "models.spec"),
    ("objective", "record", "train_state", "modules", "nested", "schedules", "training.collectives"),
    ("amc.layer_shape", "amc.forward_shapes"),
    (
        "task",
        "task_metrics",
        "text_task",
        "training.optimizer",
        "training.config",
        "training.distillation",
        "training.masked",
    ),
    ("pruning", "layer_masks"),
    ("amc", "ofa", "models.ofa_blocks", "models.ofa_networks"),
    ("work.keys", "work.train", "own_loop", "torch_schedulers"),
    ("techniques", "stopping", "storage", "structures"),
    ("data", "experiment"),
    ("models", "search"),
    ("training",),
    ("work",),
    ("rehearsal", "model_check", "values_check"),
    ("problem",),
    ("rounds",),
    ("train_work", "next_structure", "supernet_plan", "plan"),
    ("driver",),
    ("runner", "settings", "examples"),
    ("named_experiments",),
    ("export", "report", "supernet_search"),
    ("stored_networks",),
    ("distributed",),
    ("commands",),
    ("",),  # the package's own public names
    ("__main__",),
)


def name_of(file: Path) -> str:
    """Return a file's module name below the package: "storage.s3"; a folder's own is "storage"."""
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


MODULES = {name_of(file): ast.parse(file.read_text()) for file in sorted(ROOT.rglob("*.py"))}


def imported(tree: ast.AST) -> Iterator[str]:
    """Yield the modules of this package that are imported anywhere in `tree`, functions and type checks included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] == "orchestrator":
            module = node.module.partition(".")[2]
            for alias in node.names:
                inner = f"{module}.{alias.name}".lstrip(".")
                yield inner if inner in MODULES else module
        elif isinstance(node, ast.Import):
            yield from (a.name.partition(".")[2] for a in node.names if a.name.partition(".")[0] == "orchestrator")


def test_public_names_are_seen_as_the_packages_own() -> None:
    code = "import orchestrator\nfrom orchestrator import load\nfrom orchestrator import record"
    assert list(imported(ast.parse(code))) == ["", "", "record"]


def layer_of(module: str) -> int:
    """Return the number of the layer that a module belongs to, counted from the bottom."""
    fitting = [
        (len(name), number)
        for number, names in enumerate(LAYERS)
        for name in names
        if module == name or module.startswith(f"{name}.")
    ]
    return max(fitting)[1]


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_file_imports_only_from_its_own_layer_or_a_lower_one(module: str) -> None:
    above = {other for other in imported(MODULES[module]) if layer_of(other) > layer_of(module)}
    assert not above, f"{module} imports {sorted(above)}, which its layer may not know"


def test_no_files_import_each_other() -> None:
    graph = {module: set(imported(tree)) - {module} for module, tree in MODULES.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' -> '.join(error.args[1])}")


def test_no_two_files_have_the_same_name() -> None:
    places = defaultdict(list)
    for module in MODULES:
        places[module.rpartition(".")[2]].append(module)
    assert not {name: modules for name, modules in places.items() if len(modules) > 1}


def test_no_two_classes_have_the_same_name() -> None:
    places = defaultdict(list)
    for module, tree in MODULES.items():
        for node in ast.iter_child_nodes(tree):
            if isinstance(node, ast.ClassDef):
                places[node.name.lstrip("_")].append(module)
    assert not {name: modules for name, modules in places.items() if len(modules) > 1}
