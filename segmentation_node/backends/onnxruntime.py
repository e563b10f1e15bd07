"""ONNX Runtime on the CPU."""

import importlib
from typing import Any, Union

import numpy as np

from segmentation_node.backends.base import Backend, Prediction
from segmentation_node.backends.onnx_outputs import keep_output
from segmentation_node.errors import BackendError

CPU_PROVIDER = "CPUExecutionProvider"


class OnnxRuntimeBackend(Backend):
    """Runs the card's ONNX file; works with ONNX Runtime 1.10 (Python 3.6) and later."""

    name = "onnxruntime"
    artifact_kind = "onnx"
    precisions = ("fp32",)

    @classmethod
    def unavailable(cls) -> str:
        try:
            importlib.import_module("onnxruntime")
        except ImportError as error:
            return "ONNX Runtime is missing (%s); install it with: pip install onnxruntime" % error
        return ""

    def _load(self, artifact_path: str) -> None:
        if self.options.device not in ("auto", "cpu"):
            raise BackendError(
                "backend onnxruntime: device %r is not offered; choose cpu or auto"
                % self.options.device
            )
        self._session = self._open(artifact_path, artifact_path)
        self._check_graph(artifact_path)
        self.device = "cpu"
        # ONNX Runtime computes all outputs, fetched or not: a graph of its own for the usual run.
        self._class_map_session = self._session
        if self.has_confidence:
            self._class_map_session = self._open(artifact_path, _class_map_alone(artifact_path))

    def _open(self, artifact_path: str, model: Union[str, bytes]) -> Any:
        import onnxruntime

        session_options = onnxruntime.SessionOptions()
        session_options.intra_op_num_threads = self.options.num_threads
        # Waiting threads spin, which makes a run faster; between runs the host needs their cores.
        # Versions that do not know the entry ignore it.
        session_options.add_session_config_entry("session.force_spinning_stop", "1")
        try:
            return onnxruntime.InferenceSession(model, session_options, providers=[CPU_PROVIDER])
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

    def _check_graph(self, artifact_path: str) -> None:
        inputs = [(item.name, item.type, item.shape) for item in self._session.get_inputs()]
        expected = [("image", "tensor(uint8)", list(self.input_shape))]
        if len(inputs) == 1 and isinstance(inputs[0][2][0], int):
            # The batch is the file's own; height and width are the card's.
            self.input_shape = (inputs[0][2][0],) + self.input_shape[1:]
            expected = [("image", "tensor(uint8)", list(self.input_shape))]
        if inputs != expected:
            raise BackendError(
                "%s: inputs are %s, but the model card expects %s"
                % (artifact_path, inputs, expected)
            )
        outputs = [item.name for item in self._session.get_outputs()]
        if outputs != self.card.outputs:
            raise BackendError(
                "%s: outputs are %s, but the model card says %s"
                % (artifact_path, outputs, self.card.outputs)
            )
        label_set = self._session.get_modelmeta().custom_metadata_map.get("label_set")
        if label_set != self.card.label_set:
            raise BackendError(
                "%s: the graph's classes are label set %s, but the model card says %s"
                % (artifact_path, label_set, self.card.label_set)
            )


def _class_map_alone(artifact_path: str) -> bytes:
    with open(artifact_path, "rb") as artifact:
        return keep_output(artifact.read(), "class_map")


def _line(error: Any) -> str:
    return " ".join(str(error).split())
