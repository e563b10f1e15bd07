"""A box head trained by its command on a few drawn frames, and what the command refuses."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from support.core.tiny import assert_one_line

from segmentation_node.backends import BackendOptions, open_backend
from segmentation_node.errors import SegmentationError
from segmentation_node.evaluation.datasets import open_dataset
from segmentation_node.evaluation.datasets.street import dataset as street
from segmentation_node.importing.temperature import set_temperature
from segmentation_node.model_card import read_card
from training import box_score, boxes
from training.add_variants import add_variants
from training.box_samples import class_ids_of

MODELS = Path(__file__).resolve().parents[2] / "models"
CLASSES = ["person", "car"]
FILES_OF_HEAD = {"boxes.onnx", "boxes.safetensors", "model.onnx", "model.yaml"}


@pytest.fixture(scope="module")
def few_frames():
    """The data set's drive of two frames, for training and test alike."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(street, "SPLIT_SEEDS", {"train": [3006], "test": [3006], "val": [3006]})
        patch.setattr(street, "FRAMES_PER_DRIVE", 2)
        patch.setattr(street, "FRAME_STEP", 250)
        yield open_dataset("street", "", "test", with_instances=True)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A copy of the shipped model."""
    folder = tmp_path_factory.mktemp("models") / "elu_squeezenet_street"
    return Path(shutil.copytree(MODELS / folder.name, folder))


@pytest.fixture(scope="module")
def trained(model, few_frames):
    """The copy after the command."""
    arguments = [str(model), "--dataset", "street", "--classes", *CLASSES]
    assert boxes.main([*arguments, "--epochs", "40", "--threads", "1"]) == 0
    return model


def test_a_head_learns_the_things_of_its_images(trained, few_frames):
    card = read_card(str(trained))
    assert card.boxes.classes == CLASSES and card.boxes.frames == 2
    assert card.boxes.ap_50 > card.boxes.ap_50_components + 0.1
    scores = box_score.score_boxes(card, few_frames)
    assert box_score.card_figures(scores)["ap_50"] == card.boxes.ap_50


def test_nothing_else_of_the_model_changes(trained, few_frames):
    before = MODELS / trained.name
    same = {path.name for path in before.iterdir()} - FILES_OF_HEAD
    assert len(same) >= 3
    for name in same:
        assert (trained / name).read_bytes() == (before / name).read_bytes()
    image = few_frames[1].image_hwc[None]
    maps = []
    for folder in (before, trained):
        with open_backend("onnxruntime", read_card(str(folder)), BackendOptions()) as backend:
            found = backend.run(image, with_confidence=True)
            maps.append((found.class_map_nhw.copy(), found.confidence_nhw.copy()))
    for old, new in zip(*maps, strict=True):
        np.testing.assert_array_equal(old, new)


def test_the_graph_made_again_keeps_what_the_head_sees(trained, few_frames, tmp_path):
    folder = Path(shutil.copytree(trained, tmp_path / "again"))
    add_variants(folder, ["uint8"], "street", few_frames)
    set_temperature(folder, 1.5)
    with open_backend("onnxruntime", read_card(str(folder)), BackendOptions()) as backend:
        backend.open_boxes()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--dataset", "camvid", "--classes", "car"], "camvid numbers no instances"),
        (["--dataset", "street", "--classes", "road"], "class 'road': expected names out of"),
        (["--dataset", "street", "--classes", "car", "car"], "each once"),
    ],
)
def test_what_cannot_be_taught_is_one_line(model, few_frames, options, said, capsys, monkeypatch):
    monkeypatch.setattr(
        "training.box_samples.open_dataset",
        lambda name, *_, **__: (
            few_frames if name == "street" else type("CamVid", (), {"with_instances": False})()
        ),
    )
    before = {path: path.stat().st_mtime_ns for path in model.iterdir()}
    assert boxes.main([str(model), *options]) == 1
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert {path: path.stat().st_mtime_ns for path in model.iterdir()} == before


def test_what_has_no_boxes_to_score_is_refused(model, few_frames, monkeypatch):
    with pytest.raises(SegmentationError) as caught:
        box_score.score_boxes(read_card(str(MODELS / "enet_camvid")), few_frames)
    assert_one_line(caught, "enet_camvid has no box head", "training.boxes")
    monkeypatch.setattr(few_frames, "instance_classes", ("bicycle",))
    with pytest.raises(SegmentationError) as caught:
        box_score.score_boxes(read_card(str(model)), few_frames)
    assert_one_line(caught, "person", "car", "it numbers bicycle")


def test_another_label_set_than_the_datas_is_refused(few_frames):
    with pytest.raises(SegmentationError) as caught:
        class_ids_of(["car"], few_frames, read_card(str(MODELS / "enet_camvid")))
    assert_one_line(caught, "cityscapes19", "camvid11", "have to be the same")
