"""The table of parameters, and what a node makes of values given at start and later."""

import pytest
from support.live import LiveNode, Parameter, ParameterType

from segmentation_node.backends import BACKENDS, EXECUTIONS, PRECISIONS
from segmentation_node.ros.parameters import (
    BACKEND_CHOICES,
    PARAMETERS,
    NodeParameters,
    ParameterSpec,
)

LIVE = {
    "overlay.alpha",
    "overlay.max_rate_hz",
    "overlay.boxes",
    "confidence.threshold",
    "diagnostics.max_latency_ms",
    "diagnostics.min_rate_hz",
    "diagnostics.input_timeout_s",
}
FIXED = {
    "model",
    "backend",
    "deadline_ms",
    "device",
    "precision",
    "execution",
    "engine_dir",
    "frame_policy",
    "input.transport",
    "input.reliability",
    "output_resolution",
    "input.roi",
    "input.rotation",
    "input.ignore_mask",
    "grouping",
    "cameras",
    "batch_window_ms",
    "detections.from_classes",
    "num_threads",
    "autostart",
}
TYPES = {
    bool: ParameterType.PARAMETER_BOOL,
    int: ParameterType.PARAMETER_INTEGER,
    float: ParameterType.PARAMETER_DOUBLE,
    str: ParameterType.PARAMETER_STRING,
}


def test_the_table_is_the_documented_one():
    assert {spec.name for spec in PARAMETERS if spec.live} == LIVE
    assert {spec.name for spec in PARAMETERS if not spec.live} == FIXED


def test_choices_follow_the_code():
    assert set(BACKEND_CHOICES) == {"auto", *BACKENDS}
    choices = {spec.name: spec.choices for spec in PARAMETERS}
    assert choices["precision"] == ("auto", *PRECISIONS)
    assert choices["execution"] == EXECUTIONS


@pytest.mark.parametrize("spec", PARAMETERS, ids=lambda spec: spec.name)
def test_defaults_are_accepted(spec):
    assert spec.refusal(spec.default, configured=False) == ""
    low, high = spec.limits or (None, None)
    assert spec.limits is None or low <= spec.default <= high


@pytest.mark.parametrize("spec", PARAMETERS, ids=lambda spec: spec.name)
def test_refusals_while_configured(spec):
    refusal = spec.refusal(spec.default, configured=True)
    assert bool(refusal) is not spec.live
    assert spec.live or (spec.name in refusal and "unconfigured" in refusal)
    assert spec.live or "set NODE cleanup, where it is active deactivate first" in refusal


def test_a_wrong_choice_lists_the_right_ones():
    spec = ParameterSpec("fruit", "apple", "Which", ("apple", "pear"))
    assert spec.refusal("plum", False) == "fruit is 'plum'; expected one of apple, pear"


@pytest.mark.parametrize(
    ("spec", "line"),
    [
        (ParameterSpec("n", 3, "", limits=(0, 9)), "n expects a int from 0 to 9"),
        (ParameterSpec("x", 0.5, "", limits=(0.0, 1e6)), "x expects a float from 0 to 1e+06"),
        (ParameterSpec("s", "a", ""), "s expects a str, for example 'a'"),
    ],
)
def test_expected(spec, line):
    assert spec.expected() == line


@pytest.fixture
def parameters_of(ros):
    """Makes the parameters, and their node, of values given at start."""
    nodes = []

    def make(values):
        overrides = [Parameter(name, value=value) for name, value in values.items()]
        nodes.append(ros.create_node("parameters_under_test", parameter_overrides=overrides))
        return NodeParameters(nodes[-1]), nodes[-1]

    yield make
    for node in nodes:
        node.destroy_node()


def set_one(node, name, value):
    return node.set_parameters([Parameter(name, value=value)])[0]


@pytest.mark.ros
def test_bad_values_of_a_camera_are_said_while_it_is_named(parameters_of):
    parameters, node = parameters_of({"front.input.roi": [1, 2], "front.input.rotation": "90"})
    assert parameters.problems() == []
    assert set_one(node, "cameras", ["front"]).successful
    roi, rotation = parameters.problems()
    assert roi.startswith("front.input.roi: the roi is [1, 2]; expected four whole numbers")
    assert rotation.startswith("front.input.rotation: the rotation is '90'; expected one of 0, 90")
    assert set_one(node, "cameras", ["left"]).successful
    assert parameters.problems() == []


@pytest.mark.ros
@pytest.mark.parametrize(
    "name", ["cameras", "input.roi", "detections.from_classes", "front.input.roi", "model"]
)
def test_none_can_be_deleted(parameters_of, name):
    parameters, node = parameters_of({"cameras": ["front"], "input.roi": [1, 2, 3, 4]})
    before = parameters[name]
    refused = set_one(node, name, None)
    assert not refused.successful and refused.reason
    assert parameters[name] == before
    if name != "model":  # of one type: rclpy says so itself
        assert refused.reason.startswith(name + " cannot be deleted; set it to ")


@pytest.mark.ros
@pytest.mark.parametrize("value", [None, "null", "None", []], ids=str)
def test_what_a_camera_has_not_set_is_as_for_all(parameters_of, value):
    """null of ``ros2 param dump`` comes as a text by a file, and as another by ``param load``."""
    own = {"front.input." + name: value for name in ("roi", "rotation", "ignore_mask")}
    given = {"cameras": ["front", "left"], "input.roi": [1, 2, 3, 4], "input.rotation": 90}
    parameters, node = parameters_of({**given, **own, "left.input.roi": [5, 6, 7, 8]})
    assert parameters.problems() == []
    front, left = parameters.settings().geometries
    assert (front.roi, front.rotation, front.ignored) == ((1, 2, 3, 4), 90, None)
    assert (left.roi, left.rotation) == ((5, 6, 7, 8), 90)
    if value is not None:
        assert set_one(node, "left.input.roi", value).successful
        assert parameters.settings().geometries[1].roi == (1, 2, 3, 4)


@pytest.mark.ros
def test_a_camera_has_its_parameters_as_soon_as_it_is_named(parameters_of):
    parameters, node = parameters_of({})
    assert set_one(node, "cameras", ["front"]).successful
    assert set_one(node, "front.input.rotation", 180).successful
    assert not set_one(node, "front.input.rotation", 45).successful
    assert parameters.settings().geometries[0].rotation == 180


@pytest.mark.ros
def test_what_was_given_and_is_no_parameter_is_named(parameters_of):
    good = {
        "use_sim_time": False,
        "cameras": ["front"],
        "front.input.roi": [],
        "later.input.roi": [],
    }
    misspelt = {"input.reliabilty": "best_effort", "colours": 0.1, "front.input.rol": [1]}
    parameters, _ = parameters_of({**good, **misspelt, "qos_overrides./a.publisher.depth": 1})
    assert parameters.unknown() == [
        "colours",
        "front.input.rol (front.input.roi?)",
        "input.reliabilty (input.reliability?)",
        "qos_overrides./a.publisher.depth",  # none of the node's topics takes them
    ]


@pytest.fixture(scope="module")
def node(peer, tiny_folder, tmp_path_factory):
    parameters = {"model": tiny_folder, "num_threads": 1, "overlay.alfa": 0.5}
    with LiveNode(peer, parameters, tmp_path_factory.mktemp("log")) as found:
        yield found.active()


@pytest.mark.ros
def test_the_log_names_what_is_no_parameter(node):
    (line,) = [line for line in node.log.splitlines() if "overlay.alfa" in line]
    assert "[WARN]" in line and line.endswith("overlay.alfa (overlay.alpha?)")


@pytest.mark.ros
def test_descriptors_tell_range_and_meaning(node):
    descriptors = node.describe([spec.name for spec in PARAMETERS])
    for spec, found in zip(PARAMETERS, descriptors, strict=True):
        assert found.description == spec.description
        if isinstance(spec.default, list):  # an empty one has no type of its own
            assert found.dynamic_typing
        else:
            assert found.type == TYPES[type(spec.default)]
        ranges = [(r.from_value, r.to_value) for r in found.integer_range]
        ranges += [(r.from_value, r.to_value) for r in found.floating_point_range]
        assert ranges == ([tuple(spec.limits)] if spec.limits else [])
        for choice in spec.choices:
            assert choice in found.additional_constraints
        assert spec.live or "unconfigured" in found.additional_constraints


@pytest.mark.ros
@pytest.mark.parametrize(
    ("name", "value"),
    [("model", "other"), ("num_threads", 2), ("frame_policy", "every"), ("autostart", False)],
)
def test_fixed_ones_are_refused_while_active_with_a_reason(node, name, value):
    before = node.get([name])
    result = node.set(name, value)
    assert not result.successful
    assert name in result.reason and "deactivate" in result.reason
    assert node.get([name]) == before


@pytest.mark.ros
def test_what_they_are_already_may_be_given_again_while_configured(parameters_of):
    """As ``ros2 param load`` does with the whole of ``ros2 param dump``."""
    given = {"cameras": ["front"], "input.roi": [1, 2, 3, 4], "detections.from_classes": []}
    parameters, node = parameters_of(given)
    dumped = {spec.name: parameters[spec.name] for spec in PARAMETERS}
    parameters.configured = True
    for name, value in {**dumped, "front.input.roi": "None", "front.input.rotation": []}.items():
        assert value is None or set_one(node, name, value).successful, name
    others = {"cameras": ["left"], "input.roi": [1, 2, 3, 5], "front.input.rotation": 90}
    for name, value in others.items():
        assert "unconfigured" in set_one(node, name, value).reason


@pytest.mark.ros
@pytest.mark.parametrize("name", sorted(LIVE))
def test_live_ones_change_while_active(node, name):
    if name == "overlay.boxes":
        assert node.set(name, False).successful
        assert node.get([name])[0].bool_value is False
    else:
        assert node.set(name, 0.75).successful
        assert node.get([name])[0].double_value == 0.75


@pytest.mark.ros
@pytest.mark.parametrize(
    ("name", "value"),
    [("overlay.alpha", 2.0), ("overlay.alpha", "much"), ("diagnostics.input_timeout_s", 0.0)],
)
def test_what_is_out_of_range_or_of_another_type_is_refused(node, name, value):
    before = node.get([name])
    result = node.set(name, value)
    assert not result.successful and result.reason
    assert node.get([name]) == before
