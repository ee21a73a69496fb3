"""The command line: show, verify and clean a storage, report on it, export its networks, and pack a data set.

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

if TYPE_CHECKING:  # the ledger imports torch, which takes seconds; --help and wrong usage do not need it
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
    as_json: Annotated[
        bool, tyro.conf.arg(name="json", help="One JSON object per line for each finished round.")
    ] = False,
    follow: Annotated[bool, tyro.conf.arg(help="Continue with a line for everything new, until Ctrl-C.")] = False,
) -> int:
    """Show every finished round, every failed one with its reason, and how far searches are.

    orchestrator status ./runs

    orchestrator status s3://bucket/digits --follow

    orchestrator status s3://bucket/digits --json | jq .metrics.test_accuracy
    """
    from orchestrator.report import json_line, print_status
    from orchestrator.storage.score_files import search_lines

    if as_json and follow:
        raise ConfigError("--json and --follow cannot be combined: give one of them")
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
        print(
            f"not checked: {leftovers} files of running or killed jobs: orchestrator clean removes those of killed ones"
        )
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
    """Remove the files that killed jobs have left in a storage; safe while other jobs run.

    It removes writes that never ended (multi-part uploads too), files of storage checks and of Ray Train, checkpoints
    and claims of finished rounds, and tensors that no record names. It keeps everything that a living owner has
    claimed or that was written in the last ten minutes.

    --snapshots also removes the states to rewind to that no unfinished experiment of the storage needs, and the
    remains of rounds that are not part of one. A path that was cut counts as unfinished. An experiment that starts
    later trains its snapshot again.

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
    out: Annotated[
        Path, tyro.conf.arg(metavar="DIR", help="Folder for report.html and its files; created if missing.")
    ],
    experiment: Annotated[
        tyro.conf.UseAppendAction[tuple[str, ...]],
        tyro.conf.arg(metavar="NAME", help="Only this one; repeat it for more. Default: all."),
    ] = (),
) -> int:
    """Show the rounds of each experiment as a table, and write a web page, its pictures and a CSV file.

    orchestrator report ./runs --out ./report

    orchestrator report s3://bucket/runs --out ./report --experiment digits_lr

    If the folder holds the deploy.json of orchestrator export, the page shows its measurements too.
    """
    from orchestrator.files import expand_home
    from orchestrator.report import report_storage

    return print_problems(report_storage(_ledger(storage), Path(expand_home(str(out))), experiment))


@app.command
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
            help="Of packed, packed-fp16, onnx, onnx-fp16, onnx-int8, pte, coreml. Default: all that are installed.",
        ),
    ] = (),
    data: Annotated[
        str | None, tyro.conf.arg(metavar="DIR", help="Folder or uri of the data, for data sets in files.")
    ] = None,
    trust: Annotated[
        tyro.conf.UseAppendAction[tuple[str, ...]],
        tyro.conf.arg(
            metavar="MODULE:NAME",
            help="Your own function or class that the rounds name as model, data or task; repeat it for more.",
        ),
    ] = (),
) -> int:
    """Write networks of rounds, and the dense one they come from, as files for users; measure each and show it.

    Every file that this machine can run is measured on the whole test set: deploy.json and the report page show size,
    speed and accuracy. The page shows these files first, then all experiments with the same model and data.
    Without --round it exports the recommended round with masks and the one with fewer channels, if both exist.

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
    shard_mb: Annotated[int, tyro.conf.arg(help="Size in MiB after which the next file begins.")] = 256,
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

    0: done; 1: an error that the message explains, or damage; 2: wrong usage (raised as SystemExit, like --help);
    130: Ctrl-C.
    """
    try:
        code: int = app.cli(
            prog="orchestrator",
            description="Show and maintain a storage, export networks from it, and pack a data set.",
            args=argv,
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


def _ledger(storage: str) -> Ledger:
    """Return the ledger of an existing storage, so that a mistyped folder is not created. Raises StorageError."""
    store = open_store(storage)
    if store.is_local and not os.path.isdir(store.uri):
        raise StorageError(f"there is no folder {store.uri}: give the --storage of a job that has run")
    from orchestrator.storage.ledger import Ledger

    return Ledger(store)


if __name__ == "__main__":
    sys.exit(main())
