"""Losses over the labelled pixels of a batch, and the class weights that go into them.

A loss is a total over this process's part of the batch, divided by a count over the whole batch.
The count depends on labels alone, so that parts of a batch (accumulated, or on other machines)
add up to exactly what one process computes on all of it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

from segmentation_node.labels import UNLABELLED
from training.data import AnySplit
from training.errors import RecipeError, TrainingError
from training.recipe import Distillation, Ohem, Recipe


def enet_weights(counts: torch.Tensor, offset: float) -> torch.Tensor:
    """ENet's 1 / ln(offset + share of pixels): float32 (classes,), mean 1.

    ``counts`` is int64 (images, classes). Shares are of the labelled pixels (the authors' code
    counts the others, too). Classes that never occur weigh nothing.
    """
    pixels = counts.sum(dim=0)
    share = pixels / pixels.sum()
    weights = torch.where(pixels > 0, 1 / torch.log(offset + share), 0.0)
    return weights / weights[pixels > 0].mean()


def median_frequency_weights(counts: torch.Tensor) -> torch.Tensor:
    """SegNet's (Eigen and Fergus 2015) median frequency / frequency: float32 (classes,).

    A class's frequency is its share of the labelled pixels of the images that show it.
    """
    pixels = counts.sum(dim=0)
    shown_in = (counts > 0).long()
    frequency = pixels.double() / (counts.sum(dim=1, keepdim=True) * shown_in).sum(dim=0)
    median = frequency[pixels > 0].quantile(0.5)
    return torch.where(pixels > 0, median / frequency, 0.0).float()


def make_class_weights(recipe: Recipe, split: AnySplit) -> torch.Tensor:
    """The recipe's weights for a split's classes: float32 (classes,), on its device."""
    if isinstance(recipe.class_weights, tuple):
        if len(recipe.class_weights) != split.classes:
            found, expected = len(recipe.class_weights), split.classes
            raise RecipeError(f"{found} class_weights for the data set's {expected} classes")
        return torch.tensor(recipe.class_weights, device=split.device)
    if recipe.class_weights == "none":
        return torch.ones(split.classes, device=split.device)
    counts = split.label_counts()
    if not counts.any():
        raise TrainingError(
            f"no pixel of the {len(split)} training images is of a class: there is nothing to "
            "learn; check-data says what their labels hold"
        )
    if recipe.class_weights == "median_frequency":
        return median_frequency_weights(counts).to(split.device)
    return enet_weights(counts, recipe.class_weight_offset).to(split.device)


@dataclass(frozen=True)
class Criterion:
    """A recipe's loss on labels, on auxiliary heads, and against a teacher."""

    class_weights: torch.Tensor
    reduction: str = "mean"
    ohem: Ohem | None = None
    auxiliary_weights: tuple[float, ...] = ()
    distillation: Distillation | None = None
    lovasz_weight: float = 0.0

    @classmethod
    def of(cls, recipe: Recipe, split: AnySplit) -> "Criterion":
        """The recipe's loss, its class weights by the split's labels."""
        return cls(
            make_class_weights(recipe, split),
            recipe.loss_reduction,
            recipe.ohem,
            tuple(recipe.auxiliary_heads.values()),
            recipe.distillation,
            recipe.lovasz_weight,
        )

    def counts(self, labels: torch.Tensor) -> torch.Tensor:
        """Sum of weights, labelled pixels, images with labels: float64 (3,); add over parts."""
        # Without boolean indexing, which makes the host wait for a GPU.
        by_label = functional.pad(self.class_weights.double(), (0, 256 - len(self.class_weights)))
        labelled = labels != UNLABELLED
        with_labels = labelled.flatten(1).any(dim=1)
        return torch.stack([by_label[labels].sum(), labelled.sum(), with_labels.sum()])

    def __call__(
        self,
        logits: Sequence[torch.Tensor],
        labels: torch.Tensor,
        counts: torch.Tensor,
        teacher_logits: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Loss of a part of the batch whose whole has ``counts``.

        ``logits`` holds the network's, then each auxiliary head's: (N, classes, H, W) each.
        """
        weights = (1.0, *self.auxiliary_weights)
        totals = [
            weight * self._total(output.float(), labels)
            for weight, output in zip(weights, logits, strict=True)
        ]
        loss = torch.stack(totals).sum() / self._divisor(counts)
        if self.lovasz_weight:
            surrogate = lovasz_total(logits[0].float(), labels)
            loss = loss + self.lovasz_weight * surrogate / counts[2].clamp(min=1).float()
        if self.distillation is not None and teacher_logits is not None:
            divergence = distillation_total(
                logits[0].float(), teacher_logits.float(), labels, self.distillation.temperature
            )
            loss = loss + self.distillation.weight * divergence / counts[1].clamp(min=1).float()
        return loss

    def _total(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        if self.ohem is not None:
            return ohem_total(logits, labels, self.class_weights, self.ohem)
        return functional.cross_entropy(
            logits, labels, self.class_weights, ignore_index=UNLABELLED, reduction="sum"
        )

    def _divisor(self, counts: torch.Tensor) -> torch.Tensor | float:
        if self.reduction == "sum":
            return 1.0
        chosen = counts[2] if self.ohem else counts[0] if self.reduction == "mean" else counts[1]
        # A batch without any label has loss 0, not 0 / 0.
        return torch.where(chosen > 0, chosen, 1.0).float()


def ohem_total(
    logits: torch.Tensor, labels: torch.Tensor, class_weights: torch.Tensor, ohem: Ohem
) -> torch.Tensor:
    """Sum over images of the mean weighted loss of an image's hard pixels."""
    plain = functional.cross_entropy(logits, labels, ignore_index=UNLABELLED, reduction="none")
    plain, flat = plain.flatten(1), labels.flatten(1)
    labelled = flat != UNLABELLED
    hard = _hard_pixels(plain.detach(), labelled, ohem)
    weights = class_weights[torch.where(labelled, flat, 0)] * hard
    return ((plain * weights).sum(dim=1) / hard.sum(dim=1).clamp(min=1)).sum()


def _hard_pixels(losses: torch.Tensor, labelled: torch.Tensor, ohem: Ohem) -> torch.Tensor:
    """Mask (N, pixels) of those below the threshold, and of each image's hardest."""
    losses = losses.masked_fill(~labelled, -1.0)
    least = (labelled.sum(dim=1) * ohem.least_share).ceil().long().clamp(min=1)
    ordered = losses.sort(dim=1, descending=True).values
    floor = ordered.gather(1, least[:, None] - 1)
    return labelled & ((losses >= floor) | (losses > -math.log(ohem.threshold)))


def lovasz_total(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Sum over images of 1 - mean IoU of the classes that an image shows, made differentiable.

    The Lovász-Softmax of Berman et al. 2018 ("The Lovász-Softmax loss"), image by image: between
    certain answers, where IoU is defined, it goes in straight lines. Without labels it is 0.
    """
    classes = logits.shape[1]
    labelled = (labels != UNLABELLED).flatten(1)[:, None]
    by_class = torch.arange(classes, device=labels.device)[None, :, None]
    is_class = labels.flatten(1)[:, None] == by_class
    probability = logits.softmax(dim=1).flatten(2)
    # A pixel without a label is no error, and comes last.
    errors = torch.where(is_class, 1 - probability, probability) * labelled
    errors, order = errors.sort(dim=2, descending=True)
    losses = (errors * _jaccard_slopes(is_class.gather(2, order))).sum(dim=2)
    shown = is_class.any(dim=2)
    return ((losses * shown).sum(dim=1) / shown.sum(dim=1).clamp(min=1)).sum()


def _jaccard_slopes(is_class: torch.Tensor) -> torch.Tensor:
    """What each pixel more that is wrong adds to 1 - IoU, the worst first: float32 (N, C, P)."""
    members = is_class.sum(dim=2, keepdim=True)
    missed = is_class.cumsum(dim=2, dtype=torch.float32)
    wrong = torch.arange(1, is_class.shape[2] + 1, device=is_class.device)
    loss = 1 - (members - missed) / (members + wrong - missed)
    return loss.diff(dim=2, prepend=torch.zeros_like(loss[..., :1]))


def distillation_total(
    logits: torch.Tensor, teacher_logits: torch.Tensor, labels: torch.Tensor, temperature: float
) -> torch.Tensor:
    """Sum over labelled pixels of KL(teacher || network), scaled by temperature squared."""
    target = functional.log_softmax(teacher_logits / temperature, dim=1)
    found = functional.log_softmax(logits / temperature, dim=1)
    divergence = functional.kl_div(found, target, reduction="none", log_target=True).sum(dim=1)
    return (divergence * (labels != UNLABELLED)).sum() * temperature**2
