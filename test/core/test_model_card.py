"""The model card: what is read, and the one line for everything that is wrong with it."""

import copy
import hashlib
import os
import shutil

import pytest
import yaml
from support.core import tiny
from support.core.tiny import assert_one_line

from segmentation_node import model_card
from segmentation_node.errors import CardError
from segmentation_node.labels import CAMVID_11
from segmentation_node.model_card import (
    BoxesInfo,
    ConfidenceInfo,
    models_folder,
    open_model,
    read_card,
    shipped_models,
)

GONE = object()

with open(os.path.join(tiny.FOLDER, "model.yaml")) as tiny_card:
    GOOD = yaml.safe_load(tiny_card)
GOOD["accuracy"] = [
    {"dataset": "camvid", "split": "val", "frames": 9, "mean_iou": 0.5, "global_accuracy": 1}
]


def with_change(where, value):
    """The good card's values with the one at ``where`` (like "accuracy.0.split") replaced."""
    values = copy.deepcopy(GOOD)
    inner, keys = values, [int(key) if key.isdigit() else key for key in where.split(".")]
    for key in keys[:-1]:
        inner = inner[key]
    if value is GONE:
        del inner[keys[-1]]
    else:
        inner[keys[-1]] = value
    return values


def write(folder, values):
    """Put a card with these values into the folder and return the folder."""
    (folder / "model.yaml").write_text(yaml.safe_dump(values))
    return str(folder)


def test_a_good_card_is_read_whole(tmp_path):
    card = read_card(write(tmp_path, GOOD))
    assert (card.name, card.folder) == ("tiny", str(tmp_path))
    assert card.network.name == "nearest_color" and card.network.parameters == 44
    assert card.labels is CAMVID_11
    assert card.input_size == (6, 8) and card.input.resize == "stretch"
    assert card.outputs == ["class_map", "confidence"]
    assert card.accuracy[0].artifact == "onnx"
    assert card.accuracy[0].frames == 9 and card.accuracy[0].mean_iou == 0.5
    assert card.offers("onnx") and card.offers("weights") and not card.offers("engine")


SURE = {"mean": 0.8, "deviation": 0.02, "unlabelled_share": 0}


def test_how_sure_the_model_is_may_be_on_the_card(tmp_path):
    assert read_card(write(tmp_path, GOOD)).confidence is None
    card = read_card(write(tmp_path, dict(GOOD, confidence=SURE)))
    assert card.confidence == ConfidenceInfo(0.8, 0.02, 0.0)


def test_the_confidence_may_have_a_temperature(tmp_path):
    assert read_card(write(tmp_path, dict(GOOD, confidence=SURE))).temperature == 1.0
    card = read_card(write(tmp_path, dict(GOOD, confidence=dict(SURE, temperature=2))))
    assert card.temperature == 2.0 and card.confidence == ConfidenceInfo(0.8, 0.02, 0.0)
    card = read_card(write(tmp_path, dict(GOOD, confidence={"temperature": 0.5})))
    assert card.temperature == 0.5 and card.confidence is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"confidence": {"temperature": 0}},
            "confidence.temperature is 0; expected a number above 0",
        ),
        ({"confidence": {"temperature": float("nan")}}, "confidence.temperature is nan"),
        (
            {"confidence": {"temperature": "hot"}},
            "confidence.temperature is 'hot'; expected a number",
        ),
        (
            {"confidence": {"temperature": 2.0, "mean": 0.8}},
            "missing keys ['confidence.deviation'",
        ),
        ({"confidence": {"temperature": 2.0}, "outputs": ["class_map"]}, "lack it"),
        ({"confidence": dict(SURE, mean=80)}, "confidence.mean is 80.0; expected 0 to 1"),
        ({"confidence": dict(SURE, mean=float("nan"))}, "confidence.mean is nan"),
        ({"confidence": {"mean": 0.8}}, "missing keys ['confidence.deviation'"),
        ({"confidence": dict(SURE, median=1)}, "unknown keys ['confidence.median']"),
        ({"confidence": SURE, "outputs": ["class_map"]}, "outputs ['class_map'] lack it"),
    ],
)
def test_a_confidence_that_cannot_be_is_one_line(tmp_path, changes, said):
    with pytest.raises(CardError) as caught:
        read_card(write(tmp_path, dict(GOOD, **changes)))
    assert_one_line(caught, said)


def test_an_accuracy_says_in_what_it_was_computed(tmp_path):
    """Where it does not, the kind of the file does."""
    entries = [
        dict(GOOD["accuracy"][0], **more)
        for more in (
            {},
            {"precision": "bf16", "agreement": 1},
            {"artifact": "onnx_int8"},
            {"artifact": "weights", "precision": "fp16"},
        )
    ]
    accuracy = read_card(write(tmp_path, dict(GOOD, accuracy=entries))).accuracy
    assert [item.computed_in for item in accuracy] == ["fp32", "bf16", "int8", "fp16"]
    assert [item.agreement for item in accuracy] == [None, 1.0, None, None]


BOXES = {
    "classes": ["car", "pedestrian"],
    "shapes": {"car": [1, 1.5], "pedestrian": [0.4]},
    "proposals": 64,
    "head": {"width": 8},
    "dataset": "street",
    "split": "test",
    "frames": 12,
    "ap_50": 0.75,
    "ap_50_components": 0.5,
}
HEAD_FILES = [
    {"file": kind, "kind": kind, "sha256": "0" * 64, "version": "1"}
    for kind in ("onnx_boxes", "weights_boxes")
]
WITH_HEAD = dict(GOOD, boxes=BOXES, artifacts=GOOD["artifacts"] + HEAD_FILES)


def test_a_box_head_may_be_on_the_card(tmp_path):
    assert read_card(write(tmp_path, GOOD)).boxes is None
    card = read_card(write(tmp_path, WITH_HEAD))
    assert card.boxes == BoxesInfo(**BOXES)
    assert card.offers("onnx_boxes") and card.offers("weights_boxes")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"classes": ["car", "tank"]}, "boxes.classes is 'tank'; expected one of"),
        ({"classes": ["car", "car"]}, "expected names, each once"),
        ({"classes": [], "shapes": {}}, "expected names, each once"),
        ({"shapes": {"car": [1.0]}}, "boxes.shapes are of ['car']; expected those of the classes"),
        ({"shapes": {"car": [], "pedestrian": [1]}}, "boxes.shapes.car is []; expected widths"),
        ({"shapes": {"car": [0], "pedestrian": [1]}}, "boxes.shapes.car is [0]; expected widths"),
        ({"shapes": {"car": "1", "pedestrian": [1]}}, "boxes.shapes.car is '1'; expected widths"),
        ({"proposals": 0}, "boxes.proposals is 0; expected 1 to 2000"),
        ({"proposals": 10**9}, "boxes.proposals is 1000000000; expected 1 to 2000"),
        ({"colour": "red"}, "unknown keys ['boxes.colour']"),
        ({"ap_50": "good"}, "boxes.ap_50 is 'good' (str); expected float"),
    ],
)
def test_a_box_head_that_cannot_be_is_one_line(tmp_path, changes, said):
    with pytest.raises(CardError) as caught:
        read_card(write(tmp_path, dict(WITH_HEAD, boxes=dict(BOXES, **changes))))
    assert_one_line(caught, str(tmp_path), said)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"boxes": BOXES}, "there is a key boxes but no artifact onnx_boxes"),
        ({"artifacts": WITH_HEAD["artifacts"]}, "an artifact onnx_boxes but no key boxes"),
    ],
)
def test_a_box_heads_key_and_file_go_together(tmp_path, change, said):
    with pytest.raises(CardError) as caught:
        read_card(write(tmp_path, dict(GOOD, **change)))
    assert_one_line(caught, said, "expected both or neither")


def test_a_whole_number_may_stand_for_a_real_one(tmp_path):
    accuracy = read_card(write(tmp_path, GOOD)).accuracy[0]
    assert isinstance(accuracy.global_accuracy, float) and accuracy.global_accuracy == 1.0


@pytest.mark.parametrize(
    "level", ["", "network.", "input.", "weights.", "accuracy.0.", "artifacts.1."]
)
def test_an_unknown_key_is_refused_at_every_level(tmp_path, level):
    folder = write(tmp_path, with_change(level + "colour", 1))
    with pytest.raises(CardError) as caught:
        read_card(folder)
    name = level.replace(".0", "[0]").replace(".1", "[1]") + "colour"
    assert_one_line(caught, folder, "unknown key", name, "known keys are")


@pytest.mark.parametrize(
    "where", sorted(GOOD) + ["network.options", "input.resize", "weights.licence"]
)
def test_a_missing_key_is_named(tmp_path, where):
    with pytest.raises(CardError) as caught:
        read_card(write(tmp_path, with_change(where, GONE)))
    assert_one_line(caught, str(tmp_path), "missing keys", where)


@pytest.mark.parametrize(
    "where, value, expected",
    [
        ("network.parameters", True, "int"),
        ("network.parameters", "44", "int"),
        ("network.parameters", 44.5, "int"),
        ("network.options", [1], "dict"),
        ("network.options", None, "dict"),
        ("name", 3, "str"),
        ("label_set", ["camvid11"], "str"),
        ("input.height", False, "int"),
        ("input.mean_rgb", 1.0, "a list"),
        ("input.std_rgb", [1.0, "2", 3.0], "float"),
        ("outputs", "class_map", "a list"),
        ("outputs", [1], "str"),
        ("accuracy.0.mean_iou", True, "float"),
        ("artifacts", {"onnx": "model.onnx"}, "a list"),
    ],
)
def test_a_wrong_type_gives_found_and_expected(tmp_path, where, value, expected):
    with pytest.raises(CardError) as caught:
        read_card(write(tmp_path, with_change(where, value)))
    assert_one_line(caught, where.replace(".0", "[0]"), "expected " + expected)


@pytest.mark.parametrize(
    "where, value, fragments",
    [
        ("label_set", "ade20k", ["label_set", "'ade20k'", "camvid11", "cityscapes19"]),
        ("input.resize", "squash", ["input.resize", "'squash'", "stretch", "crop", "letterbox"]),
        ("outputs", ["class_map", "depth"], ["outputs", "'depth'", "class_map", "confidence"]),
        ("outputs", ["confidence"], ["outputs", "confidence", "lack 'class_map'"]),
        ("artifacts.0.kind", "engine", ["artifacts.kind", "'engine'", "onnx", "weights"]),
        ("accuracy.0.precision", "int4", ["accuracy.precision", "'int4'", "bf16"]),
        ("accuracy.0.agreement", 99.9, ["accuracy.agreement is 99.9", "expected 0 to 1"]),
        ("accuracy.0.artifact", "onnx_int4", ["accuracy.artifact", "'onnx_int4'", "onnx_int8"]),
        ("artifacts.0.file", "../model.onnx", ["'../model.onnx'", "own folder"]),
        ("artifacts.0.file", "/etc/passwd", ["'/etc/passwd'", "own folder"]),
        ("weights.trained_classes", [2, 1], ["weights.trained_classes are [2, 1]", "0-10"]),
        ("weights.trained_classes", [0, 11], ["weights.trained_classes are [0, 11]", "0-10"]),
        ("input.height", 0, ["8x0", "positive"]),
        ("input.width", -8, ["-8x6", "positive"]),
        ("input.mean_rgb", [1.0, 2.0], ["mean_rgb", "three"]),
        ("input.std_rgb", [1.0, 0, 1.0], ["std_rgb", "[1.0, 0.0, 1.0]", "above 0"]),
        ("input.std_rgb", [1.0, 1.0, -57.4], ["std_rgb", "-57.4", "above 0"]),
        ("input.std_rgb", [float("nan"), 1.0, 1.0], ["std_rgb", "nan", "finite"]),
        ("input.mean_rgb", [float("inf"), 1.0, 1.0], ["mean_rgb", "inf", "finite"]),
        ("artifacts.1.kind", "onnx", ["2 artifacts", "kind 'onnx'", "expected one"]),
        ("network", "elu", ["network", "'elu' (str)", "expected a mapping"]),
        ("accuracy", [1], ["accuracy[0]", "int", "expected a mapping"]),
    ],
)
def test_a_wrong_value_gives_found_and_expected(tmp_path, where, value, fragments):
    with pytest.raises(CardError) as caught:
        read_card(write(tmp_path, with_change(where, value)))
    assert_one_line(caught, str(tmp_path), *fragments)


@pytest.mark.parametrize(
    "content, fragments",
    [
        (b"", ["the card is None (NoneType)", "expected a mapping"]),
        (b"- name\n- network\n", ["the card is ['name', 'network'] (list)", "expected a mapping"]),
        (b"name: [1,\nnetwork: {", ["not valid YAML"]),
        (b"name: \xff\xfe\x00", ["not valid YAML"]),
        (b"name: !!python/object/apply:os.getcwd []\n", ["not valid YAML"]),
    ],
    ids=["empty", "list", "broken", "binary", "python object"],
)
def test_a_file_that_is_no_card_is_refused(tmp_path, content, fragments):
    (tmp_path / "model.yaml").write_bytes(content)
    with pytest.raises(CardError) as caught:
        read_card(str(tmp_path))
    assert_one_line(caught, str(tmp_path), *fragments)


def test_a_missing_folder_and_a_missing_card_are_told_apart(tmp_path):
    with pytest.raises(CardError) as caught:
        read_card(str(tmp_path / "nowhere"))
    assert_one_line(caught, "nowhere", "no such model folder")
    with pytest.raises(CardError) as caught:
        read_card(str(tmp_path))
    assert_one_line(caught, str(tmp_path), "no model.yaml")


def test_an_artifact_is_handed_out_once_its_hash_fits():
    assert tiny.card().artifact_path("onnx") == os.path.join(tiny.FOLDER, "model.onnx")


def test_a_changed_artifact_gives_both_hashes(tmp_path):
    write(tmp_path, GOOD)
    (tmp_path / "model.onnx").write_bytes(b"something else")
    with pytest.raises(CardError) as caught:
        read_card(str(tmp_path)).artifact_path("onnx")
    found, expected = hashlib.sha256(b"something else").hexdigest(), GOOD["artifacts"][0]["sha256"]
    assert_one_line(caught, str(tmp_path / "model.onnx"), found, expected, "export anew")


def test_a_missing_artifact_is_named(tmp_path):
    with pytest.raises(CardError) as caught:
        read_card(write(tmp_path, GOOD)).artifact_path("onnx")
    assert_one_line(caught, str(tmp_path / "model.onnx"), "no such file")


def test_a_kind_that_the_card_lacks_lists_what_it_has(tmp_path):
    card = read_card(write(tmp_path, with_change("artifacts.1", GONE)))
    with pytest.raises(CardError) as caught:
        card.artifact_path("weights")
    assert_one_line(caught, "'weights'", "['onnx', 'onnx_float', 'onnx_fp16', 'onnx_int8']")


def test_a_model_is_opened_by_folder_and_by_shipped_name(tmp_path, monkeypatch):
    monkeypatch.setattr(model_card, "models_folder", lambda: str(tmp_path))
    shutil.copytree(tiny.FOLDER, str(tmp_path / "tiny"))
    (tmp_path / "notes").mkdir()
    assert open_model(tiny.FOLDER).folder == tiny.FOLDER
    assert open_model("tiny").folder == str(tmp_path / "tiny")
    with pytest.raises(CardError) as caught:
        open_model("huge")
    assert_one_line(caught, "'huge'", str(tmp_path), "there are: tiny")


@pytest.mark.parametrize("model", ["", "huge"])
def test_without_a_models_folder_there_are_none(model, monkeypatch):
    monkeypatch.setattr(model_card, "models_folder", lambda: "")
    with pytest.raises(CardError) as caught:
        open_model(model)
    assert_one_line(caught, repr(model), "there are: none")


def test_installed_models_are_found_under_share(tmp_path, monkeypatch):
    shared = tmp_path / "prefix" / "share" / "segmentation_node" / "models"
    monkeypatch.setattr(model_card, "PACKAGE_FOLDER", str(tmp_path / "lib" / "package"))
    monkeypatch.setenv("AMENT_PREFIX_PATH", "/nowhere" + os.pathsep + str(tmp_path / "prefix"))
    assert models_folder() == ""
    shared.mkdir(parents=True)
    assert models_folder() == str(shared)


@pytest.mark.parametrize("name", shipped_models())
def test_a_shipped_card_fits_its_artifacts(name):
    card = open_model(name)
    assert card.name == name
    assert card.artifacts
    for size in card.sizes("weights"):
        at_size = card.at_size(size)
        assert at_size.mean_ious("onnx", "fp32")
        for artifact in at_size.artifacts:
            assert os.path.isfile(at_size.artifact_path(artifact.kind))


YARD = {"name": "yard", "classes": [{"name": "ground", "id": 3}, {"name": "rack"}]}


def test_a_card_may_carry_its_own_label_set(tmp_path):
    card = read_card(write(tmp_path, with_change("label_set", YARD)))
    assert card.label_set == "yard" and card.labels.names == ("ground", "rack")


@pytest.mark.parametrize(
    "content, parts",
    [
        ({"name": "yard", "classes": [{"name": "a"}, {"name": "a"}]}, ["label_set", "'a'"]),
        ({"name": "camvid11", "classes": [{"name": "a"}]}, ["'camvid11'", "built-in"]),
    ],
)
def test_an_own_label_set_that_is_wrong_is_one_line(tmp_path, content, parts):
    with pytest.raises(CardError) as caught:
        read_card(write(tmp_path, with_change("label_set", content)))
    assert_one_line(caught, "model.yaml", *parts)


SMALL = {"file": "small.onnx", "kind": "onnx", "sha256": "0" * 64, "version": "", "height": 3}
SMALL["width"] = 4
BATCHED = {"file": "batch.onnx", "kind": "onnx", "sha256": "1" * 64, "version": "", "batch": 6}
SMALL_SCORE = dict(GOOD["accuracy"][0], mean_iou=0.4, height=3, width=4)


def with_sizes(*artifacts, **changes):
    values = dict(copy.deepcopy(GOOD), **changes)
    # Before those of the card's own size: their order must not matter.
    values["artifacts"] = list(artifacts) + values["artifacts"]
    return values


def test_a_card_may_hold_its_graph_in_several_sizes(tmp_path):
    accuracy = [SMALL_SCORE, GOOD["accuracy"][0]]
    three = dict(BATCHED, file="three.onnx", batch=3)
    card = read_card(
        write(tmp_path, with_sizes(SMALL, BATCHED, three, confidence=SURE, accuracy=accuracy))
    )
    assert card.sizes("onnx") == card.sizes("weights") == [(6, 8), (3, 4)]
    assert card.sizes("onnx_int8") == [(6, 8)]
    assert card.artifact("onnx").file == "model.onnx"
    assert card.artifact("onnx", 6).file == "batch.onnx"
    assert card.artifact("onnx", 2).file == "model.onnx"
    assert [card.batch_for("onnx", images) for images in (1, 3, 4, 8)] == [3, 3, 6, 6]
    assert card.batch_for("onnx_int8", 6) == 0
    small = card.at_size((3, 4))
    assert small.input_size == (3, 4) and small.artifact("onnx").file == "small.onnx"
    assert small.artifact("weights") and not small.offers("onnx_int8")
    assert small.input.mean_rgb == card.input.mean_rgb and small.folder == card.folder
    # It was measured at another size, so it says nothing here.
    assert card.confidence is not None and small.confidence is None
    assert card.mean_ious("onnx", "fp32") == {("camvid", "val"): 0.5}
    assert small.mean_ious("weights", "bf16") == {("camvid", "val"): 0.4}
    assert small.mean_ious("onnx_int8", "int8") == {}
    assert card.at_size((6, 8)) is card


def test_the_largest_size_is_that_of_most_pixels(tmp_path):
    wide = dict(SMALL, file="wide.onnx", height=5, width=20)
    card = read_card(write(tmp_path, with_sizes(SMALL, wide)))
    assert card.sizes("onnx") == [(5, 20), (6, 8), (3, 4)]


def test_a_box_head_is_of_the_sizes_that_it_has_a_file_for(tmp_path):
    artifacts = WITH_HEAD["artifacts"] + [SMALL]
    card = read_card(write(tmp_path, dict(WITH_HEAD, artifacts=artifacts)))
    assert card.at_size((3, 4)).boxes is None
    artifacts.append(dict(SMALL, file="small_boxes.onnx", kind="onnx_boxes"))
    card = read_card(write(tmp_path, dict(WITH_HEAD, artifacts=artifacts)))
    assert card.at_size((3, 4)).boxes == card.boxes


@pytest.mark.parametrize(
    ("kind", "size", "said"),
    [
        ("weights", "", "; an imported network has no weights for PyTorch: choose another backend"),
        ("onnx_int8", "", "; import the network again: import net.onnx --images FOLDER"),
        ("onnx_int8", "3x4", ": import net.onnx --size 3x4 --images FOLDER"),
    ],
)
def test_what_an_imported_network_lacks_says_how_to_get_it(tmp_path, kind, size, said):
    values = with_sizes(SMALL)
    values["artifacts"] = [item for item in values["artifacts"] if item["kind"] == "onnx"]
    values["source"] = {"file": "net.onnx", "sha256": "0" * 64, "family": "segformer"}
    values["source"]["licence"] = "MIT"
    values["weights"] = dict(values["weights"], provenance="import net.onnx")
    with pytest.raises(CardError) as caught:
        open_model(write(tmp_path, values), size).artifact(kind)
    assert_one_line(caught, said)


def test_a_figure_of_the_wanted_precision_goes_before_one_that_names_none(tmp_path):
    in_half = dict(GOOD["accuracy"][0], precision="fp16", mean_iou=0.3)
    card = read_card(write(tmp_path, dict(GOOD, accuracy=[in_half] + GOOD["accuracy"])))
    found = [card.mean_ious("onnx", name)["camvid", "val"] for name in ("fp16", "fp32")]
    assert found == [0.3, 0.5]


@pytest.mark.parametrize(
    "artifact, said",
    [
        (dict(SMALL, width=0), "artifacts[0] has height 3 and width 0; expected both"),
        ({key: SMALL[key] for key in SMALL if key != "width"}, "height 3 and width None"),
        (dict(SMALL, height="3"), "artifacts[0].height is '3' (str); expected int"),
        (dict(SMALL, batch=0), "artifacts[0].batch is 0; expected 1 or more"),
        (dict(SMALL, kind="weights"), "serve every size and batch; leave height, width and batch"),
        (dict(SMALL, height=6, width=8), "kind 'onnx', size 6x8 and batch 1; expected one"),
        (dict(BATCHED, batch=1), "2 artifacts are of kind 'onnx', size 6x8 and batch 1"),
    ],
)
def test_a_size_that_cannot_be_is_one_line(tmp_path, artifact, said):
    with pytest.raises(CardError) as caught:
        read_card(write(tmp_path, with_sizes(artifact)))
    assert_one_line(caught, str(tmp_path), said)


@pytest.mark.parametrize(
    "change, said",
    [
        ({"height": 3}, "accuracy[0] has height 3 and width None"),
        ({"precision": "fp4"}, "accuracy.precision is 'fp4'; expected one of ['fp32'"),
    ],
)
def test_a_figure_of_no_size_or_precision_is_one_line(tmp_path, change, said):
    with pytest.raises(CardError) as caught:
        read_card(write(tmp_path, dict(GOOD, accuracy=[dict(GOOD["accuracy"][0], **change)])))
    assert_one_line(caught, said)


@pytest.mark.parametrize(
    "size, said",
    [
        ("30x40", "no artifact of 30x40; it has 6x8, 3x4; add it on a machine with PyTorch: "),
        ("30x40", "training.add_variants"),
        ("30x40", "--variant uint8 --size 30x40 --dataset NAME --root FOLDER"),
        ("wide", "size 'wide' is not HxW, like 360x480"),
    ],
)
def test_a_size_that_the_card_has_not_is_one_line(tmp_path, size, said):
    with pytest.raises(CardError) as caught:
        open_model(write(tmp_path, with_sizes(SMALL)), size)
    assert_one_line(caught, said)


def test_a_kind_that_is_missing_at_a_size_says_how_to_add_it_there(tmp_path):
    card = open_model(write(tmp_path, with_sizes(SMALL)), "3x4")
    with pytest.raises(CardError) as caught:
        card.artifact("onnx_int8")
    assert_one_line(caught, "--variant int8 --size 3x4 --dataset NAME --root FOLDER")
