"""The run times that a network's whole graph is timed on, image in, class map out.

All run as the node's own backends run them; what isn't installed is left out.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np

from segmentation_node.backends import BACKENDS, BackendOptions, open_backend
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


def _backend(name: str, execution: str = "auto") -> RunTime:
    return RunTime(BACKENDS[name].unavailable, partial(open_on_backend, name, execution))


REFERENCE = "onnxruntime"
"""Every class map is compared with this one's."""

RUN_TIMES: dict[str, RunTime] = {
    REFERENCE: _backend("onnxruntime"),
    "openvino": _backend("openvino"),
    "torch": _backend("torch", "eager"),
    "torch_compile": _backend("torch", "compiled"),
}
