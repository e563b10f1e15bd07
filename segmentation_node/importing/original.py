"""The original as its family runs it, in NumPy and OpenCV: what the new graph is held against.

Nothing here is shared with the making of the graph but the plan.
"""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from segmentation_node.backends.onnxruntime import import_onnxruntime
from segmentation_node.backends.openvino import PROPERTIES, import_openvino
from segmentation_node.errors import NetworkImportError, reason
from segmentation_node.importing.head import IDS
from segmentation_node.importing.plan import Entry, Plan

NEWER_FORMAT = "Unsupported model IR version"
"""What ONNX Runtime says of a file whose format is newer than itself."""
Run = Callable[[np.ndarray], dict[str, np.ndarray]]
"""The network's input -> its outputs by name."""


def on_onnxruntime(path: Path, entry: str) -> Run:
    """The untouched file on ONNX Runtime. Raises NetworkImportError where it does not load."""
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # the run time's own exceptions share no base class
        found, way_out = reason(error), ""
        if NEWER_FORMAT in found:  # packages of onnx are ahead of ONNX Runtime's
            found = found[found.index(NEWER_FORMAT) :]
            way_out = (
                '; update onnxruntime, or write the file anew: python3 -c "import onnx; '
                f"network = onnx.load({str(path)!r}); network.ir_version = 10; "
                "onnx.save(network, 'NET.onnx')\""
            )
        what = f"ONNX Runtime cannot load it ({found}){way_out}"
        raise NetworkImportError(f"{path.name}: {what}") from error
    names = [item.name for item in session.get_outputs() if item.type.startswith("tensor(")]
    if not names:
        raise NetworkImportError(f"{path.name}: none of its outputs is a tensor, expected scores")

    def run(values: np.ndarray) -> dict[str, np.ndarray]:
        try:
            return dict(zip(names, session.run(names, {entry: values}), strict=True))
        except Exception as error:
            raise NetworkImportError(
                f"{path.name}: it does not run on an input of {list(values.shape)} "
                f"({reason(error)}); give another --size or --layout"
            ) from error

    return run


def on_openvino(path: Path, entry: str, shape: tuple[int, ...], head: str) -> Run:
    """The untouched file on OpenVINO, at this input shape."""
    openvino = import_openvino()
    core = openvino.Core()
    try:
        model = core.read_model(str(path))
        model.reshape({entry: list(shape)})
        # Its own choice would be bf16, where the CPU has instructions for it.
        properties = dict(PROPERTIES, INFERENCE_PRECISION_HINT="f32")
        compiled = core.compile_model(model, "CPU", properties)
        port = compiled.output(head)
    except RuntimeError as error:
        raise NetworkImportError(
            f"{path.name}: OpenVINO cannot load it ({reason(error)})"
        ) from error

    def run(values: np.ndarray) -> dict[str, np.ndarray]:
        return {head: compiled([values])[port]}

    return run


def network_input(
    picture_hwc: np.ndarray,
    entry: Entry,
    order: str,
    scale: float,
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> np.ndarray:
    """A picture, uint8 RGB (H, W, 3), as the family gives it to its network."""
    pixels = cv2.cvtColor(picture_hwc, cv2.COLOR_RGB2BGR) if order == "bgr" else picture_hwc
    if entry.dtype != "uint8":
        turned = slice(None, None, -1 if order == "bgr" else 1)
        mean_here = np.array(mean, np.float32)[turned]
        std_here = np.array(std, np.float32)[turned]
        pixels = (pixels.astype(np.float32) * np.float32(scale) - mean_here) / std_here
    if entry.layout == "nchw":
        pixels = pixels.transpose(2, 0, 1)
    batch = np.repeat(pixels[np.newaxis], entry.batch, axis=0)
    return np.ascontiguousarray(batch.astype(entry.dtype))


def classes(output: np.ndarray, plan: Plan) -> np.ndarray:
    """The class of every pixel, uint8 (H, W), from what the network gave."""
    planes = plan.arrangement.planes(output)
    table = np.array(plan.class_ids())
    if plan.kind == IDS:
        values = _nearest(planes[0], plan.size).astype(np.float64)
        return table[np.clip(values, -1, 255).astype(int) + 1].astype(np.uint8)
    enlarge = _enlarged_by_corners if plan.by_corners else _enlarged
    full = np.stack([enlarge(plane.astype(np.float32), plan.size) for plane in planes])
    if plan.kind in ("logits", "softmax"):
        return table[full.argmax(axis=0)].astype(np.uint8)
    if plan.kind == "sigmoids":
        position = np.where(full.max(axis=0) > plan.threshold, full.argmax(axis=0) + 1, 0)
        return table[position].astype(np.uint8)
    return table[(full[0] > plan.threshold).astype(int)].astype(np.uint8)


def _enlarged(plane_hw: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    if plane_hw.shape == size:
        return plane_hw
    return cv2.resize(plane_hw, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)


def _enlarged_by_corners(plane_hw: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    for length in size:  # rows, which become columns, and then the same again
        places = np.linspace(0, len(plane_hw) - 1, length, dtype=np.float32)
        before = places.astype(int)
        behind = np.minimum(before + 1, len(plane_hw) - 1)
        share = (places - before)[:, np.newaxis]
        plane_hw = (plane_hw[before] * (1 - share) + plane_hw[behind] * share).T
    return plane_hw


def _nearest(plane_hw: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    rows, columns = (
        np.floor((np.arange(length) + 0.5) * cells / length).astype(int)
        for length, cells in zip(size, plane_hw.shape, strict=True)
    )
    return plane_hw[rows][:, columns]
