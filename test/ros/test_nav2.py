"""Nav2's semantic segmentation layer: its parameters from a card, its topics through the launch."""

import re
import subprocess
import sys

import cv2
import numpy as np
import pytest
import yaml
from support import linear_model
from support.live import Image, image_message
from support.ros_sources import PROJECT, sources_root
from test_launch_node import SIZE, TIMEOUT_S, Launch, ros2  # noqa: F401
from test_launch_node import environment as environment_of_child

from segmentation_node.evaluation.__main__ import main
from segmentation_node.model_card import open_model, shipped_models

pytestmark = pytest.mark.ros

LAYERS = sorted(sources_root().glob("*/semantic_segmentation_layer"))
PLUGIN = "semantic_segmentation_layer::SemanticSegmentationLayer"
KINDS = {bool: "bool", int: "int", float: "double", str: "string", list: "list"}


def layer_of(path):
    ((costmap, content),) = yaml.safe_load(open(path)).items()
    return content[costmap]["ros__parameters"]["semantic_segmentation_layer"]


def make(tmp_path, *arguments):
    path = str(tmp_path / "layer.yaml")
    assert main(["nav2-config", "--output", path, *arguments]) == 0
    return layer_of(path)


@pytest.mark.parametrize("model", shipped_models())
def test_each_class_has_a_cost_once(model, tmp_path):
    layer = make(tmp_path, "--model", model)
    camera = layer["camera"]
    assert layer["plugin"] == PLUGIN and layer["observation_sources"] == "camera"
    classes = [name for kind in camera["class_types"] for name in camera[kind]["classes"]]
    assert sorted(classes) == sorted(open_model(model).labels.names)
    assert "road" in camera["traversable"]["classes"]
    assert camera["traversable"]["max_cost"] == 0 and camera["obstacle"]["max_cost"] == 254
    assert camera["confidence_topic"] == "/segmentation/confidence"


def test_what_the_robot_may_drive_on_may_be_named(tmp_path):
    arguments = ("--model", "enet_camvid", "--traversable", "road", "--prefix", "/seg/front/")
    arguments += ("--costmap", "global_costmap", "--cloud", "/points")
    camera = make(tmp_path, *arguments)["camera"]
    assert camera["traversable"]["classes"] == ["road"]
    assert "pavement" in camera["obstacle"]["classes"]
    assert camera["segmentation_topic"] == "/seg/front/mask"
    assert camera["pointcloud_topic"] == "/points"


def test_a_grouping_and_a_model_without_confidence(tmp_path):
    model = linear_model.write_model(tmp_path / "model", SIZE, with_confidence=False)
    grouping = tmp_path / "groups.yaml"
    grouping.write_text("{name: drivable, groups: {drivable: [road, pavement], other: ['*']}}")
    arguments = ("--model", model, "--grouping", str(grouping), "--traversable", "drivable")
    camera = make(tmp_path, *arguments)["camera"]
    assert "confidence_topic" not in camera
    assert camera["traversable"]["classes"] == ["drivable"]
    assert all(camera[kind]["mark_confidence"] == 0 for kind in camera["class_types"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "enet_camvid", "--traversable", "grass"], "--traversable names 'grass'"),
        (["--model", "none"], "model 'none' is neither a folder nor a model"),
        (["--model", "enet_camvid", "--grouping", "/none.yaml"], "/none.yaml"),
    ],
)
def test_what_does_not_fit_is_one_line(arguments, said, tmp_path, capsys):
    assert main(["nav2-config", "--output", str(tmp_path / "layer.yaml"), *arguments]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and said in error and error.count("\n") == 1
    assert not (tmp_path / "layer.yaml").exists()


def test_labels_without_categories_ask_what_is_traversable(tmp_path, capsys):
    model = linear_model.write_model(tmp_path / "model", SIZE, label_set="voc21")
    path = tmp_path / "layer.yaml"
    assert main(["nav2-config", "--model", model, "--output", str(path)]) == 1
    assert "have no categories; name what the robot may drive on" in capsys.readouterr().err


def test_another_file_is_not_replaced(tmp_path, capsys):
    path = tmp_path / "nav2.yaml"
    path.write_text("mine: 1\n")
    assert main(["nav2-config", "--model", "enet_camvid", "--output", str(path)]) == 1
    assert path.read_text() == "mine: 1\n"


@pytest.mark.skipif(not LAYERS, reason="THE LAYER'S SOURCES ARE NOT AT HAND")
@pytest.mark.parametrize("folder", LAYERS, ids=lambda folder: folder.parent.name)
def test_the_layer_declares_every_parameter_with_this_type(folder, tmp_path):
    source = (folder / "src/semantic_segmentation_layer.cpp").read_text()
    declared = dict(
        re.findall(r'"\.?(\w+)", *rclcpp::ParameterValue\((.*?)\)\);', source, re.DOTALL)
    )
    camera_keys = dict(make(tmp_path, "--model", "enet_camvid"))
    camera = camera_keys.pop("camera")
    assert camera_keys.pop("plugin") == PLUGIN
    for kind in camera["class_types"]:
        camera_keys.update(camera.pop(kind))
    for key, value in dict(camera_keys, **camera).items():
        assert kind_of(declared[key]) == KINDS[type(value)], key
    for used in ("sensor_msgs::msg::Image", "vision_msgs::msg::LabelInfo", "SensorDataQoS("):
        assert used in source
    assert "LatchedSubscriptionQoS(5)" in source


def kind_of(default):
    """Of a parameter, from its default in C++."""
    if "vector" in default:
        return "list"
    if default in ("true", "false"):
        return "bool"
    if "string" in default or '"' in default:
        return "string"
    return "double" if "." in default else "int"


@pytest.mark.slow
def test_the_layer_gets_mask_confidence_and_labels(
    ros2,  # noqa: F811
    peer,
    tiny_folder,
    vision_msgs,
    tmp_path,
):
    # Behind what sets up the environment of the sources, which starts from nothing.
    *environment, command = ros2
    environment += vision_msgs
    image = linear_model.blocks(SIZE, 1)
    camera = peer.node.create_publisher(Image, "/front/image_raw", 10)
    arguments = ("model:=" + tiny_folder, "image:=/front/image_raw", "backend:=onnxruntime")
    parameters = tmp_path / "node.yaml"
    hood = np.zeros(SIZE, np.uint8)
    hood[40:] = 255
    cv2.imwrite(str(tmp_path / "hood.png"), hood)
    parameters.write_text("/**: {ros__parameters: {input.ignore_mask: hood.png}}")
    arguments += ("params_file:=" + str(parameters),)
    script = PROJECT / "test/support/nav2_layer.py"
    with Launch([*environment, command], tmp_path, "nav2.launch.py", *arguments) as launch:
        layer = subprocess.Popen(
            [*environment, sys.executable, str(script), "/segmentation"],
            env=environment_of_child(),
            stdout=subprocess.PIPE,
        )
        try:

            def answered():
                assert launch.process.poll() is None, launch.log
                camera.publish(image_message(image.tobytes(), SIZE, "rgb8"))
                peer.spin_for(0.1)
                return layer.poll() is not None

            peer.until(answered, "mask, confidence and labels", TIMEOUT_S)
            found = yaml.safe_load(layer.stdout.read())
        finally:
            layer.kill()
            layer.wait()
    peer.node.destroy_publisher(camera)
    names = open_model(tiny_folder).labels.names
    assert found["classes"] == {name: number for number, name in enumerate(names)}
    expected = linear_model.classify(image)
    expected[40:] = 255  # ignored: a class that the layer leaves alone
    assert found["mask"]["encoding"] == found["confidence"]["encoding"] == "mono8"
    assert found["mask"]["size"] == found["confidence"]["size"] == list(SIZE)
    np.testing.assert_array_equal(np.reshape(found["mask"]["data"], SIZE), expected)
    confidence = np.reshape(found["confidence"]["data"], SIZE)
    assert not confidence[40:].any()
    np.testing.assert_array_equal(confidence[:40], linear_model.confidence(image)[:40])
