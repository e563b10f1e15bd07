"""Makes data/: ``python -m support.core.make_tiny_model`` in test/. Needs onnx and safetensors.

The nearest colour c of a pixel x has the largest 2 c.x - |c|^2, a linear function of x.
"""

import os

import numpy as np
import onnx
import yaml
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file
from support.core import tiny

from segmentation_node.model_card import parse_card, sha256_of

WEIGHT = (2.0 * tiny.COLORS / tiny.SOFTNESS).astype(np.float32)  # (11, 3)
BIAS = (-(tiny.COLORS**2).sum(axis=1) / tiny.SOFTNESS).astype(np.float32)  # (11,)
# Of image, scores and maps.
TYPES = {
    "uint8": (TensorProto.UINT8, TensorProto.FLOAT, TensorProto.UINT8),
    "float": (TensorProto.FLOAT, TensorProto.FLOAT, TensorProto.INT32),
    "fp16": (TensorProto.UINT8, TensorProto.FLOAT16, TensorProto.UINT8),
    "int8": (TensorProto.UINT8, TensorProto.FLOAT, TensorProto.UINT8),
    "int8_weights": (TensorProto.UINT8, TensorProto.FLOAT, TensorProto.UINT8),
}
# Of weights: 7 bits, since without VNNI sums of 8-bit products may leave 16 bits.
INT8_MAX = 63


def graph(class_offset=0, confidence_type=TensorProto.UINT8, variant="uint8", unused=()):
    """The model: image (1, H, W, 3) -> class_map and confidence (1, H, W), of a variant's types."""
    image_type, scores_type, maps_type = TYPES[variant]
    if variant == "float":
        confidence_type = maps_type
    is_half = scores_type == TensorProto.FLOAT16
    scores_dtype = helper.tensor_dtype_to_np_dtype(scores_type)
    constants = {
        "weight": WEIGHT.T.astype(scores_dtype),
        "bias": BIAS.astype(scores_dtype),
        "last_axis": np.array([-1], np.int64),
        "offset": np.array(class_offset, np.int64),
        "white": np.array(255.0, np.float32),
        "half": np.array(0.5, np.float32),
    }
    nodes = [
        helper.make_node("Cast", ["image"], ["x"], to=scores_type),
        helper.make_node("MatMul", ["x", "weight"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["sums" if is_half else "scores"]),
        helper.make_node("ArgMax", ["scores"], ["highest"], axis=-1, keepdims=0),
        helper.make_node("Add", ["highest", "offset"], ["class_id"]),
        helper.make_node("Cast", ["class_id"], ["class_map"], to=maps_type),
        helper.make_node("ReduceMax", ["scores"], ["best"], axes=[-1], keepdims=1),
        helper.make_node("Sub", ["scores", "best"], ["below"]),
        helper.make_node("Exp", ["below"], ["odds"]),
        helper.make_node("ReduceSum", ["odds", "last_axis"], ["total"], keepdims=0),
        helper.make_node("Div", ["white", "total"], ["probability"]),
        helper.make_node("Add", ["probability", "half"], ["rounded"]),
        helper.make_node("Cast", ["rounded"], ["confidence"], to=confidence_type),
    ]
    if variant == "int8":
        # Pixels are whole numbers from 0 to 255: only the weights are rounded.
        scale = np.maximum(np.abs(WEIGHT).max(axis=1), 1e-6) / INT8_MAX
        constants["weight_int8"] = np.round(WEIGHT.T / scale).astype(np.int8)
        constants["weight_scale"] = scale.astype(np.float32)
        constants["weight_zero"] = np.zeros(len(scale), np.int8)
        constants["pixel_scale"] = np.array(1.0, np.float32)
        constants["pixel_zero"] = np.array(0, np.uint8)
        del constants["weight"]
        pixel, weight = ["pixel_scale", "pixel_zero"], ["weight_scale", "weight_zero"]
        nodes[0:1] = [
            helper.make_node("Cast", ["image"], ["pixels"], to=scores_type),
            helper.make_node("QuantizeLinear", ["pixels"] + pixel, ["pixels_uint8"]),
            helper.make_node("DequantizeLinear", ["pixels_uint8"] + pixel, ["x"]),
            helper.make_node("DequantizeLinear", ["weight_int8"] + weight, ["weight"], axis=1),
        ]
    if variant == "int8_weights":
        scale = np.abs(WEIGHT).max(axis=0) / 127  # of a colour channel: classes lie side by side
        constants["weight_int8"] = np.round(WEIGHT.T / scale[:, None]).astype(np.int8)
        constants["weight_scale"] = scale.astype(np.float32)
        del constants["weight"]
        decoded = ["weight_int8", "weight_scale"], ["weight"]
        nodes.insert(0, helper.make_node("DequantizeLinear", *decoded, axis=0))
    if is_half:
        nodes.insert(3, helper.make_node("Cast", ["sums"], ["scores"], to=TensorProto.FLOAT))
    nodes += [helper.make_node(name, ["scores"], ["unused"]) for name in unused]
    shape = [1] + list(tiny.SIZE)
    content = helper.make_graph(
        nodes,
        "nearest_color",
        [helper.make_tensor_value_info("image", image_type, shape + [3])],
        [
            helper.make_tensor_value_info("class_map", maps_type, shape),
            helper.make_tensor_value_info("confidence", confidence_type, shape),
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opset = helper.make_opsetid("", 13)
    model = helper.make_model(content, opset_imports=[opset], ir_version=7)
    helper.set_model_props(model, {"label_set": "camvid11"})
    onnx.checker.check_model(model, full_check=True)
    return model


def artifact(file_name, kind, version):
    """The card's entry for a file of data/tiny."""
    sha256 = sha256_of(os.path.join(tiny.FOLDER, file_name))
    return {"file": file_name, "kind": kind, "sha256": sha256, "version": version}


def card():
    """The tiny model's card as plain values."""
    return {
        "name": "tiny",
        "network": {"name": "nearest_color", "options": {}, "parameters": WEIGHT.size + BIAS.size},
        "label_set": "camvid11",
        "input": {
            "height": tiny.SIZE[0],
            "width": tiny.SIZE[1],
            "resize": "stretch",
            "mean_rgb": [0.0, 0.0, 0.0],
            "std_rgb": [1.0, 1.0, 1.0],
        },
        "outputs": ["class_map", "confidence"],
        "weights": {
            "data": "CamVid's colours",
            "licence": "Apache-2.0",
            "provenance": "python test/support/core/make_tiny_model.py",
        },
        "accuracy": [],
        "artifacts": [
            artifact("model.onnx", "onnx", "opset 13"),
            artifact("weights.safetensors", "weights", "safetensors, float32"),
            artifact("model_float.onnx", "onnx_float", "opset 13"),
            artifact("model_fp16.onnx", "onnx_fp16", "opset 13"),
            artifact("model_int8.onnx", "onnx_int8", "opset 13"),
        ],
    }


def main():
    """Write everything."""
    os.makedirs(tiny.FOLDER, exist_ok=True)
    onnx.save(graph(), os.path.join(tiny.FOLDER, "model.onnx"))
    for variant in ("float", "fp16", "int8"):
        path = os.path.join(tiny.FOLDER, "model_%s.onnx" % variant)
        onnx.save(graph(variant=variant), path)
    onnx.save(graph(unused=["NonZero"]), os.path.join(tiny.DATA, "non_zero.onnx"))
    onnx.save(graph(variant="int8_weights"), os.path.join(tiny.DATA, "int8_weights.onnx"))
    onnx.save(graph(class_offset=1), os.path.join(tiny.DATA, "class_11.onnx"))
    onnx.save(
        graph(confidence_type=TensorProto.FLOAT), os.path.join(tiny.DATA, "float_confidence.onnx")
    )
    weights = {"weight": WEIGHT.reshape(11, 3, 1, 1), "bias": BIAS}
    save_file(weights, os.path.join(tiny.FOLDER, "weights.safetensors"))
    os.chmod(os.path.join(tiny.FOLDER, "weights.safetensors"), 0o644)
    values = card()
    with open(os.path.join(tiny.FOLDER, "model.yaml"), "w") as out:
        yaml.safe_dump(values, out, sort_keys=False)
    parse_card(values, tiny.FOLDER)


if __name__ == "__main__":
    main()
