"""Find experiments by name: a shipped example, or the user's own."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from orchestrator.errors import ConfigError
from orchestrator.examples import EXAMPLES
from orchestrator.experiment import Experiment
from orchestrator.lookup import find, imported
from orchestrator.validate import did_you_mean

NAMES = ("EXPERIMENT", "EXPERIMENTS")  # what a module is searched for if only the module is named


def named_experiments(spec: str, what: str = "the experiment") -> Experiment | Sequence[Experiment]:
    """Return one experiment or a list of them: an example, "module:NAME", or "folder/script.py:NAME".

    Without NAME it is the script's EXPERIMENT or EXPERIMENTS. `what`: the noun of the messages. Raises ConfigError.
    """
    if spec in EXAMPLES:
        return EXAMPLES[spec]
    place, _, name = spec.partition(":")
    if place.endswith(".py"):
        place = _importable(place, what)
    elif not name or "/" in place:
        own = f"write {place}.py{spec[len(place) :]}, which is here" if os.path.isfile(f"{place}.py") else ""
        way_out = own or did_you_mean(spec, EXAMPLES) or 'write your own as "module:NAME" or "folder/script.py:NAME"'
        raise ConfigError(f"{what} must be one of {', '.join(EXAMPLES)}, or your own, got {spec!r}: {way_out}")
    found = find(f"{place}:{name or _only_name(place, spec, what)}", what, lambda value: bool(_listed(value)))
    if not (experiments := _listed(found)):
        raise ConfigError(
            f"{what} must name an Experiment or a list of them, and {spec!r} is of type {type(found).__name__}"
        )
    return experiments[0] if isinstance(found, Experiment) else experiments


def _listed(value: object) -> list[Experiment]:
    """Return a value of a script, an experiment or a list of them, as a list; [] for any other value."""
    if isinstance(value, list | tuple) and all(isinstance(each, Experiment) for each in value):
        return list(value)
    return [value] if isinstance(value, Experiment) else []


def _importable(file: str, what: str) -> str:
    """Make the folder of a script importable here and in processes started from here; return the module's name."""
    path = os.path.abspath(os.path.expanduser(file))
    folder, script = os.path.split(path)
    if not os.path.isfile(path):
        guess = did_you_mean(script, os.listdir(folder)) if os.path.isdir(folder) else ""
        raise ConfigError(f"{what} must name a script that exists, got {file!r}: {guess or f'{path} does not exist'}")
    if folder not in sys.path:
        sys.path.insert(0, folder)
        inherited = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = os.pathsep.join([folder, *([inherited] if inherited else [])])
    return script.removesuffix(".py")


def _only_name(module: str, spec: str, what: str) -> str:
    """Return the name that a script gives its experiments. Raises ConfigError if it has none of `NAMES`."""
    script = imported(module, f"{what} {spec!r}")
    for name in NAMES:
        if hasattr(script, name):
            return name
    raise ConfigError(f"{what} must be a value of {spec!r}, which has no EXPERIMENT: write {spec}:NAME")
