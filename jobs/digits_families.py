"""Four ways to small networks on 1,797 real handwritten digits, at three budgets, with three seeds.

    python jobs/digits_families.py                               # tables here, page in ./report
    python jobs/digits_families.py --smoke --storage /tmp/look --report /tmp/look/report  # "full", one of them alone
    ray job submit --working-dir . -- python jobs/digits_families.py --storage s3://bucket/digits

Needs the extra `channels`. Learning-rate rewinding on channels, AMC, Once-for-All, and the networks that Once-for-All
found, trained alone. Twice: "full" trains each network for FULL epochs, whatever that costs in all; "total" gives each
way the same epochs for all three networks together, in which each sub-network of a step and each epoch of a search
counts.
"""

import math
import statistics
import sys
from collections.abc import Iterable
from dataclasses import replace

from orchestrator import Amc
from orchestrator.distributed.flags import Flags, parse_flags, run_job, write_report
from orchestrator.distributed.sweep_job import run_sweep
from orchestrator.experiment import Experiment
from orchestrator.ofa.evolution import SubnetEvolution
from orchestrator.ofa.front_search import FrontSearch
from orchestrator.ofa.phases import Phase, Phases
from orchestrator.ofa.stage import Largest
from orchestrator.pruning import Channels, Explicit
from orchestrator.pruning.path import OnlyDense
from orchestrator.record import Record
from orchestrator.schedules import Cosine
from orchestrator.storage.opening import open_store
from orchestrator.techniques import LearningRateRewinding
from orchestrator.training.config import TrainingConfig
from orchestrator.training.optimizer import SGD

BUDGETS = (0.7, 0.5, 0.3)  # of the multiply-accumulates of the largest network
FULL = 40  # epochs; the supernet takes FULL + 100, which is what "total" gives to each way
TOTAL = FULL + 100
PHASES = (
    Phase(12, 0.04, 1, 1, Largest(depths=1, expands=1)),
    Phase(12, 0.02, 1, 2, Largest(expands=1)),
    Phase(4, 0.01, 0, 4, Largest(expands=2)),
    Phase(12, 0.02, 1, 4),
)
SEARCH = FrontSearch(macs=BUDGETS, evaluations=96, first=48, evolution=SubnetEvolution(generations=60))
AMC = Amc(evaluations=32, generation=16, finalists=2, tune_epochs=0, finalist_epochs=1, reconstruct="bn", round_to=4)
STUDENT = 4.303  # two-sided 95 % of Student's t with 2 degrees of freedom


def trained_for(epochs: int, name: str) -> Experiment:
    """Return an experiment whose dense run takes so many epochs."""
    return Experiment(
        name=f"digits_families-{name}",
        model="ofa:small",
        data="digits",
        training=TrainingConfig(
            epochs=epochs,
            batch_size=64,
            schedule=Cosine(0.1, warmup_epochs=2),
            optimizer=SGD(momentum=0.9, nesterov=True, weight_decay=3e-5, decay_normalisation=False),
        ),
        path=Explicit(BUDGETS),
        technique=LearningRateRewinding(),
        seeds=(0, 1, 2),
    )


CHANNELS = Channels(unit="macs", round_to=4)
EXPERIMENTS = [
    replace(trained_for(FULL, "ofa"), path=Phases(PHASES, batch_size=64, search=SEARCH)),
    replace(trained_for(FULL, "full-channels"), selection=CHANNELS),
    replace(trained_for(FULL, "full-amc"), selection=AMC),
    replace(trained_for(TOTAL // 4, "total-channels"), selection=CHANNELS),
    replace(trained_for(TOTAL // 4 - 4, "total-amc"), selection=AMC),  # its search takes the other epochs
]


def alone(found: Iterable[Record]) -> list[Experiment]:
    """Return experiments that train each network found by the search from nothing."""
    experiments = []
    for record in found:
        search = record.search or {}
        for name, epochs in (("full-alone", FULL), ("total-alone", TOTAL // 3)):
            experiment = trained_for(epochs, f"{name}-{search['budget']:g}-seed{record.seed}")
            options = {"architecture": search["architecture"]}
            experiments.append(replace(experiment, model_options=options, path=OnlyDense(), seed=record.seed, seeds=()))
    return experiments


def job(flags: Flags) -> int:
    """Train everything, then print a table for each way of counting, and write the page."""
    # They import torch, for which --help does not wait.
    from orchestrator.report import path_records
    from orchestrator.report.chapters.families import family_of
    from orchestrator.storage.ledger import Ledger

    first = [flags.applied(experiment) for experiment in EXPERIMENTS]
    first = [experiment.shortened() for experiment in first[:3]] if flags.smoke else first
    quiet, ledger = replace(flags, report=None), Ledger(open_store(flags.storage))
    if code := run_sweep(first, quiet):
        return code
    names = {experiment.name for experiment in first}
    records = [record for record in path_records(ledger)[0] if record.experiment in names]
    second = alone(record for record in records if family_of(record) == "Once-for-All")
    second = [experiment.shortened() for experiment in second[:1]] if flags.smoke else second
    if code := run_sweep(second, quiet):
        return code
    names |= {experiment.name for experiment in second}
    for line in table([record for record in path_records(ledger)[0] if record.experiment in names]):
        print(line)
    return write_report(flags, [*first, *second]) if flags.report else 0


def table(records: list[Record]) -> Iterable[str]:
    """Yield a line for each budget and way: the mean test accuracy over the seeds with its 95 % interval."""
    from orchestrator.report.chapters.families import family_of

    values: dict[tuple[str, str, float], list[float]] = {}
    for record in records:
        parts = record.experiment.removesuffix("-smoke").split("-")
        counting, way = (parts[1], parts[2]) if len(parts) > 2 else ("both", parts[1])
        if way == "alone":
            values.setdefault((counting, way, float(parts[3])), []).append(record.test)
        elif family_of(record) == "Once-for-All":
            values.setdefault((counting, way, (record.search or {})["budget"]), []).append(record.test)
        elif record.round and way != "ofa":  # whose other rounds are phases
            values.setdefault((counting, way, record.density), []).append(record.test)
    for (counting, way, budget), tests in sorted(values.items(), key=lambda item: (item[0][0], -item[0][2])):
        spread = STUDENT * statistics.stdev(tests) / math.sqrt(len(tests)) if len(tests) == 3 else math.nan
        mean = statistics.mean(tests)
        yield f"{counting:6} {way:9} macs {budget:g}: test {100 * mean:.2f} +- {100 * spread:.2f} %, {len(tests)} seeds"


if __name__ == "__main__":
    sys.exit(run_job(parse_flags(Flags, __doc__, None).of_several(), job))
