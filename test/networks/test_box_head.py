"""RoI max pooling against its definition, and against ONNX Runtime's own operator."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper

from segmentation_node.errors import NetworkError
from segmentation_node.networks import build_network
from segmentation_node.networks.box_head import POOLED, BoxHead, build_box_head, roi_max_pool

BOXES = 60


def cells(height, width, seed=0):
    """Boxes in cells, the whole map and one cell among them: float32 (R, 4)."""
    rng = np.random.default_rng(seed)
    left, top = rng.uniform(0, width - 1, BOXES), rng.uniform(0, height - 1, BOXES)
    right, bottom = rng.uniform(left, width), rng.uniform(top, height)
    boxes = np.stack([left, top, right, bottom], axis=1).astype(np.float32)
    boxes[0] = (0, 0, width, height)
    boxes[1] = (width - 1, height - 1, width, height)
    return boxes


def covered(boxes):
    """First and last cells that a box covers, int (R, 4)."""
    first = np.floor(boxes[:, :2])
    last = np.maximum(np.ceil(boxes[:, 2:]), first + 1) - 1
    return np.concatenate((first, last), axis=1).astype(int)


def pooled(features, boxes):
    found = roi_max_pool(torch.from_numpy(features), torch.from_numpy(boxes))
    return found.numpy().transpose(0, 3, 1, 2)


def features_of(height, width, channels=5):
    rng = np.random.default_rng(height * width)
    return rng.standard_normal((1, channels, height, width)).astype(np.float32)


@pytest.mark.parametrize("size", [(46, 80), (23, 40), (7, 5), (3, 100)])
def test_a_bin_is_the_maximum_of_its_cells(size):
    features, boxes = features_of(*size), cells(*size)
    found = pooled(features, boxes)
    for index, (left, top, right, bottom) in enumerate(covered(boxes)):
        window = features[0, :, top : bottom + 1, left : right + 1]
        height, width = window.shape[1:]
        for row in range(POOLED):
            rows = slice(row * height // POOLED, -(-(row + 1) * height // POOLED))
            for column in range(POOLED):
                columns = slice(column * width // POOLED, -(-(column + 1) * width // POOLED))
                expected = window[:, rows, columns].max(axis=(1, 2))
                np.testing.assert_array_equal(found[index, :, row, column], expected)


def test_it_is_onnx_own_operator():
    """MaxRoiPool, which TensorRT has not, and whose bins in OpenVINO are others.

    A bin of it may be a cell longer, where a product of floats comes out above a whole number.
    """
    features, boxes = features_of(46, 80), cells(46, 80)
    rois = np.concatenate((np.zeros((BOXES, 1)), covered(boxes)), axis=1).astype(np.float32)
    values = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in (("features", features.shape), ("rois", rois.shape), ("pooled", None))
    ]
    node = helper.make_node(
        "MaxRoiPool", ["features", "rois"], ["pooled"], pooled_shape=[POOLED] * 2
    )
    model = helper.make_model(
        helper.make_graph([node], "pool", values[:2], values[2:]),
        opset_imports=[helper.make_opsetid("", 13)],
        ir_version=8,
    )
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (expected,) = session.run(None, {"features": features, "rois": rois})
    found = pooled(features, boxes)
    assert (expected >= found).all()
    assert (expected == found).mean() >= 0.98


def test_an_empty_box_gives_finite_values():
    """Proposals are padded with them."""
    head = BoxHead(2, {8: 3, 16: 4}).eval()
    stages = {8: torch.randn(1, 3, 10, 12), 16: torch.randn(1, 4, 5, 6)}
    with torch.inference_mode():
        scores, deltas = head(head.join(stages), torch.zeros((4, 4)))
    assert scores.shape == (4, 3) and deltas.shape == (4, 8)
    assert torch.isfinite(scores).all() and torch.isfinite(deltas).all()
    assert scores.sum(dim=1).tolist() == pytest.approx([1.0] * 4)


@pytest.mark.parametrize("dilate_last", [False, True])
def test_a_network_gives_its_stages_and_the_same_logits(dilate_last):
    options = {"dilate_last": dilate_last}
    network = build_network("elu_squeezenet", 5, options).eval()
    image = torch.randn(1, 3, 40, 56)
    with torch.inference_mode():
        logits, stages = network.with_stages(image)
        assert torch.equal(logits, network(image))
    sizes = {stride: stage.shape[1:] for stride, stage in stages.items()}
    assert sizes == {
        stride: (channels, 48 // stride, 64 // stride)
        if not dilate_last
        else (channels, 40 // stride, 56 // stride)
        for stride, channels in network.stage_channels.items()
    }


def test_a_network_without_stages_takes_no_head():
    network = build_network("enet", 5, {})
    with pytest.raises(NetworkError, match=r"ENet gives no stages .*; EluSqueezeNet does"):
        build_box_head(2, {}, network)


@pytest.mark.parametrize("options", [{"strides": [2]}, {"width": -1}, {"depth": 3}])
def test_options_that_a_head_has_not(options):
    network = build_network("elu_squeezenet", 5, {})
    with pytest.raises(NetworkError, match="the box head does not take the options"):
        build_box_head(2, options, network)
