"""Torch and ONNX Runtime give the same classes for the shipped models on real images."""

import os
from contextlib import ExitStack

import numpy as np
import pytest
from core.real_data import folder_of

from segmentation_node.backends import BackendOptions, open_backend
from segmentation_node.evaluation.datasets import open_dataset
from segmentation_node.images import place, to_network
from segmentation_node.model_card import find_model, read_card
from segmentation_node.models import models_folder

FRAMES = (0, 1, 40)


def cards():
    """The shipped cards that both run times can load."""
    folder = models_folder()
    names = sorted(os.listdir(folder)) if folder else []
    names = [name for name in names if os.path.isfile(os.path.join(folder, name, "model.yaml"))]
    found = [read_card(find_model(name, folder)) for name in names if name[0] != "."]
    return [card for card in found if card.offers("onnx") and card.offers("weights")]


def images(card):
    """Images of the card's own kind at its input size: uint8 (1, H, W, 3) each."""
    if card.label_set == "camvid11":
        dataset = open_dataset("camvid", folder_of("camvid"), "val")
    else:
        dataset = open_dataset("street", "", "val")
    for index in FRAMES:
        image = dataset[index].image_hwc
        image_nhwc = np.zeros((1, *card.input_size, 3), np.uint8)
        placement = place(card.input.resize, image.shape[:2], card.input_size)
        to_network(image, placement, image_nhwc[0])
        yield image_nhwc


@pytest.mark.parametrize("card", cards(), ids=lambda card: card.name)
def test_torch_and_onnxruntime_give_the_same_classes(card):
    options = BackendOptions(device="cpu")
    with ExitStack() as stack:
        onnxruntime = stack.enter_context(open_backend("onnxruntime", card, options))
        torch = stack.enter_context(open_backend("torch", card, options))
        for image_nhwc in images(card):
            found = torch.run(image_nhwc, card.outputs == ["class_map", "confidence"])
            expected = onnxruntime.run(image_nhwc, found.confidence_nhw is not None)
            assert (found.class_map_nhw == expected.class_map_nhw).mean() >= 0.9999
            assert len(np.unique(found.class_map_nhw)) > 2, "the image should meet several classes"
            if found.confidence_nhw is not None:
                difference = found.confidence_nhw.astype(int) - expected.confidence_nhw
                assert (abs(difference) <= 1).mean() >= 0.9999
