"""Fast R-CNN's head on the features of a segmentation network's encoder.

Source: Girshick 2015, "Fast R-CNN": RoI max pooling 7x7, fully connected layers, softmax over the
classes and background, box regression by class. Here the encoder's stages are joined by 1x1
convolutions before pooling, so that the head is small and little goes from one graph to the other.
"""

from typing import Any, Dict, List, Mapping, Sequence, Tuple

import torch
from torch import nn
from torch.nn import functional

from segmentation_node.errors import NetworkError, reason, shown

POOLED = 7
DELTA_STD = (0.1, 0.1, 0.2, 0.2)
"""Deltas are divided by these in training, so that they are about as large as the scores."""


class BoxHead(nn.Module):
    """Scores and boxes of regions of interest.

    Args:
        classes: how many, without the background.
        channels: of the encoder's stages, by stride.
        strides: of the stages that it sees; the features have the smallest.
        width: channels of the joined features.
        hidden: width of the two fully connected layers.
    """

    def __init__(
        self,
        classes: int,
        channels: Mapping[int, int],
        strides: Sequence[int] = (8, 16),
        width: int = 24,
        hidden: int = 192,
    ) -> None:
        super().__init__()
        self.strides = sorted(strides)
        self.stride = self.strides[0]
        self.joins = nn.ModuleList(
            nn.Conv2d(channels[stride], width, 1, bias=stride == self.stride)
            for stride in self.strides
        )
        self.activation = nn.ELU()
        self.hidden = nn.ModuleList(
            [nn.Linear(width * POOLED * POOLED + 4, hidden), nn.Linear(hidden, hidden)]
        )
        self.score = nn.Linear(hidden, classes + 1)
        self.delta = nn.Linear(hidden, 4 * classes)
        self.delta_std: torch.Tensor
        self.register_buffer("delta_std", torch.tensor(DELTA_STD), persistent=False)
        nn.init.normal_(self.delta.weight, std=0.001)
        nn.init.zeros_(self.delta.bias)

    def join(self, stages: Mapping[int, torch.Tensor]) -> torch.Tensor:
        """The encoder's stages, (N, C, H, W) by stride, as the features (N, width, H, W)."""
        joined = [join(stages[stride]) for join, stride in zip(self.joins, self.strides)]
        total, size = joined[0], [int(length) for length in joined[0].shape[2:]]
        for coarse in joined[1:]:
            total = total + functional.interpolate(coarse, size=size, mode="nearest")
        return self.activation(total)

    def forward(
        self, features_nchw: torch.Tensor, rois_xyxy: torch.Tensor
    ) -> Tuple[torch.Tensor, torch.Tensor]:
        """Of one image's features (1, C, H, W) and boxes (R, 4) in pixels of the network's input:
        probabilities (R, 1 + classes), the background first, and deltas (R, 4 * classes).
        """
        logits, deltas = self.logits(features_nchw, rois_xyxy)
        return logits.softmax(dim=1), deltas

    def logits(
        self, features_nchw: torch.Tensor, rois_xyxy: torch.Tensor
    ) -> Tuple[torch.Tensor, torch.Tensor]:
        """As ``forward``, without softmax."""
        cells = rois_xyxy / float(self.stride)
        pooled = roi_max_pool(features_nchw, cells).flatten(1)
        seen = torch.cat((pooled, _within_cells(cells)), dim=1)
        for layer in self.hidden:
            seen = self.activation(layer(seen))
        scale = self.delta_std.repeat(self.delta.out_features // 4)
        return self.score(seen), self.delta(seen) * scale


def build_box_head(classes: int, options: Dict[str, Any], network: nn.Module) -> BoxHead:
    """A head with fresh weights for a network that gives its stages.

    Raises NetworkError on a network that does not, and on options that the head does not have.
    """
    channels: Any = getattr(network, "stage_channels", None)
    if channels is None:
        raise NetworkError(
            "%s gives no stages of its encoder (stage_channels, with_stages), so it takes no box "
            "head; EluSqueezeNet does" % type(network).__name__
        )
    try:
        return BoxHead(classes, channels, **options)
    except (LookupError, RuntimeError, TypeError, ValueError) as error:
        raise NetworkError(
            "the box head does not take the options %s: %s" % (shown(options), reason(error))
        ) from error


def _within_cells(cells_xyxy: torch.Tensor) -> torch.Tensor:
    """How far a box's sides are from the cells that are pooled: (R, 4), as share of its size.

    Pooling whole cells hides it, and the box regression needs it.
    """
    start, stop = _cells_of(cells_xyxy)
    size = (stop - start).repeat(1, 2)
    return (cells_xyxy - torch.cat((start, stop), dim=1)) / size


def roi_max_pool(features_nchw: torch.Tensor, cells_xyxy: torch.Tensor) -> torch.Tensor:
    """Maxima of the cells of each box in 7x7 bins: (1, C, H, W), (R, 4) -> (R, 7, 7, C).

    Boxes are in cells; those that one covers in part count. Bins are as in Girshick's RoI pooling:
    bin i of n cells is from floor(i n / 7) to ceil((i + 1) n / 7).
    In operators that every run time has: a bin is the maximum of at most four tables of powers of
    two of cells, which overlap.
    """
    height, width = int(features_nchw.shape[2]), int(features_nchw.shape[3])
    start, stop = _cells_of(cells_xyxy)
    x_low, x_high, x_level = _bins(start[:, 0], stop[:, 0], width)
    y_low, y_high, y_level = _bins(start[:, 1], stop[:, 1], height)
    tables = _tables(features_nchw[0].permute(1, 2, 0), _levels(height), _levels(width))
    level = y_level[:, :, None] * _levels(width) + x_level[:, None, :]
    pooled = None
    for y in (y_low, y_high):
        for x in (x_low, x_high):
            place = (level * height + y[:, :, None]) * width + x[:, None, :]
            corner = tables[place.to(torch.int64)]
            pooled = corner if pooled is None else torch.maximum(pooled, corner)
    assert pooled is not None
    return pooled


def _cells_of(cells_xyxy: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor]:
    """First cells and those beyond the last, (R, 2) each: x, y."""
    start = cells_xyxy[:, :2].floor()
    return start, torch.maximum(cells_xyxy[:, 2:].ceil(), start + 1.0)


def _bins(
    start: torch.Tensor, stop: torch.Tensor, cells: int
) -> Tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of each bin where its two tables begin, and their level: (R, 7) each."""
    number = torch.arange(POOLED, dtype=torch.float32, device=start.device)[None]
    length = (stop - start)[:, None]
    # The halves keep a quotient that is whole, or nearly, from being rounded below it.
    low = ((number * length + 0.5) / POOLED).floor() + start[:, None]
    high = (((number + 1.0) * length + POOLED - 0.5) / POOLED).floor() + start[:, None]
    low = low.clamp(0.0, cells - 1.0)
    high = torch.maximum(high.clamp(1.0, float(cells)), low + 1.0)
    level, size = torch.zeros_like(low), torch.ones_like(low)
    for power in range(1, _levels(cells)):
        longer = (high - low >= float(2**power)).to(torch.float32)
        level, size = level + longer, size + longer * float(2 ** (power - 1))
    return low, high - size, level


def _levels(cells: int) -> int:
    """Tables that bins of a box over all cells need: of 1, 2, 4 ... cells."""
    longest = -(-cells // POOLED) + 1
    return longest.bit_length()


def _tables(features_hwc: torch.Tensor, y_levels: int, x_levels: int) -> torch.Tensor:
    """Maxima of 2^i rows and 2^j columns from each cell on: (levels * H * W, C)."""
    tables: List[torch.Tensor] = []
    rows = features_hwc
    for y_level in range(y_levels):
        if y_level:
            rows = _with_next(rows, 2 ** (y_level - 1), 0)
        columns = rows
        for x_level in range(x_levels):
            if x_level:
                columns = _with_next(columns, 2 ** (x_level - 1), 1)
            tables.append(columns.reshape(-1, features_hwc.shape[2]))
    return torch.cat(tables)


def _with_next(table: torch.Tensor, step: int, dimension: int) -> torch.Tensor:
    """The maximum of each entry and the one some steps on; at the end it stays."""
    length = int(table.shape[dimension])
    step = min(step, length - 1)
    following = torch.cat(
        (
            table.narrow(dimension, step, length - step),
            table.narrow(dimension, length - step, step),
        ),
        dim=dimension,
    )
    return torch.maximum(table, following)
