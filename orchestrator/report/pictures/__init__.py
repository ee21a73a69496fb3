"""The pictures of a report: each one drawing function, saved as a PNG and put into the page."""

from __future__ import annotations

from orchestrator.report.pictures.accuracy import accuracy_picture, cost_picture
from orchestrator.report.pictures.front import front_picture
from orchestrator.report.pictures.layers import layers_picture
from orchestrator.report.pictures.learning import learning_picture
from orchestrator.report.pictures.style import COLOURS, Picture, drawing
from orchestrator.report.published import Published
from orchestrator.report.tasks import Task

__all__ = ["COLOURS", "Picture", "draw", "drawing"]


def draw(task: Task, references: dict[str, Published]) -> list[Picture]:
    """Every picture of a task that its records allow; within `drawing()`."""
    pictures = [
        accuracy_picture(task, references),
        front_picture(task),
        cost_picture(task),
        layers_picture(task),
        learning_picture(task),
    ]
    return [picture for picture in pictures if picture is not None]
