"""TensorRT that is installed and cannot start: its official bindings, over a stub of its libraries.

What users meet without a driver or in a container without the GPU. The bindings are the real ones,
so this also runs our logger, our progress monitor and our reading of data types on real classes.
"""

import json

import pytest
from support import tensorrt_wheels
from support.core import tiny

REASON = "pybind11::init(): factory function returned nullptr"
LOGGED = "stub: no driver"

PROBE = """
import json, numpy, tensorrt
from segmentation_node.backends.tensorrt import build, versions as dialects
trt = dialects.import_tensorrt()
types = {name: dialects._numpy_name(member) for name, member in trt.DataType.__members__.items()}
official = {name: numpy.dtype(trt.nptype(trt.DataType.__members__[name])).name
            for name in types if name in dialects.NUMPY_NAMES}
lines = []
logger = dialects.shared_logger(trt, lines.append)
dialects.register_plugins(trt, logger)
Severity = trt.ILogger.Severity
for severity in (Severity.ERROR, Severity.INTERNAL_ERROR, Severity.WARNING, Severity.VERBOSE):
    logger.log(severity, severity.name)
monitor = build._monitor(trt, lines.append)
if monitor is not None:
    monitor.phase_start("phase", None, 2)
    monitor.step_complete("phase", 0)
print(json.dumps({
    "version": trt.__version__, "types": types, "official": official,
    "dialect": dialects.dialect_of(trt.ICudaEngine), "errors": list(logger.errors),
    "lines": lines, "has_monitor": isinstance(monitor, getattr(trt, "IProgressMonitor", ())),
    "shape": tuple(trt.Dims((1, 6, 8, 3))),
    "tells_nodes": trt.ParserError.__str__ is not object.__str__,
    "kinds": [build.onnx_kind(trt, precision) for precision in ("fp32", "fp16")],
}))
"""

UNAVAILABLE = """
from segmentation_node.backends.tensorrt.backend import TensorRtBackend
print(TensorRtBackend.unavailable())
"""

OPEN = """
import sys
from segmentation_node import engine
from segmentation_node.backends import BackendOptions, open_backend
from segmentation_node.backends.tensorrt import build
from segmentation_node.backends.tensorrt.versions import TensorInfo
from segmentation_node.errors import BackendError
from segmentation_node.model_card import open_model
# An engine that passes every check before TensorRT sees it.
engine.build = lambda *_: build.BuildResult(b"an engine", b"", [])
engine.check_engine = lambda *_: [
    TensorInfo("image", True, (1, 6, 8, 3), "uint8"),
    TensorInfo("class_map", False, (1, 6, 8), "uint8"),
    TensorInfo("confidence", False, (1, 6, 8), "uint8"),
]
card, options = open_model(sys.argv[1]), BackendOptions(engine_dir=sys.argv[2])
engine.make_engine(engine.Job(card, options, 64, ""))
try:
    open_backend("tensorrt", card, options)
except BackendError as error:
    print(error)
"""


@pytest.fixture(scope="session", params=tensorrt_wheels.read_pins(), ids=lambda pin: pin.version)
def pin(request):
    if not request.param.has_wheel:
        pytest.skip(tensorrt_wheels.missing(request.param))
    return request.param


def test_our_code_fits_the_official_classes(pin):
    done = tensorrt_wheels.run(pin, "-c", PROBE)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    major = int(pin.version.split(".")[0])
    assert found["version"] == pin.version
    assert found["dialect"] == "tensors"
    assert {"FLOAT": "float32", "HALF": "float16", "UINT8": "uint8"}.items() <= found[
        "types"
    ].items()
    assert all(found["types"][name] == dtype for name, dtype in found["official"].items())
    assert found["shape"] == [1, 6, 8, 3]
    assert found["tells_nodes"]
    assert found["errors"] == ["ERROR", "INTERNAL_ERROR"]
    assert found["has_monitor"] == (major >= 10)
    assert found["lines"] == ["VERBOSE"] + ["phase", "phase 1/2"] * (major >= 10)
    assert found["kinds"] == ["onnx", "onnx_fp16" if major >= 11 else "onnx"]


def test_without_its_libraries_it_says_which_is_missing(pin):
    done = tensorrt_wheels.run(pin, "-c", UNAVAILABLE, libraries="none")
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    assert line.startswith("TensorRT's libraries do not load (libnv")
    assert "cannot open shared object file" in line


def test_building_says_in_one_line_what_failed_and_leaves_nothing(pin, tmp_path):
    folder = tmp_path / "engines"
    command = ["-m", "segmentation_node.engine", "--model", tiny.FOLDER]
    done = tensorrt_wheels.run(pin, *command, "--engine-dir", str(folder))
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if "error" in line]
    assert line.startswith(f"error: TensorRT {pin.version} cannot build")
    assert REASON in line or LOGGED in line
    assert LOGGED in line
    assert list(folder.iterdir()) == []


def test_opening_says_in_one_line_what_failed(pin, tmp_path):
    done = tensorrt_wheels.run(pin, "-c", OPEN, tiny.FOLDER, str(tmp_path))
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    assert f"TensorRT {pin.version}" in line
    assert LOGGED in line
