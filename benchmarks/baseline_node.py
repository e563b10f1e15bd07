"""The usual way to write such a node, as a baseline: what tutorials and small packages do.

The image is converted to RGB, resized and normalised in NumPy; ONNX Runtime, or PyTorch, gives
logits; argmax, softmax and the colours are NumPy again, one class after another. Network and
weights are those of the model that the package's node runs, and so are the parameters: ``model``,
``backend`` (onnxruntime or torch) and ``num_threads``.
"""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import rclpy
from rclpy.node import Node
from sensor_msgs.msg import Image

from segmentation_node.backends.onnxruntime import import_onnxruntime
from segmentation_node.model_card import ModelCard, read_card

LogitsOf = Callable[[np.ndarray], np.ndarray]


class BaselineNode(Node):
    """Class map and overlay of every image."""

    def __init__(self) -> None:
        super().__init__("baseline")
        model = self.declare_parameter("model", "").value
        backend = self.declare_parameter("backend", "onnxruntime").value
        card = read_card(model)
        self.logits_of = LOGITS[backend](card, self.declare_parameter("num_threads", 1).value)
        self.size = (card.input.width, card.input.height)
        self.mean = np.array(card.input.mean_rgb, np.float32)
        self.std = np.array(card.input.std_rgb, np.float32)
        self.colors = card.labels.palette()[: len(card.labels)]
        self.class_maps = self.create_publisher(Image, "~/class_map", 10)
        self.overlays = self.create_publisher(Image, "~/overlay", 10)
        self.create_subscription(Image, "image", self.on_image, 10)

    def on_image(self, message: Image) -> None:
        """One image, start to end, in the callback."""
        shape = (message.height, message.width, 3)
        image = np.frombuffer(bytes(message.data), np.uint8).reshape(shape)
        if message.encoding == "bgr8":
            image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
        small = cv2.resize(image, self.size).astype(np.float32)
        blob = ((small - self.mean) / self.std).transpose(2, 0, 1)[None].astype(np.float32)
        logits = self.logits_of(blob)[0]
        class_map = np.argmax(logits, axis=0).astype(np.uint8)
        exponentials = np.exp(logits - logits.max(axis=0))
        self.confidence = (exponentials / exponentials.sum(axis=0)).max(axis=0)
        color = np.zeros((*class_map.shape, 3), np.uint8)
        for index, value in enumerate(self.colors):
            color[class_map == index] = value
        size = (message.width, message.height)
        class_map = cv2.resize(class_map, size, interpolation=cv2.INTER_NEAREST)
        color = cv2.resize(color, size, interpolation=cv2.INTER_NEAREST)
        overlay = cv2.addWeighted(image, 0.5, color, 0.5, 0)
        self.publish(self.class_maps, message, class_map, "mono8")
        self.publish(self.overlays, message, overlay, "rgb8")

    def publish(self, publisher: object, source: Image, pixels: np.ndarray, encoding: str) -> None:
        """Send pixels under the image's header."""
        message = Image(header=source.header, encoding=encoding)
        message.height, message.width = pixels.shape[:2]
        message.step = pixels.strides[0]
        message.data.frombytes(pixels.tobytes())
        publisher.publish(message)  # type: ignore[attr-defined]


def onnxruntime_logits(card: ModelCard, threads: int) -> LogitsOf:
    """ONNX Runtime on the graph of the bare network."""
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(Path(card.folder) / "logits.onnx"), options)
    return lambda blob: session.run(None, {"image": blob})[0]  # type: ignore[no-any-return]


def torch_logits(card: ModelCard, threads: int) -> LogitsOf:
    """PyTorch in float32, eager as it comes."""
    import torch

    from training.graphs import graph_of_card

    torch.set_num_threads(threads)
    network = graph_of_card(card).network

    def logits_of(blob: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return network(torch.from_numpy(blob)).numpy()  # type: ignore[no-any-return]

    return logits_of


LOGITS = {"onnxruntime": onnxruntime_logits, "torch": torch_logits}


def main() -> None:
    """Run until killed."""
    rclpy.init()
    rclpy.spin(BaselineNode())


if __name__ == "__main__":
    main()
