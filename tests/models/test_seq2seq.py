"""Encoder and decoder with attention: padding changes nothing, and greedy decoding follows its own choices."""

from __future__ import annotations

import pytest
import torch

from orchestrator.errors import ConfigError
from orchestrator.models.build import build_model
from orchestrator.models.seq2seq import AttentionTranscriber, Transcript
from orchestrator.pruning import prunable_weights
from orchestrator.text_task import Transcription

PAD, END = 0, 1
LETTERS = torch.tensor([[3, 4, 2, 5], [5, 2, PAD, PAD]])
TARGETS = torch.tensor([[4, 3, 2, END], [2, END, PAD, PAD]])
BEFORE = torch.tensor([[END, 4, 3, 2], [END, 2, END, PAD]])


def build(**options: object) -> AttentionTranscriber:
    arguments = {"letters": 7, "phones": 6, "pad": PAD, "end": END}
    return build_model("g2p_gru", {"width": 8, **options}, arguments, seed=0)


def forced(model: AttentionTranscriber, letters: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
    return model(letters=letters, before=before).logits


def test_training_gives_logits_and_evaluation_a_transcript_too() -> None:
    model = build()
    assert model(LETTERS, BEFORE).shape == (2, 4, 6)
    transcript = model.eval()(LETTERS, BEFORE)
    assert isinstance(transcript, Transcript)
    assert transcript.logits.shape == (2, 4, 6)
    assert transcript.decode().shape[0] == 2


def test_padding_changes_neither_logits_nor_losses_nor_transcripts() -> None:
    model, task = build().eval(), Transcription()
    both = model(letters=LETTERS, before=BEFORE)
    alone = model(letters=LETTERS[1:, :2], before=BEFORE[1:, :2])
    torch.testing.assert_close(both.logits[1:, :2], alone.logits)
    one = model(letters=LETTERS[:1], before=BEFORE[:1])
    loss = task.loss(one, TARGETS[:1]) + task.loss(alone, TARGETS[1:, :2])
    torch.testing.assert_close(task.loss(both, TARGETS), loss)
    assert task.count(TARGETS) == 6
    decoded, steps = both.decode()[1:], alone.decode().shape[1]
    assert decoded[:, :steps].equal(alone.decode())
    assert (decoded[:, steps:] == PAD).all()


def test_a_later_phone_changes_nothing_before_it() -> None:
    model, changed = build().eval(), BEFORE.clone()
    changed[:, 2] = 5
    torch.testing.assert_close(forced(model, LETTERS, changed)[:, :2], forced(model, LETTERS, BEFORE)[:, :2])
    assert not torch.allclose(forced(model, LETTERS, changed)[:, 2:], forced(model, LETTERS, BEFORE)[:, 2:])


def test_both_directions_read_the_word() -> None:
    """The first logits see the last letter, and the state after a word of two letters its first one."""
    model = build().eval()
    for place in (0, 1):
        changed = LETTERS.clone()
        changed[1, place] = 6
        assert not torch.allclose(forced(model, changed, BEFORE)[1, 0], forced(model, LETTERS, BEFORE)[1, 0])


@pytest.mark.parametrize("seed", range(3))
def test_greedy_decoding_is_the_likeliest_phone_after_those_before(seed: int) -> None:
    """What it decodes, given back to it as the true phones, is the likeliest again, up to and with the end."""
    torch.manual_seed(seed)
    model = build(longest=9).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    decoded = model(LETTERS, BEFORE).decode()
    before = torch.nn.functional.pad(decoded[:, :-1], (1, 0), value=END)
    likeliest = forced(model, LETTERS, before).argmax(2)
    for row, wanted in zip(decoded.tolist(), likeliest.tolist(), strict=True):
        end = row.index(END) + 1 if END in row else len(row)
        assert row[:end] == wanted[:end]
        assert row[end:] == [PAD] * (len(row) - end)


def test_it_decodes_what_was_encoded_in_less_precision() -> None:
    """Metrics are updated outside of the context in which bf16 models are called."""
    model = build().eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        transcript = model(LETTERS, BEFORE)
    assert transcript.logits.dtype == torch.bfloat16
    assert transcript.decode().equal(model(LETTERS, BEFORE).decode())


def test_decoding_ends_at_the_longest_or_where_every_word_has_ended() -> None:
    model = build(longest=5).eval()
    with torch.no_grad():
        model.head.bias[3] = 1e6
        assert model(LETTERS, BEFORE).decode().tolist() == [[3] * 5] * 2
        model.head.bias[END] = 1e7
        assert model(LETTERS, BEFORE).decode().tolist() == [[END]] * 2


def test_all_weights_but_the_embeddings_are_prunable() -> None:
    w = 8
    grus, others = 3 * 6 * w * w, (2 + 2 + 3 + 0) * w * w + 6 * w
    assert sum(weight.numel() for weight in prunable_weights(build()).values()) == grus + others


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, "width must be a whole number of 1 or more, got 0"),
        ({"longest": 0}, "longest must be a whole number of 1 or more, got 0"),
        ({"dropout": -0.1}, r"dropout must be a number in \[0, 1\), got -0.1"),
    ],
)
def test_each_mistake_has_its_sentence(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(**options)
