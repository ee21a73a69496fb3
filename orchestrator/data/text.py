"""Load text as data for a character language model: sequences of characters, and the characters that come next."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from orchestrator.data.dataset import About, Data
from orchestrator.errors import DataError
from orchestrator.validate import whole

UNKNOWN = 0  # the id of every character that the training part does not have
TENTHS = (8, 9)  # of the text: training ends after the first, validation after the second


def chars(root: str | None = None, length: int = 64, characters: int | None = None) -> Data:
    """Return a text as sequences of `length` characters, 80 / 10 / 10 % of it in train, val and test.

    A sample is (ids (length,), ids of the next characters (length,)), int64. Each part is contiguous text, cut into
    sequences that follow each other; no sequence reaches into another part, and what is left at the end of a part is
    not used. Id 0 stands for every character that does not occur in the training part; the others are numbered in the
    order of their code points. The model's function may take `vocabulary`, the number of ids, and `length`.

    `root`: a text file in UTF-8; None is Python's own reference manual (see `python_manual`). `characters`: use only so
    many of the text's characters, its first. Raises DataError for a file that cannot be read and a text that is too
    short.
    """
    whole("length", length, minimum=1, error=DataError)
    text = python_manual() if root is None else read_text(root)
    if characters is not None:
        text = text[: whole("characters", characters, minimum=1, error=DataError)]
    first, second = (len(text) * tenths // 10 for tenths in TENTHS)
    parts = (text[:first], text[first:second], text[second:])
    if min(map(len, parts)) <= length:
        raise DataError(
            f"each part of the text of data 'chars' must hold {length + 1} characters, a sequence of {length} and "
            f"the character after it, got a text of {len(text)}: give it {10 * length + 10}, or lower length"
        )
    alphabet = sorted(set(parts[0]))
    train, val, test = (sequences(encode(part, alphabet), length) for part in parts)
    return Data(
        train,
        val,
        test,
        model_arguments={"vocabulary": len(alphabet) + 1, "length": length},
        about=About(labels=("<unknown>", *alphabet)),
    )


def read_text(file: str) -> str:
    """Return the content of a text file. Raises DataError if it cannot be read or is not UTF-8."""
    rule = f"--data of data 'chars' must be a text file in UTF-8, got {file!r}"
    try:
        content = Path(file).read_bytes()
    except OSError as error:
        raise DataError(f"{rule}, which cannot be read: {error.strerror or error}") from None
    try:
        return content.decode("utf-8-sig")  # without the byte order mark that some editors write
    except UnicodeDecodeError as error:
        raise DataError(f"{rule}, whose byte {error.start} is not UTF-8: convert it first") from None


def python_manual() -> str:
    """Return the topics of Python's interactive help, which every Python has, in alphabetical order.

    Some topics repeat paragraphs of others. A paragraph stays only where it comes first, so that no part of the text
    holds what a model has seen in training. The text differs between versions of Python.
    """
    from pydoc_data.topics import topics

    first: dict[str, str] = {}
    for name in sorted(topics):
        for paragraph in topics[name].split("\n\n"):
            first.setdefault(" ".join(paragraph.split()), paragraph)  # in any indentation
    return "\n\n".join(first.values())


def encode(text: str, alphabet: list[str]) -> Tensor:
    """Return the ids (n,) of a text's characters: 1 and up in the order of `alphabet`, 0 for any other character."""
    ids = {character: number for number, character in enumerate(alphabet, start=UNKNOWN + 1)}
    return torch.tensor([ids.get(character, UNKNOWN) for character in text], dtype=torch.int64)


def sequences(ids: Tensor, length: int) -> TensorDataset:
    """Return `ids` (n,) as pairs of sequences: floor((n - 1) / length) times the ids, and those one place further."""
    count = (len(ids) - 1) // length
    return TensorDataset(*(ids[shift : shift + count * length].view(count, length) for shift in (0, 1)))
