"""ONNX Runtime on the CPU, and where it was built for it on an NVIDIA GPU, which was never run."""

import importlib
import os
from typing import Any, Dict, List, Tuple

import numpy as np

from segmentation_node.backends.base import Backend, BackendOptions, Prediction, gpu_index
from segmentation_node.backends.onnx_edits import (
    decode_weights,
    keep_output,
    select_before_enlarging,
    spell_out_activations,
)
from segmentation_node.backends.onnx_file import (
    FEATURES,
    TEMPERATURE,
    OnnxGraph,
    check_boxes_graph,
    check_graph,
    read_onnx,
)
from segmentation_node.errors import BackendError, reason
from segmentation_node.model_card import ModelCard

CPU_PROVIDER = "CPUExecutionProvider"
CUDA_PROVIDER = "CUDAExecutionProvider"
TENSORRT_PROVIDER = "TensorrtExecutionProvider"
DTYPES = {"tensor(uint8)": "uint8", "tensor(float)": "float32"}


def import_onnxruntime(part: str = "") -> Any:
    """The package, or a part of it, without its telemetry.

    From its import on it would keep a device id and a database of events under ~/.cache (1.31).
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    return importlib.import_module("onnxruntime" + part)


class OnnxRuntimeBackend(Backend):
    """Runs the card's ONNX file; works with ONNX Runtime 1.10 (Python 3.6) and later.

    At int8 what is not int8 in the file is computed in fp32. Device ``auto`` is the CPU. On
    ``cuda`` execution ``compiled`` is TensorRT's provider before CUDA's, ``eager`` CUDA's alone,
    and ``auto`` the first of them that this ONNX Runtime was built with.
    """

    name = "onnxruntime"
    artifact_kind = "onnx"
    other_kinds = {"int8": "onnx_int8"}
    several_at_once = True
    precisions = ("fp32", "int8")
    executions = ("auto", "eager", "compiled")
    runs_boxes = True

    @classmethod
    def unavailable(cls) -> str:
        try:
            import_onnxruntime()
        except ImportError as error:
            # Of itself pip may put NumPy 2 before what OpenCV and cv_bridge were compiled against.
            numpy = '"numpy<2" ' if np.__version__.startswith("1.") else ""
            return "ONNX Runtime is missing (%s); install it with: pip install %sonnxruntime" % (
                error,
                numpy,
            )
        return ""

    @classmethod
    def unready(cls, card: ModelCard, options: BackendOptions) -> str:
        if gpu_index(options.device) is None:
            if options.execution != "compiled":
                return ""
            return (
                "execution 'compiled' is TensorRT's, on a GPU; choose device cuda, or execution "
                "auto or eager"
            )
        missing = _missing_provider(options.execution)
        if not missing and options.precision != "fp32":
            missing = "on a GPU it computes in fp32, not %s" % options.precision
        return missing and "device %r: %s" % (options.device, missing)

    def _load(self, artifact_path: str) -> None:
        self._gpu = gpu_index(self.options.device)
        if self._gpu is None:
            self._check_choice("device", self.options.device, ("auto", "cpu", "cuda", "cuda:0"))
        refusal = self.unready(self.card, self.options)
        if refusal:
            raise BackendError("backend onnxruntime: " + refusal)
        model = read_onnx(artifact_path)
        self._session = self._open(artifact_path, model)
        graph = _described(self._session)
        self.input_shape = check_graph(artifact_path, graph, self.card)
        if FEATURES in graph.outputs:
            self._session = self._open(artifact_path, keep_output(model, *self.card.outputs))
        self.device = "cpu"
        if self._gpu is not None:
            provider = self._session.get_providers()[0]
            self.device = "cuda:%d through %s" % (self._gpu, provider)
            self.execution = "compiled" if provider == TENSORRT_PROVIDER else "eager"
        # ONNX Runtime computes all outputs, fetched or not: a graph of its own for the usual run.
        self._class_map_session = self._session
        if self.has_confidence:
            self._class_map_session = self._open(artifact_path, keep_output(model, "class_map"))

    def _open(self, artifact_path: str, model: bytes) -> Any:
        onnxruntime = import_onnxruntime()
        session_options = onnxruntime.SessionOptions()
        session_options.intra_op_num_threads = self.options.threads or _default_threads()
        # Waiting threads spin, which makes a run faster; between runs the host needs their cores.
        # Versions that do not know the entry ignore it.
        session_options.add_session_config_entry("session.force_spinning_stop", "1")
        try:
            providers = self._providers()
            content = select_before_enlarging(decode_weights(model))
            content = spell_out_activations(content) if self._gpu is None else content
            session = onnxruntime.InferenceSession(content, session_options, providers=providers)
        except Exception as error:  # the run time's own exceptions share no base class
            raise BackendError(
                "%s: ONNX Runtime cannot load it: %s" % (artifact_path, reason(error))
            ) from error
        # Where a provider does not start, ONNX Runtime goes on with the next one.
        wanted, found = providers[0][0], session.get_providers()
        if found[:1] != [wanted]:
            raise BackendError(
                "%s: %s was asked for but did not start, ONNX Runtime offers %s instead; see its "
                "own messages above, or choose device cpu" % (artifact_path, wanted, found)
            )
        return session

    def _providers(self) -> List[Tuple[str, Dict[str, Any]]]:
        """Names and options, the one that is wanted first."""
        if self._gpu is None:
            return [(CPU_PROVIDER, {})]
        cuda = (CUDA_PROVIDER, {"device_id": self._gpu, "use_tf32": 0})
        if _gpu_providers(self.options.execution)[0] == CUDA_PROVIDER:
            return [cuda]
        folder = os.path.expanduser(self.options.engine_dir)
        os.makedirs(folder, exist_ok=True)
        cache = {"trt_engine_cache_enable": True, "trt_engine_cache_path": folder}
        return [(TENSORRT_PROVIDER, dict(cache, device_id=self._gpu)), cuda]

    def _run(self, image_nhwc: np.ndarray, with_confidence: bool) -> Prediction:
        names = ["class_map", "confidence"] if with_confidence else ["class_map"]
        session = self._session if with_confidence else self._class_map_session
        outputs = _run(session, names, {"image": image_nhwc})
        return Prediction(outputs[0], outputs[1] if with_confidence else None)

    def _open_boxes(self) -> None:
        path = self.card.artifact_path(self.artifact_kind)
        model = read_onnx(path)
        self._features_sessions = [self._open(path, keep_output(model, "class_map", FEATURES))]
        if self.has_confidence:
            self._features_sessions.append(self._open(path, model))
        path = self.card.artifact_path(self.boxes_kind)
        self._boxes_session = self._open(path, read_onnx(path))
        check_boxes_graph(path, _described(self._boxes_session), self.card)

    def _run_with_features(self, image_nhwc: np.ndarray, with_confidence: bool) -> Prediction:
        names = ["class_map", FEATURES] + ["confidence"] * with_confidence
        session = self._features_sessions[int(with_confidence)]
        outputs = _run(session, names, {"image": image_nhwc})
        return Prediction(outputs[0], outputs[2] if with_confidence else None, outputs[1])

    def _run_boxes(
        self, features_1chw: np.ndarray, rois_xyxy: np.ndarray
    ) -> Tuple[np.ndarray, np.ndarray]:
        feed = {FEATURES: features_1chw, "rois": rois_xyxy}
        scores, deltas = _run(self._boxes_session, ["scores", "deltas"], feed)
        return scores, deltas

    def _close(self) -> None:
        del self._session, self._class_map_session
        if self._has_boxes:
            del self._features_sessions, self._boxes_session


def _run(session: Any, names: List[str], feed: Dict[str, np.ndarray]) -> List[Any]:
    try:
        outputs: List[Any] = session.run(names, feed)
    except Exception as error:
        raise BackendError("backend onnxruntime: the run failed: %s" % reason(error)) from error
    return outputs


def _default_threads() -> int:
    """As many as there are cores for this process; 0, ONNX Runtime's choice, where it has all.

    That choice is a thread pinned to each core of the machine: to those too that are offline, or
    that the process was kept off.
    """
    cores = len(os.sched_getaffinity(0))
    return cores if cores < os.sysconf("SC_NPROCESSORS_CONF") else 0


def _gpu_providers(execution: str) -> List[str]:
    """Those that this execution may take and this ONNX Runtime was built with, best first."""
    wanted = {"eager": [CUDA_PROVIDER], "compiled": [TENSORRT_PROVIDER]}
    usable = wanted.get(execution, [TENSORRT_PROVIDER, CUDA_PROVIDER])
    built_with = import_onnxruntime().get_available_providers()
    return [name for name in usable if name in built_with]


def _missing_provider(execution: str) -> str:
    if _gpu_providers(execution):
        return ""
    return (
        "this ONNX Runtime has the providers %s alone; for a GPU install onnxruntime-gpu in place "
        "of onnxruntime" % import_onnxruntime().get_available_providers()
    )


def _described(session: Any) -> OnnxGraph:
    metadata = session.get_modelmeta().custom_metadata_map
    return OnnxGraph(
        inputs=[
            (item.name, DTYPES.get(item.type, item.type), item.shape)
            for item in session.get_inputs()
        ],
        outputs=[item.name for item in session.get_outputs()],
        label_set=metadata.get("label_set"),
        temperature=metadata.get(TEMPERATURE),
    )
