"""The command line: look at what a storage holds, take networks out of it, and pack a data set.

orchestrator status ./runs
orchestrator verify s3://bucket/digits
orchestrator clean ./runs --dry-run
orchestrator report ./runs --out ./report
orchestrator export ./runs --out ./deploy
orchestrator dataset pack /data/imagenet s3://bucket/imagenet-packed
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from orchestrator.errors import ConfigError, OrchestratorError, StorageError
from orchestrator.formatting import no_rounds, plain, print_problems
from orchestrator.storage.opening import open_store

if TYPE_CHECKING:  # the ledger imports torch, which takes seconds: help and mistakes are answered without it
    from orchestrator.storage.ledger import Ledger

Storage = Annotated[
    str,
    tyro.conf.Positional,
    tyro.conf.arg(metavar="STORAGE", help="Folder, or s3://bucket/prefix (the AWS variables say how to reach it)."),
]
app = tyro.extras.SubcommandApp()
FOLLOW_SECONDS = 2.0
datasets = tyro.extras.SubcommandApp()


@app.command
def status(
    storage: Storage,
    as_json: Annotated[bool, tyro.conf.arg(name="json", help="One JSON object a line and finished round.")] = False,
    follow: Annotated[bool, tyro.conf.arg(help="Then go on: a line for whatever is new, until Ctrl-C.")] = False,
) -> int:
    """Show every finished round, every failed one with its reason, and how far searches are.

    orchestrator status ./runs

    orchestrator status s3://bucket/digits --follow

    orchestrator status s3://bucket/digits --json | jq .metrics.test_accuracy
    """
    from orchestrator.report import json_line, print_status
    from orchestrator.storage.score_files import search_lines

    if as_json and follow:
        raise ConfigError("--json ends when all is printed, so it does not go with --follow: give one of them")
    ledger = _ledger(storage)
    problems: list[str] = []
    records = ledger.records(problems)
    if as_json:
        for record in records:
            print(json_line(record))
        return print_problems(problems)
    failures = ledger.failures(problems)
    if not records:
        print(no_rounds(ledger.store.uri))
    print_status(records, failures)
    for line in search_lines(ledger.store, records, problems):
        print(plain(line))
    code = print_problems(problems)
    if follow:
        from orchestrator.report.follow import follow_storage

        for line in follow_storage(ledger, FOLLOW_SECONDS):
            print(line, flush=True)
    return code


@app.command
def verify(storage: Storage) -> int:
    """Read every file of the storage, and compare it with its sha256 and with the files that name it.

    Exits with 1 if anything is damaged, missing or unreadable, and names each with the way out.

    orchestrator verify ./runs
    """
    from orchestrator.storage.verify import verify as findings

    ledger = _ledger(storage)
    files = damaged = leftovers = 0
    foreign: list[str] = []
    for finding in findings(ledger):
        files += finding.kind == "checked"
        leftovers += finding.kind == "leftover"
        foreign += [finding.path] if finding.kind == "foreign" else []
        if problem := finding.problem:
            damaged += 1
            print(plain(problem if finding.path in problem else f"{finding.path}: {problem}"), flush=True)
    if not files:
        print(no_rounds(ledger.store.uri))
    if leftovers:
        print(f"not checked: {leftovers} files of jobs that run or were killed: orchestrator clean removes what may go")
    if foreign:
        named = ", ".join(foreign[:3]) + (", ..." if len(foreign) > 3 else "")
        print(plain(f"not checked: {len(foreign)} files that this program did not write: {named}"))
    print(f"{files} files checked, {damaged} damaged")
    return 1 if damaged else 0


@app.command
def clean(
    storage: Storage,
    dry_run: Annotated[bool, tyro.conf.arg(help="Only show what would be removed.")] = False,
    snapshots: Annotated[
        bool, tyro.conf.arg(help="Also snapshots and checkpoints that no unfinished experiment will read.")
    ] = False,
) -> int:
    """Remove what killed jobs have left in a storage; safe while other jobs run.

    Gone are: writes that never ended (multi-part uploads too), files of storage checks and of Ray Train, checkpoints
    and claims of finished rounds, and tensors that no record names. What a living owner has claimed stays, and what was
    written in the last ten minutes.

    --snapshots removes the states to rewind to, once no unfinished experiment of the storage rewinds to them, and what
    is left of rounds that no unfinished experiment asks for. A path that was cut counts as unfinished. An experiment
    that starts later trains its snapshot again.

    orchestrator clean ./runs --dry-run
    """
    from orchestrator.formatting import size
    from orchestrator.storage.clean import leftovers, remove, totals

    ledger = _ledger(storage)
    left = leftovers(ledger, snapshots=snapshots)
    if not dry_run:
        remove(ledger.store, left.found)
    verb = "would remove" if dry_run else "removed"
    for what, files, count in totals(left.found):
        print(f"{verb}: {files} {what}, {size(count)}")
    if not left.found:
        print(f"nothing to remove in {ledger.store.uri}")
    if left.fresh:
        print(f"kept: {left.fresh} files of the last ten minutes, which a job may still need: clean again later")
    return print_problems([left.warning] if left.warning else [])


@app.command
def report(
    storage: Storage,
    out: Annotated[Path, tyro.conf.arg(metavar="DIR", help="Folder for report.html and its files; made if need be.")],
    experiment: Annotated[
        tyro.conf.UseAppendAction[tuple[str, ...]],
        tyro.conf.arg(metavar="NAME", help="Only this one, again for more of them; left out: all."),
    ] = (),
) -> int:
    """Show the rounds of each experiment as a table, and write a web page, its pictures and a CSV file.

    orchestrator report ./runs --out ./report

    orchestrator report s3://bucket/runs --out ./report --experiment digits_lr

    What orchestrator export measured stands on the page too, if its deploy.json lies in the same folder.
    """
    from orchestrator.files import expand_home
    from orchestrator.report import report_storage

    return print_problems(report_storage(_ledger(storage), Path(expand_home(str(out))), experiment))


@app.command
def export(
    storage: Storage,
    out: Annotated[Path, tyro.conf.arg(metavar="DIR", help="Folder for the files and the page; made if need be.")],
    round: Annotated[
        tyro.conf.UseAppendAction[tuple[str, ...]],
        tyro.conf.arg(
            metavar="KEY",
            help="Beginning of a round's key, again for more rounds side by side; left out: the recommended ones.",
        ),
    ] = (),
    formats: Annotated[
        tuple[str, ...],
        tyro.conf.arg(
            metavar="FORMAT ...",
            help="Of packed, packed-fp16, onnx, onnx-fp16, onnx-int8, pte, coreml; left out: all that are installed.",
        ),
    ] = (),
    data: Annotated[
        str | None, tyro.conf.arg(metavar="DIR", help="Where the data lies, for data sets that live in files.")
    ] = None,
    trust: Annotated[
        tyro.conf.UseAppendAction[tuple[str, ...]],
        tyro.conf.arg(
            metavar="MODULE:NAME",
            help="A function or class of yours that the rounds name, for model, data or task; again for more.",
        ),
    ] = (),
) -> int:
    """Write networks of rounds, and the dense one they come from, as files for users; measure each and show it.

    Every file that this machine can run goes over the whole test set by itself: deploy.json and the report page tell
    size, speed and accuracy. The page shows these files first, then all experiments with their model and data.
    Left to itself, it takes the recommended round of masks and that of fewer channels, if there are both.

    orchestrator export ./runs --out ./deploy

    orchestrator export ./runs --out ./deploy --round 3f2a --round 77b0 --formats packed onnx-int8

    orchestrator export ./runs --out ./deploy --trust my_models:network --trust my_data:images
    """
    from orchestrator import export
    from orchestrator.files import expand_home

    folder = Path(expand_home(str(out)))
    problems = export.write(_ledger(storage), folder, rounds=round, formats=formats, data=data, trust=trust)
    return print_problems(problems)


@datasets.command
def pack(
    folder: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER", help="Holds train/ and val/.")],
    out: Annotated[
        str, tyro.conf.Positional, tyro.conf.arg(metavar="OUT", help="New folder, or s3://bucket/prefix without files.")
    ],
    shard_mb: Annotated[int, tyro.conf.arg(help="Size at which the next file is begun, in MiB.")] = 256,
) -> int:
    """Pack train/CLASS/*.jpg and val/CLASS/*.jpg into a few Parquet files that a job's --data can name.

    orchestrator dataset pack /data/imagenet s3://bucket/imagenet-packed
    """
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

    from orchestrator.data.parquet_writer import pack as pack_folder

    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("images", total=None)
        packed = pack_folder(
            folder,
            out,
            shard_mb=shard_mb,
            on_progress=lambda done, total: progress.update(task, completed=done, total=total),
        )
    files = [file for split in packed.values() for file in split.files]
    images, size = (sum(column) for column in zip(*files, strict=True))
    print(f"packed: {images} images, {size / 1e6:.1f} MB in {len(files)} files: {out}")
    return 0


app.command(datasets, name="dataset", help="Pack a folder of images for training from a bucket.")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command in `argv` (default: the program's arguments) and return its exit code.

    0: done; 1: an error that the message explains, or damage; 2: wrong usage (raised as SystemExit, as --help is).
    """
    try:
        code: int = app.cli(
            prog="orchestrator",
            description="Look at what a storage holds, export networks from it, and pack a data set.",
            args=argv,
            config=(tyro.conf.FlagCreatePairsOff,),
        )
        sys.stdout.flush()  # here, where a closed pipe can be caught
        return code
    except OrchestratorError as error:
        print(f"error: {plain(error)}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # The reader, such as `head`, has seen enough. Python would try once more at exit, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130


def _ledger(storage: str) -> Ledger:
    """The ledger of a storage that is there: to look at a mistyped folder must not make it."""
    store = open_store(storage)
    if store.is_local and not os.path.isdir(store.uri):
        raise StorageError(f"there is no folder {store.uri}: give the --storage of a job that has run")
    from orchestrator.storage.ledger import Ledger

    return Ledger(store)


if __name__ == "__main__":
    sys.exit(main())
