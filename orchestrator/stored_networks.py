"""Load the network of a finished round as an ordinary module."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, TypeAlias, get_args

from torch import nn

from orchestrator.export.candidates import check_code, find_round, module_of, source_of
from orchestrator.export.kernel_choice import fast_kernels
from orchestrator.nested import concatenated, rows
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.opening import open_existing
from orchestrator.validate import one_of, whole

Kernels: TypeAlias = Literal["dense", "fast"]
KERNELS: tuple[Kernels, ...] = get_args(Kernels)


def load(
    storage: str,
    key: str,
    *,
    data: str | None = None,
    trust: Iterable[str] = (),
    kernels: Kernels = "dense",
    batch: int = 1,
) -> nn.Module:
    """Return the network of a finished round, on the CPU and in evaluation mode: built, pruned, its weights filled in.

        model = orchestrator.load("./runs", "3f2a")

    `key`: the beginning of the round's key, as `orchestrator status` shows it. Removed weights are zero, removed
    channels are not there. `data`: where the data lies, for data sets in files; it says for how many classes the
    network is, and is checked to be the round's. `trust`: your own functions or classes, "package.module:name", that
    the round names as model, data or task and that may run here. `kernels`: "fast" returns a copy for inference that
    skips zeros where that is measured to be faster for `batch` samples at once (see `fast_kernels`).

    Raises StorageError for a storage that is not there, ConfigError for a key that names no round or several and for
    code that is not trusted, DataError for other data, DamagedError for a damaged file.
    """
    one_of("kernels", kernels, KERNELS)
    whole("batch", batch, minimum=1)
    ledger = Ledger(open_existing(storage))
    record = find_round(ledger.records([]), key, what="key")
    check_code([record], trust, in_python=True)
    given = source_of([record], data).load()
    module = module_of(ledger, record, given)
    if kernels == "dense":
        return module
    return fast_kernels(module, concatenated([rows(given.inputs, 0, 1)] * batch))
