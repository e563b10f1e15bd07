"""Outputs of every kind become the node's contract, with the classes of the family's own way."""

import cv2
import numpy as np
import onnx
import pytest
from onnx import helper
from support.foreign_networks import (
    CLASSES,
    FLOAT,
    HALF,
    INT64,
    SIZE,
    UINT8,
    Network,
    labels_file,
    read,
    scores_of,
    sigmoid,
    softmax,
)
from support.int8_graph import count_int8_convolutions

from segmentation_node.backends import BackendOptions, open_backend
from segmentation_node.files import check_folder
from segmentation_node.importing import original
from segmentation_node.importing.__main__ import main
from segmentation_node.importing.importer import LAYOUT
from segmentation_node.importing.static_graph import make_static, opset_of
from segmentation_node.importing.tensorrt_versions import refusals
from segmentation_node.model_card import read_card
from segmentation_node.pipeline import Batch, Segmenter

LEAST = 0.999


def full_size(planes):
    return np.stack([cv2.resize(p, SIZE[::-1], interpolation=cv2.INTER_LINEAR) for p in planes])


def logits(path):
    network = Network()
    network.gives(network.scores).save(path)
    return [], CLASSES, lambda picture: scores_of(picture).argmax(axis=0)


def quarter_size_logits_of_any_size(path):
    network = Network(stride=4)
    network.gives(network.scores).save(path, dynamic=True)
    expected = lambda picture: full_size(scores_of(picture, stride=4)).argmax(axis=0)  # noqa: E731
    return ["--size", f"{SIZE[0]}x{SIZE[1]}"], CLASSES, expected


def eighth_size_logits_that_pidnet_enlarges_corner_on_corner(path):
    torch = pytest.importorskip("torch", reason="NOT RUN: PyTorch is missing")
    network = Network(stride=8)
    network.gives(network.scores).save(path)

    def expected(picture):
        scores = torch.from_numpy(scores_of(picture, stride=8))[None]
        large = torch.nn.functional.interpolate(scores, SIZE, mode="bilinear", align_corners=True)
        return large[0].argmax(dim=0).numpy()

    given = ["--mean", "0", "0", "0", "--std", "1", "1", "1"]
    return ["--from", "pidnet", *given], CLASSES, expected


def softmax_channels_last_in_bgr_of_opset_9(path):
    network = Network(nhwc=True, opset=9)
    last = network.add("Transpose", [network.scores], perm=[0, 2, 3, 1])
    network.gives(network.add("Softmax", [last], axis=3)).save(path)
    expected = lambda picture: scores_of(picture, order="bgr").argmax(axis=0)  # noqa: E731
    return ["--order", "bgr"], CLASSES, expected


def constants_listed_as_inputs_of_opset_7(path):
    network = Network(opset=7)
    network.gives(network.scores).save(path, listed=True)
    return [], CLASSES, lambda picture: scores_of(picture).argmax(axis=0)


def opset_17(path):
    network = Network(opset=17)
    network.gives(network.add("HardSwish", [network.scores])).save(path)

    def expected(picture):
        scores = scores_of(picture)
        return (scores * np.clip(scores / 6 + 0.5, 0, 1)).argmax(axis=0)

    return [], CLASSES, expected


def opset_20_that_looks_up_the_mirrored_place(path):
    network = Network(opset=20)
    places = [np.linspace(-1, 1, length, dtype=np.float32) for length in SIZE]
    rows, columns = np.meshgrid(places[0], -places[1], indexing="ij")
    grid = network.constant("grid", np.stack((columns, rows), axis=-1)[np.newaxis])
    sampled = network.add("GridSample", [network.scores, grid], mode="linear", align_corners=1)
    network.gives(sampled).save(path)
    return [], CLASSES, lambda picture: scores_of(picture)[..., ::-1].argmax(axis=0)


def sigmoids_without_background(path):
    network = Network(channels=3)
    network.gives(network.add("Sigmoid", [network.scores])).save(path)

    def expected(picture):
        shares = sigmoid(scores_of(picture, 3))
        return np.where(shares.max(axis=0) > 0.5, shares.argmax(axis=0), 255)

    return [], 3, expected


def sigmoids_beside_a_background(path):
    network = Network(channels=3)
    network.gives(network.add("Sigmoid", [network.scores])).save(path)

    def expected(picture):
        shares = sigmoid(scores_of(picture, 3))
        return np.where(shares.max(axis=0) > 0.6, shares.argmax(axis=0) + 1, 0)

    return ["--threshold", "0.6"], 4, expected


def one_probability(path):
    network = Network(channels=1)
    network.gives(network.add("Sigmoid", [network.scores])).save(path)
    return [], 2, lambda picture: (scores_of(picture, 1)[0] > 0).astype(int)


def one_channel_chosen_after_its_enlargement(path):
    network = Network(stride=4)
    sizes = network.constant("sizes", np.array([1, 1, 4, 4], np.float32))
    large = network.add("Resize", [network.scores, "", sizes], mode="linear")
    chosen = network.add("Gather", [large, network.constant("second", np.array(1))], axis=1)
    network.gives(network.add("Sigmoid", [chosen]), shape=["a", "b", "c"]).save(path)
    expected = lambda picture: sigmoid(full_size(scores_of(picture, stride=4))[1]) > 0.5  # noqa: E731
    return [], 2, expected


def one_score(path):
    network = Network(channels=1)
    network.gives(network.scores).save(path)
    return [], 2, lambda picture: (scores_of(picture, 1)[0] > 0).astype(int)


def a_branch_that_reads_a_constant_from_outside(path):
    network = Network()
    zero, shift = np.zeros((), np.float32), np.arange(CLASSES, dtype=np.float32)
    network.constant("shift", shift.reshape(1, CLASSES, 1, 1))
    highest = network.add("ReduceMax", ["pixels"], keepdims=0)
    condition = network.add("Greater", [highest, network.constant("zero", zero)])
    branches = {
        key: helper.make_graph(
            [helper.make_node("Add", [network.scores, name], [key])],
            key,
            [],
            [helper.make_tensor_value_info(key, FLOAT, (1, CLASSES, *SIZE))],
        )
        for key, name in (("then_branch", "shift"), ("else_branch", "zero"))
    }
    network.gives(network.add("If", [condition], **branches)).save(path)
    return [], CLASSES, lambda picture: (scores_of(picture) + shift[:, None, None]).argmax(axis=0)


def sides_of_minus_one(path):
    more, classes, expected = logits(path)
    model = onnx.load(str(path))
    for index in (0, 2, 3):
        model.graph.input[0].type.tensor_type.shape.dim[index].dim_value = -1
    onnx.save(model, str(path))
    return [*more, "--size", f"{SIZE[0]}x{SIZE[1]}"], classes, expected


def ids_of_64_bits_counted_from_1(path):
    network = Network()
    ids = network.add("ArgMax", [network.scores], axis=1, keepdims=1)
    network.gives(network.add("Add", [ids, network.constant("one", np.array(0))]), INT64)
    network.save(path)

    def expected(picture):
        ids = scores_of(picture).argmax(axis=0)
        return np.where(ids > 0, ids - 1, 255)

    return ["--id-offset", "-1"], CLASSES - 1, expected


def ids_of_8_bits_cast_inside(path):
    network = Network()
    ids = network.add("ArgMax", [network.scores], axis=1, keepdims=0)
    network.gives(network.add("Cast", [ids], to=UINT8), UINT8, ["n", "h", "w"]).save(path)
    return [], CLASSES, lambda picture: scores_of(picture).argmax(axis=0)


def flattened_logits(path):
    network = Network()
    shape = network.constant("shape", np.array([1, CLASSES, -1]))
    flat = network.add("Reshape", [network.scores, shape])
    turned = network.add("Transpose", [flat], perm=[0, 2, 1])
    network.gives(turned, shape=["n", "pixels", "classes"]).save(path)
    return [], CLASSES, lambda picture: scores_of(picture).argmax(axis=0)


def input_in_half_precision(path):
    network = Network(dtype=HALF)
    network.gives(network.scores, HALF).save(path)
    return [], CLASSES, lambda picture: scores_of(picture).argmax(axis=0)


KINDS = [
    logits,
    quarter_size_logits_of_any_size,
    eighth_size_logits_that_pidnet_enlarges_corner_on_corner,
    softmax_channels_last_in_bgr_of_opset_9,
    constants_listed_as_inputs_of_opset_7,
    opset_17,
    opset_20_that_looks_up_the_mirrored_place,
    sigmoids_without_background,
    sigmoids_beside_a_background,
    one_probability,
    one_channel_chosen_after_its_enlargement,
    one_score,
    a_branch_that_reads_a_constant_from_outside,
    sides_of_minus_one,
    ids_of_64_bits_counted_from_1,
    ids_of_8_bits_cast_inside,
    flattened_logits,
    input_in_half_precision,
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_the_node_sees_what_the_family_sees(kind, images, tmp_path, capsys):
    more, classes, expected = kind(tmp_path / "net.onnx")
    options = ["--images", str(images), "--scale", str(1 / 255), *more]
    options += ["--labels", str(labels_file(tmp_path / "labels.yaml", classes))]
    folder = tmp_path / "model"
    assert main([str(tmp_path / "net.onnx"), "--output", str(folder), *options]) == 0
    card = read_card(str(folder))
    card.artifact_path("onnx_float")
    backend = open_backend("onnxruntime", card, BackendOptions())
    segmenter = Segmenter(Batch(backend))
    equal = []
    for path in sorted(images.iterdir()):
        picture = read(path)
        equal.append((segmenter.segment(picture).class_map_hw == expected(picture)).mean())
    segmenter.close()
    limit = 0.98 if kind is input_in_half_precision else LEAST
    assert np.mean(equal) >= limit
    assert card.source.file == "net.onnx"
    assert "compared_on" in card.network.options


def test_nodes_may_stand_before_what_they_need(images, tmp_path):
    """Converters to float16, Ultralytics's too, append the casts of the input; run times sort."""
    network = Network(opset=11)
    network.gives(network.add("Softmax", [network.add("Relu", [network.scores])], axis=1))
    network.nodes.reverse()
    assert_the_static_form_gives_the_same(network, network.nodes[0].output[0], images, tmp_path)


def test_axes_that_are_an_empty_list_are_all_of_them(images, tmp_path):
    """Opset 18 takes them as an input, older ones as an attribute, of which no empty one is."""
    network = Network(opset=18)
    axes = network.constant("axes", np.zeros(0, np.int64))
    mean = network.add("ReduceMean", [network.scores, axes])
    head = network.add("Sub", [network.scores, mean])
    static = assert_the_static_form_gives_the_same(network.gives(head), head, images, tmp_path)
    assert opset_of(static) == 13


def assert_the_static_form_gives_the_same(network, head, images, folder):
    path = network.save(folder / "net.onnx")
    static = make_static(onnx.load(str(path)), "pixels", (1, 3, *SIZE), head)
    onnx.save(static, str(folder / "static.onnx"))
    pixels = read(sorted(images.iterdir())[0]).transpose(2, 0, 1)[np.newaxis] / np.float32(255)
    found, expected = (
        original.on_onnxruntime(folder / name, "pixels")(pixels)[head]
        for name in ("static.onnx", "net.onnx")
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    return static


def network_of_bytes():
    """It takes the picture as it is, and casts it."""
    network = Network()
    network.input = helper.make_tensor_value_info("bytes", UINT8, [1, 3, *SIZE])
    cast = helper.make_node("Cast", ["bytes"], ["floats"], to=FLOAT)
    scale = network.constant("scale", np.array(1 / 255, np.float32))
    network.nodes[:0] = [cast, helper.make_node("Mul", ["floats", scale], ["pixels"])]
    return network.gives(network.scores)


def test_bytes_are_cast_before_all_else_and_not_back(images, tmp_path):
    """TensorRT has no other use for uint8, and 8.2 none at all."""
    network_of_bytes().save(tmp_path / "net.onnx")
    labels, folder = labels_file(tmp_path / "labels.yaml"), tmp_path / "model"
    arguments = [str(tmp_path / "net.onnx"), "--output", str(folder), "--labels", str(labels)]
    assert main([*arguments, "--images", str(images)]) == 0
    card = read_card(str(folder))
    graphs = {
        variant: onnx.load(card.artifact_path(kind))
        for variant, kind in (("uint8", "onnx"), ("float", "onnx_float"))
    }
    assert set(refusals(graphs).values()) == {""}
    picture = read(sorted(images.iterdir())[0])
    with open_backend("onnxruntime", card, BackendOptions()) as backend:
        found = backend.run(picture[np.newaxis]).class_map_nhw[0]
    assert (found == scores_of(picture).argmax(axis=0)).mean() >= LEAST


def test_the_network_is_there_in_every_size_that_is_asked_for(images, tmp_path, capsys):
    network, sizes = Network(), [SIZE, (12, 20)]
    network.gives(network.scores).save(tmp_path / "net.onnx", dynamic=True)
    labels, folder = labels_file(tmp_path / "labels.yaml"), tmp_path / "model"
    arguments = [str(tmp_path / "net.onnx"), "--output", str(folder), "--labels", str(labels)]
    arguments += ["--scale", str(1 / 255), "--images", str(images)]
    for height, width in sizes:
        arguments += ["--size", f"{height}x{width}"]
    assert main(arguments) == 0
    check_folder(str(folder), LAYOUT)  # another import may take its place
    card = read_card(str(folder))
    assert card.input_size == SIZE
    for kind in ("onnx", "onnx_float", "onnx_fp16"):
        assert card.sizes(kind) == sizes
    assert "model_float_12x20.onnx: agrees with model_12x20.onnx on" in capsys.readouterr().out
    for size in sizes:
        picture = cv2.resize(read(sorted(images.iterdir())[0]), size[::-1])
        with open_backend("onnxruntime", card.at_size(size), BackendOptions()) as backend:
            found = backend.run(picture[np.newaxis]).class_map_nhw[0]
        assert (found == scores_of(picture).argmax(axis=0)).mean() >= LEAST


def test_scores_give_the_confidence_of_the_class_that_was_chosen(images, tmp_path):
    logits(tmp_path / "net.onnx")
    labels = labels_file(tmp_path / "labels.yaml")
    folder = tmp_path / "model"
    arguments = [str(tmp_path / "net.onnx"), "--output", str(folder), "--scale", str(1 / 255)]
    assert main([*arguments, "--labels", str(labels), "--images", str(images)]) == 0
    with open_backend("onnxruntime", read_card(str(folder)), BackendOptions()) as backend:
        picture = read(sorted(images.iterdir())[0])
        found = backend.run(picture[np.newaxis], with_confidence=True).confidence_nhw[0]
    expected = softmax(scores_of(picture)).max(axis=0) * 255
    assert np.abs(found - expected).max() <= 1


def test_a_quantised_network_is_imported_without_its_half_precision_form(images, tmp_path, capsys):
    """QuantizeLinear takes no float16."""
    network = Network()
    step = [network.constant("step", np.float32(0.1)), network.constant("zero", np.uint8(128))]
    codes = network.add("QuantizeLinear", [network.scores, *step])
    network.gives(network.add("DequantizeLinear", [codes, *step])).save(tmp_path / "net.onnx")
    labels, folder = labels_file(tmp_path / "labels.yaml"), tmp_path / "model"
    arguments = [str(tmp_path / "net.onnx"), "--output", str(folder), "--labels", str(labels)]
    assert main([*arguments, "--scale", str(1 / 255), "--images", str(images)]) == 0
    kinds = {item.kind for item in read_card(str(folder)).artifacts}
    assert kinds == {"onnx", "onnx_float"}
    assert "left out      model_fp16.onnx" in capsys.readouterr().out


@pytest.mark.parametrize("is_constant_node", [False, True])
def test_an_output_in_8_bits_means_what_its_last_step_says(images, tmp_path, is_constant_node):
    """As Qualcomm and TensorFlow Lite write it: scores whose steps are not 1, channels last."""
    network = Network()
    step = [network.constant("step", np.float32(0.05)), network.constant("zero", np.uint8(120))]
    if is_constant_node:
        values = network.constants.pop(1 + [item.name for item in network.constants].index("step"))
        step[1] = network.add("Constant", [], value=values)
    codes = network.add("QuantizeLinear", [network.scores, *step])
    last = network.add("Transpose", [codes], perm=[0, 2, 3, 1])
    network.gives(last, UINT8).save(tmp_path / "net.onnx")
    labels, folder = labels_file(tmp_path / "labels.yaml"), tmp_path / "model"
    arguments = [str(tmp_path / "net.onnx"), "--output", str(folder), "--labels", str(labels)]
    assert main([*arguments, "--scale", str(1 / 255), "--images", str(images)]) == 0
    picture = read(sorted(images.iterdir())[0])
    codes = np.clip(np.rint(scores_of(picture) / np.float32(0.05)) + 120, 0, 255)
    with open_backend("onnxruntime", read_card(str(folder)), BackendOptions()) as backend:
        found = backend.run(picture[np.newaxis], with_confidence=True)
        assert (found.class_map_nhw[0] == codes.argmax(axis=0)).mean() >= LEAST
        expected = softmax((codes - 120) * 0.05).max(axis=0) * 255
        # A code may be rounded the other way.
        assert np.abs(found.confidence_nhw[0] - expected).mean() <= 0.5


def test_the_first_and_the_last_convolution_stay_in_float_though_none_has_a_name(images, tmp_path):
    network, values = Network(), None
    for index in range(3):
        kernel = network.constant(
            f"kernel {index}", 2 * np.eye(5, dtype=np.float32)[..., None, None]
        )
        values = network.add("Relu", [network.add("Conv", [values or network.scores, kernel])])
    network.gives(values).save(tmp_path / "net.onnx")
    labels, folder = labels_file(tmp_path / "labels.yaml"), tmp_path / "model"
    arguments = [str(tmp_path / "net.onnx"), "--output", str(folder), "--labels", str(labels)]
    assert main([*arguments, "--scale", str(1 / 255), "--images", str(images)]) == 0
    graph = onnx.load(read_card(str(folder)).artifact_path("onnx_int8"))
    assert count_int8_convolutions(graph) == 2


def test_a_dry_run_says_everything_and_writes_nothing(images, tmp_path, capsys):
    logits(tmp_path / "net.onnx")
    labels = labels_file(tmp_path / "labels.yaml")
    arguments = [str(tmp_path / "net.onnx"), "--output", str(tmp_path / "model"), "--dry-run"]
    options = ["--scale", "0.004", "--labels", str(labels), "--images", str(images)]
    assert main([*arguments, *options]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["labels.yaml", "net.onnx"]
    said = capsys.readouterr().out
    for part in (
        "logits (",
        "which are no probabilities",
        "agreement",
        "8.2",
        "nothing was written",
    ):
        assert part in said
