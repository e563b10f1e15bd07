"""Augmentation as batched tensor operations on the device: one warp, then colour and light."""

from dataclasses import dataclass

import torch
from torch.nn import functional

from segmentation_node.labels import UNLABELLED


@dataclass(frozen=True)
class Augmentation:
    """Random zoom, crop, flip, colour and light.

    Called with images uint8 (N, H, W, 3) and labels uint8 (N, H, W); gives images float32
    (N, 3, h, w) in 0-255 and labels int64 (N, h, w), where (h, w) is ``crop_size``.
    """

    crop_size: tuple[int, int]
    scale_range: tuple[float, float]
    light_jitter: float

    def __call__(
        self, images_nhwc: torch.Tensor, labels_nhw: torch.Tensor, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        grid = self._sampling_grid(images_nhwc.shape[:3], generator).to(images_nhwc.device)
        images = images_nhwc.permute(0, 3, 1, 2).float()
        images = functional.grid_sample(images, grid, mode="bilinear", align_corners=False)
        labels = _warp_labels(labels_nhw, grid)
        if self.light_jitter > 0:
            images = jitter_light(images, self.light_jitter, generator)
        return images, labels

    def _sampling_grid(self, shape_nhw: torch.Size, generator: torch.Generator) -> torch.Tensor:
        """Sampling positions in [-1, 1]: float32 (N, h, w, 2)."""
        count, height, width = shape_nhw
        crop_height, crop_width = self.crop_size
        low, high = self.scale_range
        zoom = low * (high / low) ** torch.rand(count, generator=generator)
        half_h = crop_height / height / zoom
        half_w = crop_width / width / zoom
        center_y = _random_center(half_h, generator)
        center_x = _random_center(half_w, generator)
        flip = torch.randint(0, 2, (count,), generator=generator) * 2.0 - 1.0
        theta = torch.zeros(count, 2, 3)
        theta[:, 0, 0], theta[:, 0, 2] = half_w * flip, center_x
        theta[:, 1, 1], theta[:, 1, 2] = half_h, center_y
        size = [count, 1, crop_height, crop_width]
        return functional.affine_grid(theta, size, align_corners=False)


def jitter_light(
    images_nchw: torch.Tensor, strength: float, generator: torch.Generator
) -> torch.Tensor:
    """Change gamma, brightness, contrast and saturation of each image: float32 in 0-255."""

    def factors(amount: float) -> torch.Tensor:
        exponent = (torch.rand(len(images_nchw), 1, 1, 1, generator=generator) * 2 - 1) * amount
        return torch.exp(exponent).to(images_nchw.device)

    images = (images_nchw / 255).clamp(0, 1) ** factors(strength * 1.5)
    gray = images.mean(dim=1, keepdim=True)
    images = gray + (images - gray) * factors(strength)
    middle = images.mean(dim=(1, 2, 3), keepdim=True)
    images = middle + (images - middle) * factors(strength)
    return (images * factors(strength)).clamp(0, 1) * 255


def _random_center(half: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Centre of a crop that stays inside the image where it fits, else covers it."""
    room = (1 - half).abs()
    return (torch.rand(len(half), generator=generator) * 2 - 1) * room


def _warp_labels(labels_nhw: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
    # grid_sample fills with zero outside the image: shifted, zero means unlabelled.
    shifted = labels_nhw.unsqueeze(1).float() - UNLABELLED
    warped = functional.grid_sample(shifted, grid, mode="nearest", align_corners=False)
    return (warped + UNLABELLED).round().long().squeeze(1)
