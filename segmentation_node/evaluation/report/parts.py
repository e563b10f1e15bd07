"""What several sections of the page are made of."""

from typing import Any, Optional

from segmentation_node.evaluation.report.markup import Markup, element
from segmentation_node.labels import LabelSet


def section(title: str, *parts: Any) -> Markup:
    """A part of the page under its title."""
    return element("section", element("h2", title), *parts)


def swatch(labels: Optional[LabelSet], index: int) -> Optional[Markup]:
    """A class's colour; nothing for what has none."""
    if labels is None or not 0 <= index < len(labels):
        return None
    color = "#%02x%02x%02x" % labels.classes[index].color_rgb
    return element("span", class_="swatch", style="background: " + color)
