"""Whole images through a network: its score on a split, its batch-norm statistics."""

from collections.abc import Callable, Iterator
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
