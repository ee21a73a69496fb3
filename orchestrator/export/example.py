"""Hold real inputs of a network and its outputs for them: files are made from them and checked on them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from orchestrator.data.dataset import About, Data
from orchestrator.errors import ExportError
from orchestrator.export.agreement import Agreement
from orchestrator.export.arrays import Array, is_finite
from orchestrator.export.converting import first_cause
from orchestrator.export.describing import check_nesting, describe, input_names, nesting_of, output_names, readable
from orchestrator.export.flat import tensors_in
from orchestrator.export.interface import BATCH, Call
from orchestrator.export.nesting import Nesting, put_together
from orchestrator.export.real_samples import inputs_of_other_sizes
from orchestrator.model_check import shapes
from orchestrator.modules import logits_of, model_call
from orchestrator.nested import concatenated, number_of_samples, rows, tensors_of
from orchestrator.randomness import own_randomness
from orchestrator.task import Task
from orchestrator.user_code import called


@dataclass(frozen=True)
class ExampleInputs:
    """Hold inputs as the network takes them: real ones, such as the first batch of the test set.

    A batch is any nesting of tensors whose first dimension counts samples: a tensor, a tuple of arguments, or a dict of
    named ones. `others`: more such batches. A size in which they differ, such as the length of a text, is free in the
    files; the number of samples always is. `about`: what the files say besides. `task`: what the network is for, which
    decides which of several outputs must agree; None: the logits, or all outputs of a network without logits.
    """

    inputs: Any
    others: tuple[Any, ...] = ()
    about: About = field(default_factory=About)
    task: Task | None = None

    @staticmethod
    def of(data: Data, task: Task | None = None) -> ExampleInputs:
        """Return the example of `data`, with batches of other sizes from the training and the test set."""
        return ExampleInputs(data.inputs, inputs_of_other_sizes(data), data.about, task)

    def batches(self) -> list[Any]:
        """Return two samples or more, the first of them alone, and batches of other sizes.

        Raises ExportError for inputs without samples.
        """
        samples = number_of_samples(self.inputs)
        if samples < 1:
            raise ExportError("example must hold tensors whose first dimension counts samples, got none")
        several = self.inputs if samples > 1 else concatenated([self.inputs, self.inputs])
        return [several, rows(self.inputs, 0, 1), *self.others]


@dataclass(frozen=True)
class Observed:
    """Hold the tensors that went into a network and came out, for each batch of an example."""

    call: Call
    inputs: list[list[Tensor]]
    outputs: list[list[Array]]

    @property
    def to_trace(self) -> list[Tensor]:
        """Return inputs of which no free size is 1, which torch.export would take for a constant."""
        free = [(place, axis) for place, info in enumerate(self.call.interface.inputs) for axis in info.free]
        found = (batch for batch in self.inputs if all(batch[place].shape[axis] > 1 for place, axis in free))
        return next(found, self.inputs[0])

    def error_of(self, run: Callable[[list[Tensor]], list[Array]]) -> float:
        """Return how far the outputs of `run`, which is called with the inputs of each batch, are from those observed.

        Raises ExportError for outputs of other shapes.
        """
        agreement = Agreement()
        for inputs, expected in zip(self.inputs, self.outputs, strict=True):
            agreement.add(self.call.read_of(run(inputs)), self.call.read_of(expected))
        return agreement.error

    @property
    def one_sample(self) -> list[Tensor]:
        """Return the inputs of the first sample, for files that take one at a time.

        Raises ExportError where samples have different sizes.
        """
        for info in self.call.interface.inputs:
            if free := [axis for axis in info.free.values() if axis != BATCH]:
                raise ExportError(
                    f"the sizes of its inputs must be fixed in such a file, but {info.name} has {', '.join(free)} "
                    "free: have the data's collate pad every sample to one size"
                )
        return self.inputs[1]


def observe(module: nn.Module, example: ExampleInputs) -> Observed:
    """Call `module`, which computes in float32 and in evaluation mode, with each batch of the example.

    Raises ExportError for a network that does not take it, whose outputs no file can hold, or that are not finite.
    """
    batches = example.batches()
    takes = nesting_of(batches[0])
    for batch in batches:
        check_nesting(batch, takes, "inputs")
    inputs = [tensors_in(batch) for batch in batches]
    returned = [_answer(module, put_together(takes, tensors)) for tensors in inputs]
    outputs = [tensors_in(each) for each in returned]
    if not outputs[0]:
        raise ExportError(f"{type(module).__name__} must return a tensor or several, got none")
    returns = nesting_of(returned[0])
    for each in returned:
        check_nesting(each, returns, "outputs")
    names = input_names(module, batches[0])
    interface = describe(
        (names, output_names(returned[0], names)),
        inputs,
        outputs,
        [number_of_samples(batch) for batch in batches],
        example.about,
    )
    call = Call(interface, takes, returns, _read(example.task, returns, outputs[0]))
    arrays = [[tensor.numpy() for tensor in each] for each in outputs]
    if not all(is_finite(call.read_of(each)) for each in arrays):
        raise ExportError("the network answers NaN or infinity to its example: it is of no use as a file")
    return Observed(call, inputs, arrays)


@torch.no_grad()
def _answer(module: nn.Module, inputs: Any) -> Any:
    try:
        with own_randomness():
            outputs = model_call(module, inputs)
    except Exception as error:
        raise ExportError(
            f"{type(module).__name__} cannot be exported: it does not take {shapes(inputs)} ({first_cause(error)})"
        ) from error
    return readable(outputs)


def _read(task: Task | None, returns: Nesting, outputs: Sequence[Tensor]) -> tuple[int, ...]:
    """Return which of the outputs the task reads; all floating-point ones if it makes something else of them."""
    whole = put_together(returns, outputs)
    reads = getattr(task, "outputs", None)
    if reads is not None:
        with called(f"{type(task).__name__}.outputs(), called with the outputs of the network,", reads):
            whole = reads(whole)
    elif task is None:
        with contextlib.suppress(ExportError):
            whole = logits_of(whole, ExportError)
    ids = {id(tensor) for _, tensor in tensors_of(whole)}
    found = [place for place, tensor in enumerate(outputs) if id(tensor) in ids and tensor.is_floating_point()]
    floating = [place for place, tensor in enumerate(outputs) if tensor.is_floating_point()]
    return tuple(found or floating or range(len(outputs)))
