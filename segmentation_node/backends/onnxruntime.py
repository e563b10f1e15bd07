"""ONNX Runtime on the CPU."""

import importlib
import os
from typing import Any

import numpy as np

from segmentation_node.backends.base import Backend, Prediction
from segmentation_node.backends.onnx_activations import spell_out_activations
from segmentation_node.backends.onnx_checks import OnnxGraph, check_graph
from segmentation_node.backends.onnx_outputs import keep_output
from segmentation_node.errors import BackendError

CPU_PROVIDER = "CPUExecutionProvider"
DTYPES = {"tensor(uint8)": "uint8"}


def import_onnxruntime(part: str = "") -> Any:
    """The package, or a part of it, without its telemetry.

    From its import on it would keep a device id and a database of events under ~/.cache (1.31).
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    return importlib.import_module("onnxruntime" + part)


class OnnxRuntimeBackend(Backend):
    """Runs the card's ONNX file; works with ONNX Runtime 1.10 (Python 3.6) and later.

    At int8 what is not int8 in the file is computed in fp32.
    """

    name = "onnxruntime"
    artifact_kind = "onnx"
    other_kinds = {"int8": "onnx_int8"}
    precisions = ("fp32", "int8")
    devices = ("auto", "cpu")

    @classmethod
    def unavailable(cls) -> str:
        try:
            import_onnxruntime()
        except ImportError as error:
            return "ONNX Runtime is missing (%s); install it with: pip install onnxruntime" % error
        return ""

    def _load(self, artifact_path: str) -> None:
        model = _read(artifact_path)
        self._session = self._open(artifact_path, model)
        self.input_shape = check_graph(artifact_path, _described(self._session), self.card)
        self.device = "cpu"
        # ONNX Runtime computes all outputs, fetched or not: a graph of its own for the usual run.
        self._class_map_session = self._session
        if self.has_confidence:
            self._class_map_session = self._open(artifact_path, keep_output(model, "class_map"))

    def _open(self, artifact_path: str, model: bytes) -> Any:
        onnxruntime = import_onnxruntime()
        session_options = onnxruntime.SessionOptions()
        session_options.intra_op_num_threads = self.options.num_threads
        # Waiting threads spin, which makes a run faster; between runs the host needs their cores.
        # Versions that do not know the entry ignore it.
        session_options.add_session_config_entry("session.force_spinning_stop", "1")
        try:
            faster = spell_out_activations(model)
            return onnxruntime.InferenceSession(faster, session_options, providers=[CPU_PROVIDER])
        except Exception as error:  # the run time's own exceptions share no base class
            raise BackendError(
                "%s: ONNX Runtime cannot load it: %s" % (artifact_path, _line(error))
            ) from error

    def _run(self, image_nhwc: np.ndarray, with_confidence: bool) -> Prediction:
        names = ["class_map", "confidence"] if with_confidence else ["class_map"]
        session = self._session if with_confidence else self._class_map_session
        try:
            outputs = session.run(names, {"image": image_nhwc})
        except Exception as error:
            raise BackendError("backend onnxruntime: the run failed: %s" % _line(error)) from error
        return Prediction(outputs[0], outputs[1] if with_confidence else None)

    def _close(self) -> None:
        del self._session, self._class_map_session


def _described(session: Any) -> OnnxGraph:
    return OnnxGraph(
        inputs=[
            (item.name, DTYPES.get(item.type, item.type), item.shape)
            for item in session.get_inputs()
        ],
        outputs=[item.name for item in session.get_outputs()],
        label_set=session.get_modelmeta().custom_metadata_map.get("label_set"),
    )


def _read(artifact_path: str) -> bytes:
    with open(artifact_path, "rb") as artifact:
        return artifact.read()


def _line(error: Any) -> str:
    return " ".join(str(error).split())
