"""What every backend must do, asked of TensorRT on stand-ins for each dialect of its API."""

import inspect

import pytest
import test_backends

pytest.importorskip("onnxruntime", reason="NOT RUN: the stand-in computes with ONNX Runtime")

SETTINGS = [
    ("8.2", "fp32", "auto"),
    ("8.6", "fp16", "graph"),
    ("10", "fp32", "eager"),
    ("10", "fp32", "auto"),
    ("11", "fp16", "auto"),
]


@pytest.fixture(params=SETTINGS, ids="-".join)
def setting(request, gpu):
    """In place of this machine's own backends."""
    dialect, precision, execution = request.param
    gpu.install(dialect)
    return test_backends.Setting("tensorrt", "cuda", precision, execution)


# A stand-in is made for each test, and with it what rests on ``setting``.
name = pytest.fixture(test_backends.name_of)
options = pytest.fixture(test_backends.options_of)
backend = pytest.fixture(test_backends.opened)

for _name, _test in vars(test_backends).items():
    if _name.startswith("test_"):
        if {"backend", "options"} & set(inspect.signature(_test).parameters):
            globals()[_name] = _test
