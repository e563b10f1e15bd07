"""The confusion matrix against torchmetrics and against Cityscapes' own scorer."""

import copy
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from support.core.real_data import folder_of

from segmentation_node.evaluation.datasets import open_dataset
from segmentation_node.evaluation.run.confusion import ConfusionMatrix
from segmentation_node.labels import CATEGORIES, CITYSCAPES_19

CLASSES = 7


def disturbed(labels_hw, ids, seed):
    """A prediction: the labels moved by some pixels, with rectangles of other ids in it."""
    rng = np.random.RandomState(seed)
    height, width = labels_hw.shape
    predicted = np.roll(labels_hw, rng.randint(-12, 13, 2), axis=(0, 1))
    for _ in range(120):
        top, left = rng.randint(0, height), rng.randint(0, width)
        bottom, right = top + rng.randint(4, height // 6), left + rng.randint(4, width // 6)
        predicted[top:bottom, left:right] = rng.choice(ids)
    return predicted


@pytest.fixture(scope="module")
def images():
    """(truth, prediction) pairs: void in the truth, class 5 absent, class 6 only predicted."""
    rng = np.random.RandomState(0)
    truths = rng.choice([0, 1, 2, 3, 4, 255], (3, 12, 16)).astype(np.uint8)
    truths = truths.repeat(8, axis=1).repeat(8, axis=2)
    return [(truth, disturbed(truth, [0, 1, 2, 3, 4, 6], 1)) for truth in truths]


@pytest.fixture(scope="module")
def ours(images):
    matrix = ConfusionMatrix(CLASSES)
    for truth, predicted in images:
        matrix.add(truth, np.where(predicted == 255, np.uint8(0), predicted))
    return matrix


def torchmetrics_of(images, metric):
    for truth, predicted in images:
        # torchmetrics knows no unlabelled predictions.
        predicted = np.where(predicted == 255, np.uint8(0), predicted)
        metric.update(torch.from_numpy(predicted).long(), torch.from_numpy(truth).long())
    return metric.compute().numpy()


def test_counts_equal_torchmetrics(images, ours):
    from torchmetrics.classification import MulticlassConfusionMatrix

    metric = MulticlassConfusionMatrix(CLASSES, ignore_index=255)
    np.testing.assert_array_equal(ours.counts[:, :CLASSES], torchmetrics_of(images, metric))
    assert not ours.counts[:, CLASSES].any()


def test_iou_equals_torchmetrics(images, ours):
    from torchmetrics.classification import MulticlassJaccardIndex

    metric = MulticlassJaccardIndex(CLASSES, average="none", ignore_index=255)
    iou = ours.class_iou()
    assert np.isnan(iou[5]) and iou[6] == 0.0
    defined = ~np.isnan(iou)
    np.testing.assert_allclose(iou[defined], torchmetrics_of(images, metric)[defined], rtol=1e-6)


def test_accuracies_equal_torchmetrics(images, ours):
    from torchmetrics.classification import MulticlassAccuracy

    overall = MulticlassAccuracy(CLASSES, average="micro", ignore_index=255)
    assert ours.global_accuracy() == pytest.approx(torchmetrics_of(images, overall), rel=1e-6)
    recall = MulticlassAccuracy(CLASSES, average="none", ignore_index=255)
    defined = ~np.isnan(ours.class_accuracy())
    np.testing.assert_allclose(
        ours.class_accuracy()[defined], torchmetrics_of(images, recall)[defined], rtol=1e-6
    )


def test_frequency_weighted_iou_equals_torchmetrics(images, ours):
    from torchmetrics.classification import MulticlassJaccardIndex

    metric = MulticlassJaccardIndex(CLASSES, average="weighted", ignore_index=255)
    expected = torchmetrics_of(images, metric)
    assert ours.frequency_weighted_iou() == pytest.approx(float(expected), rel=1e-6)


def test_camvid_figures_equal_counting_class_by_class():
    """SegNet's protocol on real labels, as sets of pixels: void dropped, means over 11 classes."""
    dataset = open_dataset("camvid", folder_of("camvid"), "val")
    chosen = [dataset[index] for index in range(0, len(dataset), 10)]
    matrix = ConfusionMatrix(11)
    inside, either, truly = (np.zeros(11) for _ in range(3))
    for seed, sample in enumerate(chosen):
        predicted = disturbed(sample.truth_hw, range(11), seed)
        matrix.add(sample.truth_hw, predicted)
        counted = sample.truth_hw != 255
        for index in range(11):
            truth = (sample.truth_hw == index) & counted
            seen = (predicted == index) & counted
            inside[index] += (truth & seen).sum()
            either[index] += (truth | seen).sum()
            truly[index] += truth.sum()
    assert (truly > 0).all(), "all classes should occur"
    np.testing.assert_allclose(matrix.class_iou(), inside / either, rtol=1e-12)
    assert matrix.mean_iou() == pytest.approx((inside / either).mean(), rel=1e-12)
    assert matrix.mean_accuracy() == pytest.approx((inside / truly).mean(), rel=1e-12)
    assert matrix.global_accuracy() == pytest.approx(inside.sum() / truly.sum(), rel=1e-12)
    weighted = (inside / either * truly).sum() / truly.sum()
    assert matrix.frequency_weighted_iou() == pytest.approx(weighted, rel=1e-12)


def test_the_label_table_is_cityscapes_own():
    from cityscapesscripts.helpers.labels import labels

    counted = [label for label in labels if label.id >= 0 and not label.ignoreInEval]
    ours = CITYSCAPES_19.dataset_ids
    assert {label.id: label.trainId for label in counted} == ours
    assert [
        (label.name, label.category, label.color)
        for label in sorted(counted, key=lambda label: label.trainId)
    ] == [(item.name, item.category, item.color_rgb) for item in CITYSCAPES_19.classes]
    known = {label.id for label in labels if label.id >= 0} | {255}
    assert set(CITYSCAPES_19.known_dataset_ids) == known


@pytest.fixture(scope="module")
def cityscapes(tmp_path_factory):
    """Files of real labels and of predictions with every id, also those that are ignored."""
    gt_fine = Path(folder_of("cityscapes")) / "gtFine"
    truths = sorted(gt_fine.rglob("*_gtFine_labelIds.png"))
    assert truths
    folder = tmp_path_factory.mktemp("predictions")
    for seed, path in enumerate(truths):
        labels_hw = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        assert cv2.imwrite(str(folder / path.name), disturbed(labels_hw, range(34), seed))
    return [str(path) for path in truths], [str(folder / path.name) for path in truths]


@pytest.fixture(scope="module")
def scorer(cityscapes):
    """What Cityscapes' own scorer says."""
    from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as scoring

    options = copy.copy(scoring.args)
    options.evalInstLevelScore, options.JSONOutput, options.quiet = False, False, True
    truths, predictions = cityscapes
    return scoring.evaluateImgLists(predictions, truths, options)


@pytest.fixture(scope="module")
def our_score(cityscapes):
    matrix = ConfusionMatrix(len(CITYSCAPES_19))
    for files in zip(*cityscapes):
        ids = (cv2.imread(path, cv2.IMREAD_UNCHANGED) for path in files)
        matrix.add(*map(CITYSCAPES_19.to_train_ids, ids))
    assert matrix.counts[:, -1].any(), "some valid pixels should be predicted as ignored ids"
    return matrix


def test_class_iou_equals_cityscapes_scorer(our_score, scorer):
    expected = [scorer["classScores"][name] for name in CITYSCAPES_19.names]
    np.testing.assert_allclose(our_score.class_iou(), expected, rtol=1e-9)
    assert our_score.mean_iou() == pytest.approx(scorer["averageScoreClasses"])


def test_category_iou_equals_cityscapes_scorer(our_score, scorer):
    grouped = our_score.grouped(CITYSCAPES_19.category_lut(), len(CATEGORIES))
    expected = [scorer["categoryScores"][name] for name in CATEGORIES]
    np.testing.assert_allclose(grouped.class_iou(), expected, rtol=1e-9)
    assert grouped.mean_iou() == pytest.approx(scorer["averageScoreCategories"])
