"""Run times behind one interface: one file each, one entry in ``BACKENDS`` each."""

from typing import Type

from segmentation_node.backends.base import (
    EXECUTIONS,
    LEAST_AGREEMENT,
    Backend,
    BackendOptions,
    Prediction,
)
from segmentation_node.backends.onnxruntime import OnnxRuntimeBackend
from segmentation_node.backends.openvino import OpenVinoBackend
from segmentation_node.backends.tensorrt.backend import TensorRtBackend
from segmentation_node.backends.torch import TorchBackend
from segmentation_node.errors import BackendError
from segmentation_node.model_card import PRECISIONS, ModelCard

# In the order in which ``auto`` takes them where they can use an accelerator (``choice.py``).
BACKENDS = {
    "tensorrt": TensorRtBackend,
    "torch": TorchBackend,
    "openvino": OpenVinoBackend,
    "onnxruntime": OnnxRuntimeBackend,
}

__all__ = [
    "BACKENDS",
    "EXECUTIONS",
    "LEAST_AGREEMENT",
    "PRECISIONS",
    "Backend",
    "BackendOptions",
    "Prediction",
    "backend_class",
    "open_backend",
]


def backend_class(name: str) -> Type[Backend]:
    """The backend of this name. Raises BackendError that lists the known ones."""
    if name not in BACKENDS:
        raise BackendError(
            "unknown backend %r; known: auto, %s" % (name, ", ".join(sorted(BACKENDS)))
        )
    return BACKENDS[name]


def open_backend(name: str, card: ModelCard, options: BackendOptions) -> Backend:
    """Load a card on the backend of this name. Raises BackendError or CardError."""
    return backend_class(name)(card, options)
