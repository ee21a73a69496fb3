"""Read the key of a work, which says where its answer lies. No kind of work needs a line here.

| key of the work             | what it is                         | its answer is in storage as                   |
| --------------------------- | ---------------------------------- | --------------------------------------------- |
| `<round>`                   | the training of a round            | `rounds/<round>/record.json`                  |
| `<round>-<name>`            | what is made once beside a round   | `snapshots/<round>/<name>.safetensors`        |
| `<round>-<name>-<part>`     | one of several of that name        | `<name>/<round>/<part>.json`                  |
"""

from __future__ import annotations

import re

EPOCH = "epoch"  # before the number of epochs in the name of a snapshot, whose file has the number alone
_KEY = re.compile(r"([^-]+)-([a-z]+[0-9]*)(?:-([0-9a-f]+))?")


def split_key(key: str) -> tuple[str, str | None, str | None]:
    """Return the key of the round that a work's key belongs to, the name of what it makes beside it, and the part.

    The name is None for the work that trains the round.
    """
    match = _KEY.fullmatch(key)
    return (match[1], match[2], match[3]) if match else (key, None, None)


def claim_key(key: str) -> str:
    """Return what is claimed for the work with this key: all parts of one name together, else the work itself.

    The parts that two searches ask for may share candidates. So one search of a round scores at a time, with all
    workers, and the next one finds its scores in storage.
    """
    round_key, name, part = split_key(key)
    return f"{round_key}-{name}" if part else key


def answer_file(key: str) -> str:
    """Return the file that is in storage when the work with this key is done."""
    round_key, name, part = split_key(key)
    if name is None:
        return f"rounds/{key}/record.json"
    if part:
        return f"{name}/{round_key}/{part}.json"
    return f"snapshots/{round_key}/{name.removeprefix(EPOCH)}.safetensors"


def parts_folder(claim: str) -> str:
    """Return the folder of the answers to all works that share this claim, if they are parts."""
    round_key, name, _ = split_key(claim)
    return f"{name}/{round_key}"
