"""Read and write the scores of candidates: `scores/<key of their round>/<digest>.json`, a file for each generation.

A file is created once and never changed, so it is read once.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import Annotated

from orchestrator.decode import Rule, decode
from orchestrator.errors import DamagedError
from orchestrator.pruning.candidate import Score, Scores
from orchestrator.record import Key, Record, Sha256
from orchestrator.sealed import seal, unseal
from orchestrator.storage.store import JSON_BYTES, MissingError, Store, listed, read_each
from orchestrator.work.keys import answer_file

SCORES = r"scores/([A-Za-z0-9_-]{1,100})/([0-9a-f]+)\.json"
Seconds = Annotated[float, Rule("of 0 or more", lambda seconds: seconds >= 0)]


@dataclass(frozen=True)
class _StoredScore:
    value: float
    seconds: Seconds


@dataclass(frozen=True)
class _ScoresFile:
    key: Key
    scores: dict[Sha256, _StoredScore]


def write_scores(store: Store, key: str, scores: Scores) -> None:
    """Store the answer to the work with this key, if it holds a score. What is there already stays."""
    if not scores:
        return
    content = {"key": key, "scores": {digest: asdict(score) for digest, score in sorted(scores.items())}}
    store.create(answer_file(key), seal(content))


def read_scores(store: Store, file: str) -> Scores:
    """Return the scores in `file`. Raises DamagedError, which names it, and MissingError."""
    try:
        found = decode(_ScoresFile, unseal(store.read(file, JSON_BYTES)))
        if answer_file(found.key) != file:
            raise ValueError(f"it is of the work {found.key}")
    except ValueError as error:
        raise DamagedError(
            f"{file} is damaged ({error!s:.200}): delete it, and its job scores the candidates again"
        ) from error
    return {digest: Score(row.value, row.seconds) for digest, row in found.scores.items()}


def score_files(store: Store, round_key: str = "") -> list[str]:
    """Return the files of a round's candidates, or of all rounds."""
    folder = f"scores/{round_key}/" if round_key else "scores/"
    return [file for file in store.list(folder) if re.fullmatch(SCORES, file)]


def read_new_scores(store: Store, round_key: str, known: Collection[str]) -> dict[str, Scores]:
    """Return {file: its scores} of a round's candidates, without the files that are `known`. Raises DamagedError."""

    def read(file: str) -> tuple[str, Scores] | None:
        try:
            return file, read_scores(store, file)
        except MissingError:  # deleted a moment ago
            return None

    return dict(read_each(store, read, [file for file in score_files(store, round_key) if file not in known], None))


def search_lines(store: Store, records: Iterable[Record], problems: list[str]) -> Iterator[str]:
    """Yield a line for each of `records` that candidates follow from: how many were scored.

    The best of their scores would say little: some are of candidates beyond the budget, others of finalists that were
    trained longer.

    `problems` gets a sentence for each file that cannot be read.
    """
    files: dict[str, list[str]] = {}
    for file in listed(store, "scores/", problems):
        if match := re.fullmatch(SCORES, file):
            files.setdefault(match[1], []).append(file)
    for record in records:
        found = read_each(store, partial(read_scores, store), files.get(record.key, []), problems)
        if digests := {digest for scores in found for digest in scores}:
            yield (
                f"{record.experiment}, seed {record.seed}: {len(digests)} candidates for the round after "
                f"{record.round} were scored"
            )
