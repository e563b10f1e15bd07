"""Whether the confidence is right: counts and errors against pixels taken one by one."""

import json

import numpy as np
import pytest
from support.core import tiny

from segmentation_node.backends import BACKENDS
from segmentation_node.evaluation.__main__ import main
from segmentation_node.evaluation.frame import ScoredFrame
from segmentation_node.evaluation.report import text as report
from segmentation_node.evaluation.run.calibration import BINS, Calibration
from segmentation_node.evaluation.run.run import Run
from segmentation_node.geometry import Geometry
from segmentation_node.labels import CAMVID_11, CITYSCAPES_19
from segmentation_node.pipeline import open_segmenter

VOID = 255


def random_frames(seed, count=3, size=(13, 17)):
    """Truth, prediction and confidence, uint8 each; some pixels without a class in either."""
    random = np.random.RandomState(seed)
    for _ in range(count):
        truth, seen = random.randint(0, 11, (2,) + size)
        seen = np.where(random.rand(*size) < 0.6, truth, seen)
        truth[random.rand(*size) < 0.1] = VOID
        seen[random.rand(*size) < 0.1] = VOID
        confidence = random.randint(0, 256, size)
        yield truth.astype(np.uint8), seen.astype(np.uint8), confidence.astype(np.uint8)


def counted(frames):
    """Confidence 0-255 and whether it is right, of every pixel with a label and a class."""
    return [
        (int(value), bool(true == given))
        for frame in frames
        for true, given, value in zip(*(part.ravel() for part in frame))
        if true != VOID and given != VOID
    ]


def expected_error(pixels, bins=15):
    """Equation 3 of Guo et al. 2017 in whole numbers as far as they go."""
    error = 0.0
    for number in range(1, bins + 1):
        inside = [
            pixel
            for pixel in pixels
            if (number - 1) * 255 < pixel[0] * bins <= number * 255
            or (number == 1 and not pixel[0])
        ]
        if inside:
            share_right = sum(right for _, right in inside) / len(inside)
            confidence = sum(value for value, _ in inside) / 255.0 / len(inside)
            error += len(inside) / len(pixels) * abs(share_right - confidence)
    return error


def of(frames):
    calibration = Calibration()
    for frame in frames:
        calibration.add(*frame)
    return calibration


@pytest.mark.parametrize("seed", range(4))
def test_every_figure_is_that_of_the_pixels_one_by_one(seed):
    frames = list(random_frames(seed))
    pixels = counted(frames)
    result = of(frames).as_json()
    assert BINS == 15 and result["expected_error"] == pytest.approx(expected_error(pixels))
    assert result["mean_confidence"] == pytest.approx(np.mean([p[0] for p in pixels]) / 255)
    assert result["right_share"] == pytest.approx(np.mean([p[1] for p in pixels]))
    for value in range(256):
        assert result["pixels"][value] == sum(p[0] == value for p in pixels)
        assert result["right"][value] == sum(p[0] == value and p[1] for p in pixels)


def test_bins_hold_what_is_above_their_lower_edge_and_up_to_the_upper():
    edges = np.array([[0, 17, 18, 34, 35, 238, 239, 255]], np.uint8)
    sky = np.zeros_like(edges)
    bins = of([(sky, sky, edges)]).as_json()["bins"]
    shares = {index: found["pixels_share"] for index, found in enumerate(bins)}
    assert {k: v for k, v in shares.items() if v} == {
        0: 2 / 8,
        1: 2 / 8,
        2: 1 / 8,
        13: 1 / 8,
        14: 2 / 8,
    }
    assert bins[1]["mean_confidence"] == pytest.approx((18 + 34) / 2 / 255)
    assert (bins[1]["above"], bins[1]["up_to"]) == (1 / 15, 2 / 15)
    assert bins[1]["right_share"] == 1.0 and bins[5]["right_share"] is None


def test_confidence_that_is_right_has_no_error_and_none_that_is_certain_and_wrong_has_it_all():
    confidence = np.full((1, 255), 51, np.uint8)  # one of five is to be right
    truth = np.arange(255, dtype=np.uint8)[None] % 5
    assert of([(truth, np.zeros_like(truth), confidence)]).expected_error() == pytest.approx(0.0)
    certain = np.full_like(confidence, 255)
    assert of([(truth, truth + 1, certain)]).expected_error() == pytest.approx(1.0)
    assert Calibration().as_json() is None


def test_a_threshold_keeps_what_the_pipeline_keeps(tmp_path):
    """``confidence.threshold`` of the node, on the model itself."""
    pytest.importorskip("onnxruntime")
    image = tiny.random_image(3)
    truth = tiny.classify(tiny.random_image(4))
    with open_segmenter(tiny.card(), "onnxruntime") as segmenter:
        whole = segmenter.segment(image, with_confidence=True)
        seen = whole.class_map_hw.copy(), whole.confidence_hw.copy()
        for found in of([(truth,) + seen]).as_json()["thresholds"]:
            left = segmenter.segment(image, confidence_threshold=found["threshold"]).class_map_hw
            kept = left != VOID
            assert found["kept_share"] == kept.mean()
            expected = (left == truth)[kept].mean() if kept.any() else None
            assert found["right_share"] == pytest.approx(expected)


def test_parts_of_a_run_add_up():
    frames = list(random_frames(7, count=4))
    parts = Calibration()
    for part in (frames[:1], frames[1:]):
        found = of(part).as_json()
        parts.add_counts(found["pixels"], found["right"])
    assert parts.as_json() == of(frames).as_json()


def test_right_is_what_is_right_on_the_common_level():
    run = Run(CAMVID_11, CITYSCAPES_19, {})
    road, pavement, sidewalk, building = 3, 4, 1, 2
    run.add(
        ScoredFrame(
            "a",
            np.array([[road, pavement, road]], np.uint8),
            truth_hw=np.array([[sidewalk, sidewalk, building]], np.uint8),
            confidence_hw=np.array([[200, 200, 200]], np.uint8),
        )
    )
    assert run.as_json()["calibration"]["right_share"] == pytest.approx(2 / 3)


def test_what_a_geometry_leaves_out_is_not_counted():
    truth = np.zeros((2, 4), np.uint8)
    run = Run(CAMVID_11, CAMVID_11, {}, geometry=Geometry((1, 0, 3, 2)))
    confidence = np.full_like(truth, 255)
    run.add(ScoredFrame("a", truth, truth_hw=truth, confidence_hw=confidence))
    assert sum(run.as_json()["calibration"]["pixels"]) == 6


@pytest.fixture
def root(tmp_path):
    """Noise as the model sees it, one row of it labelled otherwise."""
    frames = {}
    for index in range(2):
        image = tiny.random_image(index)
        truth = tiny.classify(image)
        truth[index] = (truth[index] + 1) % 11
        truth[5] = tiny.VOID
        frames["%d.png" % index] = (image, truth)
    tiny.write_camvid(tmp_path, "test", frames)
    return str(tmp_path)


def run_command(root, path, *options):
    missing = BACKENDS["onnxruntime"].unavailable()
    if missing:
        pytest.skip("NOT RUN: " + missing)
    words = ["dataset", "--model", tiny.FOLDER, "--dataset", "camvid", "--root", root]
    words += ["--split", "test", "--json", str(path), "--backend", "onnxruntime"]
    assert main(words + list(options)) == 0
    return json.loads(path.read_text())


def test_the_command_gives_the_models_own_calibration(root, tmp_path, capsys):
    result = run_command(root, tmp_path / "found.json")["calibration"]
    values = [np.rint(tiny.confidence(tiny.random_image(index))) for index in range(2)]
    pixels = [
        (int(values[index][row, column]), row != index)
        for index in range(2)
        for row in range(5)
        for column in range(8)
    ]
    assert sum(result["pixels"]) == 80 and sum(result["right"]) == 64
    assert result["mean_confidence"] == pytest.approx(
        np.mean([p[0] for p in pixels]) / 255, abs=2e-3
    )
    shown = capsys.readouterr().out
    assert report.calibration_text(result) in shown
    assert "expected calibration error %.2f %%" % (100 * result["expected_error"]) in shown


def test_without_calibration_nothing_is_measured(root, tmp_path, capsys):
    result = run_command(root, tmp_path / "found.json", "--no-calibration")
    assert result["calibration"] is None and result["global_accuracy"] == 0.8
    assert "calibration" not in capsys.readouterr().out
