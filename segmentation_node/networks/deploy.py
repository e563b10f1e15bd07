"""The deployed graph: raw image in, class map out.

Normalisation, upsampling and argmax are inside, so that every run time gets the same bytes and
the host only moves them.
"""

from typing import Sequence, Tuple

import torch
from torch import nn


class Normalise(nn.Module):
    """(image - mean) / std, RGB: float32 (N, 3, H, W) in 0-255 -> float32 (N, 3, H, W)."""

    def __init__(self, mean_rgb: Sequence[float], std_rgb: Sequence[float]) -> None:
        super().__init__()
        self.scale: torch.Tensor
        self.shift: torch.Tensor
        mean = torch.tensor(list(mean_rgb)).view(1, 3, 1, 1)
        std = torch.tensor(list(std_rgb)).view(1, 3, 1, 1)
        self.register_buffer("scale", 1 / std, persistent=False)
        self.register_buffer("shift", -mean / std, persistent=False)

    def forward(self, image_nchw: torch.Tensor) -> torch.Tensor:
        return image_nchw * self.scale + self.shift


class DeployGraph(nn.Module):
    """The ``uint8`` variant: image uint8 RGB (N, H, W, 3) -> class map uint8 (N, H, W).

    With ``with_confidence`` also the softmax probability of the chosen class, uint8 (N, H, W),
    255 = certain.
    """

    def __init__(self, normalise: Normalise, network: nn.Module, with_confidence: bool) -> None:
        super().__init__()
        self.normalise = normalise
        self.network = network
        self.with_confidence = with_confidence

    def forward(self, image_nhwc: torch.Tensor) -> Tuple[torch.Tensor, ...]:
        # TensorRT takes a uint8 input only into a Cast, so the cast comes before the transpose.
        image_nchw = image_nhwc.to(self.normalise.scale.dtype).permute(0, 3, 1, 2)
        logits = self.network(self.normalise(image_nchw))
        class_map = _to_uint8(logits.argmax(dim=1))
        if not self.with_confidence:
            return (class_map,)
        return class_map, _to_uint8(_confidence(logits) * 255.0 + 0.5)


def _confidence(logits_nchw: torch.Tensor) -> torch.Tensor:
    """Largest softmax probability: (N, C, H, W) -> (N, H, W)."""
    highest = logits_nchw.amax(dim=1, keepdim=True)
    return 1.0 / (logits_nchw - highest).exp().sum(dim=1)


def _to_uint8(values: torch.Tensor) -> torch.Tensor:
    # By way of float: TensorRT converts neither INT32 nor INT64 to UINT8.
    return values.to(torch.float32).to(torch.uint8)
