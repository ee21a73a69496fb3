"""Define the experiment: a frozen value that decides the result, checked when it is made, and its keys."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from orchestrator.errors import ConfigError
from orchestrator.field_json import as_json, check_annotations
from orchestrator.models.spec import OFA
from orchestrator.objective import Objective
from orchestrator.ofa.phases import Phases
from orchestrator.ofa.spaces import find_space
from orchestrator.pruning.choices import DEFAULT_KINDS, KINDS, Kind
from orchestrator.pruning.path import Explicit, Geometric, Path
from orchestrator.pruning.selection import Global, Selection, check_selection
from orchestrator.record import FORMAT
from orchestrator.task import Classification, Task
from orchestrator.techniques import LearningRateRewinding, RetrainingTechnique, check_rewind, shortened
from orchestrator.training.config import TrainingConfig
from orchestrator.training.distillation import Distillation
from orchestrator.validate import dataclass_with, json_options, one_of, text, texts, tuple_of, whole

if TYPE_CHECKING:
    from orchestrator.ofa.subnet import Elastic
    from orchestrator.pruning.channels.graph import ChannelGraph
    from orchestrator.pruning.geometry import Geometry

SMOKE_EPOCHS = 2


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Model + data + task + training + path + selection by a criterion + technique + seed: a frozen value.

    `task`: what the network is for, which is the loss, the metrics and the one that decides. `name` is for people and
    decides nothing. `seeds`: the experiment stands for one replicate with each of them.
    `distillation`: how the dense round teaches every later one; None: it does not.
    `start_from`: a safetensors file of weights that the dense round starts from, and of which only the content counts;
    or "STORAGE#KEY", the final weights of a stored round, of which a supernet gives those of the model's architecture;
    `new_layers`: patterns of the layers that start from the seed all the same (see `load_start_weights`).
    `dense_epochs`: how many epochs of the schedule the dense round trains; None: all of them. 0 only measures a network
    that is trained already. Pruned rounds follow the whole schedule in any case.
    `kinds`: of layers whose weights are pruned, `exclude`: which of these weights are not (see
    `prunable_weights`).
    `quantise`: "int8" has the last round end with quantisation-aware epochs (see `fake_quantised`), a tenth of the
    schedule and its end; the record then says what int8 gives before and after them. Post-training int8 files need none
    of this.
    """

    name: str
    model: str
    data: str
    training: TrainingConfig
    task: Task = field(default_factory=Classification)
    model_options: Mapping[str, Any] = field(default_factory=dict)
    start_from: str | None = None
    new_layers: tuple[str, ...] = ()
    dense_epochs: int | None = None
    data_options: Mapping[str, Any] = field(default_factory=dict)
    path: Path = field(default_factory=Geometric)
    technique: RetrainingTechnique = field(default_factory=LearningRateRewinding)
    distillation: Distillation | None = None
    criterion: str = "magnitude"
    selection: Selection = field(default_factory=Global)
    kinds: tuple[Kind, ...] = DEFAULT_KINDS
    exclude: tuple[str, ...] = ()
    min_kept_per_layer: int = 0
    quantise: Literal["int8"] | None = None
    seed: int = 0
    seeds: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name in ("model", "data", "criterion"):
            text(name, getattr(self, name), way_out='give a name or "package.module:function"')
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", text("name", self.name)):
            raise ConfigError(
                f"name must be 1 to 100 of A-Z a-z 0-9 _ . -, the first a letter or a digit, got {self.name!r}"
            )
        seed = partial(whole, minimum=0, maximum=2**63 - 1)
        seed("seed", self.seed)
        object.__setattr__(self, "seeds", tuple_of("seeds", self.seeds, seed))
        if len(set(self.seeds)) < len(self.seeds):
            raise ConfigError(f"seeds must differ from each other, got {self.seeds}")
        object.__setattr__(self, "exclude", texts("exclude", self.exclude))
        whole("min_kept_per_layer", self.min_kept_per_layer, minimum=0)
        self._check_quantise()
        dataclass_with("task", self.task, ["loss", "count", "metrics"])
        if not self.task.__dataclass_params__.frozen:  # type: ignore[attr-defined]
            raise ConfigError(
                f"task must be a frozen dataclass: write @dataclass(frozen=True) above {type(self.task).__name__}"
            )
        dataclass_with("path", self.path, ["densities"])
        dataclass_with("technique", self.technique, ["start", "start_after", "check", "rewinds_to"])
        check_selection(self.selection)
        if self.start_from is not None:
            text("start_from", self.start_from, way_out="give the path of a safetensors file, or STORAGE#KEY")
        object.__setattr__(self, "new_layers", texts("new_layers", self.new_layers))
        object.__setattr__(self, "kinds", tuple_of("kinds", self.kinds, lambda name, kind: one_of(name, kind, KINDS)))
        if not self.kinds:
            raise ConfigError(f"kinds must hold one or more of {', '.join(KINDS)}, got {self.kinds!r}")
        object.__setattr__(self, "kinds", tuple(kind for kind in KINDS if kind in self.kinds))
        if not isinstance(self.training, TrainingConfig):
            raise ConfigError(f"training must be a TrainingConfig, got {self.training!r}")
        if not isinstance(self.distillation, Distillation | None):
            raise ConfigError(f"distillation must be None or a Distillation, got {self.distillation!r}")
        if self.distillation and not callable(getattr(self.task, "divergence", None)):
            raise ConfigError(
                f"distillation must be None for a task without divergence(), which measures how far a network is from "
                f"its teacher, got {self.distillation!r} for {type(self.task).__name__}"
            )
        self.technique.check(self.training)
        self._check_dense_epochs()
        if self.phases:
            self._check_phases(self.phases)
        for name in ("task", "training", "path", "selection", "technique"):
            _check_json(name, getattr(self, name))
        check_annotations("task", self.task)
        json_options("model_options", self.model_options)
        json_options("data_options", self.data_options)

    def _check_quantise(self) -> None:
        """Raise ConfigError unless there is a pruned round whose training can end with rounding to int8."""
        if self.quantise is None:
            return
        one_of("quantise", self.quantise, ("int8",))
        training = self.training
        if not self.path.densities() or self.phases or training.ema or training.compile or training.precision != "fp32":
            raise ConfigError(
                "quantise needs a path with a pruned round and no Phases, training.precision='fp32', and neither "
                f"training.ema nor training.compile, got {type(self.path).__name__}, {training.precision!r}, "
                f"ema={training.ema} and compile={training.compile}"
            )

    def _check_dense_epochs(self) -> None:
        """Raise ConfigError unless the dense round ends within the schedule and passes what is rewound to."""
        if self.dense_epochs is None:
            return
        way_out = f"training.epochs is {self.training.epochs}"
        whole("dense_epochs", self.dense_epochs, minimum=0, maximum=self.training.epochs, way_out=way_out)
        if (epoch := self.technique.rewinds_to(self.training)) is not None:
            check_rewind(epoch, self.training, self.dense_epochs)

    def technique_of(self, index: int) -> str:
        """Return the name of what makes the weights of a round."""
        if index == 0:
            return "Dense"
        if self.phases:
            return "Phase" if index <= len(self.phases.phases) else "FrontSearch"
        return type(self.technique).__name__

    @property
    def phases(self) -> Phases | None:
        """Return the path, if it makes a supernet of the dense network instead of pruning it."""
        return self.path if isinstance(self.path, Phases) else None

    def _check_phases(self, phases: Phases) -> None:
        """Raise ConfigError unless the phases fit the model and the training."""
        if not self.model.startswith(OFA) or "architecture" in self.model_options:
            raise ConfigError(
                "a path of Phases needs the largest network of a space, model='ofa:SPACE' without an architecture, got "
                f"{self.model!r} with the options {dict(self.model_options)}"
            )
        phases.check(find_space(self.model.removeprefix(OFA)), self.epochs_of_dense_round())
        if self.distillation or self.training.compile:
            raise ConfigError(
                "a path of Phases needs distillation=None, because each phase has its own teacher, and "
                "training.compile=False, because each step runs other networks"
            )
        if not callable(getattr(self.task, "divergence", None)):
            raise ConfigError(f"a path of Phases needs a task with divergence(), got {type(self.task).__name__}")

    def epochs_of_dense_round(self) -> int:
        """Return how many epochs the dense round trains."""
        return self.training.epochs if self.dense_epochs is None else self.dense_epochs

    def replicates(self) -> list[Experiment]:
        """Return one experiment for each of `seeds`; without them, this one."""
        return [dataclasses.replace(self, seed=seed, seeds=()) for seed in self.seeds] or [self]

    def densities(self) -> tuple[float, ...]:
        """Return the density of every round; round 0 is dense."""
        return (1.0, *self.path.densities())

    def shortened(self, *, batch_size: int | None = None, data_options: Mapping[str, Any] | None = None) -> Experiment:
        """Return this experiment as a run of a few minutes through the same code, for --smoke.

        A dense round of SMOKE_EPOCHS epochs, then the first and the last density of the path; the first of the seeds.
        Schedule and technique keep their shape in fewer epochs. The name ends in "-smoke".

        `batch_size`: of a run on less data, see `TrainingConfig.shortened`. `data_options`: added to those it has.
        """
        before, after = self.training.epochs, min(self.training.epochs, SMOKE_EPOCHS)
        densities = self.path.densities()
        path = self.phases.shortened() if self.phases else self.path
        if densities and not self.phases:
            path = Explicit(tuple(dict.fromkeys((densities[0], densities[-1]))))
        return dataclasses.replace(
            self,
            name=f"{self.name[:94]}-smoke",
            training=self.training.shortened(after, batch_size),
            technique=shortened(self.technique, before, after),
            path=path,
            selection=self.selection.shortened(),
            data_options={**self.data_options, **(data_options or {})},
            dense_epochs=None if self.dense_epochs is None else min(self.dense_epochs, after),
            seeds=self.seeds[:1],
        )


def _check_json(name: str, value: Any) -> None:
    """Raise ConfigError unless the fields of `value` are what JSON can hold: they are a part of the keys."""
    try:
        json.dumps(as_json(value), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"the fields of {name} {type(value).__name__} must be numbers, texts, or tuples and dataclasses of them "
            f"({error}): give a name or a number instead"
        ) from None


@dataclass(frozen=True)
class Problem:
    """Hold what is known of model and data before training.

    `prunable` maps each prunable weight tensor to its shape, in parameter order, and `unpruned` every other weight
    tensor to its number of weights. The identities are hashes of the model's structure and constants, and of the
    data's content, and are part of every key. `channels`: which belong together, where the experiment removes whole
    channels. `geometry`: the shapes of the layers, where the selection looks at them. `constants`: digests of the
    model's constants and start weights by name (see `constants_of`).
    `gpu_only`: names of layers that cannot be trained on CPUs. `supernet`: what the phases of a path train.
    """

    prunable: Mapping[str, tuple[int, ...]]
    model_identity: str
    data_identity: str
    objective: Objective
    channels: ChannelGraph | None = None
    geometry: Geometry | None = None
    unpruned: Mapping[str, int] = field(default_factory=dict)
    constants: Mapping[str, str] = field(default_factory=dict)
    gpu_only: tuple[str, ...] = ()
    supernet: Elastic | None = None

    @property
    def sizes(self) -> dict[str, int]:
        """Return how many weights each prunable tensor has."""
        return {name: math.prod(shape) for name, shape in self.prunable.items()}


def round_settings(experiment: Experiment, problem: Problem) -> list[dict[str, Any]]:
    """Return everything that decides each round's result, without the parent (see `round_keys`).

    The dense round leaves out what only later rounds read, so every technique and criterion shares one dense run.
    """
    common = {
        "format": FORMAT,
        "model": experiment.model,
        "model_options": dict(experiment.model_options),
        "model_identity": problem.model_identity,
        "data": experiment.data,
        "data_options": dict(experiment.data_options),
        "data_identity": problem.data_identity,
        "task": as_json(experiment.task),
        "objective": experiment.task.objective,
        "training": as_json(experiment.training),
        "seed": experiment.seed,
    }
    dense = {**common, "round": 0, "density": 1.0, "epochs": experiment.epochs_of_dense_round()}
    if experiment.phases:
        later = _settings_of_phases(experiment.phases)
        return [dense, *({**common, **each, "round": r, "density": 1.0} for r, each in enumerate(later, start=1))]
    pruning = {
        "criterion": experiment.criterion,
        "selection": as_json(experiment.selection),
        "kinds": list(experiment.kinds),
        "exclude": list(experiment.exclude),
        "prunable": list(problem.prunable),  # a model may leave out weights by itself
        "min_kept_per_layer": experiment.min_kept_per_layer,
        "technique": as_json(experiment.technique),
        "distillation": as_json(experiment.distillation),
    }
    if problem.channels is not None:
        pruning["channel_graph"] = problem.channels.identity
    pruned = [{**common, **pruning, "round": r, "density": d} for r, d in enumerate(experiment.densities()) if r]
    if experiment.quantise:
        pruned[-1]["quantise"] = experiment.quantise
    return [dense, *pruned]


def _settings_of_phases(phases: Phases) -> list[dict[str, Any]]:
    """Return what decides each round after the dense one: its phase, or the search and the number of its budget."""
    trained = [{"phase": as_json(phase), "phase_batch_size": phases.batch_size} for phase in phases.phases]
    budgets = range(len(phases.search.limits)) if phases.search else ()
    return [*trained, *({"search": as_json(phases.search), "budget": budget} for budget in budgets)]


def round_keys(settings: list[dict[str, Any]]) -> list[str]:
    """Return one key a round: sha256 over its settings and its parent's key, hence over all rounds before it."""
    keys: list[str] = []
    for setting in settings:
        parent = keys[-1] if keys else None
        text = json.dumps({**setting, "parent": parent}, sort_keys=True, separators=(",", ":"))
        keys.append(hashlib.sha256(text.encode()).hexdigest())
    return keys
