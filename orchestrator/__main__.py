"""Run the command line, `orchestrator COMMAND ...`. Each command has a file in `orchestrator.commands`."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Sequence

import tyro

from orchestrator import __version__
from orchestrator.commands.clean_storage import clean
from orchestrator.commands.compare_targets import targets
from orchestrator.commands.export_networks import export
from orchestrator.commands.measure_latency_table import latency
from orchestrator.commands.pack_images import pack
from orchestrator.commands.run_experiment import check_flags, run
from orchestrator.commands.search_supernet_networks import search
from orchestrator.commands.show_status import status
from orchestrator.commands.verify_storage import verify
from orchestrator.commands.write_report import report
from orchestrator.distributed.flags import repeats_explained
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
    "dataset": "Pack a folder of images for training from a bucket.",
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
    if arguments and not arguments[0].startswith("-") and arguments[0] not in COMMANDS:
        print(plain(f"error: {_unknown(arguments[0])}"), file=sys.stderr)
        raise SystemExit(2)
    if arguments[:1] == ["run"]:
        check_flags(arguments[1:])
    # The second word after a flag may be the storage, unless the storage came first.
    flags_last = len(arguments) > 1 and not arguments[1].startswith("-")
    try:
        with repeats_explained(arguments if flags_last else []):
            code: int = _app(arguments[:1]).cli(
                prog="orchestrator",
                description=DESCRIPTION,
                args=arguments,
                config=(tyro.conf.FlagCreatePairsOff,),
            )
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


def _unknown(command: str) -> str:
    """Say that there is no such command, and what may have been meant."""
    if command == "load":
        return "there is no command 'load': in Python, orchestrator.load(STORAGE, KEY) returns the network of a round"
    guess = did_you_mean(command, COMMANDS)
    return f"there is no command {command!r}: {guess + ' ' if guess else ''}orchestrator --help lists them"


def _app(chosen: Sequence[str]) -> tyro.extras.SubcommandApp:
    """Return all commands: the one that is `chosen` with its whole docstring, the others with its first sentence."""
    app = tyro.extras.SubcommandApp()
    for name, command in COMMANDS.items():
        if isinstance(command, dict):
            group = tyro.extras.SubcommandApp()
            for inner, function in command.items():
                group.command(name=inner)(function)
            app.command(group, name=name, help=GROUPS[name])
        else:
            text = inspect.cleandoc(command.__doc__ or "")
            app.command(name=name, help=text if name in chosen else text.partition("\n\n")[0])(command)
    return app


if __name__ == "__main__":
    sys.exit(main())
