"""What TensorRT may refuse while an engine is made ready, on stand-ins. Python 3.6 reads this."""

import pytest
from support.core import fake_tensorrt, tiny
from support.core.fake_gpu import DIALECTS
from support.core.tiny import assert_one_line

from segmentation_node.backends.tensorrt.versions import (
    TensorsByName,
    deserialize,
    import_tensorrt,
    make_logger,
)
from segmentation_node.errors import BackendError

pytest.importorskip("onnxruntime", reason="NOT RUN: the stand-in computes with ONNX Runtime")


@pytest.mark.parametrize("name", [dialect for dialect in DIALECTS if dialect != "8.2"])
def test_a_refused_address_is_said_of_which_tensor(name, gpu, monkeypatch):
    gpu.install(name)
    trt = import_tensorrt()
    with open(tiny.card().artifact_path("onnx"), "rb") as content:
        plan = fake_tensorrt.make_plan(name, content.read(), {})
    runtime, engine = deserialize(trt, plan, make_logger(trt))
    refuse = lambda self, name, memory: False  # noqa: E731
    monkeypatch.setattr(type(engine)._context_class, "set_tensor_address", refuse)
    tensors = TensorsByName(trt, engine)
    with pytest.raises(BackendError) as error:
        tensors.bind({"image": 4096, "class_map": 8192, "confidence": 12288})
    assert_one_line(error, "TensorRT refuses the address of tensor image")
    tensors.release()


def test_a_run_time_that_cannot_start_says_what_was_logged(dialect, monkeypatch):
    trt = import_tensorrt()

    def refuse(logger):
        logger.log(trt.ILogger.Severity.ERROR, "CUDA: no driver")
        raise TypeError("factory function returned nullptr")  # what pybind11 makes of NULL

    monkeypatch.setattr(trt, "Runtime", refuse)
    with pytest.raises(BackendError) as error:
        deserialize(trt, b"an engine", make_logger(trt))
    assert_one_line(error, "TensorRT " + trt.__version__, "cannot start", "CUDA: no driver")
