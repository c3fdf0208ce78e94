"""Clicks and boxes of Label Studio's smart tools: regions of an interactive request → marks in pixels."""

from collections.abc import Mapping
from typing import Any

from pixellm.imaging.visual_prompts import Marks
from pixellm.integrations.label_studio_annotations import rows_of, texts

POINTS, BOXES = ("keypointlabels", "keypoint"), ("rectanglelabels", "rectangle")


def read_clicks(context: Mapping[str, Any], image: str) -> tuple[Marks, list[str]] | None:
    """Return the marks that a user has made on an object, and the label of the last of them.

    Args:
        context: of a request; places are percentages of the image's size.
        image: name of the Image.

    Returns:
        None where there are none.

    Raises:
        ValueError: a region without its place, or the image's size.
    """
    points, box, labels = [], None, []
    for row in rows_of(context):
        kind = row.get("type")
        if kind not in (*POINTS, *BOXES) or row.get("to_name", image) != image:
            continue
        try:
            value = row["value"]
            across, down = row["original_width"] / 100, row["original_height"] / 100
            place = (value["x"] * across, value["y"] * down)
            if kind in POINTS:
                points.append((*place, int(row.get("is_positive", True))))
            else:
                box = (*place, value["width"] * across, value["height"] * down)
            labels = texts(value.get(kind)) or labels
        except (KeyError, TypeError, ValueError):
            raise ValueError("expected regions with their places and the image's size, got others.") from None
    return (Marks(points, box), labels) if points or box else None
