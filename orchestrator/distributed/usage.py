"""Answer wrong usage of a command or a job in two plain lines, without an import of the user's code."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import TypeVar

from orchestrator.examples import DIGITS
from orchestrator.experiment import Experiment
from orchestrator.formatting import plain
from orchestrator.validate import nearest

T = TypeVar("T")
FIELDS = {"lr": "peak", "learning_rate": "peak"}  # what others call a field
REPEATED = ("--set", "--trust", "--round", "--experiment")  # each takes one value at a time


def parsed(parse: Callable[[Sequence[str]], T], arguments: Sequence[str], experiment: Experiment | None = None) -> T:
    """Return `parse(arguments)`, a call of tyro. Exits with 2 for wrong usage, and prints what was meant.

    `experiment`: what --set changes; None: an example, because the user's experiment takes long to import.
    """
    box = io.StringIO()
    try:
        with contextlib.redirect_stderr(box):
            return parse(arguments)
    except SystemExit as stop:
        if stop.code == 2:
            print_wrong(_sentence(parse, arguments, experiment or DIGITS, _unboxed(box.getvalue())))
        raise


def print_wrong(sentence: str) -> None:
    """Print a sentence about wrong usage, and the way to all flags."""
    print(f"error: {plain(sentence)}\nrun with --help for all flags", file=sys.stderr)


def _sentence(
    parse: Callable[[Sequence[str]], object], arguments: Sequence[str], experiment: Experiment, text: str
) -> str:
    """Return a sentence about wrong usage, of which tyro says `text`."""
    shown = _help(parse, arguments)
    lines = re.findall(r"(?m)^[│| ]*(?:-h, )?(--[a-z].*)$", shown)
    flags = ["--help", "--version", *(flag for line in lines for flag in re.findall(r"--[a-z-]+", line))]
    for word, after in zip(arguments, [*arguments, ""][1:], strict=True):
        if word.startswith("--") and (name := _name(word)) not in flags:
            if name[2:].upper() in shown.split():
                return f"{name} is not a flag: write its value alone"
            return _about(word, after, flags, experiment)
    return _repeated(arguments, text) or text


def _help(parse: Callable[[Sequence[str]], object], arguments: Sequence[str]) -> str:
    """Return the text of --help for the command in `arguments`."""
    command = takewhile(lambda word: not word.startswith("-"), arguments)
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), contextlib.suppress(SystemExit):
        parse([*command, "--help"])
    return shown.getvalue()


def _unboxed(box: str) -> str:
    """Return the text below the title of tyro's box as one line: what is wrong."""
    _, *parts = re.split("(?m)^.*(?:─{3}|-{3}).*$", box)
    text = " ".join(re.sub("[│|]", " ", parts[0] if parts else box).split())
    return text.removeprefix("Error parsing ").removesuffix(" (required)")


def _name(flag: str) -> str:
    return flag.partition("=")[0].replace("_", "-")


def _about(word: str, after: str, flags: Sequence[str], experiment: Experiment) -> str:
    """Return a sentence about a flag that does not exist: the flag or the field of the experiment that was meant."""
    flag, equals, value = word.partition("=")
    field = flag.removeprefix("--").replace("-", "_")
    choices = {known.removeprefix("--").replace("-", "_"): known for known in flags}
    way_out = ""
    if "--set" in flags:
        from orchestrator.settings import field_paths, paths_ending_in

        given = value if equals else after if after and not after.startswith("-") else "VALUE"

        def settings(name: str) -> str:
            return " or ".join(f"--set {path}={given}" for path in paths_ending_in(name, experiment))

        if found := settings(FIELDS.get(field, field)):
            return f"{flag} is a field of the experiment: write {found}"
        names = {path.rpartition(".")[2] for path in field_paths(experiment)}
        choices = {name: settings(name) for name in sorted(names)} | choices
        way_out = ": --set FIELD=VALUE changes a field of the experiment"
    if near := nearest(field, choices):
        way_out = f": did you mean {choices[near]}?"
    return f"{flag} is not a flag{way_out}"


def _repeated(arguments: Sequence[str], text: str) -> str:
    """Return how several values of a flag are written, if tyro refused the second one; else an empty text."""
    for place, flag in enumerate(arguments):
        values = list(takewhile(lambda word: not word.startswith("-"), arguments[place + 1 :]))
        if flag in REPEATED and len(values) > 1 and text.startswith("Unrecognized"):
            right = " ".join(f"{flag} {shlex.quote(value)}" for value in values)
            return f"{flag} takes one value, got {len(values)}: write {right}"
    return ""
