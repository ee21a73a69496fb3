"""How small can a network get, and by which path? Paths of an experiment side by side, or a search for the end of one.

    python jobs/sparsity_paths.py                                      # digits: large steps, small steps, one shot
    python jobs/sparsity_paths.py --max-drop 0.5 --search              # the smallest within 0.5 points of dense
    python jobs/sparsity_paths.py --target 97 --search                 # the smallest with 97 % validation accuracy
    python jobs/sparsity_paths.py --experiment my_job:EXPERIMENT --data /data/mine --storage s3://bucket/mine

--experiment is any experiment: "module:NAME", the module beside this script, in the working directory or installed.
"""

import sys
from dataclasses import dataclass, replace

from orchestrator.distributed.flags import Flags, parse_flags, run_job
from orchestrator.distributed.sweep_job import run_search, run_sweep
from orchestrator.errors import ConfigError
from orchestrator.experiment import Experiment
from orchestrator.named_experiments import named_experiments
from orchestrator.pruning import Cubic, Geometric, OneShot, Path


@dataclass(frozen=True)
class PathFlags(Flags):
    """Where and on what the sweep runs, and which experiment it is about."""

    experiment: str = "digits_lr:EXPERIMENT"
    """The experiment whose path is varied."""
    search: bool = False
    """Search for the smallest density that stays above --target, or within --max-drop."""
    probes: int = 4
    """Rounds that a search may spend on halving the last gap."""


def paths(base: Experiment) -> list[Experiment]:
    """`base` on four paths to the density at which its own ends."""
    end = base.densities()[-1]
    large = Geometric.down_to(end, remove=0.5).rounds
    found: dict[str, Path] = {
        "own": base.path,
        "large-steps": Geometric(1 - end ** (1 / large), large),
        "cubic": Cubic(end, rounds=6),
        "one-shot": OneShot(end),
    }
    return [replace(base, name=f"{base.name[:60]}-{name}", path=path) for name, path in found.items()]


def load_experiment(spec: str) -> Experiment:
    """The experiment "module:NAME". Raises ConfigError."""
    found = named_experiments(spec, "--experiment")
    if not isinstance(found, Experiment):
        raise ConfigError(f"--experiment must name one Experiment, and {spec!r} is a list of them")
    return found


def job(flags: PathFlags) -> int:
    base = flags.applied(load_experiment(flags.experiment))
    if flags.search:
        return run_search(base.shortened() if flags.smoke else base, flags, probes=flags.probes)
    return run_sweep([each.shortened() if flags.smoke else each for each in paths(base)], flags)


if __name__ == "__main__":
    sys.exit(run_job(parse_flags(PathFlags, __doc__, None).of_several(), job))
