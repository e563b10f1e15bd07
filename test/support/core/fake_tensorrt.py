"""A stand-in for TensorRT's Python package, one for each dialect of its API.

Each has the names that its version has, of those that backend and builder use or ask for, and no
others: reading or setting any other is an AttributeError. test/tensorrt holds names and signatures
against the official bindings. Graphs are computed by ONNX Runtime in the "device" memory of
fake_cudart.py, when the stream is synchronised.
"""

import collections.abc
import ctypes
import enum
import hashlib
import json
import os
import time
import types
import weakref

import numpy as np
from support.core.fake_cudart import CUDART

VERSIONS = {"8.2": "8.2.1.8", "8.6": "8.6.1", "10": "10.3.0", "11": "11.4.0"}
MAGIC = b"FAKEPLAN"
UNSUPPORTED_OPERATOR = b"NonZero"

OLD_TYPES = ["FLOAT", "HALF", "INT8", "INT32", "BOOL"]
DATA_TYPES = {
    "8.2": OLD_TYPES,
    "8.6": OLD_TYPES + ["UINT8"],
    "10": OLD_TYPES + ["UINT8", "INT64"],
    "11": OLD_TYPES + ["UINT8", "INT64"],
}
ONNX_TYPES = {
    "tensor(uint8)": "UINT8",
    "tensor(float)": "FLOAT",
    "tensor(int32)": "INT32",
    "tensor(float16)": "HALF",
}
NUMPY_TYPES = {"UINT8": np.uint8, "FLOAT": np.float32, "INT32": np.int32, "HALF": np.float16}

PLUGIN = "InstanceNormalization_TRT"  # what a graph needs where the environment says so
NO_PLUGIN = "3: getPluginCreator could not find plugin: %s version: 1" % PLUGIN

# What tests look at.
used_names = set()  # such as "ICudaEngine.num_io_tensors"
alive = weakref.WeakSet()  # engines and execution contexts


class Loggers(object):
    """The first logger gets all messages while anything lives that was made with it."""

    def __init__(self):
        self._first = None
        self._holders = weakref.WeakSet()

    def given(self, holder, logger):
        """The logger to which what this builder or run time says really goes."""
        if not self._holders:
            self._first = logger
        self._holders.add(holder)
        return self._first


loggers = Loggers()


class Strict(object):
    """Only what a subclass or its ``_settable`` names exists; what is used is written down."""

    _settable = ()

    def __getattribute__(self, name):
        value = object.__getattribute__(self, name)
        if not name.startswith("_"):
            used_names.add("%s.%s" % (type(self).__name__, name))
        return value

    def __setattr__(self, name, value):
        if not name.startswith("_") and name not in self._settable:
            raise AttributeError("%s has no attribute %r" % (type(self).__name__, name))
        object.__setattr__(self, name, value)


class Severity(enum.Enum):
    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2
    INFO = 3
    VERBOSE = 4


class ILogger(object):
    Severity = Severity

    def __init__(self):
        self._made = True

    def log(self, severity, msg):
        raise NotImplementedError

    def _say(self, severity, message):
        assert self._made, "ILogger.__init__ was not called"
        self.log(severity, message)


class IProgressMonitor(object):
    def __init__(self):
        self._made = True

    def phase_start(self, phase_name, parent_phase, num_steps):
        raise NotImplementedError

    def step_complete(self, phase_name, step):
        raise NotImplementedError

    def phase_finish(self, phase_name):
        raise NotImplementedError


class IHostMemory(object):
    """Readable as bytes, like IHostMemory."""

    def __init__(self, content):
        self._content = content

    def __bytes__(self):
        return self._content


class INetworkDefinition(Strict):
    def __init__(self):
        self._onnx = b""


class ParserError(Strict):
    def __init__(self, text):
        self._text = text

    def __str__(self):
        return self._text


class ITimingCache(Strict):
    def __init__(self, content):
        self._content = content

    def serialize(self):
        return IHostMemory(self._content + b"+")


class IBuilderConfig(Strict):
    def __init__(self, dialect):
        self._dialect = dialect
        self._flags = {"TF32"}
        self._cache = None

    def set_flag(self, flag):
        self._flags.add(flag.name)

    def clear_flag(self, flag):
        self._flags.discard(flag.name)

    def create_timing_cache(self, serialized_timing_cache):
        return ITimingCache(bytes(serialized_timing_cache))

    def set_timing_cache(self, cache, ignore_mismatch):
        if cache._content and not cache._content.startswith(b"cache " + self._dialect.encode()):
            return False
        cache._content = cache._content or b"cache " + self._dialect.encode()
        self._cache = cache
        return True


class OldWorkspace(object):
    _settable = ("max_workspace_size",)


class PoolLimit(object):
    def set_memory_pool_limit(self, pool, pool_size):
        assert pool.name == "WORKSPACE" and isinstance(pool_size, int)
        self._workspace = pool_size


class Progress(object):
    _settable = ("progress_monitor",)


class Builder(Strict):
    _dialect, _config_class = "", None

    def __init__(self, logger):
        self._logger = loggers.given(self, logger)

    def create_network(self, flags):
        assert flags == 1  # EXPLICIT_BATCH
        return INetworkDefinition()

    def create_builder_config(self):
        return self._config_class(self._dialect)

    def build_serialized_network(self, network, config):
        # As long as a real one, which hears no signal that Python would handle.
        time.sleep(float(os.environ.get("FAKE_TENSORRT_BUILD_S", 0)))
        if os.environ.get("FAKE_TENSORRT_BUILD_FAILS"):
            self._logger._say(Severity.ERROR, os.environ["FAKE_TENSORRT_BUILD_FAILS"])
            return None
        given = vars(config)
        if self._dialect in ("10", "11"):
            monitor = given["progress_monitor"]
            assert monitor._made
            monitor.phase_start("Building Engine", None, 2)
            assert monitor.step_complete("Building Engine", 0)
            assert monitor.step_complete("Building Engine", 1)
            monitor.phase_finish("Building Engine")
        else:
            self._logger._say(Severity.VERBOSE, "--------------- Timing Runner: Conv_0 (Cudnn)")
        workspace = given.get("max_workspace_size", given.get("_workspace"))
        settings = {"flags": sorted(config._flags), "workspace": workspace}
        return IHostMemory(make_plan(self._dialect, network._onnx, settings))


class FastHalf(object):
    @property
    def platform_has_fast_fp16(self):
        return not os.environ.get("FAKE_TENSORRT_SLOW_FP16")


class OnnxParser(Strict):
    _dialect, _module = "", None

    def __init__(self, network, logger):
        self._network, self._logger = network, logger
        self._errors = []

    def parse(self, model):
        if self._dialect in ("8.2", "8.6"):
            self._module._has_plugins = True
        if self._module._lacks_plugins():
            self._logger._say(Severity.ERROR, NO_PLUGIN)
            self._errors.append("In node 2 (instanceNorm): UNSUPPORTED_NODE: plugin != nullptr")
            return False
        if UNSUPPORTED_OPERATOR in model:
            self._refuse(UNSUPPORTED_OPERATOR.decode())
            return False
        try:
            tensors = tensors_of(model)
        except Exception as error:
            self._errors.append("In node -1 (parse): MODEL_DESERIALIZE_FAILED: %s" % error)
            return False
        for _, _, _, dtype in tensors:
            if dtype not in DATA_TYPES[self._dialect]:
                self._errors.append("In node -1 (importInput): UNSUPPORTED_NODE: type %s" % dtype)
                return False
        self._network._onnx = bytes(model)
        return True

    def _refuse(self, operator):
        if self._dialect in ("10", "11"):
            self._errors.append(
                "In node 2 with name: /%s and operator: %s (checkFallbackPluginImporter): "
                "INVALID_NODE: creator" % (operator, operator)
            )
            return
        self._logger._say(
            Severity.ERROR, "3: getPluginCreator could not find plugin: %s version: 1" % operator
        )
        self._errors.append("In node 2 (importFallbackPluginImporter): UNSUPPORTED_NODE:\n creator")

    @property
    def num_errors(self):
        return len(self._errors)

    def get_error(self, index):
        return ParserError(self._errors[index])


class Engine(Strict):
    def __init__(self, runtime, onnx):
        self._runtime = runtime  # a real engine needs its run time alive; so does this one
        self._onnx = onnx
        self._tensors = tensors_of(onnx)
        alive.add(self)

    def create_execution_context(self):
        if os.environ.get("FAKE_TENSORRT_NO_CONTEXT"):
            return None
        return self._context_class(self)

    def _dtype(self, name):
        return self._runtime._module.DataType[name]


class Bindings(object):
    @property
    def num_bindings(self):
        return len(self._tensors)

    def get_binding_name(self, index):
        return self._tensors[index][0]

    def binding_is_input(self, index):
        return self._tensors[index][1]

    def get_binding_shape(self, index):
        return Dims(self._tensors[index][2])

    def get_binding_dtype(self, index):
        return self._dtype(self._tensors[index][3])


class NamedTensors(object):
    @property
    def num_io_tensors(self):
        return len(self._tensors)

    def get_tensor_name(self, index):
        return self._tensors[index][0]

    def get_tensor_mode(self, name):
        modes = self._runtime._module.TensorIOMode
        return modes.INPUT if self._find(name)[1] else modes.OUTPUT

    def get_tensor_shape(self, name):
        return Dims(self._find(name)[2])

    def get_tensor_dtype(self, name):
        return self._dtype(self._find(name)[3])

    def _find(self, name):
        return [tensor for tensor in self._tensors if tensor[0] == name][0]


class Dims(collections.abc.Sequence):
    """A sequence that is neither list nor tuple, like trt.Dims."""

    def __init__(self, values):
        self._values = values

    def __len__(self):
        return len(self._values)

    def __getitem__(self, index):
        return self._values[index]


class Context(Strict):
    def __init__(self, engine):
        self._engine = engine
        self._session = open_session(engine._onnx)
        alive.add(self)

    def _enqueue(self, addresses, stream):
        """Put one run into the stream; it touches device memory when its turn comes."""
        assert all(isinstance(number, int) for number in list(addresses.values()) + [stream])
        tensors, session = self._engine._tensors, self._session
        if CUDART.enqueue(stream, lambda: compute(session, tensors, addresses)) != 0:
            self._engine._runtime._logger._say(Severity.ERROR, "1: [runner]\nenqueue failed")
            return False
        return True


def compute(session, tensors, addresses):
    """One run, from device memory to device memory."""
    arrays = {}
    for name, _, shape, dtype in tensors:
        count = int(np.prod(shape)) * np.dtype(NUMPY_TYPES[dtype]).itemsize
        assert CUDART.is_on_device(addresses[name], count), "%s is not on the device" % name
        memory = (ctypes.c_ubyte * count).from_address(addresses[name])
        arrays[name] = np.frombuffer(memory, NUMPY_TYPES[dtype]).reshape(shape)
    outputs = [name for name, is_input, _, _ in tensors if not is_input]
    for name, result in zip(outputs, session.run(outputs, {"image": arrays["image"]})):
        arrays[name][...] = result


class BindingsContext(object):
    def execute_async_v2(self, bindings, stream_handle):
        names = [tensor[0] for tensor in self._engine._tensors]
        return self._enqueue(dict(zip(names, bindings)), stream_handle)


class NamedContext(object):
    def set_tensor_address(self, name, memory):
        self.__dict__.setdefault("_addresses", {})[name] = memory
        return any(tensor[0] == name for tensor in self._engine._tensors)

    def execute_async_v3(self, stream_handle):
        return self._enqueue(self._addresses, stream_handle)


class Runtime(Strict):
    _dialect, _module = "", None

    def __init__(self, logger):
        self._logger = loggers.given(self, logger)

    def deserialize_cuda_engine(self, serialized_engine):
        if self._module._lacks_plugins():
            self._logger._say(Severity.ERROR, NO_PLUGIN)
            return None
        try:
            onnx = read_plan(self._dialect, serialized_engine)
        except ValueError as error:
            self._logger._say(Severity.ERROR, "1: [runtime.cpp::parsePlan::314]\n%s" % error)
            return None
        return self._module.ICudaEngine(self, onnx)


def module(dialect):
    """The package of that dialect, a module object."""
    bindings, named = dialect in ("8.2", "8.6"), dialect != "8.2"
    new, has_flags = dialect in ("10", "11"), dialect != "11"
    made = types.ModuleType("tensorrt")
    made.__version__ = VERSIONS[dialect]
    made._has_plugins = False

    def init_libnvinfer_plugins(logger, namespace):
        assert logger._made and namespace == ""
        made._has_plugins = True
        return True

    def lacks_plugins():
        return bool(os.environ.get("FAKE_TENSORRT_NEEDS_PLUGINS")) and not made._has_plugins

    made.init_libnvinfer_plugins, made._lacks_plugins = init_libnvinfer_plugins, lacks_plugins

    def add(name, parts, **values):
        setattr(made, name, type(name, parts, values))

    made.DataType = enum.Enum("DataType", DATA_TYPES[dialect])
    made.BuilderFlag = enum.Enum("BuilderFlag", ["TF32"] + ["FP16", "INT8"] * has_flags)
    made.ILogger, made.ITimingCache, made.ParserError = ILogger, ITimingCache, ParserError
    add("IExecutionContext", (BindingsContext,) * bindings + (NamedContext,) * named + (Context,))
    add(
        "ICudaEngine",
        (Bindings,) * bindings + (NamedTensors,) * named + (Engine,),
        _context_class=made.IExecutionContext,
    )
    parts = (Progress,) * new + (OldWorkspace,) * bindings + (PoolLimit,) * named
    add("IBuilderConfig", parts + (IBuilderConfig,))
    add(
        "Builder",
        (FastHalf,) * has_flags + (Builder,),
        _dialect=dialect,
        _config_class=made.IBuilderConfig,
    )
    add("OnnxParser", (OnnxParser,), _dialect=dialect, _module=made)
    add("Runtime", (Runtime,), _dialect=dialect, _module=made)
    if named:
        made.TensorIOMode = enum.Enum("TensorIOMode", ["NONE", "INPUT", "OUTPUT"])
        made.MemoryPoolType = enum.Enum("MemoryPoolType", ["WORKSPACE", "DLA_MANAGED_SRAM"])
    if new:
        made.IProgressMonitor = IProgressMonitor
    return made


def make_plan(dialect, onnx, settings):
    """A serialised engine of this dialect."""
    header = {"dialect": dialect, "sha256": hashlib.sha256(onnx).hexdigest(), "settings": settings}
    text = json.dumps(header).encode()
    return MAGIC + len(text).to_bytes(4, "little") + text + onnx


def plan_header(plan):
    """What ``make_plan`` wrote before the graph, and the graph."""
    length = int.from_bytes(plan[8:12], "little")
    return json.loads(plan[12 : 12 + length].decode()), plan[12 + length :]


def read_plan(dialect, plan):
    """The graph of a serialised engine; ValueError says what is wrong with it."""
    if not plan.startswith(MAGIC):
        raise ValueError("Magic tag does not match")
    header, onnx = plan_header(plan)
    if header["dialect"] != dialect:
        raise ValueError("Version tag does not match")
    if hashlib.sha256(onnx).hexdigest() != header["sha256"]:
        raise ValueError("Size of the plan does not match")
    return onnx


def open_session(onnx):
    """The graph in ONNX Runtime, on one thread."""
    from segmentation_node.backends.onnxruntime import import_onnxruntime

    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])


def tensors_of(onnx):
    """Name, whether it is an input, shape and data type of every input and output."""
    session = open_session(onnx)
    return [
        (item.name, is_input, tuple(item.shape), ONNX_TYPES[item.type])
        for is_input, items in ((True, session.get_inputs()), (False, session.get_outputs()))
        for item in items
    ]
