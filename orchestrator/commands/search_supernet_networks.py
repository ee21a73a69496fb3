"""Run `orchestrator ofa search`: search the networks of a trained supernet."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from orchestrator.commands.storage_argument import DataPlace, Storage, Trusted, existing_ledger
from orchestrator.errors import ConfigError
from orchestrator.formatting import plain, print_problems
from orchestrator.validate import finite, whole

if TYPE_CHECKING:
    from orchestrator.record import Record
    from orchestrator.work.preparation import Work


def search(
    storage: Storage,
    supernet: Annotated[str, tyro.conf.arg(metavar="KEY", help="Beginning of the key of the supernet's last round.")],
    macs: Annotated[
        str, tyro.conf.arg(metavar="PARTS", help="Budgets, such as 0.3,0.5: parts of the largest network's MACs.")
    ] = "",
    parameters: Annotated[
        str, tyro.conf.arg(metavar="PARTS", help="Budgets: parts of the largest network's parameters.")
    ] = "",
    latency_ms: Annotated[
        str, tyro.conf.arg(metavar="MS", help="Budgets: milliseconds for one image, by --latency-table.")
    ] = "",
    latency_table: Annotated[
        Path | None, tyro.conf.arg(metavar="FILE", help="Of this machine; orchestrator latency makes it.")
    ] = None,
    other_processor: Annotated[
        bool, tyro.conf.arg(help="The table is of another device, which the networks are for.")
    ] = False,
    evaluations: Annotated[int, tyro.conf.arg(help="Networks that are measured, and as many by its rival.")] = 200,
    out: Annotated[
        Path | None, tyro.conf.arg(metavar="DIR", help="Also export the networks into this folder, with a page.")
    ] = None,
    data: DataPlace = None,
    trust: Trusted = (),
) -> int:
    """Find the best network of a trained supernet for each of several budgets, all in one search.

    Every network is measured on validation data, with batch norm of its own. What was measured before is not measured
    again. A round is added for each network found, which `orchestrator export --round` writes as files.

    $ orchestrator ofa search ./runs --supernet 3f2a --macs 0.3,0.5,0.7
    $ orchestrator ofa search ./runs --supernet 3f2a --parameters 0.5 --evaluations 100 --out ./deploy
    """
    from orchestrator import export, report
    from orchestrator.amc.latency import read_latency_table
    from orchestrator.files import expand_home
    from orchestrator.ofa.front_search import FrontSearch
    from orchestrator.supernet_search import search_supernet

    parts = (_numbers("--macs", macs, maximum=1), _numbers("--parameters", parameters, maximum=1))
    milliseconds = _numbers("--latency-ms", latency_ms)
    if not (budgets := sum(map(len, (*parts, milliseconds)))):
        raise ConfigError("a search needs a budget: give --macs 0.5, --parameters 0.5, or --latency-ms 2")
    if bool(milliseconds) != (latency_table is not None):
        raise ConfigError("--latency-ms and --latency-table need each other: orchestrator latency makes a table")
    whole("--evaluations", evaluations, minimum=max(2, budgets), way_out="a network of each budget is measured")
    table = read_latency_table(latency_table, other_processor=other_processor) if latency_table else None
    # A short search measures half of its networks before it fits a predictor to them.
    first = FrontSearch.first if evaluations >= FrontSearch.first else max(2, budgets, evaluations // 2)
    wanted = FrontSearch(*parts, milliseconds, table, evaluations, first, max(FrontSearch.batch, budgets))
    ledger = existing_ledger(storage)
    if out is not None:
        report.check_folder(out := Path(expand_home(str(out))), "--out")
    records = search_supernet(ledger, supernet, wanted, data=data, trust=trust, on_work=_show)
    for record in records:
        print(_line(record))
    if out is None:
        return 0
    keys = [record.key for record in records]
    return print_problems(export.write(ledger, out, rounds=keys, data=data, trust=trust))


def _numbers(flag: str, text: str, maximum: float | None = None) -> tuple[float, ...]:
    """Return the numbers of a list with commas; () for no text.

    Raises ConfigError, which names the flag, for anything else, for the same number twice, and for one that is not
    above 0 or is above `maximum`.
    """
    try:
        numbers = tuple(float(part) for part in text.split(",")) if text else ()
    except ValueError:
        raise ConfigError(f"{flag} must be numbers with commas between them, such as 0.3,0.5, got {text!r}") from None
    if len(set(numbers)) < len(numbers):
        raise ConfigError(f"{flag} must hold each number once, got {text!r}")
    return tuple(finite(flag, number, above=0, maximum=maximum) for number in numbers)


def _show(work: Work) -> None:
    from orchestrator.work.scoring import Evaluate

    if isinstance(work, Evaluate):
        generation = work.generation
        count = len(generation.candidates)
        print(f"generation {generation.number} of {generation.of}: {count} networks to measure", flush=True)


def _line(record: Record) -> str:
    """Return one line about a network that was found."""
    from orchestrator.ofa.architecture import Architecture

    found = record.search or {}
    value, rival = record.objective.text(record.val), found["results"]["random"]["score"]
    return plain(
        f"{found['unit']} {found['budget']:g}: val {value} at {found['cost']:.3f} (random search: "
        f"{record.objective.text(record.objective.gain(rival))}), key {record.key[:12]}, "
        f"{Architecture.from_json(found['architecture'])}"
    )
