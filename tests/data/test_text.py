"""Text as data: every character, the one after it, and nothing of one part in another."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch

from orchestrator.data.load import load_data
from orchestrator.data.text import UNKNOWN, chars, encode, python_manual, sequences
from orchestrator.errors import DataError, OrchestratorError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """1,000 characters: a counting pattern in training, and a letter that only validation and test have."""
    path = tmp_path / "text.txt"
    path.write_text("abcdefgh" * 100 + "aβ" * 100, encoding="utf-8")
    return path


def test_sequences_and_the_ids_that_come_next() -> None:
    inputs, targets = sequences(torch.arange(11), length=3).tensors
    assert inputs.tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    assert targets.tolist() == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]


@pytest.mark.parametrize(("ids", "count"), [(4, 1), (6, 1), (7, 2)])
def test_the_last_sequence_needs_one_more_character(ids: int, count: int) -> None:
    assert len(sequences(torch.arange(ids), length=3)) == count


def test_characters_are_numbered_in_order_and_unknown_ones_are_0() -> None:
    assert encode("bax?b", ["a", "b", "x"]).tolist() == [2, 1, 3, UNKNOWN, 2]


def test_each_part_is_its_own_stretch_of_the_text(file: Path) -> None:
    data = chars(str(file), length=7)
    names = data.about.labels
    assert names == ("<unknown>", *"abcdefgh")
    assert data.model_arguments == {"vocabulary": 9, "length": 7}
    text = file.read_text(encoding="utf-8").replace("β", "?")
    for split, start, count in (("train", 0, 114), ("val", 800, 14), ("test", 900, 14)):
        inputs, targets = (
            "".join("?" if i == UNKNOWN else names[i] for i in tensor.flatten().tolist())
            for tensor in data.split(split).tensors
        )
        assert inputs == text[start : start + 7 * count]
        assert targets == text[start + 1 : start + 7 * count + 1]


def test_a_part_of_the_text_is_its_beginning(file: Path) -> None:
    data = chars(str(file), length=7, characters=800)
    assert [len(data.split(split)) for split in ("train", "val", "test")] == [91, 11, 11]
    assert all((data.split(split).tensors[0] != UNKNOWN).all() for split in ("train", "val", "test"))


def test_the_manual_repeats_no_paragraph() -> None:
    paragraphs = [" ".join(paragraph.split()) for paragraph in python_manual().split("\n\n")]
    assert len(paragraphs) == len(set(paragraphs)) > 1000


def test_another_text_is_another_identity(file: Path) -> None:
    one = load_data("chars", {"length": 8}, root=str(file)).identity
    assert load_data("chars", {"length": 8}, root=str(file)).identity == one
    file.write_text("abcdefgh" * 100 + "ab" * 100, encoding="utf-8")
    others = [load_data("chars", options, root=str(file)).identity for options in ({"length": 8}, {"length": 7})]
    assert all(a != b for a, b in itertools.combinations([one, *others], 2))


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (None, {}, r"--data of data 'chars' must be a text file in UTF-8, got .*No such file"),
        (b"caf\xe9", {}, "whose byte 3 is not UTF-8: convert it first"),
        (b"a" * 640, {}, "must hold 65 characters, .* got a text of 640: give it 650, or lower length"),
        (b"", {"length": 1}, "must hold 2 characters, .* got a text of 0"),
        (b"a" * 99, {"length": 0}, "length must be a whole number of 1 or more, got 0"),
        (b"a" * 99, {"characters": 0}, "characters must be a whole number of 1 or more, got 0"),
        (b"a" * 99, {"characters": 1.5}, "characters must be .* got 1.5"),
    ],
    ids=["missing", "latin-1", "short", "empty", "no-length", "no-characters", "half-characters"],
)
def test_texts_that_cannot_be_used(tmp_path: Path, content: bytes | None, options: dict, message: str) -> None:
    path = tmp_path / "text.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        chars(str(path), **options)


def test_a_folder_is_not_a_text(tmp_path: Path) -> None:
    with pytest.raises(OrchestratorError, match="cannot be read: Is a directory"):
        chars(str(tmp_path))


def test_650_characters_are_enough_for_sequences_of_64(tmp_path: Path) -> None:
    """And the mark that some editors write at the beginning is not a character."""
    (tmp_path / "text.txt").write_bytes(b"\xef\xbb\xbf" + b"ab" * 325)
    data = load_data("chars", {}, root=str(tmp_path / "text.txt"))
    assert [len(data.split(split)) for split in ("train", "val", "test")] == [8, 1, 1]
    assert data.about.labels == ("<unknown>", "a", "b")
