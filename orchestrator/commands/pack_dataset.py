"""Run `orchestrator dataset pack`: pack a folder into a few large Parquet files."""

from __future__ import annotations

from typing import Annotated

import tyro


def pack(
    folder: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER", help="Holds train/ and val/.")],
    out: Annotated[
        str, tyro.conf.Positional, tyro.conf.arg(metavar="OUT", help="New folder, or s3://bucket/prefix without files.")
    ],
    shard_mb: Annotated[int, tyro.conf.arg(help="Size in MiB after which the next file begins.")] = 256,
) -> int:
    """Pack train/CLASS/*.jpg and val/CLASS/*.jpg into a few Parquet files that a job's --data can name.

    $ orchestrator dataset pack /data/imagenet s3://bucket/imagenet-packed
    """
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

    from orchestrator.data.parquet_writer import pack as pack_folder
    from orchestrator.data.parquet_writer import packed_amount

    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("packing", total=None)
        packed = pack_folder(
            folder,
            out,
            shard_mb=shard_mb,
            on_progress=lambda done, total: progress.update(task, completed=done, total=total),
        )
    print(f"packed: {packed_amount(packed)}: {out}")
    return 0
