"""The core knows nothing of labelled images: their words are only in the files that are about them."""

from __future__ import annotations

from pathlib import Path

import pytest

import orchestrator

ROOT = Path(orchestrator.__file__).parent
WORDS = {"num_classes", "input_shape", "cross_entropy", "accuracy", "images", "labels"}
# By file or folder, the words that belong there.
ALLOWED = {
    "task.py": {"num_classes", "cross_entropy", "accuracy"},  # classification is one of the tasks
    "data": {"num_classes", "input_shape", "images", "labels"},  # images in folders and packed files
    "models": {"num_classes", "input_shape", "images"},  # classifiers take the data's arguments by these names
    "report": {"accuracy", "labels"},  # results that papers report; labels of a picture's axes
    # Names of classes are "labels" in exported files, which earlier versions wrote and users' programs read.
    "export/interface.py": {"labels"},
    "export/targets/web_page/page.js": {"labels"},
}


def words_of(place: str) -> set[str]:
    """Return the words in the code of a file, or of all files of a folder, below the package."""
    found = ROOT / place
    files = found.rglob("*") if found.is_dir() else [found]
    code = [file.read_text(encoding="utf-8") for file in files if file.suffix in {".py", ".js", ".html", ".j2", ".css"}]
    return {word for word in WORDS if any(word in text for text in code)}


def allowed_in(place: str) -> set[str]:
    """Return the words that belong in a file: those of its own, and of the folders that it is in."""
    return {word for name, words in ALLOWED.items() if f"{place}/".startswith(f"{name}/") for word in words}


def test_words_of_labelled_images_are_only_where_they_belong() -> None:
    places = [file.relative_to(ROOT).as_posix() for file in ROOT.rglob("*") if file.is_file()]
    wrong = {place: words for place in places if (words := words_of(place) - allowed_in(place))}
    assert not wrong, "carry the data's arguments whole, and speak of samples, inputs, targets and the objective"


@pytest.mark.parametrize("place", ALLOWED)
def test_each_word_that_is_allowed_somewhere_is_there(place: str) -> None:
    assert words_of(place) == ALLOWED[place]
