"""ONNX Runtime on a GPU, with a stand-in for its providers: none of this ran on a GPU."""

import os
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from support.core import tiny
from support.core.tiny import assert_one_line

from segmentation_node.backends import BACKENDS, BackendOptions, onnxruntime, open_backend
from segmentation_node.backends.choice import choose
from segmentation_node.errors import BackendError
from segmentation_node.model_card import AccuracyInfo, SourceInfo

CPU, CUDA, TENSORRT = (
    onnxruntime.CPU_PROVIDER,
    onnxruntime.CUDA_PROVIDER,
    onnxruntime.TENSORRT_PROVIDER,
)


class Providers:
    """ONNX Runtime as if built with these providers; ``broken`` ones do not start."""

    def __init__(self, real, built_with, broken=()):
        self.real = real
        self.built_with = built_with
        self.broken = broken
        self.asked = []

    def module(self, part=""):
        return SimpleNamespace(
            SessionOptions=self.real.SessionOptions,
            InferenceSession=self.session,
            get_available_providers=lambda: list(self.built_with),
        )

    def session(self, model, options, providers):
        self.asked.append(providers)
        session = self.real.InferenceSession(model, options, providers=[CPU])
        started = [name for name, _ in providers if name not in self.broken]
        given = started if CPU in started else started + [CPU]
        return SimpleNamespace(
            get_providers=lambda: given,
            get_inputs=session.get_inputs,
            get_outputs=session.get_outputs,
            get_modelmeta=session.get_modelmeta,
            run=session.run,
        )


@pytest.fixture
def built_with(monkeypatch):
    def make(*names, broken=()):
        made = Providers(real, names + (CPU,), broken)
        monkeypatch.setattr(onnxruntime, "import_onnxruntime", made.module)
        return made

    real = onnxruntime.import_onnxruntime()
    return make


def imported_card():
    """The tiny card without weights, as if its network were another's."""
    card = tiny.card()
    kept = [artifact for artifact in card.artifacts if artifact.kind != "weights"]
    return replace(card, artifacts=kept, source=SourceInfo("net.onnx", "0" * 64, "smp", "MIT"))


def on(device, folder, execution="auto", **more):
    options = BackendOptions(device=device, engine_dir=str(folder), execution=execution, **more)
    return open_backend("onnxruntime", tiny.card(), options)


def test_tensorrt_comes_first_and_keeps_its_engines_in_engine_dir(built_with, tmp_path):
    providers = built_with(TENSORRT, CUDA)
    with on("cuda:1", tmp_path / "engines") as backend:
        assert backend.device == "cuda:1 through " + TENSORRT
        assert backend.execution == "compiled"
        backend.run(np.zeros(backend.input_shape, np.uint8))
    first, second = providers.asked[0]
    assert (first[0], second[0]) == (TENSORRT, CUDA)
    assert first[1]["trt_engine_cache_path"] == str(tmp_path / "engines")
    assert first[1]["trt_engine_cache_enable"] and first[1]["device_id"] == 1
    assert os.path.isdir(str(tmp_path / "engines"))


@pytest.mark.parametrize("execution", ["auto", "eager"])
def test_cuda_alone(execution, built_with, tmp_path):
    providers = built_with(CUDA)
    with on("cuda", tmp_path, execution) as backend:
        assert backend.device == "cuda:0 through " + CUDA
        assert backend.execution == "eager"
    assert [name for name, _ in providers.asked[0]] == [CUDA]
    assert providers.asked[0][0][1]["use_tf32"] == 0


def test_eager_is_cuda_where_tensorrt_is_there_too(built_with, tmp_path):
    built_with(TENSORRT, CUDA)
    with on("cuda", tmp_path, "eager") as backend:
        assert CUDA in backend.device


@pytest.mark.parametrize("broken", [(TENSORRT,), (TENSORRT, CUDA)])
def test_a_provider_that_does_not_start_is_no_fallback(broken, built_with, tmp_path):
    built_with(TENSORRT, CUDA, broken=broken)
    with pytest.raises(BackendError) as caught:
        on("cuda", tmp_path)
    assert_one_line(caught, TENSORRT + " was asked for but did not start", "choose device cpu")


@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_the_cpu_stays_the_cpu(device, built_with, tmp_path):
    providers = built_with(TENSORRT, CUDA)
    with on(device, tmp_path) as backend:
        assert backend.device == "cpu"
    assert [name for name, _ in providers.asked[0]] == [CPU]


def test_what_it_does_not_offer(built_with, tmp_path):
    built_with(CUDA)
    with pytest.raises(BackendError) as caught:
        on("cuda", tmp_path, "compiled")
    assert_one_line(caught, "device 'cuda'", CUDA, "install onnxruntime-gpu")
    with pytest.raises(BackendError) as caught:
        on("cpu", tmp_path, "compiled")
    assert_one_line(caught, "execution 'compiled' is TensorRT's", "choose device cuda")
    with pytest.raises(BackendError) as caught:
        on("cuda", tmp_path, "graph")
    assert_one_line(caught, "execution 'graph' is not offered")


def test_auto_takes_it_where_a_gpu_is_asked_for(built_with):
    built_with(CUDA)
    card = imported_card()
    chosen = choose(card, options=BackendOptions(device="cuda"))
    assert chosen.name == "onnxruntime"
    assert "openvino: it offers no device 'cuda'" in chosen.details


def test_auto_says_why_no_backend_takes_an_imported_network(built_with):
    built_with()
    card = imported_card()
    with pytest.raises(BackendError) as caught:
        choose(card, options=BackendOptions(device="cuda"))
    weightless = "torch: an imported network has no weights for PyTorch"
    assert_one_line(caught, weightless, "install onnxruntime-gpu", "'cuda'")


def test_auto_takes_no_precision_that_a_gpu_does_not_compute_in(built_with, tmp_path):
    """It would be measured, fail and be warned of at every start."""
    built_with(CUDA)
    fp32 = AccuracyInfo("camvid", "val", 101, 0.684, 0.93)
    card = replace(imported_card(), accuracy=[fp32, replace(fp32, artifact="onnx_int8")])
    options = BackendOptions(device="cuda", precision="auto", engine_dir=str(tmp_path))
    chosen = choose(card, "onnxruntime", options)
    assert (chosen.precision, chosen.measured, chosen.warnings) == ("fp32", "", ())
    assert "int8: device 'cuda': on a GPU it computes in fp32, not int8" in chosen.details


def test_auto_leaves_an_execution_to_those_who_have_it(built_with, monkeypatch):
    built_with(CUDA)
    monkeypatch.setattr(BACKENDS["torch"], "unavailable", classmethod(lambda cls: ""))
    chosen = choose(tiny.card(), options=BackendOptions(device="cpu", execution="compiled"))
    assert chosen.name == "torch"
    assert "onnxruntime: execution 'compiled' is TensorRT's, on a GPU" in chosen.details
