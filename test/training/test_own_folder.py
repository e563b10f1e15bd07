"""From pictures and masks of one's own to the running node, by the commands of docs/own_data.md.

They run in this process where they start no node: test_train_to_node.py has them as processes.
"""

import json
import subprocess
import sys

import cv2
import numpy as np
import pytest
import yaml
from support import live
from support.training_runs import PROJECT, command

from segmentation_node.evaluation.__main__ import main as evaluation
from segmentation_node.evaluation.datasets import open_dataset
from segmentation_node.evaluation.live.replay import Replay
from segmentation_node.evaluation.live.target import NodeProcess
from segmentation_node.labels import read_label_set
from segmentation_node.model_card import read_card
from training.export import main as export
from training.train import main as train

pytestmark = [pytest.mark.ros, pytest.mark.usefixtures("one_thread")]
assert live  # skips this file, loudly, where ROS is missing

SIZE = (64, 96)
LABELS = """
name: yard
classes:
  - {name: ground, id: 7, color: [200, 10, 20]}
  - {name: rack, id: 900, color: [0, 250, 0]}
  - {name: person, id: 3, color: [30, 60, 240]}
"""
IDS = np.array([7, 900, 3], np.uint16)
RECIPE = PROJECT / "training" / "recipes" / "own_folder.yaml"
BROKEN = "shot3"


@pytest.fixture
def said(capfd, monkeypatch):
    """What a command prints; it has to end with this exit code."""
    monkeypatch.chdir(PROJECT)

    def call(main, *arguments, code=0):
        capfd.readouterr()
        found = main([str(word) for word in arguments])
        output = "".join(capfd.readouterr())
        assert found == code, output
        return output

    return call


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Noisy blocks in the classes' colours: ids of 16 bits in train, colours in val, two sizes."""
    folder = tmp_path_factory.mktemp("own") / "yard"
    random = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    (folder / "labels.yaml").write_text(LABELS)
    palette = read_label_set(str(folder / "labels.yaml")).palette()
    for split, count in (("train", 9), ("val", 3)):
        for number in range(count):
            rows, columns = SIZE if number else (80, 112)
            blocks = random.integers(0, 3, (rows // 16, columns // 16))
            train_ids = blocks.repeat(16, axis=0).repeat(16, axis=1)
            noise = random.normal(0, 8, (rows, columns, 3))
            image = np.clip(palette[train_ids] + noise, 0, 255).astype(np.uint8)
            labels = IDS[train_ids] if split == "train" else palette[train_ids][..., ::-1]
            for kind, pixels in (("images", image[..., ::-1]), ("labels", labels)):
                path = folder / kind / split / f"shot{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                assert cv2.imwrite(str(path), pixels)
    return folder


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """The shipped one, for small pictures and a short time."""
    values = yaml.safe_load(RECIPE.read_text())
    values.update(crop_size=list(SIZE), epochs=20, evaluate_every=20, ema_decay=0.9)
    path = tmp_path_factory.mktemp("recipe") / "own_folder.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def test_a_folder_of_three_own_classes_goes_all_the_way(
    ros, root, recipe, tmp_path, said, scored_in_fp32
):
    data = ("--dataset", "folder", "--root", root)
    assert "rack" in said(evaluation, "check-data", *data)

    run, models = tmp_path / "run", tmp_path / "models"
    output = said(train, *command(recipe, root, run)[2:])
    assert "fast_elu_squeezenet_camvid/weights.safetensors" in output and " fresh (" in output
    size = "%dx%d" % SIZE
    said(export, run, "--name", "yard", "--models", models, "--root", root, "--size", size)
    model = models / "yard"
    card = read_card(str(model))
    assert card.labels == read_label_set(str(root / "labels.yaml"))
    assert "CamVid's own terms" in card.weights.licence

    page, figures = tmp_path / "page.html", {}
    score = ("--model", model, "--backend", "onnxruntime", "--num-threads", 1)
    per_frame = (*data, *score, "--no-iiou", "--json")
    said(evaluation, "dataset", *per_frame, tmp_path / "dataset.json", "--html", page)
    live = ("-m", "segmentation_node.evaluation", "live", *per_frame, tmp_path / "live.json")
    subprocess.run([sys.executable, *map(str, live)], cwd=PROJECT, check=True)
    said(evaluation, "make-bag", *data, "--split", "val", "--output", tmp_path / "bag")
    said(evaluation, "bag", tmp_path / "bag", *score, "--json", tmp_path / "bag.json")
    for way in ("dataset", "live", "bag"):
        figures[way] = json.loads((tmp_path / (way + ".json")).read_text())
    expected = figures["dataset"]
    assert list(expected["class_iou"]) == ["ground", "rack", "person"]
    assert expected["frames"] == 3 and expected["mean_iou"] > 0.6
    for way in ("live", "bag"):
        assert figures[way]["class_iou"] == expected["class_iou"], way
    text = page.read_text()
    assert "rack" in text and "#00fa00" in text

    assert_node_tells_of(model, open_dataset("folder", str(root), "val")[0].image_hwc, tmp_path)


def assert_node_tells_of(model, image, folder):
    """The live node's LabelInfo and overlay have the folder's names and colours."""
    remaps = ["__node:=own_folder", "image:=/own_folder/image"]
    about = {"name": "replay_own_folder", "quiet_s": live.TIMEOUT_S}
    replay = Replay("/own_folder", "/own_folder/image", **about)
    parameters = {"model": model, "backend": "onnxruntime", "num_threads": 1}
    parameters["overlay.alpha"] = 1.0
    with open(folder / "node.log", "wb") as log, NodeProcess(parameters, remaps, log) as process:
        replay.wait_until_ready(process)
        replay.play([image], process, in_flight=1)
    replay.destroy_node()
    info, (result,) = replay.status.label_info, replay.pairing.results
    labels = read_card(str(model)).labels
    assert [item.name for item in info.classes] == ["ground", "rack", "person"]
    assert [tuple(item.color_rgb) for item in info.classes] == [
        item.color_rgb for item in labels.classes
    ]
    assert np.array_equal(result.overlay_hwc, labels.palette()[result.class_map_hw])


@pytest.mark.parametrize("place", ["memory", pytest.param("stream", marks=pytest.mark.slow)])
def test_a_broken_picture_ends_training_unless_it_is_to_be_skipped(
    root, recipe, tmp_path, place, said
):
    picture = root / "images" / "train" / (BROKEN + ".png")
    whole = picture.read_bytes()
    picture.write_bytes(whole[:200])
    more = ("--stop-after", 2, "--data", place)
    try:
        output = said(train, *command(recipe, root, tmp_path / "run", *more)[2:], code=1)
        (line,) = [line for line in output.splitlines() if line.startswith("error: ")]
        assert str(picture) in line and "--skip-broken leaves such pictures out" in line
        other = command(recipe, root, tmp_path / "other", *more, "--skip-broken")
        output = said(train, *other[2:])
        assert f"warning: left out: {picture}" in output and "8 training images" in output
        check = ("check-data", "--dataset", "folder", "--root", root)
        assert f"error: {picture}" in said(evaluation, *check, code=1)
    finally:
        picture.write_bytes(whole)
