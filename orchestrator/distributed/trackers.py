"""Log to experiment trackers through callbacks of Ray Tune: a run per path, a step per round. Off by default."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from orchestrator.errors import ConfigError
from orchestrator.extras import extra
from orchestrator.validate import one_of

if TYPE_CHECKING:  # the flags of a job need the names only, and not Ray
    from ray import tune

TRACKERS: dict[str, tuple[str, str]] = {
    "mlflow": ("mlflow", "ray.air.integrations.mlflow"),
    "wandb": ("wandb", "ray.air.integrations.wandb"),
    "tensorboard": ("tensorboardX", "ray.tune.logger.tensorboardx"),
}


def tracker(name: str, project: str) -> tune.Callback:
    """Return the callback that logs to `project` of the tracker, whose environment variables say where it is.

    These are MLFLOW_TRACKING_URI; WANDB_API_KEY, or WANDB_MODE=offline (on the nodes, because W&B logs from there).
    TensorBoard writes to the sweep's folder (see `sweep_paths`).

    Raises ConfigError for an unknown name, and for a tracker whose package cannot be imported or that cannot be set up.
    """
    one_of("--tracker", name, TRACKERS)
    package, integration = TRACKERS[name]
    with extra(name, f"tracker {name!r}"):
        importlib.import_module(package)
        module = importlib.import_module(integration)
    callback: tune.Callback
    if name == "mlflow":
        callback = module.MLflowLoggerCallback(experiment_name=project)
    elif name == "wandb":
        callback = module.WandbLoggerCallback(project=project, log_config=True)
    else:
        callback = module.TBXLoggerCallback()
    try:
        callback.setup()  # Ray Tune does it again, but only after Ray has started
    except Exception as error:
        raise ConfigError(f"tracker {name!r} cannot be set up: {' '.join(str(error).split())[:300]}") from error
    return callback
