"""TensorRT's two ways to run an engine, behind one: bindings by index, tensors by name.

8.2 knows only the first, 10 and later only the second, 8.5 and 8.6 both. What the engine object
offers decides, not a version number.
"""

import importlib
from collections import deque
from typing import Any, Callable, Deque, Dict, List, NamedTuple, Optional, Tuple

from segmentation_node.errors import BackendError, reason

KEPT_ERRORS = 50
# While anything lives that was made with the first logger, TensorRT goes on with that one, whatever
# comes later: before 8.4 for all that it says. So there is one, and it is never let go.
_LOGGERS: List[Any] = []
# trt.nptype() fails with today's NumPy on TensorRT up to 8.5.
NUMPY_NAMES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "INT8": "int8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
    "UINT8": "uint8",
}


class TensorInfo(NamedTuple):
    """An input or output of an engine; ``dtype`` is NumPy's name."""

    name: str
    is_input: bool
    shape: Tuple[int, ...]
    dtype: str


class _Dialect:
    """An engine and its execution context, while there is one."""

    def __init__(self, trt: Any, engine: Any) -> None:
        self._trt = trt
        self._engine = engine
        self._context: Any = None

    def unbind(self) -> None:
        """Let go of the execution context."""
        self._context = None

    def release(self) -> None:
        """Let go of the engine, whoever still holds this object, as a traceback may."""
        self._context = self._engine = None


class BindingsByIndex(_Dialect):
    """TensorRT 8.2 (and what it leaves in 8.5 and 8.6)."""

    def tensors(self) -> List[TensorInfo]:
        """Inputs and outputs, in the engine's order."""
        engine = self._engine
        return [
            TensorInfo(
                engine.get_binding_name(index),
                bool(engine.binding_is_input(index)),
                tuple(engine.get_binding_shape(index)),
                _numpy_name(engine.get_binding_dtype(index)),
            )
            for index in range(engine.num_bindings)
        ]

    def bind(self, addresses: Dict[str, int]) -> None:
        """Make the execution context and give every tensor its device memory."""
        self._context = usable(self._engine.create_execution_context())
        self._addresses = [addresses[tensor.name] for tensor in self.tensors()]

    def enqueue(self, stream: int) -> None:
        """Put one run into the stream. Raises BackendError when TensorRT refuses."""
        if not self._context.execute_async_v2(bindings=self._addresses, stream_handle=stream):
            raise BackendError("TensorRT's execute_async_v2 failed")


class TensorsByName(_Dialect):
    """TensorRT 8.5 to 11."""

    def tensors(self) -> List[TensorInfo]:
        """Inputs and outputs, in the engine's order."""
        trt, engine = self._trt, self._engine
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        return [
            TensorInfo(
                name,
                engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT,
                tuple(engine.get_tensor_shape(name)),
                _numpy_name(engine.get_tensor_dtype(name)),
            )
            for name in names
        ]

    def bind(self, addresses: Dict[str, int]) -> None:
        """Make the execution context and give every tensor its device memory."""
        self._context = usable(self._engine.create_execution_context())
        for tensor in self.tensors():
            if not self._context.set_tensor_address(tensor.name, addresses[tensor.name]):
                raise BackendError("TensorRT refuses the address of tensor %s" % tensor.name)

    def enqueue(self, stream: int) -> None:
        """Put one run into the stream. Raises BackendError when TensorRT refuses."""
        if not self._context.execute_async_v3(stream_handle=stream):
            raise BackendError("TensorRT's execute_async_v3 failed")


DIALECTS: Dict[str, Any] = {"bindings": BindingsByIndex, "tensors": TensorsByName}


def dialect_of(engine: Any) -> str:
    """Which entry of ``DIALECTS`` an engine speaks."""
    return "tensors" if hasattr(engine, "num_io_tensors") else "bindings"


def import_tensorrt() -> Any:
    """The module. Raises BackendError that says whether it or its libraries are missing."""
    try:
        return importlib.import_module("tensorrt")
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError) and error.name == "tensorrt":
            raise BackendError(
                "TensorRT is missing (%s); on a Jetson it comes with JetPack, elsewhere "
                "install it, or choose backend onnxruntime or torch" % error
            ) from error
        raise BackendError(_without_libraries(error)) from error
    except (OSError, RuntimeError) as error:  # what the wheels of 10 and later raise
        raise BackendError(_without_libraries(error)) from error


def shared_logger(trt: Any, on_verbose: Optional[Callable[[str], None]] = None) -> Any:
    """TensorRT's logger in this process: it keeps what went wrong in ``errors``, from now on.

    It prints nothing. ``on_verbose`` gets every message that is no warning or error, from any
    thread, until the next call of this.
    """
    if not _LOGGERS:
        _LOGGERS.append(_new_logger(trt))
    logger = _LOGGERS[0]
    logger.errors.clear()
    logger.on_verbose = on_verbose
    return logger


def register_plugins(trt: Any, logger: Any) -> None:
    """Let TensorRT find its own plugins, which some operators become, in a graph or an engine.

    The parser of 8 does so itself, that of 10 does not, and nothing does where an engine is read.
    """
    trt.init_libnvinfer_plugins(logger, "")


def _new_logger(trt: Any) -> Any:
    failures = (trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR)

    class Logger(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            # Bounded, because an engine that fails does so every frame.
            self.errors: Deque[str] = deque(maxlen=KEPT_ERRORS)
            self.on_verbose: Optional[Callable[[str], None]] = None

        def log(self, severity: Any, message: str) -> None:
            on_verbose = self.on_verbose  # another thread may take it away
            if severity in failures:
                self.errors.append(reason(message))
            elif on_verbose is not None and severity != trt.ILogger.Severity.WARNING:
                on_verbose(message)

    return Logger()


def deserialize(trt: Any, plan: bytes, logger: Any) -> Tuple[Any, Any]:
    """Run time and engine; keep both. Raises BackendError with TensorRT's reason."""
    try:
        register_plugins(trt, logger)
        runtime = trt.Runtime(logger)
        engine = runtime.deserialize_cuda_engine(plan)
    except (TypeError, RuntimeError) as error:  # how the bindings say "no object"
        raise BackendError(
            "TensorRT %s cannot start: %s (%s)"
            % (trt.__version__, reason(error), last_error(logger))
        ) from error
    if engine is None:
        raise BackendError("TensorRT %s cannot read it: %s" % (trt.__version__, last_error(logger)))
    return runtime, engine


def usable(context: Any) -> Any:
    """A new execution context. Raises BackendError on None, for which memory is the one reason."""
    if context is None:
        raise BackendError(
            "TensorRT cannot make an execution context, most likely for lack of GPU memory; close "
            "other programs that use the GPU, or choose a smaller model or input"
        )
    return context


def last_error(logger: Any) -> str:
    """The last error that TensorRT logged."""
    return str(logger.errors[-1]) if logger.errors else "no reason was logged"


def take_reason(logger: Any) -> str:
    """The last error in brackets, if there is one; then all are forgotten."""
    text = " (%s)" % last_error(logger) if logger.errors else ""
    logger.errors.clear()
    return text


def _numpy_name(dtype: Any) -> str:
    return NUMPY_NAMES.get(dtype.name, dtype.name)


def _without_libraries(error: Exception) -> str:
    return (
        "TensorRT's libraries do not load (%s); on a Jetson container start it with the NVIDIA run "
        "time, elsewhere install the libnvinfer that belongs to the Python package, or choose "
        "backend onnxruntime or torch" % reason(error)
    )
