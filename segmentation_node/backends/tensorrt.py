"""TensorRT: known by name, so that asking for it says what is missing instead of "unknown"."""

import importlib

from segmentation_node.backends.base import Backend


class TensorRtBackend(Backend):
    """Refuses on every machine so far: engines cannot be built or run by this version."""

    name = "tensorrt"
    artifact_kind = "onnx"
    precisions = ("fp32", "fp16")

    @classmethod
    def unavailable(cls) -> str:
        try:
            tensorrt = importlib.import_module("tensorrt")
        except ImportError as error:
            return (
                "TensorRT is missing (%s); on a Jetson it comes with JetPack, elsewhere "
                "install it, or choose backend onnxruntime or torch" % error
            )
        return (
            "TensorRT %s is here, but this version of segmentation_node cannot run engines yet; "
            "choose backend onnxruntime or torch" % tensorrt.__version__
        )
