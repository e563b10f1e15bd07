"""Losses and class weights against values computed by hand and against torch's own."""

import math

import pytest
import torch
from torch.nn import functional

from training.distributed import Group
from training.losses import (
    Criterion,
    distillation_total,
    enet_weights,
    lovasz_total,
    median_frequency_weights,
)
from training.recipe import Distillation, Ohem, Recipe
from training.state import TrainingState
from training.step import TrainStep

VOID = 255
WEIGHTS = torch.tensor([1.0, 2.0, 4.0])


def batch(seed=0, classes=3):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(4, classes, 5, 6, generator=generator)
    labels = torch.randint(0, classes, (4, 5, 6), generator=generator)
    labels[0, :2] = VOID
    return logits, labels


def loss(criterion, logits, labels, teacher=None):
    outputs = logits if isinstance(logits, list) else [logits]
    return criterion(outputs, labels, criterion.counts(labels), teacher)


def two_pixels():
    """Probabilities of the true classes 0 and 2: 1/2 and 1/4; a third pixel is void."""
    logits = torch.log(torch.tensor([[0.5, 0.25, 0.25], [0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]))
    return logits.T.reshape(1, 3, 1, 3), torch.tensor([[[0, 2, VOID]]])


@pytest.mark.parametrize(
    "reduction, expected",
    [
        ("sum", math.log(2) + 4 * math.log(4)),
        ("caffe", (math.log(2) + 4 * math.log(4)) / 2),
        ("mean", (math.log(2) + 4 * math.log(4)) / 5),
    ],
)
def test_reductions_by_hand(reduction, expected):
    assert loss(Criterion(WEIGHTS, reduction), *two_pixels()).item() == pytest.approx(expected)


def test_mean_is_torchs_weighted_mean_and_caffes_is_not():
    logits, labels = batch()
    torchs = functional.cross_entropy(logits, labels, WEIGHTS, ignore_index=VOID)
    assert loss(Criterion(WEIGHTS, "mean"), logits, labels).item() == pytest.approx(torchs.item())
    labelled = labels[labels != VOID]
    ratio = WEIGHTS[labelled].sum() / len(labelled)
    caffe = loss(Criterion(WEIGHTS, "caffe"), logits, labels).item()
    assert caffe == pytest.approx((torchs * ratio).item())
    assert abs(caffe / torchs.item() - 1) > 0.5


@pytest.mark.parametrize(
    "criterion",
    [Criterion(WEIGHTS, reduction) for reduction in ("mean", "caffe", "sum")]
    + [Criterion(WEIGHTS, ohem=Ohem(threshold=0.4, least_share=0.2))]
    + [Criterion(WEIGHTS, lovasz_weight=0.5)],
    ids=["mean", "caffe", "sum", "ohem", "lovasz"],
)
def test_parts_of_a_batch_add_up_to_the_batch(criterion):
    logits, labels = batch()
    counts = criterion.counts(labels)
    parts = zip(logits.split([1, 3]), labels.split([1, 3]), strict=True)
    total = sum(criterion([part], label, counts) for part, label in parts)
    assert total.item() == pytest.approx(loss(criterion, logits, labels).item(), rel=1e-5)


def test_a_loss_stride_is_a_loss_on_every_nth_row_and_column():
    _, labels = batch()
    images = torch.randint(0, 256, (4, 3, 5, 6), generator=torch.Generator().manual_seed(1)).float()
    thinned = torch.full_like(labels, VOID)
    thinned[:, ::2, ::2] = labels[:, ::2, ::2]

    def first_loss(labels, stride):
        recipe = Recipe(
            network="fast_elu_squeezenet",
            dataset="camvid",
            epochs=1,
            crop_size=(5, 6),
            loss_stride=stride,
        )
        state = TrainingState(recipe, len(WEIGHTS), 1, torch.device("cpu"))
        return TrainStep(recipe, state, Criterion(WEIGHTS), Group())(images, labels).item()

    assert first_loss(labels, 2) == pytest.approx(first_loss(thinned, 1), rel=1e-5)
    assert first_loss(labels, 2) != pytest.approx(first_loss(labels, 1), rel=1e-5)


def test_a_loss_stride_reaches_every_weight_of_a_last_transposed_convolution():
    """Such a layer has weights of its own for every place within its stride."""
    recipe = Recipe(
        network="enet", dataset="camvid", epochs=1, crop_size=(16, 16), loss_stride=2, ema_decay=0
    )
    torch.manual_seed(0)
    state = TrainingState(recipe, len(WEIGHTS), 4, torch.device("cpu"))
    step = TrainStep(recipe, state, Criterion(WEIGHTS), Group())
    images = torch.randint(0, 256, (2, 3, 16, 16)).float()
    labels = torch.randint(0, len(WEIGHTS), (2, 16, 16))
    reached = torch.zeros(2, 2, dtype=torch.bool)
    for _ in range(4):
        step(images, labels)
        reached |= state.model.network.classifier.weight.grad.abs().sum((0, 1)) > 0
    assert reached.all()


def test_a_batch_without_labels_costs_nothing():
    logits, labels = batch()
    logits.requires_grad_()
    ohem, lovasz = Criterion(WEIGHTS, ohem=Ohem()), Criterion(WEIGHTS, lovasz_weight=1.0)
    for criterion in (Criterion(WEIGHTS), ohem, lovasz):
        found = loss(criterion, logits, torch.full_like(labels, VOID))
        found.backward()
        assert found.item() == 0 and torch.isfinite(logits.grad).all()


def test_ohem_by_hand():
    """Pixel 1 (probability 1/4) is below the threshold, pixel 0 (1/2) is not."""
    logits, labels = two_pixels()
    hard = Criterion(torch.ones(3), ohem=Ohem(threshold=0.3, least_share=0.01))
    assert loss(hard, logits, labels).item() == pytest.approx(math.log(4))
    both = Criterion(torch.ones(3), ohem=Ohem(threshold=0.01, least_share=1.0))
    assert loss(both, logits, labels).item() == pytest.approx((math.log(2) + math.log(4)) / 2)
    hardest = Criterion(torch.ones(3), ohem=Ohem(threshold=0.01, least_share=0.5))
    assert loss(hardest, logits, labels).item() == pytest.approx(math.log(4))


def test_lovasz_is_one_minus_mean_iou_where_answers_are_certain():
    """Image 0: class 0 has IoU 2/4, class 1 has 1/3, class 2 is not shown. Image 1: all right."""
    labels = torch.tensor([[[0, 0, 0, 1, 1, VOID]], [[2, 2, 0, 0, 1, VOID]]])
    found = torch.tensor([[[0, 0, 1, 1, 0, 2]], [[2, 2, 0, 0, 1, 0]]])
    logits = 1e4 * functional.one_hot(found, 3).permute(0, 3, 1, 2).float()
    image_0 = 1 - (2 / 4 + 1 / 3) / 2
    assert lovasz_total(logits, labels).item() == pytest.approx(image_0)
    criterion = Criterion(torch.ones(3), lovasz_weight=0.5)
    alone = loss(Criterion(torch.ones(3)), logits, labels).item()
    found_loss = loss(criterion, logits, labels).item()
    assert found_loss == pytest.approx(alone + 0.5 * image_0 / 2, rel=1e-5)


def test_lovasz_between_certain_answers_by_hand():
    """Class 0's errors 0.6 (its own pixel) and 0.3: 0.6 loses all of it, 0.3 adds nothing more.

    Class 1's errors 0.6 (class 0's pixel) and 0.3 (its own): IoU falls to 1/2, then to 0.
    """
    logits = torch.tensor([[0.4, 0.3], [0.6, 0.7]]).log().reshape(1, 2, 1, 2)
    labels = torch.tensor([[[0, 1]]])
    class_0 = 0.6 * 1 + 0.3 * 0
    class_1 = 0.6 * 0.5 + 0.3 * 0.5
    expected = (class_0 + class_1) / 2
    assert lovasz_total(logits, labels).item() == pytest.approx(expected, rel=1e-5)


def test_auxiliary_heads_add_their_share():
    logits, labels = two_pixels()
    criterion = Criterion(torch.ones(3), auxiliary_weights=(0.4,))
    alone = loss(Criterion(torch.ones(3)), logits, labels)
    uniform = torch.zeros_like(logits)
    found = loss(criterion, [logits, uniform], labels)
    assert found.item() == pytest.approx(alone.item() + 0.4 * math.log(3))


def test_distillation_by_hand():
    logits, labels = two_pixels()
    uniform = torch.zeros_like(logits)
    kl = math.log(1 / 3) - (math.log(0.5) + 2 * math.log(0.25)) / 3
    total = distillation_total(logits, uniform, labels, temperature=1.0)
    assert total.item() == pytest.approx(2 * kl, rel=1e-5)
    assert distillation_total(logits, logits, labels, 3.0).item() == pytest.approx(0, abs=1e-6)
    criterion = Criterion(
        torch.ones(3), distillation=Distillation(teacher="-", weight=0.5, temperature=1.0)
    )
    alone = loss(Criterion(torch.ones(3)), logits, labels)
    found = loss(criterion, logits, labels, uniform)
    assert found.item() == pytest.approx(alone.item() + 0.5 * kl, rel=1e-5)


def test_softer_distillation_keeps_the_gradients_size():
    logits, labels = batch()
    teacher = batch(seed=1)[0]
    sizes = []
    for temperature in (1.0, 4.0):
        leaf = logits.clone().requires_grad_()
        distillation_total(leaf, teacher, labels, temperature).backward()
        sizes.append(leaf.grad.norm().item())
    assert 0.3 < sizes[1] / sizes[0] < 3


def test_median_frequency_by_hand():
    """Class 0: 30 of 40 pixels; class 1: 10 of 20 in the one image that shows it; class 2: none."""
    counts = torch.tensor([[20, 0, 0], [10, 10, 0]])
    frequencies = [0.75, 0.5]
    median = sum(frequencies) / 2
    expected = [median / 0.75, median / 0.5, 0.0]
    assert median_frequency_weights(counts).tolist() == pytest.approx(expected)


def test_enet_by_hand():
    counts = torch.tensor([[30, 0, 10], [0, 0, 40]])
    raw = [1 / math.log(1.02 + 30 / 80), 0, 1 / math.log(1.02 + 50 / 80)]
    expected = [weight / (sum(raw) / 2) for weight in raw]
    assert enet_weights(counts, 1.02).tolist() == pytest.approx(expected)
