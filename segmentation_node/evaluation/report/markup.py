"""HTML and SVG that is escaped by construction: only what ``element`` made counts as markup."""

from html import escape
from typing import Any, Iterable, Optional, Union

from segmentation_node.labels import LabelSet


class Markup(str):
    """Text that is markup already."""


Child = Union[str, float, None]


def element(tag: str, *children: Child, **attributes: Any) -> Markup:
    """An element; children that are no ``Markup`` are text. None children and attributes vanish.

    ``class_`` means class, and an underscore inside a name a hyphen.
    """
    given = "".join(
        ' %s="%s"' % (key.rstrip("_").replace("_", "-"), escape(number(value)))
        for key, value in attributes.items()
        if value is not None
    )
    if tag in ("img", "meta"):
        return Markup("<%s%s>" % (tag, given))
    return Markup("<%s%s>%s</%s>" % (tag, given, join(children), tag))


def join(children: Iterable[Child], separator: str = "") -> Markup:
    """Children one after another."""
    return Markup(separator.join(_inner(child) for child in children if child is not None))


def number(value: Any) -> str:
    """A coordinate or another attribute as short text."""
    if isinstance(value, float):
        return ("%.2f" % value).rstrip("0").rstrip(".")
    return str(value)


def table(
    header: Iterable[Child],
    rows: Iterable[Iterable[Child]],
    class_: str = "figures",
) -> Markup:
    """A table in a box that scrolls where it is too wide; a row's first cell is its head."""
    body = []
    for row in rows:
        cells = list(row)
        heads = element("th", cells[0], scope="row")
        body.append(element("tr", heads, *[element("td", cell) for cell in cells[1:]]))
    return element(
        "div",
        element(
            "table",
            element("thead", element("tr", *[element("th", c, scope="col") for c in header])),
            element("tbody", *body),
            class_=class_,
        ),
        class_="scroll",
        # So that a keyboard can scroll it.
        tabindex=0,
    )


def section(title: str, *parts: Child) -> Markup:
    """A part of the page under its title."""
    return element("section", element("h2", title), *parts)


def swatch(labels: Optional[LabelSet], index: int) -> Optional[Markup]:
    """A class's colour; nothing for what has none."""
    if labels is None or not 0 <= index < len(labels):
        return None
    color = "#%02x%02x%02x" % labels.classes[index].color_rgb
    return element("span", class_="swatch", style="background: " + color)


def _inner(child: Child) -> str:
    return child if isinstance(child, Markup) else escape(number(child))
