"""Whether the new graph gives what the original gives, on both CPU run times."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from segmentation_node.backends import BackendOptions, open_backend
from segmentation_node.backends.openvino import OpenVinoBackend
from segmentation_node.errors import BackendError, NetworkImportError
from segmentation_node.evaluation.run.confusion import joint_histogram
from segmentation_node.importing import original
from segmentation_node.importing.plan import Plan
from segmentation_node.importing.planning import Say
from segmentation_node.labels import UNLABELLED, LabelSet
from segmentation_node.model_card import read_card

LEAST_AGREEMENT = 0.999
"""Share of the pixels to which original and result must give the same class."""
LEAST_OF_CLASS = 0.8
"""The same of each class alone: its IoU, since a small one could be lost within the rest."""
FEWEST_PIXELS = 100
"""Of a class, in all pictures, from which on that is asked: of fewer the edges are too much."""

Maps = Sequence[np.ndarray]
Classify = Callable[[np.ndarray], np.ndarray]
"""A picture, uint8 RGB (H, W, 3) of the network's size -> classes, uint8 (H, W)."""


def original_on(run: original.Run, plan: Plan) -> Classify:
    """The original, its own preprocessing, and an argmax or a threshold in NumPy."""

    def classify(picture_hwc: np.ndarray) -> np.ndarray:
        values = original.network_input(
            picture_hwc, plan.entry, plan.order, plan.scale, plan.mean, plan.std
        )
        return original.classes(run(values)[plan.head], plan)

    return classify


def maps_of_folder(
    folder: Path, backend: str, pictures: Sequence[np.ndarray], precision: str = "fp32"
) -> list[np.ndarray]:
    """What the model folder gives, through the backend that the node loads it with.

    Pictures have one of the card's sizes.
    """
    card = read_card(str(folder)).at_size(pictures[0].shape[:2])
    with open_backend(backend, card, BackendOptions(precision=precision)) as opened:
        return [opened.run(item[np.newaxis]).class_map_nhw[0].copy() for item in pictures]


def openvino_missing() -> str:
    """Why OpenVINO is not compared with; empty where it is."""
    return OpenVinoBackend.unavailable()


@dataclass(frozen=True)
class Agreement:
    """Share of the pixels that are equal; of the class that is told apart worst, name and IoU."""

    pixels: float
    worst_class: str
    class_iou: float

    def __str__(self) -> str:
        whole = f"{self.pixels:.4%} of the pixels"
        return whole + (
            f", {self.class_iou:.1%} of {self.worst_class}" if self.class_iou < 1 else ""
        )

    def lacks(self, least_pixels: float, least_of_class: float) -> str:
        """What is too little of it; empty where nothing is."""
        if self.pixels < least_pixels:
            return f"agree on {self.pixels:.3%} of the pixels, expected {least_pixels:.1%}"
        if self.class_iou < least_of_class:
            return (
                f"agree on {self.class_iou:.1%} of the pixels that either gives to "
                f"{self.worst_class}, expected {least_of_class:.0%}"
            )
        return ""


def agreement_of(maps: Maps, others: Maps, labels: LabelSet) -> Agreement:
    """How far class maps, uint8 (H, W) each, agree: in all, and on each class of them."""
    pairs = np.sum([joint_histogram(*both) for both in zip(maps, others, strict=True)], axis=0)
    equal = np.diagonal(pairs)
    either = pairs.sum(axis=0) + pairs.sum(axis=1) - equal
    counted = np.flatnonzero(either >= FEWEST_PIXELS)
    iou = equal[counted] / either[counted]
    worst, least = (int(counted[iou.argmin()]), float(iou.min())) if counted.size else (0, 1.0)
    name = "unlabelled" if worst == UNLABELLED else labels.names[worst]
    return Agreement(float(equal.sum() / pairs.sum()), name, least)


def compare(
    path: Path,
    folder: Path,
    plan: Plan,
    run: original.Run,
    pictures: Sequence[np.ndarray],
    say: Say,
) -> list[np.ndarray]:
    """Say how far result and original agree on each run time; the original's on ONNX Runtime.

    Raises NetworkImportError where a result has less than ``LEAST_AGREEMENT``, or of a class less
    than ``LEAST_OF_CLASS``. What OpenVINO cannot load, and where it differs from ONNX Runtime on
    the file itself, as it may in int8, is only said: neither is a fault of the result.
    """
    comparison = _Comparison(path, plan, say)
    expected = [original_on(run, plan)(picture) for picture in pictures]
    found = maps_of_folder(folder, "onnxruntime", pictures)
    comparison.hold("the result and the original on ONNX Runtime", found, expected)
    missing = openvino_missing()
    try:
        if not missing:
            found = maps_of_folder(folder, "openvino", pictures)
    except BackendError as error:
        missing = str(error)
    if missing:
        say("agreement", f"not compared on OpenVINO: {missing}")
    else:
        comparison.on_openvino(pictures, found, expected)
    return expected


@dataclass(frozen=True)
class _Comparison:
    path: Path
    plan: Plan
    say: Say

    def on_openvino(self, pictures: Maps, found: Maps, expected: Maps) -> None:
        """Hold the result, ``found``, against the original there, or else on ONNX Runtime."""
        entry = self.plan.entry
        try:
            shape = entry.shape(self.plan.size, entry.batch)
            foreign = original.on_openvino(self.path, entry.name, shape, self.plan.head)
        except NetworkImportError as error:  # functions of the file's own, or sequences
            self.say("agreement", f"the original was not compared on OpenVINO: {error}")
            self.hold("the result on OpenVINO and the original on ONNX Runtime", found, expected)
            return
        there = [original_on(foreign, self.plan)(picture) for picture in pictures]
        self.hold("the result and the original on OpenVINO", found, there)
        if self.lack("the original on OpenVINO and on ONNX Runtime", there, expected):
            self.say(
                "note",
                "the run times differ on the file itself; `backend` says which the node takes",
            )

    def hold(self, what: str, maps: Maps, others: Maps) -> None:
        """Say how far they agree. Raises NetworkImportError where that is too little."""
        lack = self.lack(what, maps, others)
        if lack:
            raise NetworkImportError(f"{self.path.name}: {what} {lack}; nothing was written")

    def lack(self, what: str, maps: Maps, others: Maps) -> str:
        """Say how far they agree; what is too little of that, empty where nothing is."""
        agreement = agreement_of(maps, others, self.plan.labels)
        self.say("agreement", f"{agreement}: {what}")
        return agreement.lacks(LEAST_AGREEMENT, LEAST_OF_CLASS)
