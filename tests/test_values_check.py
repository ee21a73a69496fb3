"""A token, a class or a count that a few samples alone show to be wrong ends a job before training."""

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
from orchestrator.model_check import check_model
from orchestrator.problem import load_problem
from orchestrator.task import Classification, Regression, Segmentation, Task, Tokens
from orchestrator.values_check import check_values


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
        check_values(any_task.recurrent(7), data if in_memory else complete(read(data)), Tokens())


def test_a_target_beyond_the_outputs_is_named_before_training() -> None:
    with pytest.raises(
        ConfigError, match=r"Tokens.loss\(\) cannot take the targets of the val split, 0 to 8: IndexErr"
    ):
        check_values(any_task.recurrent(7), changed("val", 5, 8, part=1), Tokens())


def flowers(place: int, kind: int) -> Data:
    """Return samples of three classes, one of which is of another class; the data do not say how many there are."""
    targets = torch.tensor([0, 1, 2, 0])
    targets[place] = kind
    samples = TensorDataset(torch.randn(4, 5), targets)
    return Data(samples, samples, samples)


@pytest.mark.parametrize(
    ("task", "model", "data", "words"),
    [
        (Classification(), nn.Linear(5, 3), flowers(1, 7), "0 to 7: .*Target 7 is out of"),
        (Classification(0.1), nn.Linear(5, 3), flowers(0, -1), "-1 to 1: .*Target -1 is out of"),
        (Tokens(), any_task.recurrent(7), changed("train", 0, 8, part=1), "0 to 8: .*Target 8 is out of"),
        (Segmentation(), any_task.segmenter(2), any_task.regions(), "0 to 255: .*Target 2 is out of"),
    ],
)
def test_a_class_beyond_the_outputs_among_the_first_samples(
    task: Task, model: nn.Module, data: Data, words: str
) -> None:
    rule = (
        rf"^{type(task).__name__}.loss\(\) cannot take the targets of the first samples, {words}.*; give the model an"
    )
    with pytest.raises(ConfigError, match=rule):
        check_model(model, complete(data), task)


def test_a_class_beyond_the_outputs_where_the_data_do_not_count_classes() -> None:
    with pytest.raises(
        ConfigError, match=r"Classification.loss\(\) cannot take the targets of the train split, 0 to 7:"
    ):
        check_values(nn.Linear(5, 3), complete(flowers(3, 7)), Classification())


def test_tokens_in_the_vocabulary_pass_and_leave_the_model_as_it_was() -> None:
    model = any_task.recurrent(7).train()
    check_values(model, complete(any_task.characters()), Tokens())
    check_values(model, complete(any_task.sequences()), Tokens())
    assert model.training
    assert not any(part._forward_pre_hooks for part in model.modules())


def test_data_of_a_model_without_embeddings_are_not_read() -> None:
    class Unreadable(Read):
        def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
            raise AssertionError

    samples = Unreadable(TensorDataset(torch.zeros(4, 2), torch.zeros(4)))
    check_values(nn.Linear(2, 1), Data(samples, samples, samples), any_task.Pinball())


# Classes of pixels.


def with_class(split: str, pixel: int, in_memory: bool) -> Data:
    """Return images of three classes, two of whose pixels in sample 5 of a split are of another one."""
    data = any_task.regions()
    getattr(data, split).tensors[1][5, 3, 2:4] = pixel
    return complete(data if in_memory else read(data))


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_class_of_a_pixel_beyond_the_outputs_is_named_before_training(split: str, in_memory: bool) -> None:
    """Though pixels that are ignored have a larger number."""
    with pytest.raises(
        ConfigError,
        match=rf"Segmentation.loss\(\) cannot take the targets of the {split} split, 0 to 255: .*Target 3 is out of",
    ):
        check_values(any_task.segmenter(3), with_class(split, 3, in_memory), Segmentation())


@pytest.mark.parametrize("in_memory", [True, False])
def test_pixels_of_known_classes_pass(in_memory: bool) -> None:
    check_values(any_task.segmenter(3), with_class("val", 2, in_memory), Segmentation())


@pytest.mark.parametrize("kind", [torch.uint8, torch.uint16, torch.int32])
@pytest.mark.parametrize("ignore", [255, -100])
def test_classes_of_any_whole_numbers_are_looked_at(kind: torch.dtype, ignore: int) -> None:
    targets = torch.zeros(4, 6, 6, dtype=torch.int64)
    targets[0], targets[2, 1, 1] = ignore if ignore > 0 else 1, 3
    samples = TensorDataset(torch.zeros(4, 1, 6, 6), targets.to(kind))
    data = complete(read(Data(samples, samples, samples)))
    with pytest.raises(ConfigError, match="Target 3 is out of bounds"):
        check_values(any_task.segmenter(3), data, Segmentation(ignore))


# Counts.


def ignored(split: str, in_memory: bool) -> Data:
    """Return images of which a split has ignored pixels alone."""
    data = any_task.regions()
    getattr(data, split).tensors[1].fill_(255)
    return complete(data if in_memory else read(data))


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize(("split", "samples"), [("train", 64), ("val", 16), ("test", 17)])
def test_a_split_that_counts_nothing_ends_a_job_before_training(split: str, samples: int, in_memory: bool) -> None:
    with pytest.raises(
        ConfigError,
        match=rf"Segmentation.count\(\) must be above 0 over the {split} split, got 0 for all {samples} samples: look",
    ):
        check_values(any_task.segmenter(3), ignored(split, in_memory), Segmentation())


@dataclasses.dataclass(frozen=True)
class CountsNothing(Regression):
    def count(self, targets: Tensor) -> Tensor:
        return torch.zeros(())


def test_first_samples_of_a_large_split_that_count_nothing_are_a_warning_as_later_ones_may_count(caplog) -> None:
    samples = Read(TensorDataset(torch.zeros(300, 2), torch.zeros(300)))
    check_values(nn.Linear(2, 1), complete(Data(samples, samples, samples)), CountsNothing())
    assert "must be above 0 over the train split, got 0 for the first 256 samples: look at the targets" in caplog.text


def test_a_batch_that_counts_nothing_may_be_among_others() -> None:
    data = any_task.regions()
    data.train.tensors[1][:40] = 255
    check_values(any_task.segmenter(3), complete(data), Segmentation())


def test_counting_changes_no_sample() -> None:
    data = dataclasses.replace(complete(any_task.regions()), prepare=Doubles())
    before = data.train.tensors[0].clone()
    check_values(any_task.segmenter(3), data, Segmentation())
    assert torch.equal(data.train.tensors[0], before)


@dataclasses.dataclass(frozen=True)
class Doubles:
    draws = 0

    def __call__(self, inputs: Tensor, targets: Tensor, u: Tensor | None) -> tuple[Tensor, Tensor]:
        return inputs.mul_(2), targets


def too_large() -> Data:
    data = any_task.characters()
    data.train.tensors[0][50, 2] = 11
    return data


def test_a_job_ends_before_training() -> None:
    experiment = dataclasses.replace(any_task.EXPERIMENTS["characters"], data="test_values_check:too_large")
    with pytest.raises(ConfigError, match="the train split does not fit the model: token 11 is not in the vocabulary"):
        load_problem(experiment)
