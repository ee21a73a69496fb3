"""Measure networks to export, as torch computes them: their files are compared with these results."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from orchestrator.data.dataset import Data
from orchestrator.errors import ExportError
from orchestrator.export.arrays import Array
from orchestrator.export.batch_norm import in_float32
from orchestrator.export.example import ExampleInputs, Observed, observe
from orchestrator.export.flat import arrays_out, tensors_in
from orchestrator.export.measure import DataSource
from orchestrator.export.meter import keep_outputs, metrics_of
from orchestrator.export.proof import Facts
from orchestrator.export.real_samples import first_inputs
from orchestrator.export.runtimes import Code
from orchestrator.modules import model_call
from orchestrator.objective import Objective
from orchestrator.pruning.channels.graph import Kept
from orchestrator.pruning.macs import count_macs
from orchestrator.structures import own_class
from orchestrator.task import Task, objective_of
from orchestrator.training.state import model_tensors


@dataclass(frozen=True)
class Candidate:
    """Hold a network to export: `model` and `options` build its architecture, `origin` is what the ledger says of it.

    `example`: real inputs. `arguments`: what the data tells the model's function. `channels`: the configuration of
    those that are left, {} if all are. `structure`: the fields of a structure of your own, as a record has them.
    """

    name: str
    module: nn.Module
    model: str
    options: Mapping[str, Any]
    example: ExampleInputs
    arguments: Mapping[str, Any] = field(default_factory=dict)
    channels: Kept = field(default_factory=dict)
    structure: Mapping[str, Any] | None = None
    origin: Mapping[str, Any] = field(default_factory=dict)

    @property
    def code(self) -> Code:
        """Return the names of what builds the network from a packed file."""
        return Code(self.model, own_class(self.structure))


@dataclass(frozen=True)
class TestSet:
    """Hold the data, and the task that says how good a network is on them."""

    source: DataSource
    data: Data
    task: Task
    objective: Objective

    @staticmethod
    def of(source: DataSource) -> TestSet:
        task = source.load_task()
        return TestSet(source, source.load(), task, objective_of(task))


@dataclass(frozen=True)
class Original:
    """Hold what torch computes of a candidate: its files are compared with this.

    `sample`: the inputs of one sample, for speed. `expected`: a folder with its outputs on the test set.
    """

    candidate: Candidate
    test_set: TestSet | None
    observed: Observed
    sample: Sequence[Array]
    metrics: Mapping[str, float]
    expected: Path

    @staticmethod
    @contextlib.contextmanager
    def of(candidate: Candidate, test_set: TestSet | None) -> Iterator[Original]:
        """Measure a candidate; its outputs are kept while the block lasts.

        Raises ExportError for a network that does not take its example, or answers what is not finite.
        """
        module = in_float32(candidate.module)
        observed = observe(module, candidate.example)
        one = tensors_in(first_inputs(test_set.data)) if test_set else observed.inputs[1]
        sample = [tensor.numpy() for tensor in one]
        with tempfile.TemporaryDirectory() as folder:
            metrics = _metrics(candidate.name, module, observed, test_set, Path(folder)) if test_set else {}
            yield Original(candidate, test_set, observed, sample, metrics, Path(folder))

    @property
    def objective(self) -> Objective | None:
        return self.test_set.objective if self.test_set else None

    def test(self, metrics: Mapping[str, float]) -> float | None:
        """Return the objective among `metrics`, None where it is not finite."""
        return metrics.get(self.objective.name) if self.objective else None

    def facts(self) -> Facts:
        """Return its sizes and its metrics."""
        candidate = self.candidate
        parameters = list(candidate.module.parameters())  # a shared one once
        call, inputs = self.observed.call, self.observed.inputs[0]
        macs = count_macs(in_float32(candidate.module), call.inputs(inputs))
        return Facts(
            name=candidate.name,
            parameters=sum(parameter.numel() for parameter in parameters),
            nonzero=sum(int(parameter.count_nonzero()) for parameter in parameters),
            raw_bytes=sum(tensor.nbytes for tensor in model_tensors(candidate.module).values()),
            macs=macs.dense,
            effective_macs=macs.effective,
            objective=self.objective,
            metrics=self.metrics,
            origin=dict(candidate.origin),
        )


def _metrics(name: str, module: nn.Module, observed: Observed, test_set: TestSet, folder: Path) -> dict[str, float]:
    """Return the metrics of a network and keep its outputs. Raises ExportError where they are not finite."""

    @torch.inference_mode()
    def run(arrays: Sequence[Array]) -> list[Array]:
        inputs = observed.call.inputs([torch.from_numpy(array) for array in arrays])
        return arrays_out(model_call(module, inputs))

    metrics = metrics_of(run, observed.call, test_set.data, test_set.task, keep_outputs(folder))
    if not metrics:
        raise ExportError(f"{name} answers NaN or infinity to test samples: it is of no use as a file")
    if test_set.objective.name not in metrics:
        raise ExportError(f"{name} has no finite {test_set.objective.name} on the test set: it is of no use as a file")
    return metrics
