"""What every backend must do, on a model that can be computed by hand; registering enrols.

Each in all that it offers: devices, precisions, ways of execution. What this machine lacks is
skipped by name, once.
"""

import gc
import tracemalloc
from collections import namedtuple
from dataclasses import replace

import numpy as np
import pytest
from support.core import tiny
from support.core.tiny import assert_one_line

from segmentation_node import engine
from segmentation_node.backends import BACKENDS, BackendOptions, open_backend
from segmentation_node.backends.cpu import multiplies_bf16
from segmentation_node.errors import BackendError, CardError

Setting = namedtuple("Setting", "name device precision execution")
OFFERED = {
    "onnxruntime": [("cpu", "fp32", "auto"), ("cpu", "int8", "auto")],
    "openvino": [("cpu", precision, "auto") for precision in ("fp32", "bf16", "int8")],
    "tensorrt": [("cuda", "fp32", "auto"), ("cuda", "fp16", "auto")],
    "torch": [("cpu", "fp32", "auto"), ("cpu", "bf16", "auto"), ("cuda", "fp32", "eager")]
    + [("cuda", precision, "graph") for precision in ("fp32", "tf32", "fp16", "bf16")],
}
SETTINGS = [
    Setting(name, *rest)
    for name in sorted(BACKENDS)
    for rest in OFFERED.get(name, [("cpu", "fp32", "auto")])
]
ROUNDING = {"fp32": 0.0, "tf32": 2.0**-11, "fp16": 2.0**-11, "bf16": 2.0**-8, "int8": 2.0**-10}
CONFIDENCE_TOLERANCE = {"fp32": 1.0, "tf32": 8.0, "fp16": 8.0, "bf16": 40.0, "int8": 8.0}
"""Of 255: scores go up to 100 here, where half precision has steps of 0.06, bfloat16 of 0.5."""
# Where the CPU has bf16, OpenVINO computes in it what is not int8.
OPENVINO_INT8_TOLERANCE = CONFIDENCE_TOLERANCE["bf16" if multiplies_bf16() else "int8"]


def lacking(setting):
    """Why this machine cannot run it; empty when it can."""
    missing = BACKENDS[setting.name].unavailable()
    if missing:
        return "backend %s: %s" % (setting.name, missing)
    if setting.device == "cuda" and not BACKENDS[setting.name].accelerated():
        return "backend %s on CUDA: there is no CUDA GPU" % setting.name
    if (setting.name, setting.precision) == ("openvino", "bf16") and not multiplies_bf16():
        return "this CPU has no instructions for bf16"
    return ""


@pytest.mark.parametrize("setting", SETTINGS, ids="-".join)
def test_this_machine_runs_it(setting):
    if lacking(setting):
        pytest.skip("NOT RUN: " + lacking(setting))


@pytest.fixture(
    scope="module", params=[item for item in SETTINGS if not lacking(item)], ids="-".join
)
def setting(request):
    """What this machine can run; torch knows the tiny model's network meanwhile."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param.name == "torch":
            from torch import nn

            from segmentation_node.networks import NETWORKS

            patch.setitem(NETWORKS, "nearest_color", lambda classes: nn.Conv2d(3, classes, 1))
        yield request.param


def name_of(setting):
    """The backend's name."""
    return setting.name


def options_of(setting, tmp_path_factory):
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


def opened(name, options):
    """The tiny model, loaded."""
    with open_backend(name, tiny.card(), options) as found:
        yield found


# Of the module: it is loaded once for all tests that do not close it.
name = pytest.fixture(scope="module")(name_of)
options = pytest.fixture(scope="module")(options_of)
backend = pytest.fixture(scope="module")(opened)


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


def test_class_map_and_confidence_are_the_hand_computed_ones(backend, setting):
    tolerance = CONFIDENCE_TOLERANCE[setting.precision]
    if (setting.name, setting.precision) == ("openvino", "int8"):
        tolerance = OPENVINO_INT8_TOLERANCE
    for seed in range(5):
        image = batch(seed)
        prediction = backend.run(image, with_confidence=True)
        assert prediction.class_map_nhw.dtype == prediction.confidence_nhw.dtype == np.uint8
        assert_classified(prediction.class_map_nhw, image, setting.precision)
        error = prediction.confidence_nhw[0] - tiny.confidence(image[0])
        assert np.abs(error).max() <= tolerance
        assert len(np.unique(prediction.confidence_nhw)) > 10, "it should meet many confidences"


def test_confidence_comes_only_when_asked_for(backend, setting):
    prediction = backend.run(batch())
    assert prediction.confidence_nhw is None
    assert_classified(prediction.class_map_nhw, batch(), setting.precision)


def test_it_says_what_it_is(backend, setting):
    assert backend.name == setting.name
    assert backend.input_shape == (1, 6, 8, 3)
    assert backend.device.startswith(setting.device)
    assert setting.execution in ("auto", backend.execution)
    # On a CPU without VNNI int8 comes with a line of its own.
    assert [line for line in backend.warnings if "VNNI" not in line] == []
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


def test_memory_does_not_grow_from_frame_to_frame(backend):
    # Less than one small object a frame. What grows does so in every round; the interpreter's
    # own caches and threads of tests before fill in some.
    assert least_growth(backend, tiny.heap_bytes, 150) < 32 * 150
    tracemalloc.start()
    try:
        growth = least_growth(backend, lambda: tracemalloc.get_traced_memory()[0], 100)
        assert growth < 32 * 100
    finally:
        tracemalloc.stop()


def least_growth(backend, used_bytes, frames):
    """The least that memory grows by in so many frames, of three rounds after one to warm up."""
    image, growths = batch(), []
    for _ in range(4):
        gc.collect()
        before = used_bytes()
        for _ in range(frames):
            backend.run(image, True)
        gc.collect()
        growths.append(used_bytes() - before)
    return min(growths[1:])


REFUSED = [
    (np.zeros((1, 6, 9, 3), np.uint8), "uint8 (1, 6, 9, 3)"),
    (np.zeros((2, 6, 8, 3), np.uint8), "uint8 (2, 6, 8, 3)"),
    (np.zeros((1, 3, 6, 8), np.uint8), "uint8 (1, 3, 6, 8)"),
    (np.zeros((6, 8, 3), np.uint8), "uint8 (6, 8, 3)"),
    (np.zeros((1, 6, 8, 3), np.float32), "float32 (1, 6, 8, 3)"),
    (np.zeros((1, 6, 8, 3), np.int8), "int8 (1, 6, 8, 3)"),
    (np.zeros((1, 6, 16, 3), np.uint8)[:, :, ::2], "uint8 (1, 6, 8, 3) not contiguous"),
]


def test_another_shape_dtype_or_layout_is_refused(backend, name):
    for image, received in REFUSED:
        with pytest.raises(BackendError) as caught:
            backend.run(image)
        expected = "expected C-contiguous uint8 (1, 6, 8, 3)"
        assert_one_line(caught, "backend " + name, "received " + received, expected)


def test_a_closed_backend_refuses_to_run_and_can_be_opened_again(setting, options):
    for _ in range(3):
        with open_backend(setting.name, tiny.card(), options) as opened:
            assert_classified(opened.run(batch()).class_map_nhw, batch(), setting.precision)
        opened.close()
        with pytest.raises(BackendError) as caught:
            opened.run(batch())
        assert_one_line(caught, "backend " + setting.name, "closed", "open it again")


def test_an_unknown_precision_lists_those_offered(name, options):
    with pytest.raises(BackendError) as caught:
        open_backend(name, tiny.card(), replace(options, precision="int4"))
    assert_one_line(caught, "backend " + name, "'int4'", "fp32")


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


def test_confidence_that_the_model_lacks_is_refused(backend, monkeypatch):
    monkeypatch.setattr(backend, "card", replace(backend.card, outputs=["class_map"]))
    with pytest.raises(BackendError) as caught:
        backend.run(batch(), with_confidence=True)
    assert_one_line(caught, "tiny gives no confidence", "['class_map']")


def kind_of(setting):
    return BACKENDS[setting.name].kind_for(setting.precision)


def test_a_corrupt_artifact_is_named(name, setting, options, tmp_path):
    if name == "tensorrt":
        pytest.skip("it loads engines, not the artifact: test_tensorrt.py")
    path = tmp_path / "corrupt.bin"
    path.write_bytes(b"\x07 neither a graph\nnor weights \xff" * 20)
    with pytest.raises(BackendError) as caught:
        open_backend(name, tiny.card_with(path, kind_of(setting)), options)
    assert_one_line(caught, path)


def test_an_artifact_whose_hash_differs_is_not_loaded(name, setting, options, tmp_path):
    path = tmp_path / "model.bin"
    path.write_bytes(b"as exported")
    card = tiny.card_with(path, kind_of(setting))
    path.write_bytes(b"changed since")
    with pytest.raises(CardError) as caught:
        open_backend(name, card, options)
    assert_one_line(caught, path, "sha256")
