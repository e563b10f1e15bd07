"""Fixtures of more than one file here. Python 3.6 reads this."""

import os
import signal

import pytest
from support.core import tiny
from support.core.fake_gpu import DIALECTS, FakeGpu
from support.core.tensorrt_engines import build

from segmentation_node.backends import BackendOptions


def pytest_configure(config):
    # In the background of a script interrupts are ignored, by what the tests start too.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def gpu(monkeypatch, tmp_path):
    """A machine with one GPU; whatever the test does, nothing may be left on it."""
    monkeypatch.setenv("HOME", str(tmp_path))
    fake = FakeGpu(monkeypatch)
    yield fake
    if "cudaFree" not in os.environ.get("FAKE_CUDA_FAIL", ""):
        assert fake.leaks() == 0


@pytest.fixture(params=DIALECTS)
def dialect(request, gpu):
    """Every TensorRT in turn."""
    gpu.install(request.param)
    return request.param


@pytest.fixture
def card():
    """The tiny model's."""
    return tiny.card()


@pytest.fixture
def options(tmp_path):
    """With an engine folder of the test's own."""
    return BackendOptions(engine_dir=str(tmp_path / "engines"))


@pytest.fixture
def built(dialect, card, options):
    """Path of the tiny model's engine in this dialect."""
    return build(card, options)
