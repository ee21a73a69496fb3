"""Draw the pictures of a report: one function each; they are saved as PNG and put into the page as SVG."""

from __future__ import annotations

from orchestrator.report.comparison import Comparison
from orchestrator.report.pictures.all_rounds import compression_picture, cost_picture, front_picture
from orchestrator.report.pictures.recommended import layers_picture, learning_picture
from orchestrator.report.pictures.style import COLOURS, Picture, drawing_style
from orchestrator.report.published import PublishedResult

__all__ = ["COLOURS", "Picture", "draw_pictures", "drawing_style"]


def draw_pictures(comparison: Comparison, references: dict[str, PublishedResult]) -> list[Picture]:
    """Draw every picture of `comparison` that its records allow. Must be called within `drawing_style()`.

    `references` has published results by the name of the experiment that they are drawn beside.
    """
    pictures = [
        compression_picture(comparison, references),
        front_picture(comparison),
        cost_picture(comparison),
        layers_picture(comparison),
        learning_picture(comparison),
    ]
    return [picture for picture in pictures if picture is not None]
