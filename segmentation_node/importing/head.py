"""A network's output, by what it gave on pictures: where the classes lie, and what they are."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from segmentation_node.errors import NetworkImportError

CHANNELS_LAST, CHANNELS_FIRST = "channels last", "channels first"
SCORES = ("logits", "softmax", "sigmoids", "probability", "score")
IDS = "ids"
SUM_TOLERANCE = 5e-3
"""How far from 1 the classes of a softmax may add up, which half precision needs."""
ROUNDING = 1 / 512
"""The same of each class, where the shares are stored in 8 bits."""
COARSEST = 64
"""Pixels of the input, along an edge, to one of the output."""


Steps = tuple[np.ndarray, np.ndarray]
"""Scale and zero point, the latter of the values' dtype: (value - zero point) * scale is meant."""


@dataclass(frozen=True)
class Arrangement:
    """How an output of shape ``shape`` becomes (1, channels, height, width).

    It is reshaped to ``reshaped``; where ``channels_last``, that is (1, height, width, channels).
    ``steps``, where its values are quantised: scale and zero point.
    """

    shape: tuple[int, ...]
    channels: int
    grid: tuple[int, int]
    channels_last: bool
    steps: Steps | None = None

    @property
    def reshaped(self) -> tuple[int, ...]:
        """The shape of four dimensions, channels where they lie."""
        height, width = self.grid
        if self.channels_last:
            return 1, height, width, self.channels
        return 1, self.channels, height, width

    def planes(self, output: np.ndarray) -> np.ndarray:
        """The output's first picture as (channels, height, width)."""
        values = output[:1] if output.shape[0] != self.shape[0] else output
        values = values.reshape(self.reshaped)[0]
        if self.steps is not None:
            scale, zero = self.steps
            values = (values.astype(np.float32) - zero) * scale
        return np.moveaxis(values, 2, 0) if self.channels_last else values

    def __str__(self) -> str:
        height, width = self.grid
        where = CHANNELS_LAST if self.channels_last else CHANNELS_FIRST
        return f"{self.channels} x {height}x{width}" + (f", {where}" if self.channels > 1 else "")


def arrange(
    shape: Sequence[int], size: tuple[int, int], classes: int | None, prefers_last: bool
) -> Arrangement:
    """The arrangement of an output of this shape, of an input of this size (height, width).

    Several that fit are told apart by the number of ``classes``, if that is known, then by being
    one channel, then by where the input's channels lie. Raises NetworkImportError where none fits.
    """
    shape = tuple(shape)
    inner = shape[1:] if len(shape) > 2 and shape[0] == 1 else shape
    while len(inner) > 3 and 1 in inner:
        inner = inner[: inner.index(1)] + inner[inner.index(1) + 1 :]
    found = [
        Arrangement(shape, channels, grid, last)
        for channels, grid, last in _readings(inner, size)
        if _is_grid(grid, size)
    ]
    if not found:
        raise NetworkImportError(
            f"an output of shape {list(shape)} gives no class to the pixels of an input of "
            f"{size[0]}x{size[1]}; expected [1, classes, height, width], or the like"
        )
    return min(
        found,
        key=lambda item: (
            classes not in (None, item.channels),
            item.channels != 1,  # or a square of 256x256 would be 256 classes of 16x16
            item.channels_last != prefers_last,
            -item.grid[0],
        ),
    )


def _readings(
    inner: tuple[int, ...], size: tuple[int, int]
) -> list[tuple[int, tuple[int, int], bool]]:
    """Channels, grid, and whether channels come last, of a shape without its batch."""
    if len(inner) == 3:
        first, second, third = inner
        return [(first, (second, third), False), (third, (first, second), True)]
    if len(inner) == 2:
        one, other = inner
        flat = [(one, grid, False) for grid in _grids_of(other, size)]
        flat += [(other, grid, True) for grid in _grids_of(one, size)]
        return [(1, (one, other), False), *flat]
    return [(1, grid, False) for grid in _grids_of(inner[0], size)] if len(inner) == 1 else []


def _grids_of(count: int, size: tuple[int, int]) -> list[tuple[int, int]]:
    """Grids of so many pixels that divide the input evenly."""
    height, width = size
    return [
        (-(-height // step), -(-width // step))
        for step in range(1, COARSEST + 1)
        if -(-height // step) * -(-width // step) == count
    ]


def _is_grid(grid: tuple[int, int], size: tuple[int, int]) -> bool:
    """Whether it is the picture, coarser or not, within the rounding of a pixel at each stage."""
    step = max(size[0] / grid[0], size[1] / grid[1])
    if not 1 / 4 <= step <= COARSEST:
        return False
    return all(abs(side / step - cells) <= 1.01 for side, cells in zip(size, grid, strict=True))


def kind_of(planes: Sequence[np.ndarray]) -> tuple[str, str]:
    """What the values are, of ``SCORES`` or ``IDS``, and what of them says so.

    ``planes`` are outputs (channels, height, width) of several pictures.
    """
    first = planes[0]
    low, high = min(float(p.min()) for p in planes), max(float(p.max()) for p in planes)
    span = f"{low:.4g} to {high:.4g}"
    if first.shape[0] == 1:
        if first.dtype.kind in "iub":
            return IDS, f"whole numbers, {span}"
        if all((plane == np.rint(plane)).all() for plane in planes):
            return IDS, f"numbers that are whole, {span}"
        if low >= 0 and high <= 1:
            return "probability", f"one channel of {span}"
        return "score", f"one channel of {span}, which is no probability"
    if first.dtype.kind in "iub":
        raise NetworkImportError(
            f"an output of {first.shape[0]} channels of whole numbers ({first.dtype}) holds "
            "neither scores nor ids; export it with an output in float"
        )
    if low >= 0 and high <= 1 + SUM_TOLERANCE:
        sums = [plane.sum(axis=0, dtype=np.float64) for plane in planes]
        least, most = min(float(s.min()) for s in sums), max(float(s.max()) for s in sums)
        furthest = max(abs(least - 1), abs(most - 1))
        of_8_bits = max(SUM_TOLERANCE, first.shape[0] * ROUNDING)
        if furthest <= SUM_TOLERANCE or (furthest <= of_8_bits and _is_in_8_bits(first)):
            return "softmax", f"{span}, and the classes of every pixel add up to 1"
        return "sigmoids", f"{span}, and the classes of a pixel add up to {least:.3g} to {most:.3g}"
    return "logits", f"{span}, which are no probabilities"


def _is_in_8_bits(planes: np.ndarray) -> bool:
    """Whether there are no more values than 8 bits tell apart."""
    return np.unique(planes).size <= 256
