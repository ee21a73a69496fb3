"""Run `orchestrator targets`: compare networks on the runtimes and chips that they may run on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from orchestrator.commands.storage_argument import DataPlace, Storage, Trusted, ledger_with_rounds
from orchestrator.formatting import print_problems


def targets(
    storage: Storage,
    keys: Annotated[
        tyro.conf.Positional[tuple[str, ...]],
        tyro.conf.arg(
            metavar="KEY ...",
            help="Beginnings of rounds' keys. Default: the recommended round of masks, blocks, channels, AMC, ...",
        ),
    ] = (),
    on: Annotated[
        str | None,
        tyro.conf.arg(
            metavar="NAME,...", help="Of download, torch, mnn, web, vela, onnxruntime, openvino. Default: all."
        ),
    ] = None,
    report: Annotated[
        Path | None, tyro.conf.arg(metavar="DIR", help="Folder for targets.html, .png, .json and web/.")
    ] = None,
    data: DataPlace = None,
    trust: Trusted = (),
) -> int:
    """Say where the zeros of networks pay: put rounds, and the dense one they come from, through every target here.

    For each target: bytes, the time of one sample beside the dense network's, and the objective through the file. A
    target that is not installed says how to get it, and the rest of the table is still made.

    $ orchestrator targets ./runs
    $ orchestrator targets ./runs 3f2a 77b0 --on torch,mnn --report ./where
    """
    from orchestrator.export.target_rounds import compare_rounds
    from orchestrator.files import expand_home

    names = [name.strip() for name in on.split(",") if name.strip()] if on else []
    folder = None if report is None else Path(expand_home(str(report)))
    problems = compare_rounds(ledger_with_rounds(storage), keys, on=names, folder=folder, data=data, trust=trust)
    return print_problems(problems)
