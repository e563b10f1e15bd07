"""Graphs that OpenVINO computes faster give what they gave before."""

import importlib
import sys

import numpy as np
import pytest
from support.core import tiny

from segmentation_node.backends import BACKENDS
from segmentation_node.backends.openvino import import_openvino
from segmentation_node.backends.openvino_graph import rewrite

INT64 = np.int64


@pytest.fixture(autouse=True)
def installed():
    missing = BACKENDS["openvino"].unavailable()
    if missing:
        pytest.skip("NOT RUN: " + missing)


def operators():
    import_openvino()
    return importlib.import_module("openvino.opset13")


def model_of(build):
    """A model of ``build(operators, input (1, C, H, W))``, which gives the shape first."""
    made = operators()
    shape, graph = build
    given = made.parameter(list(shape), np.float32, name="given")
    outputs = graph(made, given)
    for index, output in enumerate(outputs):
        output.set_names({"output%d" % index})
    return import_openvino().Model(outputs, [given], "model")


def assert_the_same(build, inputs, tolerance=0.0):
    """Before and after the rewriting; gives the model after it."""
    core = import_openvino().Core()
    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    usual, changed = model_of(build), model_of(build)
    rewrite(changed)
    runs = [core.compile_model(model, "CPU", settings) for model in (usual, changed)]
    for values in inputs:
        first, second = ([run(values)[port] for port in run.outputs] for run in runs)
        for before, after in zip(first, second):
            assert before.dtype == after.dtype
            np.testing.assert_allclose(after, before, rtol=tolerance, atol=tolerance)
    return changed


def kinds(model):
    return [node.get_type_name() for node in model.get_ordered_ops()]


def largest(made, scores):
    found = made.topk(scores, INT64(1), 1, "max", "none", "i32")
    return made.squeeze(found.output(1), np.array([1], INT64)).output(0)


def enlarged(made, scores, height, width, mode="half_pixel"):
    sizes, axes = np.array([height, width], INT64), np.array([2, 3], INT64)
    return made.interpolate(
        scores, sizes, "linear_onnx", "sizes", coordinate_transformation_mode=mode, axes=axes
    )


def whole_scores(shape):
    """Small whole numbers: their enlargements are exact, and many classes are equal."""
    random = np.random.RandomState(0)
    return [random.randint(0, 3, shape).astype(np.float32) for _ in range(20)]


def test_operators_are_found_where_openvino_until_2024_has_them(monkeypatch):
    """2023.1 to 2024.6 have no openvino.opset12, and 2026 has no openvino.runtime."""
    made = operators()
    monkeypatch.setitem(sys.modules, "openvino.opset12", None)
    monkeypatch.setitem(sys.modules, "openvino.runtime.opset12", made)
    build = (1, 3, 4, 5), lambda made, given: [largest(made, given)]
    assert "Reshape" in kinds(assert_the_same(build, whole_scores((1, 3, 4, 5))))


@pytest.mark.parametrize("factor", [2, 3, 4, 8])
def test_the_argmax_of_an_enlargement_by_a_whole_factor(factor):
    """Taken before the pixels are put in place: nothing of all scores' size is turned."""
    shape = (2, 3, 4, 5)

    def graph(made, scores):
        return [largest(made, enlarged(made, scores, 4 * factor, 5 * factor))]

    inputs = whole_scores(shape)
    if factor == 3:  # thirds are rounded, so equal scores may differ
        inputs = [np.random.RandomState(1).rand(*shape).astype(np.float32) for _ in range(20)]
    changed = assert_the_same((shape, graph), inputs)
    assert "Interpolate" not in kinds(changed)
    assert list(changed.output(0).get_shape()) == [2, 4 * factor, 5 * factor]


@pytest.mark.parametrize("factor", [1, 4])
def test_ids_become_bytes_without_floats(factor):
    """As a deployed graph has them: by way of float32, for TensorRT."""

    def graph(made, scores):
        large = scores if factor == 1 else enlarged(made, scores, 4 * factor, 5 * factor)
        return [made.convert(made.convert(largest(made, large), "f32"), "u8").output(0)]

    changed = assert_the_same(((1, 3, 4, 5), graph), whole_scores((1, 3, 4, 5)))
    types = [node.get_output_element_type(0).get_type_name() for node in changed.get_ordered_ops()]
    assert kinds(changed).count("Convert") == 1 and "f32" not in types[types.index("i32") :]


def test_other_bytes_keep_their_rounding_and_bounds():
    """A confidence, in float32 to its end."""

    def graph(made, scores):
        return [made.convert(made.multiply(scores, np.float32(100.4)), "u8").output(0)]

    changed = assert_the_same(((1, 3, 4, 5), graph), whole_scores((1, 3, 4, 5)))
    assert kinds(changed).count("Convert") == 1


@pytest.mark.parametrize(
    "height, width, mode", [(8, 20, "half_pixel"), (8, 10, "align_corners"), (9, 11, "half_pixel")]
)
def test_other_enlargements_are_compared_plane_by_plane(height, width, mode):
    def graph(made, scores):
        return [largest(made, enlarged(made, scores, height, width, mode))]

    shape = (1, 3, 4, 5)
    inputs = [np.random.RandomState(1).rand(*shape).astype(np.float32) for _ in range(5)]
    changed = assert_the_same((shape, graph), inputs)
    (argmax,) = [node for node in changed.get_ordered_ops() if node.get_type_name() == "TopK"]
    assert "Interpolate" in kinds(changed)
    assert list(argmax.input(0).get_shape()) == [1, 3, height * width]


def test_an_enlargement_that_somebody_else_reads_stays():
    def graph(made, scores):
        large = enlarged(made, scores, 8, 10)
        return [largest(made, large), made.reduce_max(large, np.array([1], INT64)).output(0)]

    changed = assert_the_same(((1, 3, 4, 5), graph), whole_scores((1, 3, 4, 5)))
    assert "Interpolate" in kinds(changed)


def test_classes_that_are_ruled_out_before_an_enlargement():
    """Minus infinity, the log of no share: of a class, of a pixel, and of all there are."""

    def graph(made, scores):
        return [largest(made, enlarged(made, scores, 24, 28))]

    plane, pixel, everywhere = (np.random.RandomState(1).rand(1, 3, 6, 7) for _ in range(3))
    plane[:, 1], pixel[0, 1, 3, 4], everywhere[:] = [-np.inf] * 3
    inputs = [scores.astype(np.float32) for scores in (plane, pixel, everywhere)]
    changed = assert_the_same(((1, 3, 6, 7), graph), inputs)
    assert "Interpolate" not in kinds(changed)


def halves(made, scores):
    return [largest(made, enlarged(made, made.convert(scores, "f16"), 8, 10))]


def doubles(made, scores):
    return [largest(made, enlarged(made, made.convert(scores, "f64"), 8, 10))]


def best_two(made, scores):
    return [made.topk(enlarged(made, scores, 8, 10), INT64(2), 1, "max", "value", "i32").output(1)]


@pytest.mark.parametrize("graph", [halves, doubles, best_two])
def test_scores_of_another_precision_and_other_choices_than_the_best(graph):
    inputs = [np.random.RandomState(1).rand(1, 3, 4, 5).astype(np.float32) for _ in range(5)]
    changed = assert_the_same(((1, 3, 4, 5), graph), inputs)
    assert "Interpolate" in kinds(changed)


@pytest.mark.parametrize("height, width", [(8, 10), (9, 11)])
def test_which_of_equal_scores_wins_stays_said(height, width):
    def graph(made, scores):
        large = enlarged(made, scores, height, width)
        return [made.topk(large, INT64(1), 1, "max", "value", "i64", True).output(1)]

    changed = assert_the_same(((1, 3, 4, 5), graph), whole_scores((1, 3, 4, 5)))
    (argmax,) = [node for node in changed.get_ordered_ops() if node.get_type_name() == "TopK"]
    assert argmax.get_attributes()["stable"]


def convolved(made, value, outputs, size=1):
    random = np.random.RandomState(outputs)
    inputs = value.shape[1]
    weights = made.constant(random.randn(outputs, inputs, size, size).astype(np.float32))
    edge = [size // 2, size // 2]
    product = made.convolution(value, weights, [1, 1], edge, edge, [1, 1])
    return made.add(product, made.constant(random.randn(1, outputs, 1, 1).astype(np.float32)))


def joined(made, value):
    squeezed = made.elu(convolved(made, value, 3), 1.0)
    return made.concat([convolved(made, squeezed, 4), convolved(made, squeezed, 6, 3)], 1)


def residual_fires(made, given):
    first = made.elu(joined(made, given), 1.0)
    second = made.relu(made.add(first, joined(made, first)))
    pooled = made.max_pool(second, [2, 2], [1, 1], [1, 1], [1, 1], [3, 3]).output(0)
    return convolved(made, pooled, 5)


SHAPE = (1, 7, 9, 10)
IMAGES = [np.random.RandomState(seed).randn(*SHAPE).astype(np.float32) for seed in range(3)]


def test_channels_stay_in_the_parts_that_1x1_convolutions_read():
    def graph(made, given):
        return [residual_fires(made, given).output(0)]

    assert "Concat" in kinds(model_of((SHAPE, graph)))
    changed = assert_the_same((SHAPE, graph), IMAGES, tolerance=1e-4)
    assert "Concat" not in kinds(changed)


@pytest.mark.parametrize(
    "reader",
    [
        pytest.param(lambda made, value: convolved(made, value, 5, 3), id="3x3"),
        pytest.param(lambda made, value: made.elu(value, 1.0), id="output"),
        pytest.param(
            lambda made, value: made.convolution(
                value, np.ones((5, 10, 1, 1), np.float32), [2, 2], [1, 1], [0, 0], [1, 1]
            ),
            id="1x1 with padding",
        ),
        pytest.param(
            lambda made, value: made.add(convolved(made, value, 10), value), id="whole in a sum"
        ),
        pytest.param(
            lambda made, value: made.multiply(convolved(made, value, 1), made.sigmoid(value)),
            id="other operator",
        ),
        pytest.param(
            lambda made, value: convolved(made, made.concat([value, value], 1), 5), id="nested"
        ),
    ],
)
def test_what_somebody_reads_whole_stays_whole(reader):
    """And what does not lead there is taken apart all the same."""

    def graph(made, given):
        whole = joined(made, convolved(made, residual_fires(made, given), 7))
        return [reader(made, whole).output(0)]

    changed = assert_the_same((SHAPE, graph), IMAGES, tolerance=1e-3)
    assert kinds(changed).count("Concat") == 1


def test_a_graph_without_any_of_it_is_left_alone():
    core = import_openvino().Core()
    model = core.read_model(tiny.card().artifact_path("onnx"))
    before = [node.get_friendly_name() for node in model.get_ordered_ops()]
    rewrite(model)  # the tiny model's classes lie side by side
    assert [node.get_friendly_name() for node in model.get_ordered_ops()] == before
