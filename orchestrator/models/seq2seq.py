"""Map a sequence to another of a different length, with an encoder, and a decoder with attention."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from orchestrator.models.language import initialise_gru
from orchestrator.validate import fraction, whole


@dataclass(frozen=True)
class Transcript:
    """What the model returns in evaluation mode: logits, each given the true ids before it, and its own transcript.

    `decode()` returns the ids (n, steps) that the model chooses by itself. It is a function because it costs as much as
    all the rest, and a loss does not need it.
    """

    logits: Tensor
    decode: Callable[[], Tensor]


class Memory(NamedTuple):
    """What the decoder knows of the letters: a vector of each (n, letters, 2 width), its key, and which are padding."""

    values: Tensor
    keys: Tensor
    padding: Tensor


class AttentionTranscriber(nn.Module):
    """Letters to phones: a GRU encoder in both directions, and a GRU decoder with attention (Luong et al. 2015).

    It is called with `letters` (n, letters) and `before` (n, phones), the phone before each that is to be predicted. In
    training it returns logits (n, phones, number of phones), in evaluation a `Transcript`. Padding at the end of a
    sequence changes nothing before it. `longest`: after how many phones a transcript ends in any case.
    """

    def __init__(
        self,
        letters: int,
        phones: int,
        pad: int,
        end: int,
        width: int = 128,
        dropout: float = 0.0,
        longest: int = 32,
    ) -> None:
        super().__init__()
        whole("width", width, minimum=1)
        fraction("dropout", dropout, zero=True)
        self.pad, self.end, self.longest = pad, end, whole("longest", longest, minimum=1)
        self.letters = nn.Embedding(letters, width)
        self.forwards = nn.GRU(width, width, batch_first=True)
        self.backwards = nn.GRU(width, width, batch_first=True)
        self.first_state = nn.Linear(2 * width, width)
        self.keys = nn.Linear(2 * width, width, bias=False)
        self.phones = nn.Embedding(phones, width)
        self.decoder = nn.GRU(width, width, batch_first=True)
        self.attended = nn.Linear(3 * width, width)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, phones)
        for gru in (self.forwards, self.backwards, self.decoder):
            initialise_gru(gru)
        for layer in (self.first_state, self.keys, self.attended, self.head):
            nn.init.xavier_uniform_(layer.weight)

    def forward(self, letters: Tensor, before: Tensor) -> Tensor | Transcript:
        memory, state = self.encode(letters)
        logits, _ = self.step(before, state, memory)
        return logits if self.training else Transcript(logits, partial(self.decode, memory, state))

    def encode(self, letters: Tensor) -> tuple[Memory, Tensor]:
        """Return what the decoder attends to, and its first state (1, n, width).

        The second GRU reads each word from its own last letter to its first, so that it never begins with padding.
        """
        padding = letters == self.pad
        lengths = (~padding).sum(1, keepdim=True)
        places = torch.arange(letters.shape[1], device=letters.device)
        reverse = torch.where(padding, places, lengths - 1 - places)  # padding stays where it is
        embedded = self.dropout(self.letters(letters))
        there, _ = self.forwards(embedded)
        back, _ = self.backwards(_ordered(embedded, reverse))
        last = (lengths - 1).clamp(min=0)
        ends = torch.cat([_ordered(there, last), _ordered(back, last)], dim=2)
        values = torch.cat([there, _ordered(back, reverse)], dim=2)
        state = torch.tanh(self.first_state(ends)).transpose(0, 1).contiguous()
        return Memory(values, self.keys(values), padding), state

    def step(self, before: Tensor, state: Tensor, memory: Memory) -> tuple[Tensor, Tensor]:
        """Read the phones `before` (n, steps); return the logits after each, and the decoder's state after the last."""
        hidden, state = self.decoder(self.dropout(self.phones(before)), state)
        scores = (hidden @ memory.keys.transpose(1, 2)).masked_fill(memory.padding[:, None], -torch.inf)
        context = F.softmax(scores / memory.keys.shape[2] ** 0.5, dim=2) @ memory.values
        mixed = torch.tanh(self.attended(torch.cat([hidden, context], dim=2)))
        return self.head(self.dropout(mixed)), state

    @torch.no_grad()
    def decode(self, memory: Memory, state: Tensor) -> Tensor:
        """Return the likeliest phone after those chosen so far, again and again, up to `end`: ids (n, steps).

        It computes in the precision of the weights; `memory` and `state` may have another one.
        """
        exact = self.head.weight.dtype
        memory, state = memory._replace(values=memory.values.to(exact), keys=memory.keys.to(exact)), state.to(exact)
        ids = torch.full((state.shape[1], 1), self.end, device=state.device)
        ended = torch.zeros_like(ids, dtype=torch.bool)
        chosen: list[Tensor] = []
        while len(chosen) < self.longest and not ended.all():
            logits, state = self.step(ids, state, memory)
            ids = logits.argmax(2).masked_fill(ended, self.pad)
            ended = ended | (ids == self.end)
            chosen.append(ids)
        return torch.cat(chosen, dim=1)


def _ordered(vectors: Tensor, places: Tensor) -> Tensor:
    """Return the vectors (n, length, width) at `places` (n, any number)."""
    return vectors.gather(1, places[:, :, None].expand(-1, -1, vectors.shape[2]))
