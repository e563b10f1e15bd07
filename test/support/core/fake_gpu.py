"""A machine with a GPU and some TensorRT, for tests: fake_cudart.py and fake_tensorrt.py."""

import ctypes
import gc
import os
import sys

from support.core import fake_tensorrt
from support.core.fake_cudart import CUDART, load
from support.core.real_data import PROJECT

FAKES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "fakes")
DIALECTS = sorted(fake_tensorrt.VERSIONS, key=float)


def environment(dialect):
    """Variables of a process that is to find all this in place of the real libraries."""
    paths = [FAKES, os.path.join(PROJECT, "test"), os.environ.get("PYTHONPATH", "")]
    return {
        "FAKE_TENSORRT": dialect,
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
    }


class FakeGpu(object):
    """Stands in for GPU, libcudart and TensorRT while a test runs."""

    def __init__(self, monkeypatch):
        self._monkeypatch = monkeypatch
        monkeypatch.setattr(ctypes, "CDLL", load)
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

    def reset(self):
        """Count calls from here on."""
        CUDART.reset()

    def calls(self, name):
        """Calls of a function of libcudart since ``reset``; "enqueue" is TensorRT's work."""
        return CUDART.calls[name]

    def leaks(self):
        """Device memory, streams, graphs, engines and contexts that nobody gave back."""
        if self._count():
            gc.collect()  # takes its time, so only where there is something
        return self._count()

    def _count(self):
        return CUDART.live() + len(fake_tensorrt.alive) - self._live_before
