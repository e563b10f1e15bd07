"""Small networks as others export them: one convolution, and whatever comes before and after."""

from pathlib import Path

import cv2
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT, HALF, INT64, UINT8 = (
    TensorProto.FLOAT,
    TensorProto.FLOAT16,
    TensorProto.INT64,
    TensorProto.UINT8,
)
SIZE = (24, 40)
CLASSES = 5


def weights(channels=CLASSES, seed=3):
    """Of a 1x1 convolution: scores differ by color, red and blue not alike."""
    random = np.random.default_rng(seed)
    return random.normal(0, 2, (channels, 3, 1, 1)).astype(np.float32)


def bias(channels=CLASSES, seed=4):
    return np.random.default_rng(seed).normal(0, 0.2, channels).astype(np.float32)


class Network:
    """A graph that grows: ``scores`` is the convolution of its input, more nodes follow it."""

    def __init__(self, channels=CLASSES, nhwc=False, dtype=FLOAT, stride=1, size=SIZE, opset=13):
        self.nodes, self.constants, self.outputs = [], [], []
        self.opset, self.stride = opset, stride
        shape = [1, *size, 3] if nhwc else [1, 3, *size]
        self.input = helper.make_tensor_value_info("pixels", dtype, shape)
        value = "pixels"
        if nhwc:
            value = self.add("Transpose", [value], perm=[0, 3, 1, 2])
        np_dtype = helper.tensor_dtype_to_np_dtype(dtype)
        self.scores = self.add(
            "Conv",
            [
                value,
                self.constant("weights", weights(channels).astype(np_dtype)),
                self.constant("bias", bias(channels).astype(np_dtype)),
            ],
            strides=[stride, stride],
        )

    def constant(self, name, values):
        self.constants.append(numpy_helper.from_array(values, name))
        return name

    def add(self, operator, inputs, **attributes):
        output = f"{operator}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

    def gives(self, name, dtype=FLOAT, shape=None):
        """Make a value an output; its shape is declared only where it is given."""
        shape = shape or ["a", "b", "c", "d"]
        self.outputs.append(helper.make_tensor_value_info(name, dtype, shape))
        return self

    def save(self, path: Path, dynamic=False, listed=False, metadata=None):
        """Write it; ``dynamic``: no size is fixed; ``listed``: constants are inputs as well."""
        inputs = [self.input]
        if dynamic:
            dims = self.input.type.tensor_type.shape.dim
            for dim, name in zip(dims, ("batch", "channels", "height", "width"), strict=True):
                dim.dim_param = name
        if listed:
            inputs += [
                helper.make_tensor_value_info(item.name, item.data_type, item.dims)
                for item in self.constants
            ]
        graph = helper.make_graph(self.nodes, "foreign", inputs, self.outputs, self.constants)
        ir_version = 3 if listed else 7 if self.opset < 15 else 8
        opset = [helper.make_opsetid("", self.opset)]
        model = helper.make_model(graph, opset_imports=opset, ir_version=ir_version)
        helper.set_model_props(model, metadata or {})
        onnx.save(model, str(path))
        return path


def scores_of(picture_hwc, channels=CLASSES, scale=1 / 255, order="rgb", stride=1):
    """What the convolution gives for a picture, uint8 RGB: (channels, height, width)."""
    pixels = picture_hwc[..., ::-1] if order == "bgr" else picture_hwc
    pixels = pixels[::stride, ::stride].astype(np.float32) * np.float32(scale)
    return (
        np.einsum("kc,hwc->khw", weights(channels)[:, :, 0, 0], pixels)
        + bias(channels)[:, None, None]
    )


def pictures(folder: Path, count=10, size=SIZE):
    """Write pictures of soft random colors, of the network's own size; gives the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        coarse = np.random.default_rng(index).integers(0, 256, (4, 6, 3), np.uint8)
        picture = cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / f"{index:02d}.png"), picture)
    return folder


def read(path: Path):
    """A picture as uint8 RGB."""
    return cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)


def labels_file(path: Path, count=CLASSES, first="class 0"):
    """A label set of so many classes."""
    names = [first, *(f"class {index}" for index in range(1, count))]
    lines = ["name: foreign", "classes:", *(f"- {{name: {name}}}" for name in names)]
    path.write_text("\n".join(lines) + "\n")
    return path


def softmax(scores):
    """Shares by class: (channels, height, width)."""
    shares = np.exp(scores - scores.max(axis=0))
    return shares / shares.sum(axis=0)


def sigmoid(scores):
    return 1 / (1 + np.exp(-scores))
