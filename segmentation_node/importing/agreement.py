"""Whether the new graph gives what the original gives, on both CPU run times."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from segmentation_node.backends import BackendOptions, open_backend
from segmentation_node.backends.openvino import OpenVinoBackend
from segmentation_node.errors import NetworkImportError
from segmentation_node.importing import original
from segmentation_node.importing.plan import Plan
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
    say: Callable[[str, str], None],
) -> tuple[dict[str, float], list[np.ndarray]]:
    """Agreement with the original on ONNX Runtime, by what was compared; and its class maps.

    Raises NetworkImportError where one is below ``LEAST_AGREEMENT``.
    """
    expected = [original_on(run, plan)(picture) for picture in pictures]
    maps = {"the result on ONNX Runtime": maps_of_folder(folder, "onnxruntime", pictures)}
    if not openvino_missing():
        shape = plan.entry.shape(plan.size, plan.entry.batch)
        try:
            foreign = original.on_openvino(path, plan.entry.name, shape, plan.head)
        except NetworkImportError as error:  # functions of the file's own, or sequences
            say("agreement", f"the original was not compared on OpenVINO: {error}")
        else:
            maps["the original on OpenVINO"] = [original_on(foreign, plan)(p) for p in pictures]
        maps["the result on OpenVINO"] = maps_of_folder(folder, "openvino", pictures)
    shares = {what: share_of_equal(found, expected) for what, found in maps.items()}
    for what, share in shares.items():
        if share < LEAST_AGREEMENT:
            raise NetworkImportError(
                f"{path.name}: {what} and the original on ONNX Runtime agree on {share:.3%} of the "
                f"pixels, expected {LEAST_AGREEMENT:.1%}; nothing was written"
            )
    return shares, expected
