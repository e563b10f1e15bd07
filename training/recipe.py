"""Recipes: a training run written down as a file, so that anyone can repeat it."""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides a run's result besides the code. Unknown keys are refused."""

    network: str
    """Name in ``segmentation_node.networks.NETWORKS``."""
    network_options: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the network; they travel to the model card."""
    dataset: str
    """Name in ``segmentation_node.evaluation.datasets.DATASETS``."""
    seed: int = 0
    epochs: int
    """Passes over the training split."""
    batch_size: int = 4
    mean_rgb: tuple[float, float, float] = (123.675, 116.28, 103.53)
    """Subtracted from the image (RGB, 0-255) before it is divided by ``std_rgb``: ImageNet's."""
    std_rgb: tuple[float, float, float] = (58.395, 57.12, 57.375)
    crop_size: tuple[int, int]
    """Height and width of the training crops in pixels."""
    learning_rate: float = 1e-3
    """Peak of the one-cycle schedule."""
    weight_decay: float = 1e-4
    warmup_share: float = 0.1
    """Share of all steps in which the learning rate rises."""
    max_gradient_norm: float = 1.0
    ema_decay: float = 0.998
    """Per step; the averaged weights are what is evaluated and exported."""
    class_weight_offset: float = 1.02
    """ENet's weighting 1 / ln(offset + share of pixels); larger is nearer to no weighting."""
    scale_range: tuple[float, float] = (0.75, 1.75)
    """Zoom of the image before the crop is cut."""
    light_jitter: float = 0.3
    """Strength of brightness, contrast, saturation and gamma changes; 0 turns them off."""
    evaluate_every: int = 5
    """Epochs between evaluations on the validation split."""

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 1:
            raise ValueError(f"epochs {self.epochs} and batch_size {self.batch_size} must be >= 1")
        if not 0 < self.scale_range[0] <= self.scale_range[1]:
            raise ValueError(f"scale_range {self.scale_range} must be positive and ascending")

    @classmethod
    def read(cls, path: Path) -> "Recipe":
        """Read a YAML recipe. Raises ValueError that names an unknown or a missing key."""
        values = yaml.safe_load(path.read_text())
        known = {item.name for item in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ValueError(f"{path}: unknown keys {unknown}; known: {sorted(known)}")
        for key in ("mean_rgb", "std_rgb", "crop_size", "scale_range"):
            if key in values:
                values[key] = tuple(values[key])
        try:
            return cls(**values)
        except TypeError as error:
            raise ValueError(f"{path}: {error}") from error
