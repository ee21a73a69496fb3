"""Run `orchestrator export`: write the files of networks, and measure them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from orchestrator.commands.storage_argument import DataPlace, Storage, Trusted, ledger_with_rounds
from orchestrator.formatting import print_problems


def export(
    storage: Storage,
    out: Annotated[Path, tyro.conf.arg(metavar="DIR", help="Folder for the files and the page; created if missing.")],
    round: Annotated[
        tyro.conf.UseAppendAction[tuple[str, ...]],
        tyro.conf.arg(
            metavar="KEY",
            help="Beginning of a round's key; repeat it to compare rounds. Default: the recommended ones.",
        ),
    ] = (),
    formats: Annotated[
        tuple[str, ...],
        tyro.conf.arg(
            metavar="FORMAT ...",
            help="Of packed, packed-fp16, packed-int8, onnx, onnx-fp16, onnx-int8, pte, coreml. Default: all that are "
            "installed.",
        ),
    ] = (),
    data: DataPlace = None,
    trust: Trusted = (),
) -> int:
    """Write networks of rounds, and the dense one they come from, as files for users; measure each and show it.

    Every file that this machine can run is measured on the whole test set: deploy.json and the report page show size,
    speed and objective. The page shows these files first, then all experiments with the same model and data.
    Without --round it exports the recommended round with masks and the one with fewer channels, if both exist.

    $ orchestrator export ./runs --out ./deploy
    $ orchestrator export ./runs --out ./deploy --round 3f2a --round 77b0 --formats packed onnx-int8
    $ orchestrator export ./runs --out ./deploy --trust my_models:network --trust my_data:samples
    """
    from orchestrator import export
    from orchestrator.files import expand_home

    if formats:  # before the storage and the data are read
        from orchestrator.export.deploy import check_formats

        check_formats(formats)
    folder = Path(expand_home(str(out)))
    problems = export.write(ledger_with_rounds(storage), folder, rounds=round, formats=formats, data=data, trust=trust)
    return print_problems(problems)
