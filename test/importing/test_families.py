"""Families: what is usual in each, what their side files say, and by what they are recognised."""

import copy
import json

import numpy as np
import onnx
import pytest
from support.foreign_networks import CLASSES, Network, pictures

from segmentation_node.errors import NetworkImportError, SegmentationError
from segmentation_node.importing.__main__ import main
from segmentation_node.importing.families import FAMILIES, recognise, told_by
from segmentation_node.importing.settings import settle
from segmentation_node.importing.side_files import Surroundings
from segmentation_node.importing.tensorrt_versions import refusals
from segmentation_node.labels import LABEL_SETS
from segmentation_node.model_card import read_card


def settled(name, folder, metadata=None):
    around = Surroundings(folder / "net.onnx", metadata or {})
    return settle(told_by(name, around)).settings


def test_the_families_are_those_of_the_manual():
    expected = "bisenet deeplab_tfhub jetson_inference mmdeploy open_model_zoo paddleseg pidnet "
    expected += "segformer sinet smp supergradients tao torchvision twinlitenet ultralytics"
    assert " ".join(sorted(FAMILIES)) == expected


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_says_how_pictures_are_normalised(name, tmp_path):
    found = settled(name, tmp_path)
    assert None not in (found.scale, found.mean, found.std, found.order)
    assert min(found.std) > 0


def test_ultralytics(tmp_path):
    metadata = {"names": "{0: 'ground', 1: 'rack'}", "imgsz": "[384, 640]", "task": "semantic"}
    found = settled("ultralytics", tmp_path, {**metadata, "license": "AGPL-3.0 or a contract"})
    assert found.labels.names == ("ground", "rack")
    assert (found.size, found.resize) == ((384, 640), "letterbox")
    assert found.licence == "AGPL-3.0 or a contract"
    assert recognise(Surroundings(tmp_path / "net.onnx", metadata))[0] == "ultralytics"
    with pytest.raises(NetworkImportError, match="its task is 'segment'; expected semantic"):
        settled("ultralytics", tmp_path, {**metadata, "task": "segment"})
    for names in ("{0: 'a', 2: 'b'}", "__import__('os')", "[" * 99999):
        with pytest.raises(NetworkImportError, match="give --labels"):
            settled("ultralytics", tmp_path, {**metadata, "names": names})


def test_segformer(tmp_path):
    names = LABEL_SETS["cityscapes19"].names
    config = {"id2label": {str(index): name for index, name in enumerate(names)}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    processor = {"image_mean": [0.1, 0.2, 0.3], "image_std": [1, 2, 3], "rescale_factor": 0.5}
    processor["size"] = {"height": 512, "width": 1024}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    (tmp_path / "onnx").mkdir()
    for folder in (tmp_path, tmp_path / "onnx"):
        found = settled("segformer", folder)
        assert found.labels == LABEL_SETS["cityscapes19"]
        assert (found.mean, found.std, found.scale) == ((0.1, 0.2, 0.3), (1, 2, 3), 0.5)
        assert found.size == (512, 1024)
    assert recognise(Surroundings(tmp_path / "net.onnx", {}))[0] == "segformer"


def test_tao_trains_its_unet_on_blue_first(tmp_path):
    """Its loader turns RGB to BGR, then x / 127.5 - 1; NVIDIA's DeepStream has color format BGR."""
    found = settled("tao", tmp_path)
    pixel = np.array([0, 100, 255])
    seen = (pixel * found.scale - found.mean) / found.std
    assert found.order == "bgr" and seen == pytest.approx(pixel / 127.5 - 1)


@pytest.mark.parametrize("kind", ["mask2former", "oneformer", "eomt_dinov3", "rt_detr"])
def test_a_network_that_classifies_masks_is_refused(kind, tmp_path):
    config = {"model_type": kind, "id2label": {"0": "road", "1": "car"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(NetworkImportError, match=f"type '{kind}' gives masks with a class each"):
        settled("segformer", tmp_path)


@pytest.mark.parametrize(
    "architecture, is_refused",
    [
        ("DepthAnythingForDepthEstimation", True),
        ("SwinForImageClassification", True),
        ("YolosForObjectDetection", True),
        ("SegformerForSemanticSegmentation", False),
        ("CLIPSegForImageSegmentation", False),
        ("BiRefNet", False),
        ("FormerForest", False),
        (7, False),
    ],
)
def test_a_network_for_another_task_is_refused(architecture, is_refused, tmp_path):
    """A depth is one channel, as the score of one class is, and would become a class map."""
    (tmp_path / "config.json").write_text(json.dumps({"architectures": [architecture]}))
    if not is_refused:
        settled("segformer", tmp_path)
        return
    with pytest.raises(NetworkImportError, match=f"'{architecture}'; expected one that is ForSem"):
        settled("segformer", tmp_path)


@pytest.mark.parametrize("says_so", [False, True])
def test_mobilevit_takes_blue_first_and_is_not_normalised(says_so, tmp_path):
    processor = {"do_flip_channel_order": True, "do_rescale": True, "rescale_factor": 1 / 255}
    processor.update(do_center_crop=True, crop_size={"height": 512, "width": 512})
    processor.update(size={"shortest_edge": 544}, **({"do_normalize": None} if says_so else {}))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    found = settled("segformer", tmp_path)
    assert (found.order, found.scale, found.size) == ("bgr", 1 / 255, (512, 512))
    assert (found.mean, found.std) == ((0, 0, 0), (1, 1, 1))
    assert found.cropped == "its processor takes the middle of a picture"
    processor["do_center_crop"] = False
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    assert settled("segformer", tmp_path).cropped is None


def test_mmdeploy_paddleseg_and_others(tmp_path):
    steps = [{"type": "Normalize", "mean": [3, 2, 1], "std": [6, 5, 4], "to_rgb": False}]
    pipeline = {"pipeline": {"tasks": [{"name": "Preprocess", "transforms": steps}]}}
    (tmp_path / "pipeline.json").write_text(json.dumps(pipeline))
    found = settled("mmdeploy", tmp_path)
    assert (found.mean, found.std, found.order, found.scale) == ((1, 2, 3), (4, 5, 6), "bgr", 1)
    deploy = {"Deploy": {"transforms": [{"type": "Normalize"}, {"type": "Resize"}]}}
    deploy["Deploy"]["transforms"][1]["target_size"] = [1024, 512]
    (tmp_path / "deploy.yaml").write_text(json.dumps(deploy))
    found = settled("paddleseg", tmp_path)
    assert (found.mean, found.size) == ((0.5, 0.5, 0.5), (512, 1024))
    (tmp_path / "deploy.yaml").rename(tmp_path / "inference.yml")
    assert settled("paddleseg", tmp_path).size == (512, 1024)
    (tmp_path / "classes.txt").write_text("void\nroad\n\n", encoding="utf-8-sig")
    (tmp_path / "colors.txt").write_text("0 0 0\n128 64 128 255\n")
    labels = settled("jetson_inference", tmp_path).labels
    assert labels.names == ("void", "road") and labels.classes[1].color_rgb == (128, 64, 128)
    classes = {"classes": [{"name": "sidewalk", "color": [1, 2, 3]}]}
    (tmp_path / "ontology.yaml").write_text(json.dumps({"ontology": classes}))
    assert settled("supergradients", tmp_path).labels.names == ("background", "sidewalk")


NO_NUMBERS = [None, "", "abc", [], {}, float("inf"), float("nan"), -5, 10**400, [[1]]]


@pytest.mark.parametrize(
    "family, file, values",
    [
        ("segformer", "preprocessor_config.json", {"rescale_factor": 0.5}),
        ("segformer", "preprocessor_config.json", {"image_mean": [1, 2, 3]}),
        ("segformer", "preprocessor_config.json", {"size": {"height": 24, "width": 40}}),
        ("segformer", "preprocessor_config.json", {"size": [24, 40]}),
        ("mmdeploy", "pipeline.json", {"type": "Resize", "size": [24, 40]}),
        ("paddleseg", "deploy.yaml", {"type": "Resize", "target_size": [24, 40]}),
        ("paddleseg", "deploy.yaml", {"type": "Normalize", "std": [1, 2, 3]}),
        ("supergradients", "ontology.yaml", {"name": "a", "color": [1, 2, 3]}),
        ("ultralytics", "imgsz", [24, 40]),
    ],
)
def test_a_side_files_odd_values_are_taken_or_refused_in_one_line(family, file, values, tmp_path):
    def told(content):
        if file == "imgsz":
            return settled(family, tmp_path, {file: repr(content)})
        (tmp_path / file).write_text(json.dumps(content))
        return settled(family, tmp_path)

    told(values)
    refused = 0
    for odd in NO_NUMBERS:
        for content in odd_ones(values, odd):
            try:
                found = told(content)
            except SegmentationError as error:
                refused += 1
                assert "\n" not in str(error)
            else:
                assert found.size is None or min(found.size) > 0
                assert np.isfinite([found.scale, *found.mean, *found.std]).all()
    assert refused > 5


def odd_ones(values, odd):
    """The same values, each in its turn replaced by the odd one."""
    items = values.items() if isinstance(values, dict) else enumerate(values)
    for key, value in items:
        if key in ("type", "name"):
            continue
        for new in [odd, *(odd_ones(value, odd) if isinstance(value, (dict, list)) else [])]:
            content = copy.deepcopy(values)
            content[key] = new
            yield content


def test_a_recognised_family_needs_no_options(tmp_path, capsys):
    made = Network()
    names = {index: f"class {index}" for index in range(CLASSES)}
    metadata = {"names": str(names), "imgsz": "[24, 40]", "task": "semantic"}
    made.gives(made.scores).save(tmp_path / "net.onnx", dynamic=True, metadata=metadata)
    images = pictures(tmp_path / "images")
    arguments = [str(tmp_path / "net.onnx"), "--output", str(tmp_path / "model")]
    assert main([*arguments, "--images", str(images)]) == 0
    card = read_card(str(tmp_path / "model"))
    assert (card.source.family, card.source.licence) == ("ultralytics", "AGPL-3.0")
    assert card.labels.names == tuple(names.values()) and card.input.resize == "letterbox"
    assert "ultralytics (recognised by names, imgsz, task)" in capsys.readouterr().out


def test_a_tensorrt_that_lacks_an_operator_is_named(tmp_path):
    made = Network(opset=17)
    out = made.add("LayerNormalization", [made.scores, made.constant("one", weights_of_one())])
    model = onnx.load(str(made.gives(out).save(tmp_path / "net.onnx")))
    found = refusals({"uint8": model, "float": model})
    assert found["8.2"] == found["8.5"] == "no LayerNormalization"
    assert found["8.6"] == found["10"] == found["11"] == ""


def test_8_2_takes_a_reciprocal_although_its_table_has_none(tmp_path):
    """Its importer has been there since 7; the shipped graphs for a TX1 have one each."""
    made = Network()
    model = onnx.load(str(made.gives(made.add("Reciprocal", [made.scores])).save(tmp_path / "n")))
    assert refusals({"uint8": model, "float": model})["8.2"] == ""


@pytest.mark.parametrize(("bits", "known"), [("uint8", "8.5"), ("float", "8.2")])
def test_a_use_of_uint8_that_a_tensorrt_has_not_is_named(bits, known):
    dtype = onnx.TensorProto.UINT8 if bits == "uint8" else onnx.TensorProto.FLOAT
    value = onnx.helper.make_tensor_value_info
    nodes = [
        onnx.helper.make_node("Transpose", ["image"], ["turned"]),
        onnx.helper.make_node("Cast", ["turned"], ["bytes"], to=onnx.TensorProto.UINT8),
    ]
    ends = [value("image", dtype, [2, 3])], [value("bytes", onnx.TensorProto.UINT8, [3, 2])]
    opset = [onnx.helper.make_opsetid("", 13)]
    model = onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", *ends), opset_imports=opset)
    said = {"uint8": "uint8 goes only into Cast, not into Transpose", "float": "no Cast to uint8"}
    assert refusals({"uint8": model, "float": model})[known] == said[bits]


def weights_of_one():
    return np.ones(40, np.float32)
