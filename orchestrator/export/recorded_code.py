"""Name the code of the user's that a record needs, without importing it."""

from __future__ import annotations

from typing import Any

from orchestrator.errors import DamagedError, OrchestratorError
from orchestrator.export.recorded_task import class_of_task
from orchestrator.models.spec import names_known_code
from orchestrator.record import Record
from orchestrator.structures import own_class


def named_code(record: Record) -> dict[str, str]:
    """Return the functions and classes of the user's that a record names for its model, data, task and structure."""
    found: dict[str, str] = {}
    for name in ("model", "data"):
        spec = str(setting(record, name))
        if not (names_known_code(spec) if name == "model" else ":" not in spec):
            found[name] = spec
    if (own := class_of_task(setting(record, "task"))) is not None:
        found["task"] = own
    if (own := own_class(record.structure)) is not None:
        found["structure"] = own
    return found


def named_in_script(record: Record) -> dict[str, str]:
    """Return those of `named_code` that are of the script or notebook which trained the round: no command has them.

    A record that does not name its model or data has none.
    """
    try:
        named = named_code(record)
    except OrchestratorError:
        return {}
    return {name: spec for name, spec in named.items() if spec.startswith("__main__:")}


def setting(record: Record, name: str) -> Any:
    """Return a setting of the round. Raises DamagedError for a record without it."""
    if name not in record.settings:
        raise DamagedError(f"rounds/{record.key}/record.json does not say the {name} of its round: train it again")
    return record.settings[name]
