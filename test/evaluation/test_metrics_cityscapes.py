"""IoU and iIoU on real label images against Cityscapes' own scorer and torchmetrics."""

import os
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as scorer
from cityscapesscripts.helpers.labels import category2labels, labels, name2label
from support.core.real_data import folder_of

from segmentation_node.backends import BackendOptions, open_backend
from segmentation_node.evaluation.__main__ import main
from segmentation_node.evaluation.datasets import open_dataset
from segmentation_node.evaluation.offline import evaluate_dataset
from segmentation_node.evaluation.report import text as report
from segmentation_node.evaluation.run.accuracy import Accuracy
from segmentation_node.evaluation.run.instances import AVERAGE_SIZE_PX
from segmentation_node.geometry import WHOLE_IMAGE
from segmentation_node.labels import CATEGORIES, CITYSCAPES_19, UNLABELLED
from segmentation_node.model_card import open_model
from segmentation_node.pipeline import Batch, Segmenter

PROJECT = str(Path(__file__).resolve().parents[2])
SHARED = os.path.join(PROJECT, "..", "shared", "datasets")
DATASETS_FOLDER = os.path.abspath(os.environ.get("SEGMENTATION_DATASETS", SHARED))
REAL = {"cityscapes": 3, "kitti_semantics": 2}
# Ids outside of the 19 classes, of void and of a category that is scored.
IGNORED_IDS = np.array([0, 4, 9, 14], np.uint8)
TO_IDS = np.full(256, UNLABELLED, np.uint8)
for _id, _train_id in CITYSCAPES_19.dataset_ids.items():
    TO_IDS[_train_id] = _id


def test_the_label_set_is_cityscapes_own():
    scored = {label.id: label.trainId for label in labels if not label.ignoreInEval}
    assert CITYSCAPES_19.dataset_ids == scored
    for item in CITYSCAPES_19.classes:
        label = name2label[item.name]
        assert (item.category, item.color_rgb) == (label.category, label.color)
        assert (item.name in AVERAGE_SIZE_PX) == label.hasInstances
    assert set(CATEGORIES) == set(category2labels) - {"void"}


def test_average_sizes_are_the_scorers():
    for name, size_px in AVERAGE_SIZE_PX.items():
        assert size_px == scorer.args.avgClassSize[name]


class Compared:
    """One data set's real images with wrong predictions: ours and the scorer's figures."""

    def __init__(self, name, folder):
        self.pairs = []
        self.evaluation = Accuracy(CITYSCAPES_19, CITYSCAPES_19, tuple(AVERAGE_SIZE_PX))
        root = os.path.join(DATASETS_FOLDER, name)
        dataset = open_dataset(name, root, "train", with_instances=True)
        assert len(dataset) == REAL[name]
        truths, predictions = [], []
        for seed, (sample, files) in enumerate(zip(dataset, dataset.samples)):
            predicted = perturbed(sample.truth_hw, seed)
            self.pairs.append((sample.truth_hw, predicted))
            self.evaluation.add(sample.truth_hw, predicted, sample.instances_hw)
            truths.append(truth_for_scorer(name, files, str(folder), seed))
            predictions.append(os.path.join(str(folder), "prediction%d.png" % seed))
            write(predictions[-1], ids_for_scorer(predicted))
        self.ours = self.evaluation.as_json()
        self.theirs = scorer.evaluateImgLists(predictions, truths, scorer_arguments())


def scorer_arguments():
    arguments = scorer.CArgs()
    vars(arguments).update(vars(scorer.args), quiet=True, JSONOutput=False)
    return arguments


def perturbed(truth, seed):
    """Train ids wrong in many ways: shifted, unlabelled in places, blocks of one class."""
    random = np.random.RandomState(seed)
    predicted = np.roll(truth, (5, -9), axis=(0, 1))
    noise = random.rand(*truth.shape)
    predicted[noise < 0.03] = UNLABELLED
    for train_id in range(15):  # not all, so that some neither occur nor are predicted
        y, x = random.randint(0, truth.shape[0] - 40), random.randint(0, truth.shape[1] - 60)
        predicted[y : y + 40, x : x + 60] = train_id
    return predicted


def ids_for_scorer(predicted):
    ids = TO_IDS[predicted]
    unlabelled = predicted == UNLABELLED
    ids[unlabelled] = IGNORED_IDS[np.arange(unlabelled.sum()) % len(IGNORED_IDS)]
    return ids


def truth_for_scorer(name, files, folder, index):
    """The path of a labelIds file beside its instanceIds file, as the scorer wants them."""
    if name == "cityscapes":
        return files.labels
    values = cv2.imread(files.instances, cv2.IMREAD_UNCHANGED).astype(np.int64)
    ids, numbers = values // 256, values % 256
    path = os.path.join(folder, "truth%d_labelIds.png" % index)
    write(path, ids.astype(np.uint8))
    values = np.where(numbers > 0, ids * 1000 + numbers, ids)
    write(path.replace("labelIds", "instanceIds"), values.astype(np.uint16))
    return path


def write(path, image):
    assert cv2.imwrite(path, image)


@pytest.fixture(scope="module", params=sorted(REAL))
def compared(request, tmp_path_factory):
    root = os.path.join(DATASETS_FOLDER, request.param)
    if not os.path.isdir(root):
        pytest.skip("NOT RUN: no real data in %s (SEGMENTATION_DATASETS names its parent)" % root)
    with pytest.MonkeyPatch.context() as patch:
        if not hasattr(np, "in1d"):  # the scorer is older than NumPy 2.4, which dropped it
            patch.setattr(np, "in1d", np.isin, raising=False)
        return Compared(request.param, tmp_path_factory.mktemp(request.param))


def assert_same(ours, theirs):
    """Scores by name equal to 1e-9; undefined is None here and NaN there."""
    assert ours
    for name, score in ours.items():
        expected = theirs[name]
        assert (score is None) == np.isnan(expected), name
        if score is not None:
            assert score == pytest.approx(expected, rel=0, abs=1e-9), name


def test_class_iou_is_the_scorers(compared):
    assert_same(compared.ours["class_iou"], compared.theirs["classScores"])
    assert len(compared.ours["class_iou"]) == 19
    expected = compared.theirs["averageScoreClasses"]
    assert compared.ours["mean_iou"] == pytest.approx(expected, rel=0, abs=1e-9)
    assert 0.1 < expected < 0.9  # else nothing was compared


def test_class_iiou_is_the_scorers(compared):
    assert_same(compared.ours["class_iiou"], compared.theirs["classInstScores"])
    assert len(compared.ours["class_iiou"]) == 8
    expected = compared.theirs["averageScoreInstClasses"]
    assert compared.ours["mean_class_iiou"] == pytest.approx(expected, rel=0, abs=1e-9)
    assert 0.01 < expected < 0.9


def test_category_iou_is_the_scorers(compared):
    assert_same(compared.ours["category_iou"], compared.theirs["categoryScores"])
    assert len(compared.ours["category_iou"]) == 7
    expected = compared.theirs["averageScoreCategories"]
    assert compared.ours["mean_category_iou"] == pytest.approx(expected, rel=0, abs=1e-9)


def test_category_iiou_is_the_scorers(compared):
    assert_same(compared.ours["category_iiou"], compared.theirs["categoryInstScores"])
    assert set(compared.ours["category_iiou"]) == {"human", "vehicle"}
    expected = compared.theirs["averageScoreInstCategories"]
    assert compared.ours["mean_category_iiou"] == pytest.approx(expected, rel=0, abs=1e-9)


def test_counts_are_the_scorers(compared):
    theirs = np.array(compared.theirs["confMatrix"])
    ids = TO_IDS[:19]
    rows = theirs[ids]
    np.testing.assert_array_equal(compared.evaluation.matrix.counts[:, :19], rows[:, ids])
    ignored = rows.sum(axis=1) - rows[:, ids].sum(axis=1)
    np.testing.assert_array_equal(compared.evaluation.matrix.counts[:, 19], ignored)
    assert ignored.sum() > 0


def test_accuracies_and_iou_are_torchmetrics(compared):
    torch = pytest.importorskip("torch")
    classification = pytest.importorskip("torchmetrics.classification")
    # A 20th class takes the unlabelled predictions: a miss that is no hit of any class.
    options = {"num_classes": 20, "ignore_index": UNLABELLED}
    confusion = classification.MulticlassConfusionMatrix(**options)
    overall = classification.MulticlassAccuracy(average="micro", **options)
    recall = classification.MulticlassRecall(average="none", **options)
    iou = classification.MulticlassJaccardIndex(average="none", **options)
    weighted = classification.MulticlassJaccardIndex(average="weighted", **options)
    evaluation = Accuracy(CITYSCAPES_19, CITYSCAPES_19)
    for truth, predicted in compared.pairs:
        truth, predicted = truth[::4, ::4], predicted[::4, ::4]  # torchmetrics is slow
        evaluation.add(truth, predicted)
        predicted = np.where(predicted == UNLABELLED, 19, predicted).astype(np.int64)
        for metric in (confusion, overall, recall, iou, weighted):
            metric.update(torch.from_numpy(predicted), torch.from_numpy(truth.astype(np.int64)))
    matrix = evaluation.matrix
    np.testing.assert_array_equal(confusion.compute().numpy()[:19], matrix.counts)
    assert matrix.global_accuracy() == pytest.approx(float(overall.compute()), abs=1e-6)
    occurs = matrix.counts.sum(axis=1) > 0
    recalls = recall.compute().numpy()[:19][occurs]
    np.testing.assert_allclose(matrix.class_accuracy()[occurs], recalls, atol=1e-6)
    assert matrix.mean_accuracy() == pytest.approx(recalls.mean(), abs=1e-6)
    assert matrix.frequency_weighted_iou() == pytest.approx(float(weighted.compute()), abs=1e-6)
    np.testing.assert_allclose(
        matrix.class_iou()[occurs], iou.compute().numpy()[:19][occurs], atol=1e-6
    )


class Recording(Segmenter):
    """Keeps the class maps that it gives."""

    def __init__(self, backend):
        super().__init__(backend)
        self.class_maps = []

    def segment(self, image_hwc, **options):
        result = super().segment(image_hwc, **options)
        self.class_maps.append(result.class_map_hw.copy())
        return result


@pytest.mark.parametrize("name", sorted(REAL))
def test_a_models_figures_are_the_scorers(name, tmp_path, monkeypatch):
    """The whole way: files, network, reports; and the scorer on the network's class maps."""
    root = folder_of(name)
    if not hasattr(np, "in1d"):
        monkeypatch.setattr(np, "in1d", np.isin, raising=False)
    card = open_model("elu_squeezenet_street")
    dataset = open_dataset(name, root, "train", with_instances=True)
    with open_backend("onnxruntime", card, BackendOptions()) as backend:
        segmenter = Recording(Batch(backend))
        ours = evaluate_dataset(segmenter, dataset).as_json()
    truths, predictions = [], []
    for index, (files, class_map) in enumerate(zip(dataset.samples, segmenter.class_maps)):
        truths.append(truth_for_scorer(name, files, str(tmp_path), index))
        predictions.append(str(tmp_path / ("prediction%d.png" % index)))
        write(predictions[-1], ids_for_scorer(class_map))
    theirs = scorer.evaluateImgLists(predictions, truths, scorer_arguments())
    assert_same(ours["class_iou"], theirs["classScores"])
    assert_same(ours["category_iou"], theirs["categoryScores"])
    assert_same(ours["class_iiou"], theirs["classInstScores"])
    assert_same(ours["category_iiou"], theirs["categoryInstScores"])
    expected = theirs["averageScoreClasses"]
    assert ours["mean_iou"] == pytest.approx(expected, rel=0, abs=1e-9)


def test_the_tables_show_every_score(compared):
    text = report.accuracy_table(compared.ours)
    assert len(text.splitlines()) == 2 + 19 + 4
    assert "iIoU %" in text and report.percent(compared.ours["mean_class_iiou"]) in text
    text = report.category_table(compared.ours)
    assert len(text.splitlines()) == 2 + 7 + 1
    assert report.percent(compared.ours["category_iiou"]["vehicle"]) in text


class Echo:
    """Stands in for a segmenter: "predicts" from the image's red channel."""

    labels = CITYSCAPES_19
    geometry = WHOLE_IMAGE
    backend = SimpleNamespace(
        has_confidence=False, lacks_boxes_at_its_precision=lambda: "it has no box head"
    )
    has_boxes = False

    def output_size(self, image_size):
        return image_size

    def segment(self, image_hwc, out_class_map_hw, **_):
        np.copyto(out_class_map_hw, image_hwc[..., 0])
        return SimpleNamespace(stages_ms={"x": 1.0}, boxes=None)


@pytest.fixture
def step(tmp_path):
    """KITTI-STEP of two frames whose red channel holds the classes, all right."""
    classes = np.array([[13, 13, 0], [11, 0, 255]], np.uint8)
    numbers = np.array([[1, 1, 0], [2, 0, 0]], np.uint8)
    panoptic_bgr = np.dstack([numbers, np.zeros_like(numbers), classes])
    for folder in ("training/image_02/0002", "panoptic_maps/val/0002"):
        (tmp_path / folder).mkdir(parents=True)
        for frame in range(2):
            write(str(tmp_path / folder / ("%06d.png" % frame)), panoptic_bgr)
    return tmp_path


@pytest.mark.parametrize("with_instances", [True, False])
def test_a_data_set_is_evaluated(step, with_instances):
    dataset = open_dataset("kitti_step", str(step), "val", with_instances=with_instances)
    seen = []
    evaluation = evaluate_dataset(
        Echo(), dataset, progress=lambda samples: (seen.append(s.name) or s for s in samples)
    )
    result = evaluation.as_json()
    assert seen == ["0002/000000", "0002/000001"] and result["frames"] == 2
    assert result["mean_iou"] == 1.0 and result["global_accuracy"] == 1.0
    assert result["class_iiou"] == ({"person": 1.0, "car": 1.0} if with_instances else {})
    assert ("iIoU" in report.accuracy_table(result)) == with_instances


def test_a_broken_sample_ends_the_evaluation(step):
    path = step / "panoptic_maps/val/0002/000001.png"
    path.write_bytes(b"")
    dataset = open_dataset("kitti_step", str(step), "val")
    with pytest.raises(Exception, match="000001.png: .*no picture"):
        evaluate_dataset(Echo(), dataset)


@pytest.mark.parametrize("name", ["cityscapes", "cityscapes_coarse", "kitti_semantics"])
def test_the_command_names_a_missing_folder_in_one_line(name, tmp_path, capsys):
    arguments = ["dataset", "--model", "none", "--dataset", name, "--split", "train"]
    assert main(arguments + ["--root", str(tmp_path)]) == 1
    message = capsys.readouterr().err
    assert message.startswith("error: %s" % tmp_path) and message.count("\n") == 1
