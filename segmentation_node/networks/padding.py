"""Any image size through a network of fixed stride: pad before, crop after."""

import torch
from torch.nn import functional


def pad_to_stride(image_nchw: torch.Tensor, stride: int) -> torch.Tensor:
    """Pad (N, C, H, W) with zeros at the bottom and right to multiples of ``stride``."""
    height, width = int(image_nchw.shape[2]), int(image_nchw.shape[3])
    bottom, right = -height % stride, -width % stride
    if bottom == 0 and right == 0:
        return image_nchw
    return functional.pad(image_nchw, (0, right, 0, bottom))


def crop_to(output_nchw: torch.Tensor, image_nchw: torch.Tensor) -> torch.Tensor:
    """Crop (N, C, H', W') to the height and width of the image before it was padded."""
    height, width = int(image_nchw.shape[2]), int(image_nchw.shape[3])
    if output_nchw.shape[2] == height and output_nchw.shape[3] == width:
        return output_nchw
    return output_nchw[:, :, :height, :width]
