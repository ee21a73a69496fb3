"""How many channels each layer keeps, searched for on 1,797 real handwritten digits: AMC by four agents, two rivals.

    python jobs/digits_amc.py                               # five seeds of seven ways to a tenth of the multiplications
    python jobs/digits_amc.py --smoke --storage /tmp/look   # a few candidates of one agent and its rivals
    ray job submit --working-dir . -- python jobs/digits_amc.py --storage s3://bucket/digits

Needs the extra `channels`. Every agent may ask for as many candidates as the others, has the same finalists rule, and
its own best finalist is retrained in the same way; so are those of `Uniform` and `Random`. Equal candidates are scored
once, whichever job asks. `Channels` is the way without a search.
"""

import sys
from dataclasses import replace

from orchestrator.amc.agents import AgentSettings, Cem, Evolution
from orchestrator.amc.amc_selection import Amc
from orchestrator.amc.ddpg import Ddpg
from orchestrator.amc.sensitivity import Sensitivity
from orchestrator.distributed.flags import Flags, parse_flags
from orchestrator.distributed.job import run_experiments
from orchestrator.experiment import Experiment
from orchestrator.pruning import Channels, OneShot
from orchestrator.schedules import StepDecay
from orchestrator.techniques import LearningRateRewinding
from orchestrator.training.config import TrainingConfig
from orchestrator.training.optimizer import SGD

BASE = Experiment(
    name="digits_amc",
    model="resnet14",
    model_options={"width": 8},
    data="digits",
    training=TrainingConfig(
        epochs=30,
        batch_size=64,
        schedule=StepDecay(0.1, drops=(15, 23)),
        optimizer=SGD(momentum=0.9, weight_decay=2e-4),
    ),
    path=OneShot(0.1),
    technique=LearningRateRewinding(),
    seeds=(0, 1, 2, 3, 4),
)
AMC = Amc(unit="macs", evaluations=128, generation=16, finalists=4, tune_epochs=1, round_to=1)
AGENTS: dict[str, AgentSettings] = {
    "cem": Cem(),
    "evolution": Evolution(),
    "ddpg": Ddpg(warm_up=32),
    "sensitivity": Sensitivity(),
}
SEARCHES = {name: replace(AMC, agent=agent, take=type(agent).__name__) for name, agent in AGENTS.items()}
RIVALS = {name: replace(AMC, take=name.capitalize()) for name in ("uniform", "random")}
EXPERIMENTS = [
    replace(BASE, name=f"digits_amc-{name}", selection=selection) for name, selection in {**SEARCHES, **RIVALS}.items()
]
EXPERIMENTS.append(replace(BASE, name="digits_amc-without", selection=Channels(unit="macs", round_to=1)))

if __name__ == "__main__":
    flags = parse_flags(Flags, __doc__, EXPERIMENTS[0]).of_several()
    # One search has its rivals with it. Each further path would start processes of its own.
    sys.exit(run_experiments(EXPERIMENTS[0] if flags.smoke else EXPERIMENTS, flags))
