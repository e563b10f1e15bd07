"""Augmentation as batched tensor operations on the device: one warp, then colour and light.

Random numbers are drawn on the CPU for the whole batch of all processes, a few per image; so the
result depends neither on the device nor on how many processes share the batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

from segmentation_node.labels import UNLABELLED
from training.recipe import Recipe

Images = torch.Tensor | Sequence[torch.Tensor]
"""A batch: one tensor where the sizes are equal, one tensor per image where they differ."""


@dataclass(frozen=True)
class Augmentation:
    """Random zoom, crop, flip, colour and light.

    Called with images uint8 (N, H, W, 3) and labels uint8 (N, H, W), or with a sequence of
    images (H, W, 3) and labels (H, W) of differing sizes; gives images float32 (N, 3, h, w) in
    0-255 and labels int64 (N, h, w), where (h, w) is ``crop_size``.
    """

    crop_size: tuple[int, int]
    scale_range: tuple[float, float]
    light_jitter: float
    color_jitter: float = 0.0
    flip: bool = True

    @classmethod
    def of(cls, recipe: Recipe) -> "Augmentation":
        """What the recipe asks for."""
        return cls(
            recipe.crop_size,
            recipe.scale_range,
            recipe.light_jitter,
            recipe.color_jitter,
            recipe.flip,
        )

    def __call__(
        self, images: Images, labels: Images, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return self.apply(images, labels, self.draw(len(images), generator))

    def draw(self, count: int, generator: torch.Generator) -> torch.Tensor:
        """Random numbers of ``count`` images: float32 (rows, count), rows as in ``apply``."""

        def uniform() -> torch.Tensor:
            return torch.rand(count, generator=generator)

        rows = [uniform(), uniform(), uniform()]
        rows.append(torch.randint(0, 2, (count,), generator=generator).float())
        rows += [uniform() for _ in range(4 if self.light_jitter > 0 else 0)]
        rows += [uniform() for _ in range(3 if self.color_jitter > 0 else 0)]
        return torch.stack(rows)

    def apply(
        self, images: Images, labels: Images, draws: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Augment by numbers that ``draw`` gave for these images."""
        if isinstance(images, torch.Tensor) and isinstance(labels, torch.Tensor):
            warped, warped_labels = self._warp(images, labels, draws)
        else:
            parts = [
                self._warp(image[None], label[None], draws[:, index : index + 1])
                for index, (image, label) in enumerate(zip(images, labels, strict=True))
            ]
            warped = torch.cat([part[0] for part in parts])
            warped_labels = torch.cat([part[1] for part in parts])
        signed = (draws[4:] * 2 - 1).to(warped.device, non_blocking=True)
        signed = signed.view(-1, len(warped), 1, 1, 1)
        if self.light_jitter > 0:
            warped = jitter_light(warped, torch.exp(signed[:4] * self.light_jitter))
        if self.color_jitter > 0:
            gains = torch.exp(signed[-3:, :, 0] * self.color_jitter).movedim(0, 1)
            warped = (warped * gains).clamp(0, 255)
        return warped, warped_labels

    def _warp(
        self, images_nhwc: torch.Tensor, labels_nhw: torch.Tensor, draws: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        # Blocking, the host would wait for the steps before, and the GPU then for the host.
        theta = self._affine(images_nhwc.shape[1:3], draws).to(
            images_nhwc.device, non_blocking=True
        )
        size = [len(images_nhwc), 1, *self.crop_size]
        grid = functional.affine_grid(theta, size, align_corners=False)
        images = images_nhwc.permute(0, 3, 1, 2).float()
        images = functional.grid_sample(images, grid, mode="bilinear", align_corners=False)
        return images, _warp_labels(labels_nhw, grid)

    def _affine(self, size: Sequence[int], draws: torch.Tensor) -> torch.Tensor:
        """Crop position -> image position, both in [-1, 1]: float32 (N, 2, 3)."""
        low, high = self.scale_range
        zoom = low * (high / low) ** draws[0]
        half_h = self.crop_size[0] / size[0] / zoom
        half_w = self.crop_size[1] / size[1] / zoom
        mirror = draws[3] * 2.0 - 1.0 if self.flip else torch.ones(draws.shape[1])
        theta = torch.zeros(draws.shape[1], 2, 3)
        theta[:, 0, 0], theta[:, 0, 2] = half_w * mirror, _center(half_w, draws[2])
        theta[:, 1, 1], theta[:, 1, 2] = half_h, _center(half_h, draws[1])
        return theta


def jitter_light(images_nchw: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """Change gamma, saturation, contrast and brightness: float32 (N, 3, H, W) in 0-255.

    ``factors`` is float32 (4, N, 1, 1, 1) in that order; ones change nothing.
    """
    gamma, saturation, contrast, brightness = factors
    images = (images_nchw / 255).clamp(0, 1) ** (gamma**1.5)
    gray = images.mean(dim=1, keepdim=True)
    images = gray + (images - gray) * saturation
    middle = images.mean(dim=(1, 2, 3), keepdim=True)
    images = middle + (images - middle) * contrast
    return (images * brightness).clamp(0, 1) * 255


def _center(half: torch.Tensor, draw: torch.Tensor) -> torch.Tensor:
    """Centre of a crop that stays inside the image where it fits, else covers it."""
    return (draw * 2 - 1) * (1 - half).abs()


def _warp_labels(labels_nhw: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
    # grid_sample fills with zero outside the image: shifted, zero means unlabelled.
    shifted = labels_nhw.unsqueeze(1).float() - UNLABELLED
    warped = functional.grid_sample(shifted, grid, mode="nearest", align_corners=False)
    return (warped + UNLABELLED).round().long().squeeze(1)
