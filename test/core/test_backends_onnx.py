"""What only the run times of ONNX files can meet: graphs that do not do what their card says."""

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from support.core import tiny
from support.core.tiny import assert_one_line

from segmentation_node.backends import BACKENDS, BackendOptions, cpu, open_backend
from segmentation_node.backends.onnxruntime import import_onnxruntime
from segmentation_node.errors import BackendError, CardError

ON_ONE_CORE = """
import os, sys
core = min(os.sched_getaffinity(0))
os.sched_setaffinity(0, [core])
from support.core import tiny
from segmentation_node.backends import BackendOptions, open_backend
with open_backend(sys.argv[1], tiny.card(), BackendOptions()) as backend:
    backend.run(tiny.random_image(0)[None])
    print([os.sched_getaffinity(int(thread)) == {core} for thread in os.listdir("/proc/self/task")])
"""


@pytest.fixture(params=["onnxruntime", "openvino"])
def name(request):
    missing = BACKENDS[request.param].unavailable()
    if missing:
        pytest.skip("NOT RUN: " + missing)
    return request.param


def open_onnx(name, card):
    return open_backend(name, card, BackendOptions(num_threads=1))


def test_an_input_that_does_not_fit_the_card(name):
    card = tiny.card()
    card = replace(card, input=replace(card.input, height=12))
    with pytest.raises(BackendError) as caught:
        open_onnx(name, card)
    assert_one_line(caught, "model.onnx", "[1, 6, 8, 3]", "card expects", "[1, 12, 8, 3]")


def test_outputs_that_do_not_fit_the_card(name):
    with pytest.raises(BackendError) as caught:
        open_onnx(name, replace(tiny.card(), outputs=["class_map"]))
    assert_one_line(caught, "model.onnx", "['class_map', 'confidence']", "card says")


def test_a_label_set_that_does_not_fit_the_card(name):
    with pytest.raises(BackendError) as caught:
        open_onnx(name, replace(tiny.card(), label_set="cityscapes19"))
    assert_one_line(caught, "model.onnx", "camvid11", "card says cityscapes19")


def test_a_batch_that_the_file_is_not_made_for(name):
    with pytest.raises(BackendError) as caught:
        open_backend(name, tiny.card(), BackendOptions(batch=4))
    assert_one_line(caught, "onnx artifact of tiny", "batch of 1, not 4", "--batch 4")


def test_it_keeps_to_the_cores_that_the_process_was_given(name):
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("NOT RUN: there is one core alone")
    paths = os.pathsep.join(filter(None, sys.path))
    found = subprocess.run(
        [sys.executable, "-c", ON_ONE_CORE, name],
        env=dict(os.environ, PYTHONPATH=paths),
        stdout=subprocess.PIPE,
        universal_newlines=True,
        check=True,
    )
    assert "True" in found.stdout and "False" not in found.stdout


@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_a_gpu(name, device):
    offered = {"openvino": "['auto', 'cpu']", "onnxruntime": "install onnxruntime-gpu"}
    with pytest.raises(BackendError) as caught:
        open_backend(name, tiny.card(), BackendOptions(device=device))
    assert_one_line(caught, repr(device), offered[name])


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "cuda:", "cuda:N", "cuda:\N{SUPERSCRIPT TWO}"])
def test_a_device_that_is_none(name, device):
    with pytest.raises(BackendError) as caught:
        open_backend(name, tiny.card(), BackendOptions(device=device))
    assert_one_line(caught, repr(device), "'cpu'")


@pytest.mark.parametrize("precision", ["tf32", "fp16"])
def test_a_precision_that_it_does_not_compute_in(name, precision):
    with pytest.raises(BackendError) as caught:
        open_backend(name, tiny.card(), BackendOptions(precision=precision))
    assert_one_line(caught, "backend " + name, repr(precision), "['fp32', ")


def test_weights_that_are_stored_as_int8_are_computed_with_in_float32(name, tmp_path):
    path = copied("int8_weights.onnx", tmp_path)
    whole = import_onnxruntime().InferenceSession(str(path), providers=["CPUExecutionProvider"])
    with open_onnx(name, tiny.card_with(path)) as backend:
        for seed in range(3):
            image_nhwc = tiny.random_image(seed)[None]
            found = backend.run(image_nhwc, with_confidence=True)
            expected = whole.run(None, {"image": image_nhwc})
            np.testing.assert_array_equal(found.class_map_nhw, expected[0])
            difference = found.confidence_nhw.astype(int) - expected[1].astype(int)
            assert abs(difference).max() <= 1


def test_int8_takes_the_file_of_its_own(name):
    """And only when it is asked for."""
    card = tiny.card()
    only = replace(card, artifacts=[item for item in card.artifacts if item.kind == "onnx_int8"])
    with open_backend(name, only, BackendOptions(precision="int8", num_threads=1)) as backend:
        assert backend.run(tiny.random_image(0)[None]).class_map_nhw.shape == (1, 6, 8)
    with pytest.raises(CardError) as caught:
        open_onnx(name, only)
    assert_one_line(caught, "no artifact of kind 'onnx'", "['onnx_int8']")


@pytest.mark.parametrize(
    "flags, precision, warns",
    [
        ("sse4_2 avx2", "int8", True),
        ("avx2 avx512_vnni", "int8", False),
        ("avx2 avx_vnni", "int8", False),
        ("sse4_2 avx2", "fp32", False),
    ],
)
def test_int8_on_a_cpu_that_saturates_is_said(name, flags, precision, warns, tmp_path, monkeypatch):
    cpu_info = tmp_path / "cpuinfo"
    cpu_info.write_text("vendor_id\t: GenuineIntel\nflags\t\t: fpu %s\n" % flags)
    monkeypatch.setattr(cpu, "CPU_INFO", str(cpu_info))
    monkeypatch.setattr(cpu.platform, "machine", lambda: "x86_64")
    options = BackendOptions(precision=precision, num_threads=1)
    with open_backend(name, tiny.card(), options) as backend:
        found = [line for line in backend.warnings if "VNNI" in line]
    assert len(found) == warns
    assert all("backend " + name in line and "fp32" in line for line in found)


@pytest.mark.parametrize("machine, readable", [("aarch64", True), ("x86_64", False)])
def test_a_cpu_that_is_not_known_to_saturate_is_left_alone(
    machine, readable, tmp_path, monkeypatch
):
    cpu_info = tmp_path / "cpuinfo"
    if readable:
        cpu_info.write_text("flags : fpu\n")
    monkeypatch.setattr(cpu, "CPU_INFO", str(cpu_info))
    monkeypatch.setattr(cpu.platform, "machine", lambda: machine)
    assert cpu.adds_int8_exactly()


def test_a_card_without_int8_says_how_to_add_it(name):
    card = replace(tiny.card(), artifacts=tiny.card().artifacts[:2])
    with pytest.raises(CardError) as caught:
        open_backend(name, card, BackendOptions(precision="int8"))
    command = "training.add_variants %s --variant int8 --dataset NAME --root FOLDER" % tiny.FOLDER
    assert_one_line(caught, "no artifact of kind 'onnx_int8'", "['onnx', 'weights']", command)
    open_onnx(name, card).close()


def test_a_graph_that_is_cut_off(name, tmp_path):
    path = copied("class_11.onnx", tmp_path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(BackendError) as caught:
        open_onnx(name, tiny.card_with(path))
    assert_one_line(caught, path, "cannot load it: ")


def test_a_class_outside_the_label_set(name, tmp_path):
    """This graph gives every class plus one: the last of CamVid's eleven becomes 11."""
    with open_onnx(name, tiny.card_with(copied("class_11.onnx", tmp_path))) as backend:
        backend.run(tiny.paint(np.full((1, 6, 8), 9)))
        with pytest.raises(BackendError) as caught:
            backend.run(tiny.paint(np.full((1, 6, 8), 10)))
    assert_one_line(caught, "class 11", "camvid11", "11 classes")


def test_a_confidence_of_another_type(name, tmp_path):
    with open_onnx(name, tiny.card_with(copied("float_confidence.onnx", tmp_path))) as backend:
        with pytest.raises(BackendError) as caught:
            backend.run(tiny.random_image(0)[None], with_confidence=True)
    assert_one_line(caught, "float32 (1, 6, 8)", "expected", "confidence")


def copied(file_name, folder):
    path = folder / file_name
    with open("%s/%s" % (tiny.DATA, file_name), "rb") as content:
        path.write_bytes(content.read())
    return path


@pytest.mark.parametrize(
    ("numpy", "command"),
    [("1.21.5", 'pip install "numpy<2" onnxruntime'), ("2.4.6", "pip install onnxruntime")],
)
def test_where_it_is_missing_the_command_keeps_the_numpy_that_others_need(
    numpy, command, monkeypatch
):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setattr(np, "__version__", numpy)
    assert BACKENDS["onnxruntime"].unavailable().endswith("install it with: " + command)
