"""A temperature that makes a model's confidence right, fitted on labelled frames.

Guo et al. 2017: of softmax(scores / T) the T under which the labels are likeliest. The search is
over 1 / T, in which the mean negative log likelihood is convex.
"""

from pathlib import Path
from typing import Any, List, NamedTuple, Sequence, Tuple, Union

import numpy as np

from segmentation_node.errors import DatasetError
from segmentation_node.evaluation.datasets.base import Dataset
from segmentation_node.evaluation.offline import Progress, sound_frames
from segmentation_node.evaluation.run.calibration import Calibration
from segmentation_node.images import NearestMapper, Placement, place, to_network
from segmentation_node.labels import UNLABELLED
from segmentation_node.model_card import ModelCard, read_card

FIT = "fit"
"""In place of a number: to be fitted."""
LEAST, MOST = 1 / 16.0, 16.0
"""Where a temperature is looked for."""
PIXELS = 2000000
PIXELS_PER_FRAME = 10000
"""At most; chosen at random, with one seed."""
STEPS = 16


class Fit(NamedTuple):
    """A temperature, and the expected calibration error without and with it, 0-1.

    ``held_out`` are the errors of each half of the frames with the temperature of the other half:
    what the error is on frames that the temperature has not seen. Halves are drives, or of single
    images the first and the second half.
    """

    temperature: float
    before: float
    after: float
    held_out_before: Tuple[float, float]
    held_out: Tuple[float, float]

    def __str__(self) -> str:
        """As a command tells it, one line."""
        percent = [100 * value for value in self[1:3] + self.held_out_before + self.held_out]
        return (
            "temperature %g: expected calibration error %.2f %% without, %.2f %% with it; on each "
            "half of the frames %.2f and %.2f %%, with the temperature of the other %.2f and "
            "%.2f %%" % (self.temperature, *percent)
        )


class Pixels(NamedTuple):
    """Scores less each pixel's highest, float32 (pixels, channels), and the labels' channels."""

    differences: np.ndarray
    channels: np.ndarray


def put_temperature(
    folder: str, wanted: Union[str, float], dataset: Dataset, progress: Progress = iter
) -> str:
    """Give a model folder's graphs and card a temperature, a number or ``FIT``; what to tell of it.

    Raises as ``fit_temperature``.
    """
    from segmentation_node.importing.temperature import set_temperature

    told, temperature = "temperature %s" % wanted, wanted
    if wanted == FIT:
        fit = fit_temperature(read_card(folder), dataset, progress)
        told, temperature = str(fit), fit.temperature
    set_temperature(Path(folder), float(temperature))
    return told


def fit_temperature(card: ModelCard, dataset: Dataset, progress: Progress = iter) -> Fit:
    """Fit on a data set with the model's own classes; whatever temperature it has plays no part.

    Raises DatasetError where the classes differ, a frame is broken, or no temperature fits, and
    CardError as ``importing.temperature`` does.
    """
    if dataset.label_set.names != card.labels.names:
        raise DatasetError(
            "a temperature is fitted on labels of the model's own classes: those of %s are %s, "
            "the data's %s" % (card.name, card.labels.name, dataset.label_set.name)
        )
    frames, drives = _read(card, dataset, progress)
    halves = [_joined(half) for half in _halves(frames, drives)]
    whole = _joined(frames)
    temperature = best_temperature(whole)
    crossed = list(zip(halves, (best_temperature(half) for half in halves[::-1])))
    return Fit(
        temperature,
        expected_error(whole, 1.0),
        expected_error(whole, temperature),
        (expected_error(halves[0], 1.0), expected_error(halves[1], 1.0)),
        (expected_error(*crossed[0]), expected_error(*crossed[1])),
    )


def best_temperature(pixels: Pixels) -> float:
    """The likeliest one, to four digits. Raises DatasetError where it is beyond the range."""
    low, high = 1 / MOST, 1 / LEAST
    if _slope(pixels, low) > 0.0 or _slope(pixels, high) < 0.0:
        raise DatasetError(
            "no temperature from %g to %g makes these labels likeliest: the model %s on them; fit "
            "on frames that it was not trained on"
            % (LEAST, MOST, "is always right" if _slope(pixels, high) < 0.0 else "knows nothing")
        )
    for _ in range(STEPS):
        middle = (low * high) ** 0.5
        low, high = (low, middle) if _slope(pixels, middle) > 0.0 else (middle, high)
    return float("%.4g" % ((low * high) ** -0.5))


def expected_error(pixels: Pixels, temperature: float) -> float:
    """Expected calibration error of the confidence as a graph gives it, 0-255."""
    totals = np.exp(pixels.differences / np.float32(temperature)).sum(axis=1)
    values = (255.0 / totals + 0.5).astype(np.int64)
    is_right = pixels.differences.argmax(axis=1) == pixels.channels
    calibration = Calibration()
    calibration.add_counts(
        np.bincount(values, minlength=256), np.bincount(values[is_right], minlength=256)
    )
    return calibration.expected_error()


def _slope(pixels: Pixels, factor: float) -> float:
    """Of the mean negative log likelihood by the factor, 1 / T; it never falls."""
    shares = np.exp(pixels.differences * np.float32(factor))
    expected = (shares * pixels.differences).sum(axis=1) / shares.sum(axis=1)
    labelled = pixels.differences[np.arange(len(pixels.channels)), pixels.channels]
    return float(np.mean(expected - labelled, dtype=np.float64))


def _read(card: ModelCard, dataset: Dataset, progress: Progress) -> Tuple[List[Pixels], List[str]]:
    """Pixels of every frame that has any, and its drive; empty of single images."""
    # ONNX Runtime is imported by backends and by importing alone.
    from segmentation_node.importing.temperature import open_scores

    scores = open_scores(card)
    channels = np.full(256, -1)
    channels[scores.ids] = np.arange(len(scores.ids))
    channels[UNLABELLED] = -1
    count = min(PIXELS_PER_FRAME, PIXELS // max(1, len(dataset)))
    random = np.random.RandomState(0)
    image_hwc = np.zeros(card.input_size + (3,), np.uint8)
    found, drives = [], []
    for frame in sound_frames(dataset, progress):
        placement = place(card.input.resize, frame.image_hwc.shape[:2], card.input_size)
        image_hwc.fill(0)
        to_network(frame.image_hwc, placement, image_hwc)
        labels = channels[_as_seen(frame.truth_hw, placement)].ravel()
        chosen = random.permutation(np.flatnonzero(labels >= 0))[:count]
        if chosen.size:
            differences = scores.run(image_hwc).reshape(len(scores.ids), -1)[:, chosen].T
            found.append(Pixels(np.ascontiguousarray(differences), labels[chosen]))
            drives.append(frame.position[0] if frame.position else "")
    return found, drives


def _as_seen(truth_hw: Any, placement: Placement) -> np.ndarray:
    """The labels where the network sees them: at each of its pixels the nearest one."""
    seen = np.empty(placement.network_size, np.uint8)
    back = Placement(
        image_size=placement.network_size,
        network_size=placement.image_size,
        image_box=placement.network_box,
        network_box=placement.image_box,
    )
    return NearestMapper(back)(np.ascontiguousarray(truth_hw), seen, UNLABELLED)


def _halves(frames: List[Pixels], drives: List[str]) -> Tuple[List[Pixels], List[Pixels]]:
    """By drive, so many as make about half of the frames; single images in their order."""
    if len(frames) < 2:
        raise DatasetError("%d frames with labels; a temperature needs 2 or more" % len(frames))
    middle = len(frames) // 2
    ends = [i for i in range(1, len(drives)) if drives[i] != drives[i - 1]]
    cut = min(ends, key=lambda end: abs(end - middle)) if ends else middle
    return frames[:cut], frames[cut:]


def _joined(frames: Sequence[Pixels]) -> Pixels:
    return Pixels(
        np.concatenate([frame.differences for frame in frames]),
        np.concatenate([frame.channels for frame in frames]),
    )
