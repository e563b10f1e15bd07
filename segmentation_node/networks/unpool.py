"""2x2 max-pooling with the way back: unpooling puts every value where its maximum came from.

Odd sizes pool in ceil mode (45 -> 23, as Caffe does) and are restored exactly. Two forms give the
same bits; each returns the pooled features and the function that undoes the pooling:

- by index, with torch's own operators: 8 bytes a window are kept between the two;
- by comparison, for export: TensorRT has neither MaxUnpool nor MaxPool's indices. Three
  comparisons a window, kept as 3 bytes, and operators that TensorRT 8.2 has.
"""

from functools import partial
from typing import Callable, Tuple

import torch
from torch.nn import functional

Unpool = Callable[[torch.Tensor], torch.Tensor]
"""(N, C, ceil(H / 2), ceil(W / 2)) -> (N, C, H, W), zero where no maximum came from."""


def max_pool(features: torch.Tensor) -> Tuple[torch.Tensor, Unpool]:
    """Pool (N, C, H, W) to (N, C, ceil(H / 2), ceil(W / 2)), in the form that the moment asks."""
    if torch.onnx.is_in_onnx_export():
        return max_pool_by_comparison(features)
    return max_pool_by_index(features)


def max_pool_by_index(features: torch.Tensor) -> Tuple[torch.Tensor, Unpool]:
    """Pool by max_pool2d, unpool by max_unpool2d."""
    pooled, indices = functional.max_pool2d(features, 2, ceil_mode=True, return_indices=True)
    return pooled, partial(_unpool_by_index, indices=indices, size=_size(features))


def max_pool_by_comparison(features: torch.Tensor) -> Tuple[torch.Tensor, Unpool]:
    """Pool and unpool by comparing the four cells of each window; NaN has no place in it."""
    # A repeated edge never wins a strict comparison, so it acts like -inf, which TensorRT 8.2
    # cannot pad in half precision.
    even = _repeat_odd_edge(_repeat_odd_edge(features, 2), 3)
    upper, lower = even[:, :, 0::2], even[:, :, 1::2]
    # Strict: of equal cells the first wins, as in max_pool2d. Where instead of Max: 0 and -0 are
    # equal, and the winner's sign has to stay.
    left, right = upper[:, :, :, 0::2], upper[:, :, :, 1::2]
    is_upper_right = right > left
    upper = torch.where(is_upper_right, right, left)
    left, right = lower[:, :, :, 0::2], lower[:, :, :, 1::2]
    is_lower_right = right > left
    lower = torch.where(is_lower_right, right, left)
    is_lower = lower > upper
    winner = (is_lower, is_upper_right, is_lower_right)
    pooled = torch.where(is_lower, lower, upper)
    return pooled, partial(_unpool_by_comparison, winner=winner, size=_size(features))


def _unpool_by_index(
    pooled: torch.Tensor, indices: torch.Tensor, size: Tuple[int, int]
) -> torch.Tensor:
    return functional.max_unpool2d(pooled, indices, [2, 2], output_size=size)


def _unpool_by_comparison(
    pooled: torch.Tensor,
    winner: Tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    size: Tuple[int, int],
) -> torch.Tensor:
    is_lower, is_upper_right, is_lower_right = winner
    zero = torch.zeros((), dtype=pooled.dtype, device=pooled.device)
    upper, lower = torch.where(is_lower, zero, pooled), torch.where(is_lower, pooled, zero)
    cells = (
        torch.where(is_upper_right, zero, upper),
        torch.where(is_upper_right, upper, zero),
        torch.where(is_lower_right, zero, lower),
        torch.where(is_lower_right, lower, zero),
    )
    batch, channels, rows, columns = (int(length) for length in pooled.shape)
    beside = torch.stack(cells, dim=2).reshape(batch, 4 * channels, rows, columns)
    unpooled = functional.pixel_shuffle(beside, 2)  # DepthToSpace in the exported graph
    for dim in (2, 3):
        if unpooled.shape[dim] != size[dim - 2]:
            unpooled = unpooled.narrow(dim, 0, size[dim - 2])
    return unpooled


def _repeat_odd_edge(features: torch.Tensor, dim: int) -> torch.Tensor:
    length = int(features.shape[dim])
    if length % 2 == 0:
        return features
    return torch.cat((features, features.narrow(dim, length - 1, 1)), dim=dim)


def _size(features: torch.Tensor) -> Tuple[int, int]:
    return int(features.shape[2]), int(features.shape[3])
