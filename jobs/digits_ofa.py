"""Once-for-All on 1,797 real handwritten digits: one supernet of 1,764 networks, and the best for three budgets.

    python jobs/digits_ofa.py                               # train, search, export; files and page in ./deploy
    python jobs/digits_ofa.py --smoke --storage /tmp/look --report /tmp/look/deploy
    python jobs/digits_ofa.py --every                       # also measure all networks, and judge the search by them
    ray job submit --working-dir . -- python jobs/digits_ofa.py --storage s3://bucket/digits --report ./deploy

Needs the extra `onnx`. Round 0 trains the largest network; progressive shrinking makes it a supernet in
four rounds; a round for each budget holds the network that the search found, as it is in the supernet.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator import export
from orchestrator.distributed.flags import Flags, parse_flags, run_job
from orchestrator.distributed.job import run
from orchestrator.experiment import Experiment
from orchestrator.files import expand_home
from orchestrator.formatting import make_console, print_problems
from orchestrator.ofa.evolution import SubnetEvolution
from orchestrator.ofa.front_search import FrontSearch
from orchestrator.ofa.phases import Phase, Phases
from orchestrator.ofa.stage import Largest
from orchestrator.randomness import derive
from orchestrator.schedules import Cosine
from orchestrator.storage.opening import open_store
from orchestrator.training.config import TrainingConfig
from orchestrator.training.optimizer import SGD

if TYPE_CHECKING:  # imported where they are used, because they import torch, for which --help does not wait
    from orchestrator.storage.ledger import Ledger

# Progressive shrinking in the paper's order: 280 epochs of sub-networks, after 60 of the largest network.
PHASES = (
    Phase(40, 0.04, 2, 1, Largest(depths=1, expands=1)),
    Phase(40, 0.02, 2, 2, Largest(expands=1)),
    Phase(10, 0.01, 0, 4, Largest(expands=2)),
    Phase(30, 0.02, 2, 4),
)
SEEDS = 5  # of searches that --every judges
EXPERIMENT = Experiment(
    name="digits_ofa",
    model="ofa:small",
    data="digits",
    training=TrainingConfig(
        epochs=60,
        batch_size=64,
        schedule=Cosine(0.1, warmup_epochs=2),
        optimizer=SGD(momentum=0.9, nesterov=True, weight_decay=3e-5, decay_normalisation=False),
    ),
    path=Phases(
        PHASES,
        batch_size=64,
        search=FrontSearch(macs=(0.3, 0.5, 0.7), evaluations=176, evolution=SubnetEvolution(generations=60)),
    ),
)


@dataclass(frozen=True)
class OfaFlags(Flags):
    report: str | None = "./deploy"
    """Folder for the files and the page."""
    every: bool = False
    """Measure every network of the supernet, and judge the search by the best of all."""


def job(flags: OfaFlags) -> int:
    """Train and search the supernet, then export the networks found beside the largest one."""
    from orchestrator.storage.ledger import Ledger

    experiment = flags.applied(EXPERIMENT)
    experiment = experiment.shortened() if flags.smoke else experiment
    records = run(experiment, flags, make_console())
    ledger, found = Ledger(open_store(flags.storage)), [record for record in records if record.search]
    if flags.every:
        judge(ledger, experiment, records[len(PHASES)].key)
    folder = Path(expand_home(flags.report or "./deploy"))
    shown = found[:1] if flags.smoke else found
    formats = ("packed", "onnx") if flags.smoke else ()
    return print_problems(export.write(ledger, folder, rounds=[record.key for record in shown], formats=formats))


def judge(ledger: Ledger, experiment: Experiment, key: str) -> None:
    """Measure every network of the supernet, and print how far the search is from the best of all, over SEEDS seeds.

    Only what is not in storage is measured, so that the figures can be printed again.
    """
    from orchestrator.ofa.truth import judged, predictors_judged
    from orchestrator.problem import load_problem
    from orchestrator.supernet_search import measure_all

    supernet = load_problem(experiment)[0].supernet
    search = experiment.phases.search if experiment.phases else None
    assert search is not None
    assert supernet is not None
    scores = measure_all(
        ledger, key, search, on_measured=lambda done, of: print(f"measured: {done} of {of}", flush=True)
    )
    seeds = [derive(number, "search") for number in range(SEEDS)]
    for part in (4, 2, 1):  # with all its measurements the search may find the best each time, and so may its rival
        first, batch = search.first // part, max(len(search.limits), search.batch // part)
        less = replace(search, evaluations=search.evaluations // part, first=first, batch=batch)
        for verdict in judged(less, supernet, scores, seeds):
            print(
                f"{less.evaluations} measured, {verdict.unit} {verdict.budget:g}: "
                f"best of {verdict.allowed} networks {100 * verdict.best:.2f} %"
            )
            for name, regrets in verdict.regrets.items():
                print(
                    f"  {name}: below the best by {_points(regrets)} points, in {SEEDS - 1} of {SEEDS} seeds "
                    f"by at most {100 * sorted(regrets)[-2]:.2f}; ranks {' '.join(map(str, verdict.ranks[name]))}"
                )
    qualities = [predictors_judged(search, supernet, scores, seed) for seed in seeds]
    for name in qualities[0]:
        taus = [each[name].kendall for each in qualities]
        errors, of_mean = ([getattr(each[name], key) for each in qualities] for key in ("rmse", "rmse_of_mean"))
        print(
            f"predictor {name}, on networks not seen: Kendall {' '.join(f'{tau:.3f}' for tau in taus)}; "
            f"root-mean-square error {_points(errors)} points; of the mean {_points(of_mean)}"
        )


def _points(values: Sequence[float]) -> str:
    """Return fractions in points, and their mean."""
    return f"{' '.join(f'{100 * value:.2f}' for value in values)} (mean {100 * statistics.mean(values):.2f})"


if __name__ == "__main__":
    sys.exit(run_job(parse_flags(OfaFlags, __doc__, EXPERIMENT), job))
