"""A token beyond the vocabulary ends a job before training, wherever in the data it is."""

from __future__ import annotations

import dataclasses

import any_task
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from orchestrator.data.dataset import Data
from orchestrator.data.load import complete
from orchestrator.errors import ConfigError
from orchestrator.problem import load_problem
from orchestrator.task import Tokens
from orchestrator.token_check import check_tokens


def changed(split: str, place: int, token: int, part: int = 0) -> Data:
    """Return the characters with one token changed in the inputs (part 0) or the targets (part 1) of a split."""
    data = any_task.characters()
    samples = getattr(data, split)
    samples.tensors[part][place, 3] = token
    return complete(data)


class Read(Dataset[tuple[Tensor, Tensor]]):
    """Samples of a TensorDataset, read one by one."""

    def __init__(self, whole: TensorDataset) -> None:
        self.whole = whole

    def __len__(self) -> int:
        return len(self.whole)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.whole[index]


def read(data: Data) -> Data:
    return dataclasses.replace(data, train=Read(data.train), val=Read(data.val), test=Read(data.test))


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize(("split", "token"), [("train", 7), ("val", 9), ("test", -1)])
def test_a_token_beyond_the_vocabulary_is_named_before_training(split: str, token: int, in_memory: bool) -> None:
    data = changed(split, 5, token)
    with pytest.raises(
        ConfigError,
        match=f"the {split} split does not fit the model: token {token} is not in the vocabulary of embedding "
        "'embedding' of model Recurrent, which is 0 to 6: raise the vocabulary in the data's model_arguments",
    ):
        check_tokens(any_task.recurrent(7), data if in_memory else complete(read(data)), Tokens())


def test_a_target_beyond_the_outputs_is_named_before_training() -> None:
    with pytest.raises(
        ConfigError, match=r"Tokens.loss\(\) cannot take the targets of the val split, 0 to 8: IndexErr"
    ):
        check_tokens(any_task.recurrent(7), changed("val", 5, 8, part=1), Tokens())


def test_tokens_in_the_vocabulary_pass_and_leave_the_model_as_it_was() -> None:
    model = any_task.recurrent(7).train()
    check_tokens(model, complete(any_task.characters()), Tokens())
    check_tokens(model, complete(any_task.sequences()), Tokens())
    assert model.training
    assert not any(part._forward_pre_hooks for part in model.modules())


def test_data_of_a_model_without_embeddings_are_not_read() -> None:
    class Unreadable(Read):
        def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
            raise AssertionError

    samples = Unreadable(TensorDataset(torch.zeros(4, 2), torch.zeros(4)))
    check_tokens(nn.Linear(2, 1), Data(samples, samples, samples), any_task.Pinball())


def too_large() -> Data:
    data = any_task.characters()
    data.train.tensors[0][50, 2] = 11
    return data


def test_a_job_ends_before_training() -> None:
    experiment = dataclasses.replace(any_task.EXPERIMENTS["characters"], data="test_token_check:too_large")
    with pytest.raises(ConfigError, match="the train split does not fit the model: token 11 is not in the vocabulary"):
        load_problem(experiment)
