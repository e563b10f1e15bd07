"""Whole images through a network: its score on a split, its batch-norm statistics."""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn
from torch.nn.modules.dropout import _DropoutNd
from torch.optim.swa_utils import update_bn

from segmentation_node.evaluation.run.confusion import ConfusionMatrix
from segmentation_node.networks.deploy import Normalise
from training.data import AnySplit
from training.distributed import Group

MEASURED_IMAGES = 32
"""At least so many tell what comes to a batch norm, where the split has them."""


@dataclass
class Score:
    """A split's confusion matrix, and some images (H, W, 3) with their class maps (H, W)."""

    matrix: ConfusionMatrix
    samples: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)


@torch.inference_mode()
def score(
    network: nn.Module,
    normalise: Normalise,
    split: AnySplit,
    group: Group,
    samples: int = 0,
    between_images: Callable[[], None] = lambda: None,
) -> Score:
    """Score a network at full size, keeping ``samples`` images from all over the split."""
    network.eval()
    result = Score(ConfusionMatrix(split.classes))
    indices = range(group.rank, len(split), group.world)
    kept = set(indices[:: max(1, len(indices) // samples)][:samples]) if samples else set()
    plan = [[index] for index in indices]
    for index, (images, labels) in zip(indices, split.batches(plan), strict=True):
        class_map = network(_prepared(images[0][None], normalise)).argmax(1)[0]
        class_map_hw = class_map.to(torch.uint8).cpu().numpy()
        result.matrix.add(labels[0].cpu().numpy(), class_map_hw)
        if index in kept:
            result.samples.append((images[0].cpu().numpy(), class_map_hw))
        between_images()
    counts = group.sum(torch.from_numpy(result.matrix.counts).to(split.device))
    result.matrix.counts = counts.cpu().numpy()
    return result


def recompute_batch_norm(
    network: nn.Module, normalise: Normalise, split: AnySplit, batch_size: int
) -> None:
    """Make batch-norm statistics the plain average over the split's unaugmented batches."""
    dropouts = {m: m.p for m in network.modules() if isinstance(m, _DropoutNd)}
    for module in dropouts:
        module.p = 0.0
    update_bn(_whole_batches(normalise, split, batch_size), network)
    for module, probability in dropouts.items():
        module.p = probability


@torch.no_grad()
def measure_batch_norm(
    network: nn.Module, names: Collection[str], normalise: Normalise, split: AnySplit
) -> None:
    """Give batch norms the statistics of what comes to them, and a scale and shift to undo them.

    In eval mode the network computes what it did, and in training about that: a trunk that was
    trained without batch norm keeps its scale. Some unaugmented images from all over the split
    are looked at.
    """
    if not names:
        return
    norms = {name: network.get_submodule(name) for name in names}
    sums = {name: torch.zeros(3, 1, dtype=torch.float64) for name in names}
    hooks = [norm.register_forward_pre_hook(_adder(sums, name)) for name, norm in norms.items()]
    network.eval()
    plan = [[index] for index in range(0, len(split), max(1, len(split) // MEASURED_IMAGES))]
    for images, _ in split.batches(plan):
        network(_prepared(images[0][None], normalise))
    for hook in hooks:
        hook.remove()
    for name, norm in norms.items():
        count, total, squares = sums[name]
        mean = total / count
        _undo(norm, mean, squares / count - mean**2)


def _adder(sums: dict[str, torch.Tensor], name: str) -> Callable[..., None]:
    def add(norm: nn.Module, inputs: tuple[torch.Tensor]) -> None:
        pixels = inputs[0].double().cpu().transpose(0, 1).flatten(1)
        count = torch.full((len(pixels),), pixels.shape[1], dtype=torch.float64)
        sums[name] = sums[name] + torch.stack([count, pixels.sum(1), pixels.square().sum(1)])

    return add


def _undo(norm: nn.Module, mean: torch.Tensor, variance: torch.Tensor) -> None:
    """Set the statistics of a batch norm; what it computes in eval mode stays."""
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    mean, variance = (values.to(norm.running_mean) for values in (mean, variance))
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    norm.bias.add_(scale * (mean - norm.running_mean))
    norm.weight.copy_(scale * (variance + norm.eps).sqrt())
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(variance)


def _whole_batches(
    normalise: Normalise, split: AnySplit, batch_size: int
) -> Iterator[torch.Tensor]:
    whole = len(split) // batch_size * batch_size
    plan = [range(start, start + batch_size) for start in range(0, whole, batch_size)]
    for images, _ in split.batches(plan):
        if isinstance(images, torch.Tensor):
            yield _prepared(images, normalise)
        else:
            yield from (_prepared(image[None], normalise) for image in images)


def _prepared(images_nhwc: torch.Tensor, normalise: Normalise) -> torch.Tensor:
    images = normalise(images_nhwc.permute(0, 3, 1, 2).float())
    return images.contiguous(memory_format=torch.channels_last)
