"""Every backend gives ONNX Runtime's classes for the shipped models on real images.

As closely as ``LEAST_AGREEMENT`` says, in every precision and execution that this machine has.
"""

from contextlib import ExitStack
from functools import lru_cache

import numpy as np
import pytest
from support.core.real_data import folder_of
from support.fake_cuda import FakeCuda, FakeGpuBackend
from support.shipped import SECONDS, one_of_each_network, slow_if_large
from support.vnni import need_vnni

from segmentation_node.backends import (
    BACKENDS,
    LEAST_AGREEMENT,
    BackendOptions,
    open_backend,
)
from segmentation_node.evaluation.datasets import open_dataset
from segmentation_node.images import place, to_network
from segmentation_node.model_card import open_model, shipped_models

FRAMES = (36, 40)  # of one street, which takes as long to build as a network to load
UNPOOLING = ("enet", "segnet", "segnet_basic")
SETTINGS = [("openvino", "cpu", "fp32", "auto"), ("openvino", "cpu", "bf16", "auto")]
SETTINGS += [("openvino", "cpu", "int8", "auto"), ("onnxruntime", "cpu", "int8", "auto")]
SETTINGS += [("torch", "cpu", "fp32", "eager"), ("torch", "cpu", "bf16", "eager")]
SETTINGS += [("torch", "cuda", precision, "graph") for precision in BACKENDS["torch"].precisions]
SETTINGS += [("torch", "cuda", "fp32", "eager"), ("torch", "cuda", "fp16", "compiled_graph")]


def cards(*kinds):
    """The shipped cards that have artifacts of all these kinds."""
    found = map(open_model, shipped_models())
    return [card for card in found if all(map(card.offers, kinds))]


def images(card, frames):
    """Images of the card's own kind at its input size: uint8 (1, H, W, 3) each."""
    if card.label_set == "camvid11":
        dataset = open_dataset("camvid", folder_of("camvid"), "val")
    else:
        dataset = open_dataset("street", "", "val")
    for index in frames:
        image = dataset[index].image_hwc
        image_nhwc = np.zeros((1, *card.input_size, 3), np.uint8)
        placement = place(card.input.resize, image.shape[:2], card.input_size)
        to_network(image, placement, image_nhwc[0])
        yield image_nhwc


def lacking(name, device):
    """Why this machine cannot run it; empty when it can."""
    missing = BACKENDS[name].unavailable()
    if not missing and device == "cuda" and not BACKENDS[name].accelerated():
        missing = "there is no CUDA GPU"
    return missing and f"NOT RUN: backend {name} on {device}: {missing}"


def cases():
    """Each shipped card in each setting that it has the artifact for; one skip for what lacks."""
    for setting in SETTINGS:
        reason = lacking(*setting[:2])
        if reason:
            skip = pytest.mark.skip(reason=reason)
            yield pytest.param(None, setting, id="-".join(setting), marks=skip)
            continue
        for card in cards("onnx"):
            if card.offers(BACKENDS[setting[0]].kind_for(setting[2])):
                name, marks = "-".join((card.name, *setting)), slow_if_large(card.name)
                if setting[2] != "fp32" and card.name in SECONDS:
                    marks = [pytest.mark.slow]
                yield pytest.param(card, setting, id=name, marks=marks)


def least_equal_confidence(card):
    """Share of pixels whose confidence may not move in float32.

    Where two values of a pooling are within rounding of each other, run times may choose different
    places, and unpooling then puts the value a pixel further on.
    """
    return 0.9995 if card.network.name in UNPOOLING else 0.9999


@lru_cache(maxsize=None)
def expected_of(name):
    """An image of a shipped model, and ONNX Runtime's classes and confidences."""
    card = open_model(name)
    (image_nhwc,) = images(card, FRAMES[1:])
    with open_backend("onnxruntime", card, BackendOptions(device="cpu")) as backend:
        result = backend.run(image_nhwc, with_confidence=True)
        return image_nhwc, result.class_map_nhw.copy(), result.confidence_nhw.copy()


@pytest.mark.parametrize("card, setting", list(cases()))
def test_the_classes_are_those_of_onnxruntime(card, setting):
    name, device, precision, execution = setting
    if precision == "int8":
        need_vnni()
    options = BackendOptions(device=device, precision=precision, execution=execution)
    lacking = BACKENDS[name].unready(card, options)
    if lacking:
        pytest.skip(f"NOT RUN: backend {name}: {lacking}")
    image_nhwc, class_map_nhw, confidence_nhw = expected_of(card.name)
    with open_backend(name, card, options) as other:
        found = other.run(image_nhwc, other.has_confidence)
        equal = found.class_map_nhw == class_map_nhw
        print(f"{card.name} {'-'.join(setting)}: {equal.mean():.4%}")
        assert equal.mean() >= LEAST_AGREEMENT[precision]
        assert len(np.unique(found.class_map_nhw)) > 2, "the image should meet several classes"
        if other.has_confidence:
            difference = abs(found.confidence_nhw.astype(int) - confidence_nhw)
            share = least_equal_confidence(card) if precision == "fp32" else 0.9
            assert (difference <= (1 if precision == "fp32" else 8)).mean() >= share


@pytest.mark.slow
@pytest.mark.parametrize("card", cards("onnx", "weights"), ids=lambda card: card.name)
def test_half_precision_gives_the_classes_too(card, monkeypatch):
    """Half precision as the CPU computes it, in the GPU's part of the backend on a fake GPU."""
    FakeCuda(monkeypatch)
    options = BackendOptions(device="cuda", precision="fp16", execution="graph")
    with ExitStack() as stack:
        onnxruntime = stack.enter_context(
            open_backend("onnxruntime", card, BackendOptions(device="cpu"))
        )
        half = stack.enter_context(FakeGpuBackend(card, options))
        for image_nhwc in images(card, FRAMES):
            equal = half.run(image_nhwc).class_map_nhw == onnxruntime.run(image_nhwc).class_map_nhw
            assert equal.mean() >= LEAST_AGREEMENT["fp16"]


@one_of_each_network("card", cards("onnx", "weights"))
def test_a_batch_gives_the_classes_of_its_images(card):
    frames = list(images(card, FRAMES))
    with ExitStack() as stack:
        single = stack.enter_context(open_backend("torch", card, BackendOptions(device="cpu")))
        several = stack.enter_context(
            open_backend("torch", card, BackendOptions(device="cpu", batch=len(frames)))
        )
        found = several.run(np.concatenate(frames)).class_map_nhw
        for image_nhwc, class_map_hw in zip(frames, found):
            equal = single.run(image_nhwc).class_map_nhw[0] == class_map_hw
            assert equal.mean() >= LEAST_AGREEMENT["fp32"]
