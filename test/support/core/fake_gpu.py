"""A machine with a GPU and some TensorRT, for tests: fakes/cudart.cpp and fake_tensorrt.py."""

import ctypes
import gc
import os
import shutil
import subprocess
import sys

from support.core import fake_tensorrt
from support.core.real_data import PROJECT

from segmentation_node.backends.tensorrt import cuda as cuda_runtime

FAKES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "fakes")
DIALECTS = sorted(fake_tensorrt.VERSIONS, key=float)


def compile_cudart(folder):
    """Path of libcudart.so.10.2, compiled into the folder; empty where there is no compiler."""
    compiler = shutil.which("g++")
    if compiler is None:
        return ""
    path = os.path.join(str(folder), "libcudart.so.10.2")
    source = os.path.join(FAKES, "cudart.cpp")
    subprocess.check_call([compiler, "-std=c++14", "-O1", "-shared", "-fPIC", "-o", path, source])
    return path


def environment(cudart_path, dialect):
    """Variables of a process that is to find all this in place of the real libraries."""
    paths = [FAKES, os.path.join(PROJECT, "test"), os.environ.get("PYTHONPATH", "")]
    libraries = [os.path.dirname(cudart_path), os.environ.get("LD_LIBRARY_PATH", "")]
    return {
        "FAKE_TENSORRT": dialect,
        "FAKE_CUDART": cudart_path,
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "LD_LIBRARY_PATH": os.pathsep.join(path for path in libraries if path),
    }


class FakeGpu(object):
    """Stands in for GPU, libcudart and TensorRT while a test runs."""

    def __init__(self, cudart_path, monkeypatch):
        self._monkeypatch = monkeypatch
        self.cudart_path = cudart_path
        monkeypatch.setenv("FAKE_CUDART", cudart_path)
        monkeypatch.setattr(cuda_runtime, "LIBRARY_NAMES", (cudart_path,))
        self._library = ctypes.CDLL(cudart_path)
        self._library.fake_calls.argtypes = [ctypes.c_char_p]
        self._live_before = 0
        self._live_before = self._count()  # what a failed test left is not this one's
        self.reset()

    def install(self, dialect):
        """Let this TensorRT be the installed one."""
        fake_tensorrt.used_names.clear()
        self._monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt.module(dialect))

    def set(self, **variables):
        """Describe the machine, or make it fail: environment variables that the fakes read."""
        for name, value in variables.items():
            self._monkeypatch.setenv(name, str(value))

    def unset(self, *names):
        for name in names:
            self._monkeypatch.delenv(name)

    def reset(self):
        """Count calls from here on."""
        self._library.fake_reset()

    def calls(self, name):
        """Calls of a function of libcudart since ``reset``."""
        return self._library.fake_calls(name.encode())

    def leaks(self):
        """Device memory, streams, graphs, engines and contexts that nobody gave back."""
        if self._count():
            gc.collect()  # takes its time, so only where there is something
        return self._count()

    def _count(self):
        return self._library.fake_live() + len(fake_tensorrt.alive) - self._live_before
