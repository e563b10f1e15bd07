"""What every backend must do, on a model that can be computed by hand; registering enrols.

Each in all that it offers: devices, precisions, ways of execution. What this machine lacks is
skipped by name. Then what only ONNX Runtime can meet, and how a backend is chosen.
"""

import gc
import sys
import tracemalloc
from collections import namedtuple
from dataclasses import replace

import numpy as np
import pytest
import tiny
from tiny import assert_one_line

from segmentation_node import engine
from segmentation_node.backends import BACKENDS, BackendOptions, choose_backend, open_backend
from segmentation_node.errors import BackendError, CardError
from segmentation_node.model_card import sha256_of

IMPORTED = {"onnxruntime": "onnxruntime", "tensorrt": "tensorrt", "torch": "torch"}

Setting = namedtuple("Setting", "name device precision execution")
OFFERED = {
    "tensorrt": [("cuda", "fp32", "auto"), ("cuda", "fp16", "auto")],
    "torch": [("cpu", "fp32", "auto"), ("cpu", "bf16", "auto"), ("cuda", "fp32", "eager")]
    + [("cuda", precision, "graph") for precision in ("fp32", "tf32", "fp16", "bf16")],
}
SETTINGS = [
    Setting(name, *rest)
    for name in sorted(BACKENDS)
    for rest in OFFERED.get(name, [("cpu", "fp32", "auto")])
]
ROUNDING = {"fp32": 0.0, "tf32": 2.0**-11, "fp16": 2.0**-11, "bf16": 2.0**-8}
CONFIDENCE_TOLERANCE = {"fp32": 1.0, "tf32": 8.0, "fp16": 8.0, "bf16": 40.0}
"""Of 255: scores go up to 100 here, where half precision has steps of 0.06, bfloat16 of 0.5."""


@pytest.fixture(params=SETTINGS, ids="-".join)
def setting(request, monkeypatch):
    """What this machine can run; torch knows the tiny model's network meanwhile."""
    name, device = request.param.name, request.param.device
    missing = BACKENDS[name].unavailable()
    if missing:
        pytest.skip("NOT RUN: backend %s: %s" % (name, missing))
    if device == "cuda" and not BACKENDS[name].accelerated():
        pytest.skip("NOT RUN: backend %s on CUDA: there is no CUDA GPU" % name)
    if name == "torch":
        from torch import nn

        from segmentation_node.networks import NETWORKS

        monkeypatch.setitem(NETWORKS, "nearest_color", lambda classes: nn.Conv2d(3, classes, 1))
    return request.param


@pytest.fixture
def name(setting):
    """The backend's name."""
    return setting.name


@pytest.fixture
def options(setting, tmp_path_factory):
    """One thread, in the setting; TensorRT's engine is built once."""
    made = BackendOptions(
        device=setting.device,
        precision=setting.precision,
        execution=setting.execution,
        num_threads=1,
        engine_dir=str(tmp_path_factory.getbasetemp() / "engines"),
    )
    if setting.name == "tensorrt":
        engine.make_engine(engine.Job(tiny.card(), made, workspace_mib=64, timing_cache=""))
    return made


@pytest.fixture
def backend(name, options):
    """The tiny model, loaded."""
    with open_backend(name, tiny.card(), options) as opened:
        yield opened


def assert_classified(class_map_nhw, image_nhwc, precision="fp32"):
    """Every pixel has its nearest colour, or one as near as the precision can tell."""
    for class_map, image in zip(class_map_nhw, image_nhwc):
        expected = tiny.classify(image)
        if ROUNDING[precision] == 0:
            np.testing.assert_array_equal(class_map, expected)
            continue
        excess = tiny.excess(class_map, image)
        # Two scores, each rounded in its weights and as a whole.
        assert excess.max() <= 4 * ROUNDING[precision] * tiny.LARGEST_SCORE
        assert (class_map == expected).mean() > 0.9


def batch(seed=0):
    return tiny.random_image(seed)[None]


def with_artifact(path, kind="onnx"):
    """The tiny card with another file as its only artifact, its hash right."""
    artifact = [item for item in tiny.card().artifacts if item.kind == kind][0]
    changed = replace(artifact, file=path.name, sha256=sha256_of(str(path)))
    return replace(tiny.card(), artifacts=[changed], folder=str(path.parent))


# Every backend


@pytest.mark.parametrize("seed", range(5))
def test_class_map_and_confidence_are_the_hand_computed_ones(backend, setting, seed):
    image = batch(seed)
    prediction = backend.run(image, with_confidence=True)
    assert prediction.class_map_nhw.dtype == prediction.confidence_nhw.dtype == np.uint8
    assert_classified(prediction.class_map_nhw, image, setting.precision)
    error = prediction.confidence_nhw[0] - tiny.confidence(image[0])
    assert np.abs(error).max() <= CONFIDENCE_TOLERANCE[setting.precision]
    assert len(np.unique(prediction.confidence_nhw)) > 10, "the image should meet many confidences"


def test_confidence_comes_only_when_asked_for(backend, setting):
    prediction = backend.run(batch())
    assert prediction.confidence_nhw is None
    assert_classified(prediction.class_map_nhw, batch(), setting.precision)


def test_it_says_what_it_is(backend, setting):
    assert backend.name == setting.name
    assert backend.input_shape == (1, 6, 8, 3)
    assert backend.device.startswith(setting.device)
    assert setting.execution in ("auto", backend.execution)
    assert backend.warnings == []
    assert backend.has_confidence


def test_the_same_image_gives_the_same_result_every_time(backend):
    first = backend.run(batch(), True)
    class_map, confidence = first.class_map_nhw.copy(), first.confidence_nhw.copy()
    for seed in (1, 2, 0):
        again = backend.run(batch(seed), True)
    np.testing.assert_array_equal(again.class_map_nhw, class_map)
    np.testing.assert_array_equal(again.confidence_nhw, confidence)


def test_the_class_map_does_not_depend_on_confidence(backend):
    for seed in range(3):
        alone = backend.run(batch(seed)).class_map_nhw.copy()
        np.testing.assert_array_equal(backend.run(batch(seed), True).class_map_nhw, alone)


def test_a_result_does_not_change_with_the_image_it_came_from(backend, setting):
    """The caller may reuse its input buffer; a result itself holds until the next run."""
    image = batch()
    prediction = backend.run(image, True)
    class_map, confidence = prediction.class_map_nhw.copy(), prediction.confidence_nhw.copy()
    image[...] = 0
    np.testing.assert_array_equal(prediction.class_map_nhw, class_map)
    np.testing.assert_array_equal(prediction.confidence_nhw, confidence)
    assert_classified(class_map, batch(), setting.precision)


def test_the_image_is_only_read(backend, setting):
    image = batch()
    image.flags.writeable = False
    assert_classified(backend.run(image, True).class_map_nhw, batch(), setting.precision)


def test_two_open_backends_do_not_disturb_each_other(backend, setting, options):
    with open_backend(setting.name, tiny.card(), options) as other:
        first, second = backend.run(batch(1)), other.run(batch(2))
        assert_classified(first.class_map_nhw, batch(1), setting.precision)
        assert_classified(second.class_map_nhw, batch(2), setting.precision)
    assert_classified(backend.run(batch(3)).class_map_nhw, batch(3), setting.precision)


def test_memory_does_not_grow_over_1000_frames(backend):
    image = batch()
    for _ in range(200):
        backend.run(image, True)
    gc.collect()
    before = tiny.heap_bytes()
    for _ in range(1000):
        backend.run(image, True)
    gc.collect()
    # Less than one small object a frame.
    assert tiny.heap_bytes() - before < 32 * 1000
    tracemalloc.start()
    try:
        backend.run(image, True)
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(300):
            backend.run(image, True)
        gc.collect()
        assert tracemalloc.get_traced_memory()[0] - before < 32 * 300
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "image, received",
    [
        (np.zeros((1, 6, 9, 3), np.uint8), "uint8 (1, 6, 9, 3)"),
        (np.zeros((2, 6, 8, 3), np.uint8), "uint8 (2, 6, 8, 3)"),
        (np.zeros((1, 3, 6, 8), np.uint8), "uint8 (1, 3, 6, 8)"),
        (np.zeros((6, 8, 3), np.uint8), "uint8 (6, 8, 3)"),
        (np.zeros((1, 6, 8, 3), np.float32), "float32 (1, 6, 8, 3)"),
        (np.zeros((1, 6, 8, 3), np.int8), "int8 (1, 6, 8, 3)"),
        (np.zeros((1, 6, 16, 3), np.uint8)[:, :, ::2], "uint8 (1, 6, 8, 3) not contiguous"),
    ],
)
def test_another_shape_dtype_or_layout_is_refused(backend, name, image, received):
    with pytest.raises(BackendError) as caught:
        backend.run(image)
    expected = "expected C-contiguous uint8 (1, 6, 8, 3)"
    assert_one_line(caught, "backend " + name, "received " + received, expected)


def test_a_closed_backend_refuses_to_run(backend, name):
    backend.close()
    backend.close()
    with pytest.raises(BackendError) as caught:
        backend.run(batch())
    assert_one_line(caught, "backend " + name, "closed", "open it again")


def test_it_can_be_opened_again_after_it_was_closed(backend, setting, options):
    backend.close()
    for _ in range(3):
        with open_backend(setting.name, tiny.card(), options) as again:
            assert_classified(again.run(batch()).class_map_nhw, batch(), setting.precision)


def test_an_unknown_precision_lists_those_offered(name, options):
    with pytest.raises(BackendError) as caught:
        open_backend(name, tiny.card(), replace(options, precision="int8"))
    assert_one_line(caught, "backend " + name, "'int8'", "fp32")


def test_an_unknown_execution_lists_those_offered(name, options):
    with pytest.raises(BackendError) as caught:
        open_backend(name, tiny.card(), replace(options, execution="lazy"))
    assert_one_line(caught, "backend " + name, "'lazy'", "'auto'", "'eager'")


@pytest.mark.parametrize("device", ["tpu9", "mps", "", "cuda:x", "cuda:-1", "cpu\n"])
def test_an_unknown_device_lists_those_offered(name, options, device):
    with pytest.raises(BackendError) as caught:
        open_backend(name, tiny.card(), replace(options, device=device, precision="fp32"))
    offered = "cuda" if options.device == "cuda" else "cpu"
    assert_one_line(caught, "backend " + name, repr(device), "auto", offered)


def test_confidence_that_the_model_lacks_is_refused(backend):
    backend.card = replace(backend.card, outputs=["class_map"])
    with pytest.raises(BackendError) as caught:
        backend.run(batch(), with_confidence=True)
    assert_one_line(caught, "tiny gives no confidence", "['class_map']")


def test_a_corrupt_artifact_is_named(name, options, tmp_path):
    if name == "tensorrt":
        pytest.skip("it loads engines, not the artifact: test_tensorrt.py")
    path = tmp_path / "corrupt.bin"
    path.write_bytes(b"\x07 neither a graph\nnor weights \xff" * 20)
    with pytest.raises(BackendError) as caught:
        open_backend(name, with_artifact(path, BACKENDS[name].artifact_kind), options)
    assert_one_line(caught, path)


def test_an_artifact_whose_hash_differs_is_not_loaded(name, options, tmp_path):
    path = tmp_path / "model.bin"
    path.write_bytes(b"as exported")
    card = with_artifact(path, BACKENDS[name].artifact_kind)
    path.write_bytes(b"changed since")
    with pytest.raises(CardError) as caught:
        open_backend(name, card, options)
    assert_one_line(caught, path, "sha256")


# ONNX Runtime


def open_onnx(card):
    return open_backend("onnxruntime", card, BackendOptions(num_threads=1))


@pytest.fixture
def onnxruntime():
    missing = BACKENDS["onnxruntime"].unavailable()
    if missing:
        pytest.skip("NOT RUN: " + missing)


@pytest.mark.usefixtures("onnxruntime")
class TestOnnxGraph:
    """A graph that does not do what its card says is refused."""

    def test_an_input_that_does_not_fit_the_card(self):
        card = tiny.card()
        card = replace(card, input=replace(card.input, height=12))
        with pytest.raises(BackendError) as caught:
            open_onnx(card)
        assert_one_line(caught, "model.onnx", "[1, 6, 8, 3]", "card expects", "[1, 12, 8, 3]")

    def test_outputs_that_do_not_fit_the_card(self):
        with pytest.raises(BackendError) as caught:
            open_onnx(replace(tiny.card(), outputs=["class_map"]))
        assert_one_line(caught, "model.onnx", "['class_map', 'confidence']", "card says")

    def test_a_label_set_that_does_not_fit_the_card(self):
        with pytest.raises(BackendError) as caught:
            open_onnx(replace(tiny.card(), label_set="cityscapes19"))
        assert_one_line(caught, "model.onnx", "camvid11", "card says cityscapes19")

    def test_a_batch_that_the_file_is_not_made_for(self):
        with pytest.raises(BackendError) as caught:
            open_backend("onnxruntime", tiny.card(), BackendOptions(batch=4))
        assert_one_line(caught, "onnx artifact of tiny", "batch of 1, not 4", "--batch 4")

    @pytest.mark.parametrize("device", ["cuda", "cuda:1"])
    def test_a_gpu(self, device):
        with pytest.raises(BackendError) as caught:
            open_backend("onnxruntime", tiny.card(), BackendOptions(device=device))
        assert_one_line(caught, repr(device), "cpu or auto")

    def test_a_class_outside_the_label_set(self, tmp_path):
        """This graph gives every class plus one: the last of CamVid's eleven becomes 11."""
        with open_onnx(with_artifact(copied("class_11.onnx", tmp_path))) as backend:
            backend.run(tiny.paint(np.full((1, 6, 8), 9)))
            with pytest.raises(BackendError) as caught:
                backend.run(tiny.paint(np.full((1, 6, 8), 10)))
        assert_one_line(caught, "class 11", "camvid11", "11 classes")

    def test_a_confidence_of_another_type(self, tmp_path):
        with open_onnx(with_artifact(copied("float_confidence.onnx", tmp_path))) as backend:
            with pytest.raises(BackendError) as caught:
                backend.run(batch(), with_confidence=True)
        assert_one_line(caught, "float32 (1, 6, 8)", "expected", "confidence")


def copied(file_name, folder):
    path = folder / file_name
    with open("%s/%s" % (tiny.DATA, file_name), "rb") as content:
        path.write_bytes(content.read())
    return path


# Choosing


def pretend(monkeypatch, **backends):
    """Let each backend be "accelerated", "usable", or missing for the reason given."""
    for name, state in backends.items():
        reason = "" if state in ("accelerated", "usable") else state
        fast = state == "accelerated"
        monkeypatch.setattr(BACKENDS[name], "unavailable", classmethod(lambda _, r=reason: r))
        monkeypatch.setattr(BACKENDS[name], "unready", classmethod(lambda *_: ""))
        monkeypatch.setattr(BACKENDS[name], "accelerated", classmethod(lambda _, f=fast: f))


def test_auto_takes_the_first_backend_with_an_accelerator(monkeypatch):
    pretend(monkeypatch, tensorrt="not here", torch="accelerated", onnxruntime="usable")
    name, why = choose_backend(tiny.card())
    assert name == "torch"
    assert "accelerator" in why and "tensorrt: not here" in why
    pretend(monkeypatch, tensorrt="accelerated")
    assert choose_backend(tiny.card())[0] == "tensorrt"


def test_auto_prefers_onnxruntime_on_the_cpu_and_says_why(monkeypatch):
    pretend(monkeypatch, tensorrt="not here", torch="usable", onnxruntime="usable")
    name, why = choose_backend(tiny.card())
    assert name == "onnxruntime"
    assert "no accelerator" in why and "CPU" in why and "tensorrt: not here" in why
    pretend(monkeypatch, onnxruntime="gone too")
    assert choose_backend(tiny.card())[0] == "torch"


def test_auto_leaves_out_what_is_not_ready_for_the_card(monkeypatch):
    pretend(monkeypatch, tensorrt="accelerated", torch="accelerated", onnxruntime="usable")
    monkeypatch.setattr(
        BACKENDS["tensorrt"], "unready", classmethod(lambda _, card, options: "none for tiny")
    )
    name, why = choose_backend(tiny.card())
    assert name == "torch"
    assert "tensorrt: none for tiny" in why


def test_auto_leaves_accelerators_alone_where_the_cpu_is_asked_for(monkeypatch):
    pretend(monkeypatch, tensorrt="not here", torch="accelerated", onnxruntime="usable")
    assert choose_backend(tiny.card(), BackendOptions(device="cpu"))[0] == "onnxruntime"
    assert choose_backend(tiny.card(), BackendOptions(device="cuda"))[0] == "torch"


def test_auto_leaves_out_what_the_card_has_no_artifact_for(monkeypatch):
    pretend(monkeypatch, tensorrt="not here", torch="accelerated", onnxruntime="usable")
    only_onnx = replace(tiny.card(), artifacts=tiny.card().artifacts[:1])
    name, why = choose_backend(only_onnx)
    assert name == "onnxruntime"
    assert "torch: the card has no weights artifact" in why


def test_auto_gives_every_reason_where_nothing_can_run(monkeypatch):
    pretend(monkeypatch, tensorrt="reason A", torch="reason B", onnxruntime="reason C")
    with pytest.raises(BackendError) as caught:
        choose_backend(tiny.card())
    assert_one_line(
        caught, "tiny", "tensorrt: reason A", "torch: reason B", "onnxruntime: reason C"
    )


def test_an_unknown_backend_lists_the_known_ones():
    with pytest.raises(BackendError) as caught:
        open_backend("openvino", tiny.card(), BackendOptions())
    assert_one_line(caught, "'openvino'", "auto", *sorted(BACKENDS))


@pytest.mark.parametrize("name", sorted(BACKENDS))
def test_a_missing_run_time_says_what_to_install(name, monkeypatch):
    monkeypatch.setitem(sys.modules, IMPORTED[name], None)
    with pytest.raises(BackendError) as caught:
        open_backend(name, tiny.card(), BackendOptions())
    assert_one_line(caught, "backend " + name, "is missing", "install")
