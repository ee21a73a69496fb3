"""Transcripts are measured by the edits that they need, counted by hand here."""

from __future__ import annotations

import pytest
import torch

from orchestrator.errors import ConfigError
from orchestrator.models.seq2seq import Transcript
from orchestrator.objective import Objective
from orchestrator.task import objective_of
from orchestrator.text_task import Transcription, edit_distance, until


@pytest.mark.parametrize(
    ("one", "other", "edits"),
    [
        ("", "", 0),
        ("abc", "abc", 0),
        ("", "abc", 3),
        ("abc", "", 3),
        ("abc", "abd", 1),
        ("abc", "ac", 1),
        ("ac", "abc", 1),
        ("ab", "ba", 2),
        ("kitten", "sitting", 3),
        ("sunday", "saturday", 3),
        ("intention", "execution", 5),
    ],
)
def test_edit_distance(one: str, other: str, edits: int) -> None:
    assert edit_distance(list(map(ord, one)), list(map(ord, other))) == edits


@pytest.mark.parametrize(("ids", "expected"), [([5, 6, 1, 7, 1], [5, 6]), ([1], []), ([], []), ([2, 0], [2, 0])])
def test_a_sequence_ends_before_the_first_end(ids: list[int], expected: list[int]) -> None:
    assert until(1, ids) == expected


TARGETS = torch.tensor([[4, 5, 6, 1], [7, 8, 1, 0], [9, 1, 0, 0]])  # 3 + 2 + 1 phones


def measured(task: Transcription, *decoded: list[list[int]]) -> dict[str, float]:
    """Return the metrics after a batch for each of `decoded`."""
    metrics = task.metrics()
    for ids in decoded:
        outputs = task.outputs(Transcript(torch.zeros(3, 4, 10), lambda ids=ids: torch.tensor(ids)))
        for metric in metrics.values():
            metric.update(outputs, TARGETS)
    return {name: float(metric.compute()) for name, metric in metrics.items()}


@pytest.mark.parametrize(
    ("decoded", "edits", "wrong"),
    [
        ([[4, 5, 6, 1], [7, 8, 1, 0], [9, 1, 0, 0]], 0, 0),
        ([[4, 5, 1], [7, 8, 1], [9, 1, 0]], 1, 1),
        ([[4, 5, 6, 1, 0], [8, 7, 1, 0, 0], [9, 9, 9, 9, 9]], 0 + 2 + 4, 2),
        ([[1], [1], [1]], 6, 3),
    ],
)
def test_error_rates(decoded: list[list[int]], edits: int, wrong: int) -> None:
    expected = {"phone_error_rate": edits / 6, "sequence_error_rate": wrong / 3}
    assert measured(Transcription(), decoded) == pytest.approx(expected)


def test_a_rate_is_that_of_all_batches_together() -> None:
    right, empty = TARGETS.tolist(), [[1], [1], [1]]
    assert measured(Transcription(), right, empty, empty)["phone_error_rate"] == pytest.approx(2 / 3)


def test_the_unit_is_in_the_name_of_the_objective_and_lower_is_better() -> None:
    assert objective_of(Transcription()) == Objective("phone_error_rate", higher_is_better=False, fraction=True)
    assert objective_of(Transcription(unit="word")).name == "word_error_rate"


def test_a_model_that_does_not_decode_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"object with logits and decode\(\) in evaluation mode, got Tensor"):
        Transcription().outputs(torch.zeros(1, 2, 3))
