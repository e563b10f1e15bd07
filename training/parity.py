"""How far an exported graph and torch agree, on real images."""

from pathlib import Path

import numpy as np
import torch

from segmentation_node.backends.onnxruntime import import_onnxruntime
from segmentation_node.evaluation.datasets import Dataset
from segmentation_node.images import place, to_network
from segmentation_node.networks.deploy import DeployGraph

ARRAY_DTYPES = {"tensor(uint8)": np.uint8, "tensor(float)": np.float32}
"""Of a graph's input, by ONNX Runtime's name."""


def agreement(
    graph: DeployGraph, onnx_path: Path, dataset: Dataset, frames: int, resize: str = "stretch"
) -> float:
    """Share of pixels to which torch and ONNX Runtime give the same class, on the first frames.

    ``graph`` is the ``uint8`` variant in float32, whatever variant the file is.
    """
    onnxruntime = import_onnxruntime()
    session = onnxruntime.InferenceSession(str(onnx_path), providers=["CPUExecutionProvider"])
    entry = session.get_inputs()[0]
    image_nhwc = np.zeros(entry.shape, np.uint8)
    equal = total = 0
    for index in range(min(frames, len(dataset))):
        image = dataset[index].image_hwc
        placement = place(resize, image.shape[:2], entry.shape[1:3])
        for slot in image_nhwc:
            to_network(image, placement, slot)
        with torch.inference_mode():
            expected = graph(torch.from_numpy(image_nhwc))[0].numpy()
        feed = {"image": image_nhwc.astype(ARRAY_DTYPES[entry.type])}
        equal += int((session.run(["class_map"], feed)[0] == expected).sum())
        total += expected.size
    return equal / total
