"""The run times that a network's whole graph is timed on, image in, class map out.

ONNX Runtime and PyTorch run as the node's own backends run them. OpenVINO gets the same ONNX file
and is left out where it isn't installed.
"""

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from segmentation_node.backends import BACKENDS, BackendOptions, open_backend
from segmentation_node.errors import BackendError
from segmentation_node.model_card import ModelCard


class Opened(NamedTuple):
    """A loaded network: ``run`` takes uint8 (1, H, W, 3) and gives the class map (1, H, W)."""

    run: Callable[[np.ndarray], np.ndarray]
    close: Callable[[], None]


class RunTime(NamedTuple):
    """``missing`` says why this machine lacks it, empty where it is there.

    ``open`` loads a card on a number of threads and raises BackendError where that can't be done.
    """

    missing: Callable[[], str]
    open: Callable[[ModelCard, int], Opened]


def open_on_backend(backend: str, execution: str, card: ModelCard, threads: int) -> Opened:
    """On one of the node's own backends, on the CPU in fp32."""
    options = BackendOptions(device="cpu", num_threads=threads, execution=execution)
    opened = open_backend(backend, card, options)

    def run(image_nhwc: np.ndarray) -> np.ndarray:
        return opened.run(image_nhwc).class_map_nhw

    def close() -> None:
        opened.close()
        if execution == "compiled":
            # All networks are compiled through one function, and PyTorch keeps eight at most.
            import torch

            torch._dynamo.reset()

    return Opened(run, close)


def openvino_missing() -> str:
    """Why OpenVINO can't be used and what to do; empty when it can."""
    try:
        importlib.import_module("openvino")
    except ImportError as error:
        return f"OpenVINO is missing ({error}); install it with: pip install openvino"
    return ""


def open_on_openvino(card: ModelCard, threads: int) -> Opened:
    """The card's ONNX file on OpenVINO's CPU device, tuned for the time of a single image."""
    import openvino

    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        # Left alone it would compute in bf16 wherever the processor has it.
        "INFERENCE_PRECISION_HINT": "f32",
    }
    path = card.artifact_path("onnx")
    try:
        compiled = openvino.Core().compile_model(path, "CPU", settings)
    except RuntimeError as error:
        line = " ".join(str(error).split())
        raise BackendError(f"{path}: OpenVINO cannot load it: {line}") from error
    request: Any = compiled.create_infer_request()

    def run(image_nhwc: np.ndarray) -> np.ndarray:
        return request.infer([image_nhwc], share_inputs=True, share_outputs=True)[0]

    return Opened(run, lambda: None)


def _backend(name: str, execution: str = "auto") -> RunTime:
    return RunTime(BACKENDS[name].unavailable, partial(open_on_backend, name, execution))


REFERENCE = "onnxruntime"
"""Every class map is compared with this one's."""

RUN_TIMES: dict[str, RunTime] = {
    REFERENCE: _backend("onnxruntime"),
    "openvino": RunTime(openvino_missing, open_on_openvino),
    "torch": _backend("torch", "eager"),
    "torch_compile": _backend("torch", "compiled"),
}
