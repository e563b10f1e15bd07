"""Charts as SVG: they work without scripts, follow the page's colours and can be printed."""

import math
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from segmentation_node.evaluation.report.markup import Markup, element, join

WIDTH, HEIGHT = 960, 240
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 34, 42
MARK_TOP, MARK_STEP = 22, 14
"""Where the labels of percentiles begin, and the next one's row."""
SINGLE_POINTS = 300
"""Frames drawn one by one; longer drives are drawn as mean and range of groups."""
GROUPS = 240
BINS = 32


class Scale(NamedTuple):
    """Maps values onto pixels of one axis."""

    low: float
    high: float
    start_px: float
    end_px: float

    def __call__(self, value: float) -> float:
        span = (self.high - self.low) or 1.0
        return self.start_px + (value - self.low) / span * (self.end_px - self.start_px)


def ticks(low: float, high: float, most: int = 5, whole: bool = False) -> List[float]:
    """Round values from ``low`` to ``high``, at most about ``most`` of them; or whole ones only."""
    span = high - low
    if not span > 0.0:
        return [low]
    rough = max(span / most, 1.0) if whole else span / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)]


def bar(share: Optional[float]) -> Markup:
    """A horizontal bar for a share, 0-1, beside its figure; empty where it is undefined."""
    width = 100.0 * (share or 0.0)
    return element(
        "svg",
        element("rect", x=0, y=0, width=100, height=10, class_="track"),
        element("rect", x=0, y=0, width=width, height=10, class_="fill"),
        viewBox="0 0 100 10",
        preserveAspectRatio="none",
        class_="bar",
        aria_hidden="true",
    )


def histogram(values: np.ndarray, unit: str, title: str) -> Markup:
    """How often values fall where, with p50, p95 and p99; the last bin takes far outliers."""
    edges, counts, outliers = bins(values)
    x = Scale(edges[0], edges[-1], LEFT, WIDTH - RIGHT)
    top_px = MARK_TOP + 3 * MARK_STEP
    y = Scale(0.0, float(max(counts)), HEIGHT - BOTTOM, top_px)
    ends = ["to %.2f" % edge for edge in edges[1:]]
    label = unit
    if outliers:
        ends[-1] = "and more"
        label = "%s (%d frames above %.1f in the last bar)" % (unit, outliers, edges[-2])
    drawn = [
        _bar(
            "%.2f %s %s: %d frames" % (low, end, unit, count),
            (x(low) + 0.5, x(high) - 0.5),
            (y(count), y(0.0)),
        )
        for low, high, end, count in zip(edges, edges[1:], ends, counts)
    ]
    marks = []
    for row, rank in enumerate((50, 95, 99)):
        value = float(np.percentile(values, rank))
        if value <= edges[-1]:
            marks.append(_mark(x(value), "p%d %.1f" % (rank, value), row))
    return _chart(title, "frames", _axes(x, y, label, whole_y=True) + drawn + marks)


def reliability(bins: Sequence[Dict[str, Any]]) -> Markup:
    """Share of right pixels by bin of confidence, against the diagonal on which both are equal.

    ``bins`` are those of ``Calibration.as_json``. The fuller a bar's colour, the more pixels it
    stands for.
    """
    x, y = Scale(0.0, 1.0, LEFT, WIDTH - RIGHT), Scale(0.0, 1.0, HEIGHT - BOTTOM, TOP)
    drawn = []
    for found in bins:
        if found["right_share"] is None:
            continue
        text = "confidence %.2f: %.2f %% right, %.2f %% of the pixels" % (
            found["mean_confidence"],
            100.0 * found["right_share"],
            100.0 * found["pixels_share"],
        )
        drawn.append(
            _bar(
                text,
                (x(found["above"]) + 0.5, x(found["up_to"]) - 0.5),
                (y(found["right_share"]), y(0.0)),
                fill_opacity=0.25 + 0.75 * math.sqrt(found["pixels_share"]),
            )
        )
    diagonal = element("line", x1=x(0.0), y1=y(0.0), x2=x(1.0), y2=y(1.0), class_="mark")
    axes = _axes(x, y, "confidence")
    return _chart("Right by confidence", "share of pixels", [*axes, *drawn, diagonal])


def bins(values: np.ndarray) -> Tuple[List[float], List[int], int]:
    """Edges and counts of a histogram, and how many values its last bin takes from beyond it.

    Values above 1.5 times p99 count into the last bin, so that one slow frame does not squeeze
    the others into one bar.
    """
    low, high = float(values.min()), float(values.max())
    limit = min(high, 1.5 * float(np.percentile(values, 99)))
    if limit <= low:
        limit = low + max(abs(low) * 1e-3, 1e-3)
    counts, edges = np.histogram(np.minimum(values, limit), bins=BINS, range=(low, limit))
    return edges.tolist(), counts.tolist(), int((values > limit).sum())


def timeline(
    values: np.ndarray, names: Sequence[str], unit: str, title: str, top: Optional[float] = None
) -> Markup:
    """A value by frame; NaN leaves a gap. ``top`` fixes the axis's upper end."""
    defined = values[~np.isnan(values)]
    high = float(defined.max()) * 1.08 if top is None else top
    x = Scale(0.0, max(1.0, len(values) - 1.0), LEFT, WIDTH - RIGHT)
    y = Scale(0.0, high or 1.0, HEIGHT - BOTTOM, TOP)
    if len(values) <= SINGLE_POINTS:
        drawn = _points(values, names, unit, x, y)
    else:
        drawn = _groups(values, unit, x, y)
    return _chart(title, unit, _axes(x, y, "frame", whole_x=True) + drawn)


def _points(
    values: np.ndarray, names: Sequence[str], unit: str, x: Scale, y: Scale
) -> List[Markup]:
    drawn = [_line([(x(i), y(values[i])) for i in part]) for part in _unbroken(values)]
    for index in np.flatnonzero(~np.isnan(values)).tolist():
        text = "%s: %.2f %s" % (names[index], values[index], unit)
        drawn.append(
            element(
                "circle",
                element("title", text),
                cx=x(index),
                cy=y(values[index]),
                r=2.4,
                class_="point",
            )
        )
    return drawn


def _groups(values: np.ndarray, unit: str, x: Scale, y: Scale) -> List[Markup]:
    drawn, means = [], []
    for part in np.array_split(np.arange(len(values)), GROUPS):
        found = values[part][~np.isnan(values[part])]
        if not found.size:
            continue
        low, mean, high = float(found.min()), float(found.mean()), float(found.max())
        found_in = (part[0], part[-1], low, high, mean, unit)
        text = "frames %d-%d: %.2f to %.2f, mean %.2f %s" % found_in
        drawn.append(
            _bar(
                text,
                (x(part[0]), x(part[-1] + 1.0)),
                (y(high), max(y(low), y(high) + 1.0)),
                class_="range",
            )
        )
        means.append((x(float(part.mean())), y(mean)))
    return drawn + [_line(means)]


def _unbroken(values: np.ndarray) -> List[np.ndarray]:
    """Runs of indices without NaN."""
    indices = np.flatnonzero(~np.isnan(values))
    return np.split(indices, np.flatnonzero(np.diff(indices) > 1) + 1) if indices.size else []


def _line(points: Sequence[Tuple[float, float]]) -> Markup:
    text = " ".join("%.1f,%.1f" % point for point in points)
    return element("polyline", points=text, class_="line")


def _bar(
    title: str,
    x_px: Tuple[float, float],
    y_px: Tuple[float, float],
    class_: str = "fill",
    fill_opacity: Optional[float] = None,
) -> Markup:
    """A rectangle from left to right and from top to bottom, one pixel wide at least."""
    return element(
        "rect",
        element("title", title),
        x=x_px[0],
        y=y_px[0],
        width=max(1.0, x_px[1] - x_px[0]),
        height=y_px[1] - y_px[0],
        class_=class_,
        fill_opacity=fill_opacity,
    )


def _mark(at_px: float, text: str, row: int) -> Markup:
    top_px = MARK_TOP + MARK_STEP * row
    near_end = at_px > WIDTH - 110
    return join(
        [
            element("line", x1=at_px, x2=at_px, y1=top_px, y2=HEIGHT - BOTTOM, class_="mark"),
            element(
                "text",
                text,
                x=at_px + (-5 if near_end else 5),
                y=top_px + 9,
                text_anchor="end" if near_end else "start",
                class_="label",
            ),
        ]
    )


def _axes(
    x: Scale, y: Scale, x_label: str, whole_x: bool = False, whole_y: bool = False
) -> List[Markup]:
    drawn = []
    for value in ticks(y.low, y.high, 5, whole_y):
        drawn.append(
            element("line", x1=LEFT, x2=WIDTH - RIGHT, y1=y(value), y2=y(value), class_="grid")
        )
        drawn.append(_text(LEFT - 8, y(value) + 4, "%g" % value, "end"))
    for value in ticks(x.low, x.high, 8, whole_x):
        drawn.append(_text(x(value), HEIGHT - BOTTOM + 16, "%g" % value, "middle"))
    drawn.append(_text(WIDTH - RIGHT, HEIGHT - 6, x_label, "end"))
    return drawn


def _text(x_px: float, y_px: float, text: str, anchor: str) -> Markup:
    return element("text", text, x=x_px, y=y_px, text_anchor=anchor, class_="label")


def _chart(title: str, y_label: str, drawn: Sequence[Markup]) -> Markup:
    svg = element(
        "svg",
        element("title", title),
        element("text", title, element("tspan", " · " + y_label, class_="unit"), x=0, y=14),
        *drawn,
        viewBox="0 0 %d %d" % (WIDTH, HEIGHT),
        role="img",
        class_="chart",
    )
    return element("div", svg, class_="scroll", tabindex=0)
