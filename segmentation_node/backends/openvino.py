"""OpenVINO on the CPU. Run on x86-64 only; its wheels for Arm were never tried."""

import importlib
import re
import sys
from typing import Any, Dict, Optional, Tuple

import numpy as np

from segmentation_node.backends.base import Backend, BackendOptions, Prediction
from segmentation_node.backends.cpu import multiplies_bf16
from segmentation_node.backends.onnx_edits import (
    decode_weights,
    keep_output,
    select_before_enlarging,
)
from segmentation_node.backends.onnx_file import (
    FEATURES,
    TEMPERATURE,
    OnnxGraph,
    check_boxes_graph,
    check_graph,
    read_onnx,
)
from segmentation_node.backends.openvino_graph import rewrite
from segmentation_node.errors import BackendError, reason
from segmentation_node.model_card import ModelCard

TELEMETRY = "openvino_telemetry"
NOT_LOADED = (RuntimeError, ValueError)
"""OpenVINO's own errors; those of bytes that are no protobuf, and of names that are no text."""
DTYPES = {"u8": "uint8", "f32": "float32"}
PROPERTIES: Dict[str, Any] = {
    "PERFORMANCE_HINT": "LATENCY",
    # Pinned threads of several nodes would meet on the first cores while others are idle.
    "ENABLE_CPU_PINNING": False,
}


class OpenVinoBackend(Backend):
    """Runs the card's ONNX file; images are read from the caller's own array.

    bf16 only where the CPU has instructions for it; there at int8 what is not int8 in the file is
    computed in bf16, elsewhere in fp32. Not fp16: it took longer than fp32 on a Xeon that has it
    (AVX-512, no AMX).
    """

    name = "openvino"
    artifact_kind = "onnx"
    other_kinds = {"int8": "onnx_int8"}
    several_at_once = True
    precisions = ("fp32", "bf16", "int8")
    devices = ("auto", "cpu")
    runs_boxes = True

    @classmethod
    def unavailable(cls) -> str:
        try:
            openvino = import_openvino()
        except ImportError as error:
            return (
                "OpenVINO is missing (%s); install it with: make setup-openvino, or pip install "
                "openvino" % error
            )
        if not hasattr(openvino, "Core"):
            found = getattr(openvino, "__version__", "a folder of that name")
            return (
                "the package openvino is %s, expected OpenVINO 2023.1 or later; install it with: "
                "pip install -U openvino" % found
            )
        return ""

    @classmethod
    def unready(cls, card: ModelCard, options: BackendOptions) -> str:
        if options.precision != "bf16" or multiplies_bf16():
            return ""
        return (
            "this CPU has no instructions for bf16 (neither avx512_bf16 nor amx_bf16); choose "
            "precision fp32"
        )

    def _load(self, artifact_path: str) -> None:
        refusal = self.unready(self.card, self.options)
        if refusal:
            raise BackendError("backend openvino: " + refusal)
        openvino = import_openvino()
        model = read_onnx(artifact_path)
        try:
            core = openvino.Core()
            described = _described(core.read_model(model))
            self.input_shape = check_graph(artifact_path, described, self.card)
            # Every output of a graph is computed: a graph of its own for the usual run.
            precision = self.options.precision
            self._class_map_network = self._open(core, keep_output(model, "class_map"), precision)
            if self.has_confidence:
                whole = keep_output(model, *self.card.outputs)
                self._network = self._open(core, whole, precision)
        except NOT_LOADED as error:
            raise BackendError(
                "%s: OpenVINO cannot load it: %s" % (artifact_path, _line(error))
            ) from error
        self.device = "cpu"

    def _open(self, core: Any, model: bytes, precision: str) -> "_Network":
        threads = self.options.threads
        # Without a hint a CPU that has bfloat16 computes in that, and does not say so.
        hint = "f32" if precision == "fp32" or not multiplies_bf16() else "bf16"
        properties = dict(PROPERTIES, INFERENCE_PRECISION_HINT=hint)
        if threads:
            properties["INFERENCE_NUM_THREADS"] = threads
        graph = core.read_model(select_before_enlarging(decode_weights(model)))
        rewrite(graph)
        compiled = core.compile_model(graph, "CPU", properties)
        taken = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        if taken != hint:
            raise BackendError(
                "backend openvino: precision %s was asked for, but OpenVINO computes in %s; choose "
                "precision fp32" % (precision, taken)
            )
        found = compiled.get_property("INFERENCE_NUM_THREADS")
        if self.options.num_threads > found:
            self.warnings = [
                "backend openvino: num_threads is %d, but it takes %d, as many as there are cores"
                % (threads, found)
            ]
        network = _Network(compiled)
        # The first run makes what the later ones use again; the first frame must not wait for it.
        network.run(
            *(np.zeros(port.shape, port.element_type.to_dtype()) for port in compiled.inputs)
        )
        return network

    def _run(self, image_nhwc: np.ndarray, with_confidence: bool) -> Prediction:
        network = self._network if with_confidence else self._class_map_network
        maps = _run(network, image_nhwc)
        return Prediction(maps["class_map"], maps["confidence"] if with_confidence else None)

    def _open_boxes(self) -> None:
        path = self.card.artifact_path(self.artifact_kind)
        boxes_path = self.card.artifact_path(self.boxes_kind)
        model = read_onnx(path)
        try:
            core = import_openvino().Core()
            seen = keep_output(model, "class_map", FEATURES)
            self._features_networks = [self._open(core, seen, "fp32")]
            if self.has_confidence:
                self._features_networks.append(self._open(core, model, "fp32"))
            path = boxes_path
            model = read_onnx(path)
            check_boxes_graph(path, _described(core.read_model(model)), self.card)
            self._boxes_network = self._open(core, model, "fp32")
        except NOT_LOADED as error:
            raise BackendError("%s: OpenVINO cannot load it: %s" % (path, _line(error))) from error

    def _run_with_features(self, image_nhwc: np.ndarray, with_confidence: bool) -> Prediction:
        maps = _run(self._features_networks[int(with_confidence)], image_nhwc)
        confidence = maps["confidence"] if with_confidence else None
        return Prediction(maps["class_map"], confidence, maps[FEATURES])

    def _run_boxes(
        self, features_1chw: np.ndarray, rois_xyxy: np.ndarray
    ) -> Tuple[np.ndarray, np.ndarray]:
        maps = _run(self._boxes_network, features_1chw, rois_xyxy)
        return maps["scores"], maps["deltas"]

    def _close(self) -> None:
        del self._class_map_network
        if self.has_confidence:
            del self._network
        if self._has_boxes:
            del self._features_networks, self._boxes_network


class _Network:
    """A compiled graph, and by name the arrays that its outputs are written into."""

    def __init__(self, compiled: Any) -> None:
        self._tensor = import_openvino().Tensor
        self._request = compiled.create_infer_request()
        self.maps: Dict[str, np.ndarray] = {}
        for port in compiled.outputs:
            map_nhw = np.empty(tuple(port.shape), port.element_type.to_dtype())
            self._request.set_tensor(port, self._tensor(map_nhw, shared_memory=True))
            self.maps[port.any_name] = map_nhw

    def run(self, *inputs: np.ndarray) -> None:
        """Compute ``maps``. Raises RuntimeError as OpenVINO does."""
        for index, values in enumerate(inputs):
            # An array that is read-only cannot be shared; it is copied.
            tensor = self._tensor(values, shared_memory=values.flags.writeable)
            self._request.set_input_tensor(index, tensor)
        self._request.infer(share_outputs=True)


def _run(network: _Network, *inputs: np.ndarray) -> Dict[str, np.ndarray]:
    try:
        network.run(*inputs)
    except RuntimeError as error:
        raise BackendError("backend openvino: the run failed: %s" % _line(error)) from error
    return network.maps


def import_openvino() -> Any:
    """The package, without its telemetry, which would report each import to the vendor."""
    if "openvino" in sys.modules:
        return importlib.import_module("openvino")
    modules: Dict[str, Any] = sys.modules  # type: ignore[assignment]
    before = {TELEMETRY: modules[TELEMETRY]} if TELEMETRY in modules else {}
    modules[TELEMETRY] = None  # as if it were not installed, which OpenVINO allows for
    try:
        return importlib.import_module("openvino")
    finally:
        del modules[TELEMETRY]
        modules.update(before)


def _described(model: Any) -> OnnxGraph:
    def metadata(key: str) -> Optional[str]:
        path = ["framework", key]
        return str(model.get_rt_info(path).value) if model.has_rt_info(path) else None

    return OnnxGraph(
        inputs=[(port.any_name, _dtype(port), _shape(port)) for port in model.inputs],
        outputs=[port.any_name for port in model.outputs],
        label_set=metadata("label_set"),
        temperature=metadata(TEMPERATURE),
    )


def _dtype(port: Any) -> str:
    name = port.element_type.get_type_name()
    return DTYPES.get(name, name)


def _shape(port: Any) -> Any:
    """Sizes; one that is not fixed as its text."""
    sizes = port.partial_shape
    return [str(size) if size.is_dynamic else size.get_length() for size in sizes]


def _line(error: Any) -> str:
    """The error without the places in OpenVINO's sources, in one line."""
    return reason(re.sub(r"Exception from \S+:\d+:", "", str(error)))
