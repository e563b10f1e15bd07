"""Networks straight from their makers' packages, random weights, exported with sizes left open.

Where a package is not installed its test is skipped, loudly.
"""

import cv2
import numpy as np
import pytest
from support.foreign_networks import pictures, read

from segmentation_node.backends.onnxruntime import import_onnxruntime
from segmentation_node.importing.__main__ import main
from segmentation_node.model_card import read_card
from segmentation_node.pipeline import open_segmenter

pytestmark = pytest.mark.slow

SIZE = (64, 96)
MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)


def import_and_compare(path, output, folder, *options):
    """Import the file and hold what it gives against the file itself and an argmax."""
    images = pictures(folder / "images", size=SIZE)
    model = folder / "model"
    size = ["--size", f"{SIZE[0]}x{SIZE[1]}"]
    assert main([str(path), "--output", str(model), "--images", str(images), *size, *options]) == 0
    session = import_onnxruntime().InferenceSession(str(path), providers=["CPUExecutionProvider"])
    picture = read(sorted(images.iterdir())[0])
    values = ((picture.astype(np.float32) / 255 - MEAN) / STD).transpose(2, 0, 1)[None]
    name = session.get_inputs()[0].name
    scores = dict(
        zip([item.name for item in session.get_outputs()], session.run(None, {name: values}))
    )[output][0]
    full = np.stack([cv2.resize(plane, SIZE[::-1]) for plane in scores])
    with open_segmenter(read_card(str(model)), "onnxruntime") as segmenter:
        found = segmenter.segment(picture).class_map_hw
    assert (found == full.argmax(axis=0)).mean() >= 0.999


def export(network, path, inputs, outputs, torch):
    axes = {inputs: {0: "batch", 2: "height", 3: "width"}}
    axes.update({name: {0: "batch", 2: "height", 3: "width"} for name in outputs})
    torch.onnx.export(
        network.eval(),
        (torch.zeros(1, 3, *SIZE),),
        str(path),
        input_names=[inputs],
        output_names=outputs,
        dynamic_axes=axes,
        opset_version=17,
        dynamo=False,
    )


def test_torchvision(tmp_path):
    reason = "TORCHVISION'S NETWORK NOT IMPORTED: torchvision is not installed"
    torchvision = pytest.importorskip("torchvision", reason=reason)
    import torch

    torch.manual_seed(0)
    network = torchvision.models.segmentation.lraspp_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=21
    )
    export(network, tmp_path / "net.onnx", "input.1", ["out"], torch)
    import_and_compare(tmp_path / "net.onnx", "out", tmp_path, "--from", "torchvision")


def test_segformer(tmp_path):
    reason = "SEGFORMER NOT IMPORTED: transformers is not installed"
    transformers = pytest.importorskip("transformers", reason=reason)
    import torch

    torch.manual_seed(0)
    names = {index: f"class {index}" for index in range(5)}
    config = transformers.SegformerConfig(num_labels=5, id2label=names)
    network = transformers.SegformerForSemanticSegmentation(config)
    config.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text("{}")
    export(network, tmp_path / "net.onnx", "pixel_values", ["logits"], torch)
    import_and_compare(tmp_path / "net.onnx", "logits", tmp_path)
