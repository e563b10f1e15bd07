"""Every network's exported graph: operators and dtypes for TensorRT, and agreement with torch."""

import os
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from support import small_training
from support import tensorrt_operators as trt
from support.shipped import slow_if_large

from segmentation_node.backends.onnx_edits import decode_weights, keep_output
from segmentation_node.evaluation.datasets import open_dataset
from segmentation_node.importing.model_folder import ARTIFACTS
from segmentation_node.model_card import read_card
from segmentation_node.networks import NETWORKS, build_network
from segmentation_node.networks.deploy import VARIANTS, DeployGraph, Normalise
from segmentation_node.networks.folding import fold_batch_norms
from training.export import LEAST_AGREEMENT, LEAST_AGREEMENT_FP16, agreement
from training.onnx_graph import export_onnx, graph_variant

CAMVID = os.environ.get(
    "CAMVID_ROOT", str(Path(__file__).resolve().parents[3] / "shared" / "datasets" / "camvid")
)
SHIPPED = sorted(Path(__file__).resolve().parents[2].glob("models/*/*.onnx"))
# Neither what is for CPUs only, nor box heads, which it does not run.
SHIPPED = [path for path in SHIPPED if "int8" not in path.name and path.stem != "boxes"]
ODD_SIZE, BATCH = (45, 70), 2
NAMES = [pytest.param(name, marks=slow_if_large(name)) for name in sorted(NETWORKS)]
each_network = pytest.mark.parametrize("name", NAMES)
each_variant = pytest.mark.parametrize("variant", sorted(VARIANTS))
IMAGENET = Normalise((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
CAMVID_SCHEDULES = {
    "elu_squeezenet": (150, 2e-3),
    "enet": (100, 1e-2),
    "fast_elu_squeezenet": (100, 1e-2),
    "fast_relu_squeezenet": (100, 1e-2),
    "segnet": (30, 1e-3),
    "segnet_basic": (60, 5e-3),
}
OPTIONS = {"residual": True, "decoder_widths": (8, 8, 8), "batch_norm": True, "dilate_last": True}


def deployed(network):
    """Normalises as training on the coloured blocks of the tests needs it: 128 +- 64 -> 0 +- 1."""
    return DeployGraph(Normalise((128.0,) * 3, (64.0,) * 3), network, True).eval()


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Exports a learned network once for each variant: the torch graph and the file."""
    folder, done = tmp_path_factory.mktemp("exported"), {}

    def export(name, variant):
        if (name, variant) not in done:
            graph = deployed(small_training.learned(name))
            path = folder / f"{name}_{variant}.onnx"
            export_onnx(graph_variant(graph, variant), ODD_SIZE, BATCH, "camvid11", path)
            done[name, variant] = graph, path
        return done[name, variant]

    return export


def block_images():
    """The images that the networks learned, as uint8 (2, H, W, 3), repeated to the odd size."""
    images, _ = small_training.coloured_blocks()
    images_nhwc = (images.permute(0, 2, 3, 1) * 64 + 128).clamp(0, 255).to(torch.uint8).numpy()
    repeated = np.tile(images_nhwc, (1, 2, 2, 1))
    return np.ascontiguousarray(repeated[:, : ODD_SIZE[0], : ODD_SIZE[1]])


def run(path, images_nhwc):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    dtype = np.float32 if session.get_inputs()[0].type == "tensor(float)" else np.uint8
    return session.run(["class_map", "confidence"], {"image": images_nhwc.astype(dtype)})


def types_of(model):
    """ONNX type of every tensor of the graph."""
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    values = [*graph.input, *graph.output, *graph.value_info]
    found = {value.name: value.type.tensor_type.elem_type for value in values}
    found.update({item.name: item.data_type for item in graph.initializer})
    return found


def unsupported_resize(node):
    attributes = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
    mode = attributes.get("mode", b"nearest").decode()
    coordinates = attributes.get("coordinate_transformation_mode", b"half_pixel").decode()
    if mode not in trt.RESIZE_MODES or coordinates not in trt.RESIZE_COORDINATES:
        yield f"Resize does not know {mode} with {coordinates}"
    if len(node.input) != 3:
        yield "Resize is not told its scales"


def unsupported(model, table, has_int64, has_uint8):
    """What this TensorRT would refuse, one line each."""
    types, graph = types_of(model), model.graph
    constants = {item.name for item in graph.initializer}
    edges = {value.name for value in [*graph.input, *graph.output]}
    for node in graph.node:
        allowed = set(table.get(node.op_type, ()))
        if not allowed:
            yield f"{node.op_type} is unknown"
        if len(node.output) != 1:
            yield f"{node.op_type} has {len(node.output)} outputs"
        if node.op_type == "Resize":
            yield from unsupported_resize(node)
        for index, name in enumerate(node.input):
            if not name:  # an optional input that is left out
                continue
            is_index = index in trt.INDEX_INPUTS.get(node.op_type, ())
            if index in trt.CONSTANT_INPUTS.get(node.op_type, ()) and name not in constants:
                yield f"input {index} of {node.op_type} is not constant"
            is_condition = node.op_type == "Where" and index == 0
            is_argmax = node.op_type == "Cast" and types[name] == trt.INT64
            if not (is_index or is_condition or is_argmax) and types[name] not in allowed:
                yield f"{node.op_type} takes type {types[name]}"
        for name in filter(None, [*node.input, *node.output]):
            if types[name] == trt.UINT8 and not (has_uint8 and name in edges):
                yield f"{node.op_type} touches uint8 inside"
        for name in node.output:
            if types[name] == trt.INT64 and node.op_type != "ArgMax" and not has_int64:
                yield f"{node.op_type} gives int64"


@each_network
@each_variant
def test_graph_is_what_tensorrt_takes(exported, name, variant):
    model = onnx.load(exported(name, variant)[1])
    assert [item.version for item in model.opset_import if not item.domain] == [13]
    assert list(unsupported(model, trt.TENSORRT_10, has_int64=True, has_uint8=True)) == []
    # 8.2 has no uint8, so it gets the float variant.
    if variant == "float":
        assert list(unsupported(model, trt.TENSORRT_8_2, has_int64=False, has_uint8=False)) == []


@each_variant
def test_graph_with_every_option_is_what_tensorrt_takes(tmp_path, variant):
    network = build_network("elu_squeezenet", 4, OPTIONS)
    graph = DeployGraph(IMAGENET, network, True, trained_classes=(0, 2, 3)).eval()
    path = tmp_path / "model.onnx"
    export_onnx(graph_variant(graph, variant), ODD_SIZE, 1, "camvid11", path)
    model = onnx.load(path)
    assert "Gather" in {node.op_type for node in model.graph.node}
    assert list(unsupported(model, trt.TENSORRT_10, has_int64=True, has_uint8=True)) == []
    if variant == "float":
        assert list(unsupported(model, trt.TENSORRT_8_2, has_int64=False, has_uint8=False)) == []


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_shipped_graph_is_what_tensorrt_takes(path):
    # As the engine's builder takes it: without what a box head sees, and weights in float.
    outputs = read_card(str(path.parent)).outputs
    model = onnx.load_from_string(decode_weights(keep_output(path.read_bytes(), *outputs)))
    assert [item.version for item in model.opset_import if not item.domain] == [13]
    assert list(unsupported(model, trt.TENSORRT_10, has_int64=True, has_uint8=True)) == []
    if model.graph.input[0].type.tensor_type.elem_type != trt.UINT8:  # for 8.2
        assert list(unsupported(model, trt.TENSORRT_8_2, has_int64=False, has_uint8=False)) == []


def test_the_check_finds_what_tensorrt_refuses():
    image = onnx.helper.make_tensor_value_info("image", trt.UINT8, (1, 1, 2, 2))
    pooled = onnx.helper.make_tensor_value_info("pooled", trt.UINT8, (1, 1, 1, 1))
    indices = onnx.helper.make_tensor_value_info("indices", trt.INT64, (1, 1, 1, 1))
    node = onnx.helper.make_node("MaxPool", ["image"], ["pooled", "indices"], kernel_shape=(2, 2))
    whole = onnx.helper.make_graph([node], "bad", [image], [pooled, indices])
    model = onnx.helper.make_model(whole, opset_imports=[onnx.helper.make_opsetid("", 13)])
    found = set(unsupported(model, trt.TENSORRT_8_2, has_int64=False, has_uint8=False))
    assert "MaxPool has 2 outputs" in found
    assert "MaxPool touches uint8 inside" in found
    assert "MaxPool gives int64" in found


@each_network
def test_unpooling_leaves_no_index_in_the_graph(exported, name):
    operators = {node.op_type for node in onnx.load(exported(name, "uint8")[1]).graph.node}
    refused = {"MaxUnpool", "ScatterND", "ScatterElements", "NonZero", "GreaterOrEqual", "If"}
    assert not operators & (refused | {"Loop", "Shape", "Gather", "ConstantOfShape", "Identity"})


@each_network
def test_half_precision_is_in_the_graph(exported, name):
    """Weights and activations are half; float32 is left to normalisation and confidence."""
    model = onnx.load(exported(name, "fp16")[1])
    types = types_of(model)
    for node in model.graph.node:
        if node.op_type in ("Conv", "ConvTranspose", "PRelu", "Elu", "BatchNormalization"):
            assert {types[tensor] for tensor in node.input} == {trt.HALF}, node.op_type
    scales = {node.input[2] for node in model.graph.node if node.op_type == "Resize"}
    constants = [item for item in model.graph.initializer if item.name not in scales]
    floats = [item for item in constants if item.data_type == trt.FLOAT]
    assert sum(int(np.prod(item.dims)) for item in floats) < 16
    first_casts = [node for node in model.graph.node if node.op_type == "Cast"][:2]
    assert [types[node.output[0]] for node in first_casts] == [trt.FLOAT, trt.HALF]


@each_network
@each_variant
def test_agrees_with_torch(exported, name, variant):
    graph, path = exported(name, variant)
    images = block_images()
    class_map, confidence = run(path, images)
    with torch.inference_mode():
        expected = [output.numpy() for output in graph(torch.from_numpy(images))]
    dtype = np.int32 if variant == "float" else np.uint8
    assert class_map.dtype == confidence.dtype == dtype
    assert class_map.shape == confidence.shape == (BATCH, *ODD_SIZE)
    least = LEAST_AGREEMENT_FP16 if variant == "fp16" else LEAST_AGREEMENT
    assert (class_map == expected[0]).mean() >= least
    differences = np.abs(confidence.astype(int) - expected[1].astype(int))
    # In half precision a pooling window may tie, and its value is unpooled elsewhere.
    share, most = (0.95, 8) if variant == "fp16" else (0.99, 1)
    assert np.quantile(differences, share) <= most


@each_network
def test_float_and_uint8_are_the_same_graph(exported, name):
    """Only the dtypes differ: the nodes are the same but for casts, and so are the results."""
    first, second = exported(name, "uint8")[1], exported(name, "float")[1]
    operators = [
        [node.op_type for node in onnx.load(path).graph.node if node.op_type != "Cast"]
        for path in (first, second)
    ]
    assert operators[0] == operators[1]
    images = block_images()
    for one, other in zip(run(first, images), run(second, images)):
        assert np.array_equal(one, other)


@each_network
def test_folded_batch_norms_change_nothing(name):
    torch.manual_seed(0)
    network = build_network(name, 4, {})
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
            torch.nn.init.uniform_(module.running_mean, -0.5, 0.5)
    image = torch.randn(1, 3, 32, 48)
    with torch.inference_mode():
        expected = network.eval()(image)
        found = fold_batch_norms(network)(image)
    norms = [m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert len(norms) == (1 if name == "enet" else 0)  # after a concatenation
    assert torch.allclose(found, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


def test_half_precision_survives_statistics_that_do_not_fit():
    """Raw pixels through a large first convolution: variances beyond half's 65504."""
    network = build_network("segnet_basic", 4, {}).eval()
    norm = network.encoder[0].norm
    norm.running_var.fill_(1e6)
    half = graph_variant(deployed(network), "fp16").network
    with torch.inference_mode():
        assert torch.isfinite(half(torch.full((1, 3, 16, 16), 255.0).half())).all()


def test_unknown_variant_lists_the_known():
    with pytest.raises(ValueError, match="unknown variant 'int8'; known: uint8, float, fp16"):
        graph_variant(deployed(build_network("enet", 4, {})), "int8")


def test_every_variant_has_a_file_and_a_kind():
    assert set(ARTIFACTS) == {*VARIANTS, "int8"}


def camvid_network(name, dataset):
    """Trained for some steps on two images, so that its decisions are decisions."""
    samples = [dataset[index] for index in (0, 50)]
    sizes = {"dsize": (120, 90), "interpolation": cv2.INTER_NEAREST}
    images = np.stack([cv2.resize(sample.image_hwc, **sizes) for sample in samples])
    labels = np.stack([cv2.resize(sample.truth_hw, **sizes) for sample in samples])
    torch.manual_seed(0)
    return small_training.learn(
        build_network(name, len(dataset.label_set), {}),
        IMAGENET(torch.from_numpy(images).permute(0, 3, 1, 2).float()),
        torch.from_numpy(labels).long(),
        *CAMVID_SCHEDULES[name],
    )


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not os.path.isdir(CAMVID), reason=f"CamVid is not in {CAMVID} (CAMVID_ROOT)")
@each_network
def test_agrees_with_torch_on_camvid(tmp_path, name):
    dataset = open_dataset("camvid", CAMVID, "val")
    network = camvid_network(name, dataset)
    graph = DeployGraph(IMAGENET, network, True).eval()
    size = (90, 120) if name == "segnet" else (180, 240)
    for variant in VARIANTS:
        path = tmp_path / f"{variant}.onnx"
        export_onnx(graph_variant(graph, variant), size, 1, "camvid11", path)
        share = agreement(graph, path, dataset, frames=10)
        print(f"{name} {variant}: {share:.6%}")
        assert share >= (LEAST_AGREEMENT_FP16 if variant == "fp16" else LEAST_AGREEMENT)
