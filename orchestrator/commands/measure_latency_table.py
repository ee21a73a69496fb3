"""Run `orchestrator latency`: measure the table of times that a search reads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from orchestrator.commands.storage_argument import DataPlace


def latency(
    experiment: Annotated[
        str,
        tyro.conf.Positional,
        tyro.conf.arg(metavar="EXPERIMENT", help='"module:NAME" or "folder/script.py:NAME"; its model is measured.'),
    ],
    out: Annotated[Path, tyro.conf.arg(metavar="FILE", help="JSON file to write.")],
    points: Annotated[int, tyro.conf.arg(help="Sizes of each side of a layer that are measured.")] = 4,
    threads: Annotated[int, tyro.conf.arg(help="Threads of onnxruntime.")] = 1,
    data: DataPlace = None,
) -> int:
    """Measure how long each layer of a network takes on this machine, for searches with unit="latency".

    Whole networks are measured too: the largest error of the table on them is printed, and stands in the record of
    each search by it. A job reads the table by read_latency_table("table.json").

    $ orchestrator latency jobs/cifar10_amc.py --data /data/cifar10 --out table.json
    $ orchestrator latency jobs/imagenet_amc.py:MOBILENET --data /data/imagenet --threads 4 --out table.json
    """
    from orchestrator.experiment import Experiment
    from orchestrator.export.latency_table import latency_table
    from orchestrator.files import atomic_write, check_writable, expand_home
    from orchestrator.formatting import milliseconds, plain
    from orchestrator.named_experiments import named_experiments

    file = Path(expand_home(str(out)))
    check_writable(file.parent, "--out")
    found = named_experiments(experiment)
    first = found if isinstance(found, Experiment) else found[0]
    table = latency_table(first, data=data, points=points, threads=threads)
    with atomic_write(file) as temporary:
        temporary.write_text(table.to_json())
    print(plain(f"{len(table.layers)} layers of {first.model} on {table.processor}, {table.runtime}"))
    for each in table.networks:
        print(f"a whole network: {milliseconds(each.predicted)} by the table, {milliseconds(each.measured)} measured")
    print(f"largest error: {100 * (table.error or 0.0):.0f} %")
    if table.warning:
        print(f"warning: {table.warning}")
    print(f"written: {plain(str(file))}")
    return 0
