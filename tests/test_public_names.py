"""`from orchestrator import ...`: every public name is found, and nothing is loaded before one is used."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import orchestrator


def loaded_by(code: str) -> set[str]:
    """Return the top-level modules of other packages that a new process holds after `code`."""
    report = "import sys; print(*{m.partition('.')[0] for m in sys.modules} - sys.stdlib_module_names)"
    done = subprocess.run([sys.executable, "-c", f"{code}\n{report}"], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_the_import_alone_loads_no_other_package() -> None:
    code = "import orchestrator; orchestrator.__version__; dir(orchestrator); hasattr(orchestrator, 'missing')"
    assert loaded_by(code) - loaded_by("pass") == {"orchestrator"}


@pytest.mark.parametrize("name", orchestrator.__all__)
def test_a_public_name_is_what_its_own_module_defines(name: str) -> None:
    value = getattr(orchestrator, name)
    assert value.__module__.startswith("orchestrator.")
    assert getattr(importlib.import_module(value.__module__), name) is value
    assert name in dir(orchestrator)


def test_the_names_for_type_checkers_are_the_same() -> None:
    tree = ast.parse(Path(orchestrator.__file__).read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    checked = {
        alias.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    places = {name: f"orchestrator.{module}" for module, names in orchestrator._PLACES.items() for name in names}
    assert checked == places
    assert sorted(checked) == sorted(orchestrator.__all__)


@pytest.mark.parametrize(
    "name", ["techniques.LinearRestart", "schedules.Constant", "pruning.OneShot", "pruning.prune_globally"]
)
def test_other_names_are_found_in_their_modules(name: str) -> None:
    module, _, own = name.partition(".")
    code = f"import orchestrator; print(orchestrator.{name}.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == own
    assert own not in orchestrator.__all__
    assert module not in orchestrator.__all__


def test_there_are_few_public_names() -> None:
    assert len(orchestrator.__all__) <= 23


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'orchestrator' has no attribute 'pruner'"):
        orchestrator.pruner  # noqa: B018
