"""Public networks of four families, imported and run; each skips loudly where its file is missing.

What is expected is written out here, in NumPy: the family's own preprocessing, the untouched file
on ONNX Runtime, and an argmax or a threshold.
"""

import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from support.core.real_data import PROJECT

from segmentation_node.backends.onnxruntime import import_onnxruntime
from segmentation_node.evaluation.__main__ import main as evaluation
from segmentation_node.evaluation.datasets import open_dataset
from segmentation_node.importing.__main__ import main
from segmentation_node.labels import Grouping
from segmentation_node.model_card import read_card
from segmentation_node.pipeline import open_segmenter

SHARED = Path(os.environ.get("SEGMENTATION_SHARED", Path(PROJECT) / ".." / "shared")).resolve()
NETWORKS = SHARED / "foreign_models"
CAMVID = SHARED / "datasets" / "camvid"
pytestmark = pytest.mark.slow

LEAST = 0.999
PICTURES = 10
EVERY = 20
"""Of CamVid's val, for the scores: a handful of frames."""
IMAGENET = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)


def road(picture, run):
    pixels = picture[..., ::-1].astype(np.float32)
    return run(pixels[None])[0].argmax(axis=2)


def deeplab(picture, run):
    return run(picture[None].astype(np.float32) / 127.5 - 1)[0].argmax(axis=2)


def skin(picture, run):
    mean, std = IMAGENET
    pixels = (picture.astype(np.float32) / 255 - mean) / std
    shares = run(pixels.transpose(2, 0, 1)[None])[0]
    return np.where(shares.max(axis=0) > 0.5, shares.argmax(axis=0) + 1, 0)


def person(picture, run):
    share = run(picture.transpose(2, 0, 1)[None].astype(np.float32) / 255)[0, 0]
    return (share > 0.5).astype(int)


# File, options, names of the classes where they are not the family's, the family's own way.
MODELS = {
    "road": (
        "road_segmentation_adas_0001.onnx",
        ["--from", "open_model_zoo"],
        ["background", "road", "curb", "mark"],
        road,
    ),
    "deeplab": ("deeplab_v3_voc.onnx", ["--from", "deeplab_tfhub"], [], deeplab),
    "skin": (
        "smp_pan_sigmoid.onnx",
        ["--from", "smp"],
        ["background", "skin", "clothes", "hair"],
        skin,
    ),
    "person": (
        "prisma_binary_opset7.onnx",
        ["--scale", str(1 / 255)],
        ["background", "person"],
        person,
    ),
}


@pytest.fixture(scope="module", params=MODELS)
def imported(request, tmp_path_factory):
    """The network's file, the folder that it was imported into, and the family's own way."""
    file, options, names, expected = MODELS[request.param]
    for needed in (NETWORKS / file, CAMVID / "val"):
        if not needed.exists():
            pytest.skip(f"FOREIGN NETWORK NOT IMPORTED: there is no {needed}")
    folder = tmp_path_factory.mktemp(request.param)
    images = folder / "images"
    images.mkdir()
    for path in sorted((CAMVID / "val").iterdir())[:: 101 // PICTURES][:PICTURES]:
        (images / path.name).symlink_to(path)
    if names:
        classes = "".join(f"- {{name: {name}}}\n" for name in names)
        (folder / "labels.yaml").write_text(f"name: {request.param}\nclasses:\n{classes}")
        options = [*options, "--labels", str(folder / "labels.yaml")]
    model = folder / "model"
    arguments = [str(NETWORKS / file), "--output", str(model), "--images", str(images), *options]
    assert main(arguments) == 0
    return NETWORKS / file, model, images, expected


def test_the_pixels_are_the_familys(imported):
    path, model, images, expected = imported
    session = import_onnxruntime().InferenceSession(str(path), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    card = read_card(str(model))
    equal = []
    with open_segmenter(card, "onnxruntime") as segmenter:
        for image in sorted(images.iterdir())[:3]:
            picture = cv2.cvtColor(cv2.imread(str(image)), cv2.COLOR_BGR2RGB)
            picture = cv2.resize(picture, card.input_size[::-1])
            found = segmenter.segment(picture).class_map_hw
            own = expected(picture, lambda values: session.run(None, {name: values})[0])
            equal.append((found == own).mean())
    assert np.mean(equal) >= LEAST
    assert {item.kind for item in card.artifacts} >= {"onnx", "onnx_float", "onnx_fp16"}
    assert card.source.file == path.name


# The classes that count, of the network and of CamVid; what 101 frames gave, and how near 6 come.
SCORES = {"road": (["road", "mark"], "road", 0.976), "deeplab": (["car", "bus"], "car", 0.475)}
NEAR = {"road": 0.02, "deeplab": 0.15}


@pytest.mark.parametrize("imported", SCORES, indirect=True)
def test_scores_on_a_part_of_camvid(imported, request):
    which = request.node.callspec.params["imported"]
    own, other, known = SCORES[which]
    card = read_card(str(imported[1]))
    data = open_dataset("camvid", str(CAMVID), "val")
    _, fold_own = Grouping("it", {"it": tuple(own), "rest": ("*",)}).fold(card.labels)
    _, fold_other = Grouping("it", {"it": (other,), "rest": ("*",)}).fold(data.label_set)
    both = either = 0
    with open_segmenter(card, "onnxruntime") as segmenter:
        for index in range(0, len(data), EVERY):
            frame = data[index]
            truth = fold_other[frame.truth_hw]
            found = fold_own[segmenter.segment(frame.image_hwc).class_map_hw] == 0
            both += int((found & (truth == 0)).sum())
            either += int(((found | (truth == 0)) & (truth != 255)).sum())
    assert both / either == pytest.approx(known, abs=NEAR[which])


@pytest.mark.parametrize("imported", ["deeplab"], indirect=True)
def test_evaluation_scores_it(imported, tmp_path):
    few = tmp_path / "camvid"
    for part in ("val", "valannot"):
        (few / part).mkdir(parents=True)
        for path in sorted((CAMVID / part).iterdir())[::EVERY]:
            (few / part / path.name).symlink_to(path)
    lines = [f"val/{p.name} valannot/{p.name}" for p in sorted((few / "val").iterdir())]
    (few / "val.txt").write_text("\n".join(lines) + "\n")
    figures = tmp_path / "figures.json"
    options = ["--model", str(imported[1]), "--dataset", "camvid", "--root", str(few)]
    options += ["--split", "val", "--backend", "onnxruntime", "--json", str(figures)]
    grouping = tmp_path / "grouping.yaml"
    grouping.write_text('{name: one, groups: {it: [car, bus], rest: "*"}}')
    assert evaluation(["dataset", *options, "--grouping", str(grouping)]) == 0
    scored = json.loads(figures.read_text())
    assert scored["frames"] == len(lines)
    assert scored["class_iou"]["it"] == pytest.approx(SCORES["deeplab"][2], abs=NEAR["deeplab"])
