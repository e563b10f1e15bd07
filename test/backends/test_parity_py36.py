"""The TX1's Python 3.6 and ONNX Runtime 1.10 give the class maps of today's run times."""

import json
import os
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from support import linear_model, small_training
from support.core.real_data import ROOT
from support.ros_sources import PROJECT
from support.shipped import each_network, one_of_each_network
from support.vnni import need_vnni

from segmentation_node.backends import BackendOptions, open_backend
from segmentation_node.evaluation.datasets import open_dataset
from segmentation_node.model_card import CARD_FILE, read_card
from segmentation_node.networks.deploy import DeployGraph, Normalise
from segmentation_node.pipeline import Batch, Segmenter
from training.onnx_graph import export_onnx

PYTHON36 = PROJECT / ".venv36" / "bin" / "python"
MODELS = sorted(path.parent for path in PROJECT.glob("models/[!.]*/" + CARD_FILE))
IN_INT8 = [path for path in MODELS if read_card(str(path)).offers("onnx_int8")]
LEAST_AGREEMENT = 0.9999
FRAME = 90
BLOCKS_SIZE = (69, 106)  # no multiple of any network's stride

# Runs under Python 3.6: the package's own pipeline on saved frames, one model a line.
SEGMENT = """
import json, sys
import numpy as np
import onnxruntime
from segmentation_node.backends import BackendOptions, open_backend
from segmentation_node.model_card import read_card
from segmentation_node.pipeline import Batch, Segmenter

for line in sys.stdin:
    model, frames, folder, precision = json.loads(line)
    options = BackendOptions(num_threads=1, precision=precision)
    with open_backend("onnxruntime", read_card(model), options) as backend:
        segmenter = Segmenter(Batch(backend))
        for index in range(frames):
            image = np.load("%s/image_%d.npy" % (folder, index))
            found = segmenter.segment(image, with_confidence=True)
            np.save("%s/class_map_%d.npy" % (folder, index), found.class_map_hw)
            np.save("%s/confidence_%d.npy" % (folder, index), found.confidence_hw)
    print(json.dumps([list(sys.version_info[:2]), onnxruntime.__version__]), flush=True)
"""


@pytest.fixture(scope="module")
def python36(tmp_path_factory):
    """Python 3.6 with the pinned packages, as a process that segments what it is told."""
    if not PYTHON36.exists():
        pytest.skip(f"PARITY WITH PYTHON 3.6 NOT CHECKED: no {PYTHON36}; tools/py36 makes it")
    hidden = ("PYTHONHOME", "LD_LIBRARY_PATH")
    environment = {key: value for key, value in os.environ.items() if key not in hidden}
    environment["PYTHONPATH"] = str(PROJECT)
    with subprocess.Popen(
        [PYTHON36, "-c", SEGMENT],
        cwd=tmp_path_factory.mktemp("python36"),
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield process


def under_python36(python36, model, images, folder, precision="fp32"):
    """Class maps and confidences of ONNX Runtime 1.10."""
    for index, image in enumerate(images):
        np.save(folder / f"image_{index}.npy", image)
    print(
        json.dumps([str(model), len(images), str(folder), precision]),
        file=python36.stdin,
        flush=True,
    )
    answer = python36.stdout.readline()
    assert answer, "it ended; its error is in the captured output"
    assert json.loads(answer) == [[3, 6], "1.10.0"]
    names = ("class_map", "confidence")
    numbers = range(len(images))
    return [tuple(np.load(folder / f"{name}_{number}.npy") for name in names) for number in numbers]


def here(backend_name, model, images, precision="fp32"):
    """Class maps and confidences of this Python's run time."""
    options = BackendOptions(device="cpu", precision=precision)
    with open_backend(backend_name, read_card(str(model)), options) as backend:
        segmenter = Segmenter(Batch(backend))
        found = (segmenter.segment(image, with_confidence=True) for image in images)
        # Copies: the maps are the segmenter's own buffers.
        return [(item.class_map_hw.copy(), item.confidence_hw.copy()) for item in found]


def assert_same(found, expected, least_close=LEAST_AGREEMENT, least_equal=LEAST_AGREEMENT):
    """Equal classes, and confidences within 1 of 255 on a share of ``least_close``."""
    equal = stacked(found, 0) == stacked(expected, 0)
    assert equal.mean() >= least_equal, f"{(~equal).sum()} of {equal.size} classes differ"
    differences = abs(stacked(found, 1) - stacked(expected, 1))
    close = (differences <= 1).mean()
    assert close >= least_close, f"confidences differ by up to {differences.max()}"


def stacked(maps, index):
    """All class maps (0) or all confidences (1) as one array."""
    return np.concatenate([pair[index].ravel().astype(int) for pair in maps])


def frame_of(label_set):
    """An image of the model's own kind, of CamVid only where this machine has it."""
    root = Path(ROOT) / "camvid"
    is_real = label_set == "camvid11" and root.is_dir()
    dataset = open_dataset(*("camvid", str(root)) if is_real else ("street", ""), "val")
    return dataset[FRAME % len(dataset)].image_hwc


@one_of_each_network("model", MODELS)
def test_a_shipped_model_gives_the_same_class_maps(python36, model, tmp_path):
    card = read_card(str(model))
    images = [frame_of(card.label_set)]
    found = under_python36(python36, model, images, tmp_path)
    assert len(np.unique(found[0][0])) > 3
    assert_same(found, here("onnxruntime", model, images))
    if card.offers("weights"):
        assert_same(found, here("torch", model, images))


def test_either_opencv_resizes_to_the_same_class_map(python36, tmp_path):
    model = PROJECT / "models" / "fast_elu_squeezenet_street"
    images = [cv2.resize(frame_of("street"), None, fx=scale, fy=scale) for scale in (0.6, 1.5)]
    found = under_python36(python36, model, images, tmp_path)
    assert min(len(np.unique(class_map)) for class_map, _ in found) > 3
    assert_same(found, here("onnxruntime", model, images))


@one_of_each_network("model", IN_INT8)
def test_a_shipped_int8_graph_gives_the_same_class_maps(python36, model, tmp_path):
    """Run times may round a half differently, which moves a value of 8 bits by one."""
    need_vnni()
    images = [frame_of(read_card(str(model)).label_set)]
    found = under_python36(python36, model, images, tmp_path, "int8")
    assert min(len(np.unique(class_map)) for class_map, _ in found) > 3
    expected = here("onnxruntime", model, images, "int8")
    assert_same(found, expected, least_close=0.95, least_equal=0.99)


@pytest.fixture
def learned_model(network, tmp_path):
    """A model folder of a network that knows coloured blocks by heart, and its torch graph."""
    normalise = Normalise((128.0,) * 3, (64.0,) * 3)
    graph = DeployGraph(normalise, small_training.learned(network), True).eval()
    export_onnx(graph, BLOCKS_SIZE, 1, "camvid11", tmp_path / "model.onnx")
    linear_model.write_card(tmp_path, linear_model.card(tmp_path, BLOCKS_SIZE))
    return tmp_path, graph


@each_network
def test_every_networks_graph_gives_the_same_class_maps(python36, learned_model):
    """Unpooling, dilation, asymmetric and transposed convolutions as each run time has them."""
    folder, graph = learned_model
    blocks, _ = small_training.coloured_blocks()
    blocks_nhwc = (blocks.permute(0, 2, 3, 1) * 64 + 128).clamp(0, 255).to(torch.uint8).numpy()
    repeated = np.tile(blocks_nhwc, (1, 5, 5, 1))[:, : BLOCKS_SIZE[0], : BLOCKS_SIZE[1]]
    images = list(np.ascontiguousarray(repeated))
    found = under_python36(python36, folder, images, folder)
    assert min(len(np.unique(class_map)) for class_map, _ in found) >= small_training.CLASSES - 1
    assert_same(found, here("onnxruntime", folder, images))
    with torch.inference_mode():
        in_torch = [graph(torch.from_numpy(image)[None]) for image in images]
    in_torch = [(item[0][0].numpy(), item[1][0].numpy()) for item in in_torch]
    # A pooling window may as good as tie, and its value is unpooled elsewhere; blocks that the
    # network has not seen in this place have many. (Real images: test_export_variants.py.)
    assert_same(found, in_torch, least_close=0.99, least_equal=0.999)
