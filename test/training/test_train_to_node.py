"""From images to a running node by the commands that a user types, one after the other."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from support import live
from support.training_runs import PROJECT, command, losses, write_camvid, write_recipe

from segmentation_node.evaluation.datasets import open_dataset
from segmentation_node.evaluation.live.replay import Replay
from segmentation_node.evaluation.live.target import NodeProcess
from segmentation_node.labels import CAMVID_11
from training.graphs import graph_of_run

pytestmark = pytest.mark.ros
assert live  # skips this file, loudly, where ROS is missing

SIZE = (48, 64)
EPOCHS = 12


def python(*arguments):
    """A command's output; it has to succeed."""
    found = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    assert found.returncode == 0, found.stdout
    return found.stdout


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Data set, run and model folder: trained, exported."""
    folder = tmp_path_factory.mktemp("whole_way")
    root = write_camvid(folder / "camvid", size=SIZE)
    recipe = write_recipe(
        folder, epochs=EPOCHS, evaluate_every=EPOCHS, learning_rate=0.005, ema_decay=0.0
    )
    run, models = folder / "run", folder / "models"
    output = python(*command(recipe, root, run))
    assert "12 training images in memory, 4 validation images, 1 x cpu" in output
    assert "epoch 1 loss" in output and "s to go" in output and "--resume goes on" not in output
    assert len(losses(run)) == EPOCHS and losses(run)[-1] < losses(run)[0]
    size = "%dx%d" % SIZE
    export = ("-m", "training.export", run, "--name", "small", "--models", models)
    output = python(*export, "--root", root, "--size", size)
    assert "torch and ONNX Runtime agree on " in output
    assert f"wrote {models / 'small'}" in output
    return root, run, models / "small"


def expected_class_maps(run, images):
    """What the trained network gives in torch, before any export."""
    graph = graph_of_run(run, CAMVID_11)
    with torch.inference_mode():
        return [graph(torch.from_numpy(image)[None])[0][0].numpy() for image in images]


@pytest.mark.parametrize("backend", ["onnxruntime", "torch"])
def test_the_node_gives_the_trained_networks_class_maps(ros, trained, backend, tmp_path):
    root, run, model = trained
    dataset = open_dataset("camvid", str(root), "val")
    samples = [dataset[index] for index in range(3)]
    images = [sample.image_hwc for sample in samples]
    # Twice as large, with the same pixels after resizing.
    images.append(images[0].repeat(2, 0).repeat(2, 1))
    expected = expected_class_maps(run, images[:3])
    expected.append(expected[0].repeat(2, 0).repeat(2, 1))
    parameters = {"model": model, "backend": backend, "device": "cpu", "num_threads": 1}
    topic = "/trained_%s/image" % backend
    remaps = ["__node:=trained_" + backend, "image:=" + topic]
    replay = Replay("/trained_" + backend, topic, name="replay_" + backend, quiet_s=live.TIMEOUT_S)
    log_path = tmp_path / "node.log"
    with open(log_path, "wb") as log, NodeProcess(parameters, remaps, log) as process:
        replay.wait_until_ready(process)
        replay.play(images, process, in_flight=1)
        assert process.stop(live.TIMEOUT_S) == 0
    replay.destroy_node()
    assert not replay.in_flight and not replay.pairing.lost and "rror" not in log_path.read_text()
    assert replay.status.label_info.model == "small"
    for result, class_map in zip(replay.pairing.results, expected):
        assert result.headers_match
        assert np.array_equal(result.class_map_hw, class_map)
    right = [(found == sample.truth_hw).mean() for found, sample in zip(expected, samples)]
    assert min(right) > 0.7, "the network should have learned to tell the blocks apart"
