"""Text models go through whole paths in one process: what they learn, how many weights stay, and their objective."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest

from orchestrator.data.dataset import Data
from orchestrator.data.lexicon import lexicon
from orchestrator.experiment import Experiment
from orchestrator.pruning import Explicit
from orchestrator.runner import run
from orchestrator.schedules import Cosine
from orchestrator.task import Tokens
from orchestrator.techniques import LearningRateRewinding, LinearRestart, RetrainingTechnique
from orchestrator.text_task import Transcription
from orchestrator.training.config import TrainingConfig
from orchestrator.training.optimizer import AdamW

TRAINING = TrainingConfig(
    epochs=4, batch_size=8, schedule=Cosine(2e-2, warmup_epochs=1), optimizer=AdamW(), clip_norm=1.0
)
CHARS = Experiment(
    name="chars",
    model="char_gru",
    model_options={"width": 16},
    data="chars",
    data_options={"length": 8},
    task=Tokens(unit="character"),
    training=TRAINING,
    path=Explicit((0.5,)),
)


def spelled() -> Data:
    """Words of four letters that are spoken as they are written, but for a silent e."""
    phones = {"b": ["B"], "d": ["D"], "k": ["K"], "t": ["T"], "s": ["S"], "e": []}
    words = ["".join((one, two, three, four)) for one in phones for two in phones for three in "bdk" for four in "ste"]
    return lexicon([(word, [phone for letter in word for phone in phones[letter]]) for word in words])


WORDS = dataclasses.replace(
    CHARS,
    name="words",
    model="g2p_gru",
    data="test_text_rounds:spelled",
    data_options={},
    task=Transcription(),
    training=dataclasses.replace(TRAINING, epochs=5, batch_size=16, schedule=Cosine(4e-2, warmup_epochs=1)),
)


@pytest.mark.parametrize("technique", [LearningRateRewinding(), LinearRestart(2)], ids=["rewind", "restart"])
@pytest.mark.parametrize(("model", "options"), [("char_gru", {}), ("char_transformer", {"heads": 2, "depth": 1})])
def test_half_of_a_language_model_knows_what_comes_next(
    tmp_path: Path, model: str, options: dict, technique: RetrainingTechnique
) -> None:
    """All eight letters are equally frequent, which is 3 bits; each tells the next, which is 0 bits."""
    (tmp_path / "text").write_text("abcdefgh" * 150)
    experiment = dataclasses.replace(CHARS, model=model, model_options={"width": 16, **options}, technique=technique)
    dense, pruned = run(experiment, str(tmp_path / "runs"), data=str(tmp_path / "text"))
    assert pruned.kept == round(0.5 * dense.prunable)
    assert dense.objective.name == "bits_per_character"
    for record in (dense, pruned):
        assert record.test == pytest.approx(record.metrics["test_loss"] / math.log(2))
        assert record.test < 1.0


def test_half_of_a_transcriber_speaks_new_words(tmp_path: Path) -> None:
    dense, pruned = run(WORDS, str(tmp_path / "runs"))
    assert pruned.kept == round(0.5 * dense.prunable)
    assert dense.objective.name == "phone_error_rate"
    for record in (dense, pruned):
        assert record.test < 0.25
        assert record.metrics["test_sequence_error_rate"] >= record.test
