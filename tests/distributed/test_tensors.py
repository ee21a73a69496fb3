"""Tensors in any nesting go through the object store as arrays, and come back as they were."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from orchestrator.distributed.tensors import share, unshare
from orchestrator.pruning.candidate import Score
from orchestrator.train_state import TrainState
from orchestrator.work.scoring import Scored
from orchestrator.work.train import EpochMetrics, Trained

STATE = TrainState({"w": torch.arange(6.0).view(2, 3), "steps": torch.tensor(3)}, {"w/momentum": torch.ones(2, 3)})
TRAINED = Trained(
    state=STATE,
    history=(EpochMetrics(0, 0.1, 2.0, {"loss": 1.0}),),
    test={"loss": 1.5},
    seconds=1.0,
    samples_per_second=2.0,
    snapshots={1: STATE},
)


def test_an_answer_comes_back_with_its_tensors_and_everything_else() -> None:
    shared = share(TRAINED)
    assert all(
        type(value) is np.ndarray for value in (*shared.state.model.values(), *shared.snapshots[1].model.values())
    )
    back = unshare(shared)
    for state in (back.state, back.snapshots[1]):
        torch.testing.assert_close((state.model, state.optimizer), (STATE.model, STATE.optimizer), rtol=0, atol=0)
    assert replace(back, state=STATE, snapshots={1: STATE}) == TRAINED


def test_what_has_no_tensor_or_none_of_a_type_that_numpy_has_is_sent_as_it_is() -> None:
    scored = Scored({"ab": Score(0.5, 1.0)})
    assert unshare(share(scored)) == scored
    half = torch.ones(2, dtype=torch.bfloat16)
    assert share((half, None, "a"))[0] is half
