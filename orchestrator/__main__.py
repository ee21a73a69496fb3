"""Run the command line, `orchestrator COMMAND ...`. Each command has a file in `orchestrator.commands`."""

from __future__ import annotations

import functools
import inspect
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import takewhile

import tyro

from orchestrator import __version__
from orchestrator.commands.clean_storage import clean
from orchestrator.commands.compare_targets import targets
from orchestrator.commands.export_networks import export
from orchestrator.commands.measure_latency_table import latency
from orchestrator.commands.pack_dataset import pack
from orchestrator.commands.run_experiment import run
from orchestrator.commands.search_supernet_networks import search
from orchestrator.commands.show_status import status
from orchestrator.commands.verify_storage import verify
from orchestrator.commands.write_report import report
from orchestrator.distributed.usage import parsed, print_wrong
from orchestrator.errors import OrchestratorError
from orchestrator.formatting import plain
from orchestrator.validate import did_you_mean

# A function is a command of its own name; a dict is a group of commands.
COMMANDS: dict[str, Callable[..., int] | dict[str, Callable[..., int]]] = {
    "run": run,
    "status": status,
    "verify": verify,
    "clean": clean,
    "report": report,
    "export": export,
    "targets": targets,
    "latency": latency,
    "dataset": {"pack": pack},
    "ofa": {"search": search},
}
DESCRIPTION = """Make trained networks small: run experiments, look at their storage, export their networks.

orchestrator COMMAND --help shows the flags of a command, and orchestrator --version the version.
"""
GROUPS = {
    "dataset": "Pack a data set for training from a bucket.",
    "ofa": "Find the best network for each budget in a trained supernet.",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command in `argv` (default: the program's arguments) and return its exit code.

    0: done; 1: an error that the message explains, or damage; 2: wrong usage (raised as SystemExit, like --help);
    130: Ctrl-C.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments in (["--version"], ["version"]) or (arguments[1:] == ["--version"] and arguments[0] in COMMANDS):
        print(f"orchestrator {__version__}")
        return 0
    if unknown := _unknown(arguments):
        print_wrong(unknown)
        raise SystemExit(2)
    try:
        code = parsed(_parse, arguments)()
        sys.stdout.flush()  # here, where a closed pipe can be caught
        return code
    except OrchestratorError as error:
        print(f"error: {plain(error)}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # The reader, such as `head`, has closed the pipe. Without this, Python would print an error at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130


def _unknown(arguments: Sequence[str]) -> str:
    """Return a sentence about a word that is not a command, and what may have been meant; else an empty text."""
    commands: Mapping[str, object] = COMMANDS
    for word in takewhile(lambda word: not word.startswith("-"), arguments):
        if word not in commands:
            if word == "load":
                return "'load' is not a command: in Python, orchestrator.load(STORAGE, KEY) returns a round's network"
            guess = did_you_mean(word, commands) or f"the commands are {', '.join(commands)}"
            return f"{word!r} is not a command: {guess}"
        inner = commands[word]
        if not isinstance(inner, dict):
            break
        commands = inner
    return ""


def _parse(arguments: Sequence[str]) -> Callable[[], int]:
    """Return the call of a command that `arguments` name. Exits with 2 for wrong usage, with 0 after --help.

    --help shows the whole docstring of the command that is asked for, and the first sentence of each other one.
    """
    app = tyro.extras.SubcommandApp()
    for name, command in COMMANDS.items():
        if isinstance(command, dict):
            group = tyro.extras.SubcommandApp()
            for inner, function in command.items():
                group.command(name=inner)(_later(function))
            app.command(group, name=name, help=GROUPS[name])
        else:
            text = inspect.cleandoc(command.__doc__ or "")
            shown = text if name in arguments[:1] else text.partition("\n\n")[0]
            app.command(name=name, help=shown)(_later(command))
    call: Callable[[], int] = app.cli(
        prog="orchestrator", description=DESCRIPTION, args=arguments, config=(tyro.conf.FlagCreatePairsOff,)
    )
    return call


def _later(command: Callable[..., int]) -> Callable[..., Callable[[], int]]:
    """Return a function with the flags of `command` that returns the call, so that parsing does not run it."""
    return functools.wraps(command)(functools.partial(functools.partial, command))


if __name__ == "__main__":
    sys.exit(main())
