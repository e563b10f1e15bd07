"""The deployed graph: raw image in, class map out.

Normalisation, upsampling and argmax are inside, so that every run time gets the same bytes and
the host only moves them.
"""

from typing import Any, Dict, NamedTuple, Optional, Sequence, Tuple

import torch
from torch import nn


class Variant(NamedTuple):
    """The dtypes of one form of the graph: what goes in, what it computes in, what comes out."""

    image: torch.dtype
    network: torch.dtype
    maps: torch.dtype


VARIANTS: Dict[str, Variant] = {
    "uint8": Variant(torch.uint8, torch.float32, torch.uint8),
    # TensorRT before 8.5 has no uint8.
    "float": Variant(torch.float32, torch.float32, torch.int32),
    # TensorRT 11 takes precision from the graph alone.
    "fp16": Variant(torch.uint8, torch.float16, torch.uint8),
}


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
    """Image RGB (N, H, W, 3), raw 0-255 -> class map (N, H, W).

    With ``with_confidence`` also the softmax probability of the chosen class, (N, H, W), 0-255,
    255 = certain, of the scores divided by ``temperature``. ``variant`` names the dtypes of image
    and maps; the network is used in the dtype that it has, and where that is half, normalisation
    and confidence stay in float32. ``trained_classes``, where given, are the only train ids that
    the class map may hold: scores of classes that training never saw mean nothing. With a
    ``box_head`` (``networks.box_head``) the last output is what it sees of the image, float32
    (N, C, H / stride, W / stride).
    """

    def __init__(
        self,
        normalise: Normalise,
        network: nn.Module,
        with_confidence: bool,
        variant: str = "uint8",
        trained_classes: Sequence[int] = (),
        temperature: float = 1.0,
        box_head: Optional[nn.Module] = None,
    ) -> None:
        super().__init__()
        self.box_head = box_head
        self.normalise = normalise
        self.network = network
        self.with_confidence = with_confidence
        self.variant = VARIANTS[variant]
        self.trained_classes = list(trained_classes)
        self.temperature = temperature
        self.channels: torch.Tensor
        self.train_ids: torch.Tensor
        channels = torch.tensor(self.trained_classes, dtype=torch.int64)
        self.register_buffer("channels", channels, persistent=False)
        self.register_buffer("train_ids", channels.to(torch.float32), persistent=False)

    def forward(self, image_nhwc: torch.Tensor) -> Tuple[torch.Tensor, ...]:
        # TensorRT takes a uint8 input only into a Cast, so the cast comes before the transpose.
        image_nchw = _cast(image_nhwc, self.normalise.scale.dtype).permute(0, 3, 1, 2)
        seen = _cast(self.normalise(image_nchw), _dtype_of(self.network))
        features: Tuple[torch.Tensor, ...] = ()
        if self.box_head is None:
            logits = self.network(seen)
        else:
            with_stages: Any = self.network.with_stages
            join: Any = self.box_head.join
            logits, stages = with_stages(seen)
            features = (join(stages),)
        if self.trained_classes:
            logits = logits[:, self.channels]
        chosen = logits.argmax(dim=1)
        class_map = self._as_map(self.train_ids[chosen] if self.trained_classes else chosen)
        if not self.with_confidence:
            return (class_map, *features)
        confidence = _confidence(_cast(logits, self.normalise.scale.dtype), self.temperature)
        return (class_map, self._as_map(confidence * 255.0 + 0.5), *features)

    def _as_map(self, values: torch.Tensor) -> torch.Tensor:
        if self.variant.maps == torch.uint8:
            # By way of float: TensorRT converts neither INT32 nor INT64 to UINT8.
            values = _cast(values, torch.float32)
        return values.to(self.variant.maps)


def _dtype_of(network: nn.Module) -> torch.dtype:
    parameter = next(network.parameters(), None)
    return torch.float32 if parameter is None else parameter.dtype


def _cast(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    # A cast to the same dtype would stay in the exported graph.
    return values if values.dtype == dtype else values.to(dtype)


def _confidence(logits_nchw: torch.Tensor, temperature: float) -> torch.Tensor:
    """Largest softmax probability: (N, C, H, W) -> (N, H, W)."""
    differences = logits_nchw - logits_nchw.amax(dim=1, keepdim=True)
    if temperature != 1.0:
        differences = differences * (1.0 / temperature)
    return 1.0 / differences.exp().sum(dim=1)
