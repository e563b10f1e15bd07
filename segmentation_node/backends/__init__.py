"""Run times behind one interface: one file each, one entry in ``BACKENDS`` each."""

import platform
from typing import Dict, List, NamedTuple, Optional, Tuple, Type

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
from segmentation_node.model_card import NO_WEIGHTS, PRECISIONS, ModelCard

# In the order in which ``auto`` prefers them where they can use an accelerator.
BACKENDS = {
    "tensorrt": TensorRtBackend,
    "torch": TorchBackend,
    "openvino": OpenVinoBackend,
    "onnxruntime": OnnxRuntimeBackend,
}
CPU_ORDER = ("openvino", "onnxruntime", "torch")
OTHER_CPU_ORDER = ("onnxruntime", "openvino", "torch")
"""In which ``auto`` prefers them on x86-64, where OpenVINO was measured to win, and elsewhere."""

__all__ = [
    "BACKENDS",
    "EXECUTIONS",
    "LEAST_AGREEMENT",
    "PRECISIONS",
    "Backend",
    "BackendChoice",
    "BackendOptions",
    "Prediction",
    "choose_backend",
    "open_backend",
]


class BackendChoice(NamedTuple):
    """What ``auto`` took: its name, why in a few words for the log, and why in full."""

    name: str
    summary: str
    details: str


def open_backend(name: str, card: ModelCard, options: BackendOptions) -> Backend:
    """Load a card on the backend of this name. Raises BackendError or CardError."""
    if name not in BACKENDS:
        raise BackendError(
            "unknown backend %r; known: auto, %s" % (name, ", ".join(sorted(BACKENDS)))
        )
    return BACKENDS[name](card, options)


def choose_backend(card: ModelCard, options: Optional[BackendOptions] = None) -> BackendChoice:
    """What ``auto`` means for this card on this machine, and why.

    Accelerated backends first, in the order of ``BACKENDS``, unless the device is to be the CPU;
    then those that run on the CPU, in an order that depends on its kind. TensorRT counts only once
    the card's engine was built.
    Raises BackendError that says of each backend why it cannot be used.
    """
    options = options or BackendOptions()
    asks_for_gpu = options.device.startswith("cuda")
    refusals: Dict[str, str] = {}
    usable: List[str] = []
    for name, backend in BACKENDS.items():
        reason = _refusal(backend, card, options)
        if reason:
            refusals[name] = reason
        elif asks_for_gpu or (options.device != "cpu" and backend.accelerated()):
            return _choice(name, "on the GPU", "it can use this machine's accelerator", refusals)
        else:
            usable.append(name)
    on_cpu = [name for name in _cpu_order() if name in usable]
    if not on_cpu:
        raise BackendError("no backend can run %s: %s" % (card.name, _listed(refusals)))
    details = "no accelerator can be used; it runs on the CPU"
    if on_cpu[1:]:
        others = ", ".join(on_cpu[1:])
        details += "; %s could too, but %s comes first on %s" % (
            others,
            on_cpu[0],
            platform.machine(),
        )
    return _choice(on_cpu[0], "first here of %s" % ", ".join(on_cpu), details, refusals)


def _choice(name: str, summary: str, details: str, refusals: Dict[str, str]) -> BackendChoice:
    if refusals:
        summary += "; not %s, see diagnostics" % ", ".join(refusals)
        details += "; " + _listed(refusals)
    return BackendChoice(name, "auto: " + summary, details)


def _listed(refusals: Dict[str, str]) -> str:
    return "; ".join("%s: %s" % refusal for refusal in refusals.items())


def _cpu_order() -> Tuple[str, ...]:
    return CPU_ORDER if platform.machine() in ("x86_64", "AMD64") else OTHER_CPU_ORDER


def _refusal(backend: Type[Backend], card: ModelCard, options: BackendOptions) -> str:
    if options.precision not in backend.precisions:
        return "it offers no precision %r" % options.precision
    if backend.devices and options.device not in backend.devices:
        return "it offers no device %r" % options.device
    kind = backend.kind_for(options.precision)
    if not card.offers(kind):
        command = card.command_to_add(kind)
        if kind == "weights" and card.source is not None:
            return NO_WEIGHTS
        return "the card has no %s artifact%s" % (kind, command and "; add it with: " + command)
    return backend.unavailable() or backend.unready(card, options)
