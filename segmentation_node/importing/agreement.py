"""Whether the new graph gives what the original gives, on both CPU run times."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from segmentation_node.backends import BackendOptions, open_backend
from segmentation_node.backends.openvino import OpenVinoBackend
from segmentation_node.errors import BackendError, NetworkImportError
from segmentation_node.importing import original
from segmentation_node.importing.plan import Plan
from segmentation_node.importing.planning import Say
from segmentation_node.model_card import read_card

LEAST_AGREEMENT = 0.999
"""Share of the pixels to which original and result must give the same class."""

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


def share_of_equal(maps: Iterable[np.ndarray], others: Iterable[np.ndarray]) -> float:
    """Share of the pixels that are equal."""
    return float(np.mean([(one == other).mean() for one, other in zip(maps, others, strict=True)]))


def compare(
    path: Path,
    folder: Path,
    plan: Plan,
    run: original.Run,
    pictures: Sequence[np.ndarray],
    say: Say,
) -> list[np.ndarray]:
    """Say how far result and original agree on each run time; the original's on ONNX Runtime.

    Raises NetworkImportError where a result has less than ``LEAST_AGREEMENT``. What OpenVINO cannot
    load, and where it differs from ONNX Runtime on the file itself, as it may in int8, is only
    said: neither is a fault of the result.
    """
    expected = [original_on(run, plan)(picture) for picture in pictures]
    found = maps_of_folder(folder, "onnxruntime", pictures)
    _hold(path, "the result and the original on ONNX Runtime", found, expected, say)
    missing = openvino_missing()
    try:
        if not missing:
            found = maps_of_folder(folder, "openvino", pictures)
    except BackendError as error:
        missing = str(error)
    if missing:
        say("agreement", f"not compared on OpenVINO: {missing}")
    else:
        _compare_on_openvino(path, plan, pictures, found, expected, say)
    return expected


def _compare_on_openvino(
    path: Path,
    plan: Plan,
    pictures: Sequence[np.ndarray],
    found: Sequence[np.ndarray],
    expected: Sequence[np.ndarray],
    say: Say,
) -> None:
    """Hold the result, ``found``, against the original there, or else on ONNX Runtime."""
    try:
        shape = plan.entry.shape(plan.size, plan.entry.batch)
        foreign = original.on_openvino(path, plan.entry.name, shape, plan.head)
    except NetworkImportError as error:  # functions of the file's own, or sequences
        say("agreement", f"the original was not compared on OpenVINO: {error}")
        what = "the result on OpenVINO and the original on ONNX Runtime"
        _hold(path, what, found, expected, say)
        return
    there = [original_on(foreign, plan)(picture) for picture in pictures]
    _hold(path, "the result and the original on OpenVINO", found, there, say)
    share = _told("the original on OpenVINO and on ONNX Runtime", there, expected, say)
    if share < LEAST_AGREEMENT:
        say("note", "the run times differ on the file itself; `backend` says which the node takes")


def _told(what: str, maps: Sequence[np.ndarray], others: Sequence[np.ndarray], say: Say) -> float:
    share = share_of_equal(maps, others)
    say("agreement", f"{share:.4%} of the pixels: {what}")
    return share


def _hold(
    path: Path, what: str, maps: Sequence[np.ndarray], others: Sequence[np.ndarray], say: Say
) -> None:
    share = _told(what, maps, others, say)
    if share < LEAST_AGREEMENT:
        raise NetworkImportError(
            f"{path.name}: {what} agree on {share:.3%} of the pixels, expected "
            f"{LEAST_AGREEMENT:.1%}; nothing was written"
        )
