"""Makes a model folder whose class map NumPy gives exactly: argmax of integer sums of R, G, B."""

from pathlib import Path

import cv2
import numpy as np
import onnx
import yaml
from onnx import TensorProto, helper, numpy_helper

from segmentation_node.labels import LABEL_SETS
from segmentation_node.model_card import sha256_of


def weights(label_set):
    """Integer weights (3, classes) and bias: every sum is exact in float32."""
    random = np.random.RandomState(len(LABEL_SETS[label_set]))
    classes = len(LABEL_SETS[label_set])
    weight = random.randint(-20, 21, (3, classes))
    return weight, -128 * weight.sum(axis=0)  # every class wins somewhere around grey


def classify(image_hwc, label_set="camvid11"):
    """What the model must give: uint8 (H, W)."""
    weight, bias = weights(label_set)
    return (image_hwc.astype(int) @ weight + bias).argmax(axis=-1).astype(np.uint8)


def confidence(image_hwc):
    """What the model must give: uint8 (H, W)."""
    return image_hwc.max(axis=-1)


def blocks(size, seed=0, block=8):
    """Noise in squares, uint8 RGB: resizing by a whole number keeps its colours."""
    height, width = size
    random = np.random.RandomState(seed)
    small = random.randint(0, 256, (height // block, width // block, 3)).astype(np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_NEAREST)


def write_model(
    folder, size, label_set="camvid11", with_confidence=True, name="linear", channels=0, batch=1
):
    """Write model.onnx and model.yaml; ``channels`` adds convolutions that only take time."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(_graph(size, label_set, with_confidence, channels, batch), folder / "model.onnx")
    write_card(folder, card(folder, size, label_set, with_confidence, name))
    return str(folder)


def write_sizes(folder, sizes, scores=(), batches=(1,), name="linear", label_set="camvid11"):
    """The model in several sizes and batches; ``scores``: the mean IoU of each size by its card."""
    folder = Path(folder)
    write_model(folder, sizes[0], label_set, name=name)
    values = card(folder, sizes[0], label_set, name=name)
    for size in sizes:
        for batch in batches:
            path = folder / "model_{}x{}_{}.onnx".format(*size, batch)
            onnx.save(_graph(size, label_set, True, 0, batch), path)
            entry = dict(values["artifacts"][0], file=path.name, sha256=sha256_of(str(path)))
            entry.update(height=size[0], width=size[1], batch=batch)
            values["artifacts"].append(entry)
    del values["artifacts"][0]
    figures = {"dataset": "camvid", "split": "val", "frames": 1, "global_accuracy": 0.9}
    values["accuracy"] = [
        dict(figures, mean_iou=score, height=size[0], width=size[1])
        for size, score in zip(sizes, scores)
    ]
    write_card(folder, values)
    return str(folder)


def card(folder, size, label_set="camvid11", with_confidence=True, name="linear"):
    """The card's values."""
    sha256 = sha256_of(str(Path(folder) / "model.onnx"))
    classes = len(LABEL_SETS[label_set])
    return {
        "name": name,
        "network": {"name": "linear", "options": {}, "parameters": 4 * classes},
        "label_set": label_set,
        "input": {
            "height": size[0],
            "width": size[1],
            "resize": "stretch",
            "mean_rgb": [0.0, 0.0, 0.0],
            "std_rgb": [1.0, 1.0, 1.0],
        },
        "outputs": ["class_map"] + ["confidence"] * with_confidence,
        "weights": {
            "data": "none",
            "licence": "Apache-2.0",
            "provenance": "test/support/linear_model.py",
        },
        "accuracy": [],
        "artifacts": [
            {"file": "model.onnx", "kind": "onnx", "sha256": sha256, "version": "opset 13"}
        ],
    }


def write_card(folder, values):
    """Write model.yaml."""
    (Path(folder) / "model.yaml").write_text(yaml.safe_dump(values, sort_keys=False))


def _graph(size, label_set, with_confidence, channels, batch):
    weight, bias = weights(label_set)
    constants = {"weight": weight, "bias": bias}
    nodes = [
        helper.make_node("Cast", ["image"], ["rgb"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["rgb", "weight"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["sums"]),
    ]
    scores = "sums"
    if channels:
        scores = _slow_down(nodes, constants, channels)
    nodes += [
        helper.make_node("ArgMax", [scores], ["class_id"], axis=-1, keepdims=0),
        helper.make_node("Cast", ["class_id"], ["class_map"], to=TensorProto.UINT8),
    ]
    names = ["class_map"]
    if with_confidence:
        nodes.append(helper.make_node("ReduceMax", ["rgb"], ["most"], axes=[-1], keepdims=0))
        nodes.append(helper.make_node("Cast", ["most"], ["confidence"], to=TensorProto.UINT8))
        names.append("confidence")
    shape = [batch] + list(size)
    content = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, shape + [3])],
        [helper.make_tensor_value_info(name, TensorProto.UINT8, shape) for name in names],
        [numpy_helper.from_array(np.float32(value), key) for key, value in constants.items()],
    )
    opset = helper.make_opsetid("", 13)
    model = helper.make_model(content, opset_imports=[opset], ir_version=7)
    helper.set_model_props(model, {"label_set": label_set})
    onnx.checker.check_model(model, full_check=True)
    return model


def _slow_down(nodes, constants, channels):
    """Adds zero times a convolved image to the sums."""
    constants["first"] = np.full((channels, 3, 3, 3), 1e-3)
    constants["second"] = np.full((channels, channels, 3, 3), 1e-3)
    constants["zero"] = 0.0
    nodes += [
        helper.make_node("Transpose", ["rgb"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["planes", "first"], ["conv1"], pads=[1] * 4),
        helper.make_node("Conv", ["conv1", "second"], ["conv2"], pads=[1] * 4),
        helper.make_node("ReduceMax", ["conv2"], ["peak"], axes=[0, 1, 2, 3], keepdims=0),
        helper.make_node("Mul", ["peak", "zero"], ["nothing"]),
        helper.make_node("Add", ["sums", "nothing"], ["slow_sums"]),
    ]
    return "slow_sums"
